"""Our systems in mteb: `mteb.evaluate(MtebSearch("bm25+minilm"), tasks=...)`, by its SearchProtocol.

mteb itself is imported where it asks what the model is. Its own wrapper of sparse encoders scores every document of every chunk; here
a corpus is indexed once and searched exactly.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from eval.plugs.searcher import Searcher, System
from index.errors import CorpusError, WinnowError
from retrieval.queries import conversation_text


class MtebSearch:
    """What mteb asks of a model that searches by itself: `index`, `search`, `mteb_model_meta`."""

    def __init__(self, system: System, *, meta: Mapping[str, Any] | None = None, **options: Any):
        """system, options  as `Searcher` takes them
        meta             fields of mteb's ModelMeta that are to be as you say: name ("you/yours"), revision, n_parameters, ...
        """
        self.searcher, self._meta = Searcher(system, **options), dict(meta or {})

    def index(
        self, corpus: Iterable[Mapping[str, Any]], *, encode_kwargs: Mapping[str, Any] | None = None, **task: Any
    ) -> None:
        """Index a corpus, rows of `id`, `text` and perhaps `title`, in place of the one before.

        encode_kwargs  `show_progress_bar` is heeded
        task           what mteb says of the task besides; a system of ours is the same for all

        Raises CorpusError for a row without text, as of images, and for what cannot be indexed.
        """
        self.searcher.progress = bool((encode_kwargs or {}).get("show_progress_bar", self.searcher.progress))
        self.searcher.hold({row["id"] for row in corpus}, records_of(corpus))

    def search(
        self,
        queries: Iterable[Mapping[str, Any]],
        *,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **task: Any,
    ) -> dict[str, dict[str, float]]:
        """Query id -> document id -> score of the best `top_k` documents; of a task that reranks, among those of `top_ranked`.

        Raises WinnowError for a query without text, and before `index`.
        """
        return self.searcher.search({row["id"]: query_text(row) for row in queries}, top_k, top_ranked)

    @property
    def mteb_model_meta(self) -> Any:
        """mteb's ModelMeta. Options are told as `experiment_kwargs`, by which mteb keeps results of one name apart."""
        from mteb.models import ModelMeta

        fields: dict[str, Any] = {
            "name": f"winnow/{re.sub(r'[^A-Za-z0-9._+-]+', '-', self.searcher.name).strip('-')}",
            "revision": own_version(),
            "framework": [],
            "model_type": model_types(self.searcher),
            "experiment_kwargs": {name: str(value) for name, value in self.searcher.settings().items()} or None,
        }
        return ModelMeta.create_empty({**fields, **self._meta})


def model_types(searcher: Searcher) -> list[str]:
    """As mteb has them; none for an empty retriever of one arm, which tells nothing yet."""
    return ["hybrid"] if searcher.num_arms > 1 else sorted(searcher.kinds)


def records_of(corpus: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows as documents."""
    for row in corpus:
        if "text" not in row:
            raise CorpusError(f"the row {row['id']!r:.60} has no text, only {', '.join(row)}; give a task of texts.")
        yield {"_id": row["id"], "title": row.get("title"), "text": row["text"]}


def query_text(row: Mapping[str, Any]) -> str:
    """A query as one text: a conversation as `conversation_text` has it, an instruction behind, where mteb has it too."""
    text = row.get("text")
    if isinstance(text, list):
        text = conversation_text([turn["content"] if isinstance(turn, Mapping) else turn for turn in text])
    if not isinstance(text, str):
        raise WinnowError(
            f"the query {row['id']!r:.60} has {text!r:.60} as its text; give a task whose queries are texts."
        )
    return f"{text} {row['instruction']}" if row.get("instruction") else text


def own_version() -> str:
    try:
        return version("winnow-ir")
    except PackageNotFoundError:  # run from a folder
        return "unreleased"
