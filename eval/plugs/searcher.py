"""A system that another harness hands one corpus after another, and queries for each.

The harness measures; nothing is removed from a ranking here, so whether a document with the query's own id counts is up to it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from index.errors import WinnowError
from index.manifest import is_index
from index.vectors import checked_count
from retrieval import Retriever
from retrieval.encoders.protocol import Encoder
from retrieval.fusion import Fusion
from retrieval.queries import checked_text
from retrieval.rerankers.loading import load_reranker
from retrieval.rerankers.protocol import Reranker
from retrieval.rerankers.stage import DEFAULT_DEPTH
from retrieval.written_system import WrittenSystem

QUERIES_TOGETHER = 256  # whose hits are objects at the same time; afterwards they are ids and scores
System = str | Path | Retriever


class Searcher:
    """A system, and the corpus that it holds now.

    >>> searcher = Searcher("bm25", progress=False)
    >>> searcher.hold({"a"}, [{"_id": "a", "text": "green tea"}])
    >>> {query: list(found) for query, found in searcher.search({"1": "tea", "2": "milk"}, k=10).items()}
    {'1': ['a'], '2': []}
    """

    def __init__(
        self,
        system: System,
        *,
        fusion: Fusion | None = None,
        rerank: Reranker | None = None,
        depth: int | None = None,
        progress: bool = True,
        **options: Any,
    ):
        """A system by name ("bm25+minilm,fusion=rrf", "bm25,rerank=KIND:MODEL,depth=50"): its models are loaded once, and each corpus is
        indexed anew, in memory. A Retriever, or the folder of a saved one, either holds the corpus already or is empty and takes
        the first one; its fusion and its reranker are its own.

        fusion   how arms are fused, instead of that
        rerank   a reranker, which orders the best `depth` documents (100 unless told); no others are then found
        options  of the models, `impacts` among them, as `Retriever.from_pretrained` takes them

        Raises WinnowError where a reranker is given twice, and for options of what is built already.
        """
        self._fusion, self._reranker, self._depth = fusion, rerank, DEFAULT_DEPTH if depth is None else depth
        self.progress, self.options = progress, options
        self._encoders: tuple[
            Encoder, ...
        ] = ()  # what each corpus is indexed with; none where the system was built before
        self._retriever: Retriever | None = None
        self._ids: Collection[str] | None = None  # of the corpus
        if isinstance(system, Retriever):
            self.name, self._retriever = system.model, system
        elif is_index(system):
            self.name, self._retriever = Path(system).name, Retriever.from_folder(system)
        else:
            self.name = str(system)
            self._load(WrittenSystem.of(self.name, may_be_saved=False))
        if self._retriever is not None and rerank is None and self._retriever.reranker is not None:
            self._reranker = self._retriever.reranker
            self._depth = self._retriever.rerank_depth if depth is None else depth
        if self._retriever is not None and options:
            raise WinnowError(f"{self.name} is built already; leave the options {', '.join(options)} out.")
        if depth is not None and self._reranker is None:
            raise WinnowError(f"depth is {depth!r}, but nothing is reranked; give rerank= too, or leave it out.")
        checked_count("depth", self._depth)

    def _load(self, written: WrittenSystem) -> None:
        options = dict(self.options)
        self._encoders = written.encoders(options.pop("impacts", None), options)
        if written.fusion is not None:
            if self._fusion is not None:
                raise WinnowError(f"{str(written)!r:.100} names a fusion, and fusion= is another; give one of them.")
            self._fusion = written.fused()
        if not written.reranks:
            return
        if self._reranker is not None:
            raise WinnowError(f"{str(written)!r:.100} names a reranker, and rerank= is another; give one of them.")
        self._reranker = load_reranker(str(written.reranker), **written.reranker_options)
        self._depth = written.depth or DEFAULT_DEPTH

    @property
    def kinds(self) -> set[str]:
        """Of the arms, "sparse" and "dense", as far as they are known before there are documents."""
        if self._encoders:
            return {encoder.kind for encoder in self._encoders}
        assert self._retriever is not None
        statistics = self._retriever.statistics()
        return {kind for kind, size in (("sparse", statistics.postings), ("dense", statistics.vectors)) if size}

    @property
    def num_arms(self) -> int:
        """How many are fused."""
        return len(self._encoders) or self._held().model.count("+") + 1

    def settings(self) -> dict[str, Any]:
        """What makes results differ from those of another system of this name."""
        settings = dict(self.options)
        if self._fusion is not None:
            settings["fusion"] = self._fusion
        if self._reranker is not None:
            settings |= {"rerank": getattr(self._reranker, "name", type(self._reranker).__name__), "depth": self._depth}
        return settings

    def hold(self, ids: Collection[str], documents: Iterable[Mapping[str, Any]]) -> None:
        """Have this corpus to search.

        ids        of all documents, to be asked whether one is there
        documents  {"_id", "title", "text"} each, read where they are to be indexed

        Raises WinnowError where a retriever that was given holds another number of documents, and CorpusError for what cannot be indexed.
        """
        if self._encoders:
            self._retriever = None  # what was indexed before makes room first
            self._retriever = Retriever(*self._encoders).index(documents, progress=self.progress)
        elif len(self._held()) == 0:
            self._held().index(documents, progress=self.progress)
        elif len(self._held()) != len(ids):
            raise WinnowError(
                f"{self.name} holds {len(self._held()):,} documents, and the corpus has {len(ids):,}; give the retriever of this "
                "corpus, or a system's name, which indexes each corpus."
            )
        self._ids = ids

    def search(
        self, queries: Mapping[str, str], k: int, among: Mapping[str, Sequence[str]] | None = None
    ) -> dict[str, dict[str, float]]:
        """Query id -> document id -> score, best first, at most k, or `depth` where they are reranked. A query that finds nothing has
        an entry too, as harnesses leave a query without one out of their means.

        among  query id -> the only documents that may be found for it
        """
        k = checked_count("k", k)
        if self._reranker is not None:
            k = min(k, self._depth)
        asked = {query: checked_text(f"the query {query!r:.60}", text) for query, text in queries.items()}
        found: dict[str, dict[str, float]] = {}
        if among is not None:
            for query, text in asked.items():
                candidates = list(among.get(query, ()))
                found |= self._found([query], [text], k, {"_id": {"$in": candidates}}) if candidates else {query: {}}
            return found
        each = iter(asked.items())
        while some := list(islice(each, QUERIES_TOGETHER)):
            found |= self._found([query for query, _ in some], [text for _, text in some], k)
        return found

    def _found(
        self, queries: Sequence[str], texts: Sequence[str], k: int, filter: Mapping[str, Any] | None = None
    ) -> dict[str, dict[str, float]]:
        reranking = {"rerank": False} if self._reranker is None else {"rerank": self._reranker, "depth": self._depth}
        batch = self._held().search_batch(
            texts, k, filter=filter, fusion=self._fusion, stored=False, **reranking
        )  # fmt: skip
        found = {q: {hit.doc_id: hit.score for hit in hits} for q, hits in zip(queries, batch, strict=True)}
        unknown = next(
            (one for docs in found.values() for one in docs if self._ids is not None and one not in self._ids), None
        )
        if unknown is not None:
            raise WinnowError(
                f"{self.name} found the document {unknown!r:.60}, which the corpus lacks; give the retriever of this corpus, or a "
                "system's name."
            )
        return found

    def save(self, folder: Path) -> None:
        """Write the index to a folder, from which `over` takes it."""
        # a retriever makes the first folder that it is saved to its own; a joined one is a copy
        Retriever.joined(self._held(), fusion=self._held().fusion).save_pretrained(folder, progress=self.progress)

    def over(self, folder: Path) -> Searcher:
        """The same system over an index that `save` wrote."""
        depth = None if self._reranker is None else self._depth
        opened = Retriever.from_folder(folder)
        return Searcher(opened, fusion=self._fusion, rerank=self._reranker, depth=depth, progress=self.progress)

    def _held(self) -> Retriever:
        if self._retriever is None:
            raise WinnowError(f"{self.name} has no corpus to search yet; have one indexed first.")
        return self._retriever
