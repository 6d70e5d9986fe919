"""A reranker by its name, which the first search that needs it loads, and which an index keeps as text."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

from index.errors import IndexFormatError, WinnowError
from index.vectors import checked_count
from retrieval.encoders.written_options import NAME, is_plain
from retrieval.rerankers.loading import KINDS, check_options, kind_and_model, load_reranker
from retrieval.rerankers.protocol import Rankable, Ranked, Reranker
from retrieval.rerankers.stage import check_reranker

# options that no index keeps: of a machine, of its disk, and whose code may run on it
NOT_KEPT = ("cache", "device", "trust_remote_code")
STORED = {"name", "options", "depth"}


class WrittenReranker:
    """A reranker that is called KIND:MODEL, as `load_reranker` takes it.

    options  of its kind

    Raises ModelError for a kind that there is not.
    """

    def __init__(self, written: str, **options: Any):
        kind_and_model(written)
        self.name, self.options = written, options
        self._loaded: Reranker | None = None
        self._loading = Lock()

    def check(self) -> None:
        """Raise WinnowError for an option that the kind does not have, or that no index can keep. The code of the kind is loaded for that, not the model."""
        kind, _ = kind_and_model(self.name)
        check_options(kind, KINDS[kind](), self.options)
        self.as_json()

    def loaded(self) -> Reranker:
        """The model, loaded once. Raises ModelError where it cannot be had."""
        with self._loading:
            if self._loaded is None:
                self._loaded = load_reranker(self.name, **self.options)
            return self._loaded

    def rank(self, query: str, documents: Sequence[Rankable], top_k: int | None = None) -> list[Ranked]:
        return self.loaded().rank(query, documents, top_k)

    def rank_batch(
        self, queries: Sequence[str], documents: Sequence[Sequence[Rankable]], top_k: int | None = None
    ) -> list[list[Ranked]]:
        return self.loaded().rank_batch(queries, documents, top_k)

    def as_json(self) -> dict[str, Any]:
        """For storage; `of_json` reads it. A model in a folder is stored with its whole path. Raises WinnowError for an option that is no text,
        number or list."""
        kind, model = kind_and_model(self.name)
        kept = {name: value for name, value in self.options.items() if name not in NOT_KEPT}
        for name, value in kept.items():
            if not is_plain(value):
                raise WinnowError(
                    f"the option {name} of the reranker {self.name} is {value!r:.60}, which no index can keep; give a text, a number or a "
                    "list of these."
                )
        place = os.path.abspath(model) if os.path.isdir(model) else model
        return {"name": f"{kind}:{place}", "options": json.loads(json.dumps(kept))}


def own_reranker(reranker: Reranker | str | None) -> Reranker | None:
    """What a retriever reranks with: a name is loaded later. Raises WinnowError for what is no reranker, and for options that it does not
    have."""
    found = WrittenReranker(reranker) if isinstance(reranker, str) else reranker
    if found is not None:
        check_reranker("reranker", found)
    if isinstance(found, WrittenReranker):
        found.check()
    return found


def stored_reranker(reranker: Reranker | None, depth: int) -> dict[str, Any] | None:
    """What an index keeps of a retriever's own reranker. Raises WinnowError for one that has no name to keep."""
    if reranker is None:
        return None
    if not isinstance(reranker, WrittenReranker):
        raise WinnowError(
            f"the retriever's reranker {getattr(reranker, 'name', type(reranker).__name__)!r:.60} is an object, which no index can keep; set "
            "it by name, as in retriever.reranker = 'blockrank:FOLDER', or set it to None and give it to search(rerank=...)."
        )
    return {**reranker.as_json(), "depth": depth}


def read_reranker(stored: Any) -> tuple[WrittenReranker | None, int | None]:
    """What `stored_reranker` wrote, and the depth. Raises IndexFormatError for what it cannot have written."""
    if stored is None:
        return None, None
    remedy = "restore it from a copy"
    if not isinstance(stored, dict) or set(stored) != STORED or not isinstance(stored["options"], Mapping):
        raise IndexFormatError(
            f"the stored reranker is {stored!r:.100}; it must have exactly {', '.join(sorted(STORED))}; {remedy}."
        )
    bad = next((name for name, value in stored["options"].items() if not is_stored_option(name, value)), None)
    if bad is not None:
        raise IndexFormatError(
            f"the stored reranker has the option {bad!r:.60} = {stored['options'][bad]!r:.60}, which no index keeps; {remedy}."
        )
    try:
        return WrittenReranker(stored["name"], **stored["options"]), checked_count("depth", stored["depth"])
    except (WinnowError, TypeError) as error:
        raise IndexFormatError(f"the stored reranker cannot be used ({error}); {remedy}.") from error


def is_stored_option(name: str, value: Any) -> bool:
    return NAME.fullmatch(name) is not None and name not in NOT_KEPT and is_plain(value)
