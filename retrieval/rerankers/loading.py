"""Which reranker a written name stands for. A new kind adds one function and one line to the table."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from index.errors import ModelError, WinnowError
from retrieval.rerankers.protocol import Reranker

FromPretrained = Callable[..., Reranker]


def cross_encoder() -> FromPretrained:
    from retrieval.rerankers.cross_encoder import CrossEncoderReranker

    return CrossEncoderReranker.from_pretrained


def blockrank() -> FromPretrained:
    from retrieval.rerankers.block_rank import BlockRankReranker

    from_pretrained: FromPretrained = BlockRankReranker.from_pretrained
    return from_pretrained


def icr() -> FromPretrained:
    from retrieval.rerankers.in_context import InContextReranker

    from_pretrained: FromPretrained = InContextReranker.from_pretrained
    return from_pretrained


KINDS: dict[str, Callable[[], FromPretrained]] = {"blockrank": blockrank, "cross-encoder": cross_encoder, "icr": icr}


def load_reranker(written: str, **options: Any) -> Reranker:
    """The reranker called `written`: its kind, a colon, and the folder of a checkpoint or its name on the hub, as in
    "cross-encoder:cross-encoder/ms-marco-MiniLM-L6-v2".

    options  of this kind, see its `from_pretrained`

    Raises ModelError for another kind, and where the model cannot be had or is of no use for it; WinnowError for its options.
    """
    kind, model = kind_and_model(written)
    from_pretrained = KINDS[kind]()
    check_options(kind, from_pretrained, options)
    return from_pretrained(model, **options)


def kind_and_model(written: str) -> tuple[str, str]:
    """What stands before and after the first colon. Raises ModelError."""
    kind, _, model = written.partition(":") if isinstance(written, str) else ("", "", "")
    if kind not in KINDS or not model:
        raise ModelError(
            f"the reranker is {written!r:.80}; write its kind ({', '.join(KINDS)}), a colon and a model, as in blockrank:FOLDER."
        )
    return kind, model


def check_options(kind: str, from_pretrained: FromPretrained, options: Iterable[str]) -> None:
    """Raise WinnowError for an option that the kind does not have, where its signature tells."""
    first, *others = inspect.signature(from_pretrained).parameters.values()
    known = {one.name for one in others if one.kind is not one.VAR_KEYWORD}
    unknown = [name for name in options if name not in known]
    if unknown and (len(known) == len(others) or first.name in unknown):
        raise WinnowError(f"{kind} has no option {unknown[0]}; it has {', '.join(sorted(known)) or 'none'}.")
