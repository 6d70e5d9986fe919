"""All shards of a collection: what they are together, and one search of them.

Query, then fetch: the queries are encoded here, with the statistics of all; every shard gives the best of each arm; what they found is
merged and fused; then the shards that hold the hits are asked for these documents.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, cast

import numpy as np

from index.documents import Document
from index.errors import FilterError, WinnowError
from index.impact_search import Answer
from retrieval.arm_search import Trying, least_score
from retrieval.conditions import Condition
from retrieval.encoders.protocol import DenseEncoder, Encoder, SparseEncoder
from retrieval.fusion import Fusion
from retrieval.hybrid import Found
from retrieval.queries import numbered, vectors_of
from retrieval.sharded.merging import fused, merged
from retrieval.sharded.shard import SearchRequest, ShardDescription, ShardQuery
from retrieval.sharded.shards import Asked, Shards
from retrieval.sharded.statistics import AskedStatistics, CollectionStatistics, Term, TermsOfQuery

SHARES = {
    "objections": 1 / 3,
    "document_frequency": 1 / 3,
    "search": 3 / 4,
    "documents": 3 / 4,
}  # of the time that is left


class Wanted(NamedTuple):
    """What a search asks of every shard, but for the queries."""

    arms: Sequence[str]
    depth: int
    condition: Condition | None
    trying: Trying
    threads: int


class Patience(NamedTuple):
    """How long a search waits for shards, and whether it goes on without those that are late or fail."""

    until: float | None  # of time.monotonic
    partial: bool

    def during(self, method: str) -> float | None:
        """Until when to wait for one round: a shard that hangs must leave the others time for the rounds that follow."""
        if self.until is None:
            return None
        now = time.monotonic()
        return now + max(self.until - now, 0.0) * SHARES[method]


class Collection:
    """Shards of one model, and their statistics."""

    def __init__(self, shards: Shards, encoders: Sequence[Encoder], until: float | None = None):
        """Raises DeadlineError where a shard has not opened in time, what it failed with, and WinnowError for shards of another model."""
        self.shards, self.encoders = shards, {encoder.arm: encoder for encoder in encoders}
        found, failed = shards.ask({number: Asked("describe") for number in range(len(shards))}, until)
        if failed:
            raise failed[min(failed)]
        self.descriptions: list[ShardDescription] = [found[number] for number in range(len(shards))]
        self.first_docs = [0, *accumulate(one.num_docs for one in self.descriptions)]
        self.with_documents = [number for number, one in enumerate(self.descriptions) if one.num_live]
        self.num_docs = sum(one.num_live for one in self.descriptions)
        check_models(self.descriptions)
        described = [self.descriptions[number] for number in self.with_documents]
        self.statistics = {name: CollectionStatistics(one.totals[name] for one in described) for name in self.encoders}
        self._meant: set[Condition] = set()  # filters to which no comparison is objected

    @property
    def mean_lengths(self) -> dict[str, float]:
        """Of the documents of all shards, by arm."""
        return {name: one.mean_length for name, one in self.statistics.items()}

    def check_meant(self, condition: Condition, ask: Search) -> None:
        """Raise FilterError where no shard has documents that a comparison could mean."""
        if condition in self._meant:
            return
        found = ask.every({number: ("objections", (condition,)) for number in self.with_documents})
        for of_all in zip(*found.values(), strict=True):
            if all(one is not None for one in of_all):
                raise FilterError(str(of_all[0]))
        if not ask.missing:
            self._meant.add(condition)

    def encoded(
        self, queries: Sequence[Mapping[str, Any]], names: Sequence[str], ask: Search
    ) -> list[dict[str, ShardQuery]]:
        """Each query as the shards take it, by arm."""
        columns: dict[str, Sequence[ShardQuery]] = {}
        told: dict[str, dict[Term, int]] = {}
        for again in (False, True):
            wanted: dict[str, list[Term]] = {}
            for name in names:
                if again and name not in told:
                    continue
                own, encoder = [query[name] for query in queries], self.encoders[name]
                if encoder.kind == "dense":
                    columns[name] = list(vectors_of(own, cast(DenseEncoder, encoder), self.dimension(name)))
                    continue
                arms = [AskedStatistics(self.statistics[name], told.get(name, {})) for _ in own]
                columns[name] = [
                    terms_of(one, cast(SparseEncoder, encoder), arm) for one, arm in zip(own, arms, strict=True)
                ]
                if asked := list(dict.fromkeys(term for arm in arms for term in arm.wanted)):
                    wanted[name] = asked
            if not wanted:
                break
            told = self.frequencies(wanted, ask)
        return [{name: columns[name][i] for name in names} for i in range(len(queries))]

    def frequencies(self, wanted: Mapping[str, Sequence[Term]], ask: Search) -> dict[str, dict[Term, int]]:
        """How many documents of the shards that answer hold each term, by arm; kept where all have answered."""
        sent = {
            name: list(terms) if isinstance(terms[0], str) else np.array(terms, np.int32)
            for name, terms in wanted.items()
        }
        found = ask.every({number: ("document_frequency", (sent,)) for number in self.with_documents})
        told = {}
        for name, terms in wanted.items():
            total = np.sum([one[name] for one in found.values()], axis=0)
            told[name] = dict(zip(terms, total.tolist(), strict=True))
            if not ask.missing:
                self.statistics[name].learn(told[name])
        return told

    def dimension(self, name: str) -> int:
        """Of the vectors of a dense arm."""
        dimension = self.descriptions[self.with_documents[0]].totals[name].dimension
        assert dimension is not None
        return dimension


class Search:
    """One search, of a batch of queries, and the shards that it does without.

    missing  by shard, why
    """

    def __init__(self, collection: Collection, patience: Patience):
        self.collection, self.patience = collection, patience
        self.missing: dict[int, Exception] = {}
        self._answers: list[dict[str, dict[int, Answer]]] = []
        self._documents: dict[int, Document] = {}

    def every(self, calls: Mapping[int, tuple[str, tuple[Any, ...]]]) -> dict[int, Any]:
        """What the shards say that are not missing already, each given its commit before all else. Raises what the first failed
        with, unless the search is content with some; if none answers, even then."""
        commits = [one.commit for one in self.collection.descriptions]
        asked = {
            number: Asked(method, (commits[number], *arguments))
            for number, (method, arguments) in calls.items()
            if number not in self.missing
        }
        until = self.patience.during(next(iter(asked.values())).method) if asked else None
        found, failed = self.collection.shards.ask(asked, until)
        if failed and not self.patience.partial:
            raise failed[min(failed)]
        self.missing.update(failed)
        if len(self.missing) == len(self.collection.with_documents):
            raise self.missing[min(self.missing)]
        return found

    def run(self, queries: Sequence[Mapping[str, Any]], wanted: Wanted) -> None:
        """Have the shards answer."""
        if wanted.condition is not None:
            self.collection.check_meant(wanted.condition, self)
        encoded = self.collection.encoded(queries, wanted.arms, self)
        means = {name: self.collection.mean_lengths[name] for name in wanted.arms}
        request = SearchRequest(encoded, wanted.depth, means, wanted.condition, wanted.trying, wanted.threads)
        found = self.every({number: ("search", (request,)) for number in self.collection.with_documents})
        self._answers = [
            {name: {number: own[i][name] for number, own in found.items()} for name in wanted.arms}
            for i in range(len(queries))
        ]

    def found(self, fusion: Fusion, k: int, depth: int) -> list[Found]:
        """For each query the best k of the shards that are not missing."""
        encoders = self.collection.encoders.items()
        least = {name: one for name, encoder in encoders if (one := least_score(encoder)) is not None}
        missing = {f"shard {number}": " ".join(str(error).split()) for number, error in sorted(self.missing.items())}
        rankings = []
        for arms in self._answers:
            left = {name: {n: one for n, one in own.items() if n not in self.missing} for name, own in arms.items()}
            lists = {name: merged(own, self.collection.first_docs, depth) for name, own in left.items()}
            rankings.append(Found(*fused(lists, fusion, k, least), missing))
        return rankings

    def fetch(self, docs: Sequence[int], stored: bool) -> bool:
        """Have these documents sent; False where a shard was lost over it, whose documents are then no hits."""
        missing, by_shard = len(self.missing), dict[int, list[int]]()
        for doc in dict.fromkeys(docs):
            if doc not in self._documents:
                shard = int(np.searchsorted(self.collection.first_docs, doc, side="right")) - 1
                by_shard.setdefault(shard, []).append(doc)
        first_docs = self.collection.first_docs
        calls = {n: ("documents", ([doc - first_docs[n] for doc in own], stored)) for n, own in by_shard.items()}
        for number, documents in (self.every(calls) if calls else {}).items():
            self._documents.update(zip(by_shard[number], documents, strict=True))
        return len(self.missing) == missing

    def get(self, docs: Sequence[int]) -> list[Document]:
        """Those that were fetched, by number."""
        return [self._documents[doc] for doc in docs]

    def ids(self, docs: Sequence[int]) -> list[str]:
        return [self._documents[doc].doc_id for doc in docs]


def terms_of(query: Any, encoder: SparseEncoder, arm: AskedStatistics) -> TermsOfQuery:
    (own,) = numbered(query, encoder, arm)
    return arm.sent(own)


def check_models(descriptions: Sequence[ShardDescription]) -> None:
    """Raise WinnowError where shards were written by different models."""
    for number, one in enumerate(descriptions):
        if one.model != descriptions[0].model:
            raise WinnowError(
                f"shard {number} was written by another model than shard 0; give folders that one model has encoded, with the same "
                "options."
            )
