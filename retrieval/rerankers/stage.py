"""From what the first stage found to the hits of a search: read, perhaps reranked, cut to k."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol

from index.documents import Document
from index.errors import WinnowError
from index.vectors import checked_count
from retrieval.hits import Hit, Hits
from retrieval.hybrid import Found
from retrieval.queries import Query, checked_text
from retrieval.rerankers.protocol import Ranked, Reranker

DEFAULT_DEPTH = 100
QUERIES_TOGETHER = 16  # of a batch: the texts of so many queries' documents are in memory


class DocumentsByNumber(Protocol):
    """Where documents are read from: a snapshot, or what shards have sent."""

    def get(self, docs: Sequence[int]) -> list[Document]:
        """The documents with these numbers, in this order."""
        ...

    def ids(self, docs: Sequence[int]) -> list[str]:
        """Only the ids of these documents, in this order."""
        ...


class Stage(NamedTuple):
    """What a search does after its first stage. Without a reranker it only reads the documents found."""

    k: int
    stored: bool  # whether hits have title, text and fields
    reranker: Reranker | None = None
    depth: int = DEFAULT_DEPTH  # documents that the reranker is given

    @classmethod
    def of(cls, k: int, stored: bool, reranker: Any, depth: int | None) -> Stage:
        """Raises WinnowError for what is no reranker, a depth below k, and a depth without a reranker."""
        if reranker is None:
            if depth is not None:
                raise WinnowError(f"depth is {depth!r}, but nothing is reranked; give rerank= too, or leave it out.")
            return cls(k, stored)
        check_reranker("rerank", reranker)
        k, depth = checked_count("k", k), DEFAULT_DEPTH if depth is None else checked_count("depth", depth)
        if k > depth:
            raise WinnowError(
                f"k is {k}, but only {depth} documents are reranked; give a depth of at least {k}, or a smaller k."
            )
        return cls(k, stored, reranker, depth)

    @property
    def wanted(self) -> int:
        """How many documents the first stage is to find."""
        return self.k if self.reranker is None else self.depth

    def check(self, queries: Iterable[Query]) -> None:
        """Raise WinnowError for a query that has no words for the reranker to read."""
        for query in queries if self.reranker is not None else ():
            if not isinstance(query, str):
                raise WinnowError(
                    f"the query is {type(query).__name__} {query!r:.60}; a reranker reads words, so give a string, or rerank=False."
                )
            checked_text("the query", query)

    def hits(self, snapshot: DocumentsByNumber, queries: Sequence[Query], found: Iterable[Found]) -> Iterator[Hits]:
        """Those of each query, in order.

        found  what the first stage found for each query
        """
        if self.reranker is None:
            for scores, docs, missing in found:
                documents = read_documents(snapshot, docs.tolist(), self.stored)
                yield Hits(map(as_hit, range(1, len(docs) + 1), documents, scores.tolist()), missing)
            return
        each = iter(list(zip(queries, found, strict=True)))  # all are found first: a deadline is for that alone
        while some := list(islice(each, QUERIES_TOGETHER)):
            lists = [read_documents(snapshot, one.docs.tolist(), stored=True) for _, one in some]
            for documents in lists:
                check_readable(documents)
            rankings = self.reranker.rank_batch([str(query) for query, _ in some], lists, self.k)
            for (_, first), documents, ranking in zip(some, lists, rankings, strict=True):
                check_ranking(self.reranker, ranking, len(documents))
                yield Hits(self.reranked(first.scores.tolist(), documents, ranking), first.missing)

    def reranked(
        self, scores: Sequence[float], documents: Sequence[Document], ranking: Sequence[Ranked]
    ) -> Iterator[Hit]:
        """Hits in the order of the ranking.

        scores, documents  of the first stage, best first
        """
        for rank, one in enumerate(ranking[: self.k], start=1):
            document = documents[one.index]
            shown = document if self.stored else Document(document.doc_id)
            yield as_hit(rank, shown, one.score, one.index + 1, scores[one.index], one.probability)


def check_reranker(name: str, reranker: Any) -> None:
    """Raise WinnowError for what is no reranker; `name` is what the sentence calls it."""
    has_both = all(callable(getattr(reranker, method, None)) for method in ("rank", "rank_batch"))
    if not has_both or isinstance(reranker, type):
        raise WinnowError(
            f"{name} is {reranker!r:.60}; give a reranker, as load_reranker('blockrank:FOLDER') makes one."
        )


def read_documents(snapshot: DocumentsByNumber, docs: Sequence[int], stored: bool) -> list[Document]:
    """The documents with these numbers; unless `stored` with their ids alone."""
    return snapshot.get(docs) if stored else [Document(doc_id) for doc_id in snapshot.ids(docs)]


def as_hit(
    rank: int,
    document: Document,
    score: float,
    first_rank: int | None = None,
    first_score: float | None = None,
    probability: float | None = None,
) -> Hit:
    found = rank, document.doc_id, score, document.title, document.text, document.fields
    return Hit(*found, first_rank, first_score, probability)


def check_readable(documents: Sequence[Document]) -> None:
    """Raise WinnowError where no document has a text, as of a corpus of vectors. Some without one are ranked by what they lack."""
    if documents and not any(document.searched_text for document in documents):
        raise WinnowError(
            f"none of the {len(documents)} documents found, {documents[0].doc_id!r:.60} first, has a title or a text that a reranker "
            "could read; index texts too, or search with rerank=False."
        )


def check_ranking(reranker: Reranker, ranking: Sequence[Ranked], num_documents: int) -> None:
    """Raise WinnowError for a ranking that names a document twice or one that it was not given, and for scores that are no numbers."""
    name, seen = getattr(reranker, "name", type(reranker).__name__), set[int]()
    for one in ranking:
        if not 0 <= one.index < num_documents or one.index in seen:
            raise WinnowError(
                f"the reranker {name} ranks document {one.index} of {num_documents}, which is not there or was ranked before; repair it."
            )
        if math.isnan(one.score):
            raise WinnowError(f"the reranker {name} scores document {one.index} with NaN; repair it.")
        seen.add(one.index)
