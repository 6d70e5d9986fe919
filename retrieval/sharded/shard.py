"""One shard: some segments of an index folder, opened where they lie, and the answers to what a search asks of them.

A shard scores with the statistics of the whole collection, which come with each request: what it returns is what the same documents
would score among all others. It keeps nothing between requests, so a shard that died is replaced by opening it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from index.arms import DenseArm, SparseArm
from index.documents import Document
from index.errors import IndexFormatError, WinnowError
from index.impact_search import Answer
from index.manifest import as_json, read_description
from index.snapshot import Snapshot
from index.storage import Commit, read_current
from index.vectors import SparseQuery
from retrieval.arm_search import Trying
from retrieval.conditions import Condition
from retrieval.filtered import fitting, objections
from retrieval.opened import KIND
from retrieval.rerankers.stage import read_documents
from retrieval.sharded.statistics import ArmTotals, TermsOfQuery, Totals

MOST_KEPT = 16  # arms narrowed by a filter

ShardQuery = TermsOfQuery | np.ndarray  # of a sparse arm; of a dense one float32 [dimension]


class ShardSource(NamedTuple):
    """Where a shard is: a folder, and which of its segments, [first, end)."""

    folder: str
    first: int = 0
    end: int | None = None  # None: all that follow


class ShardDescription(NamedTuple):
    """What a search must know of a shard."""

    num_docs: int  # numbers that its documents have, deleted ones too
    num_live: int
    totals: Totals
    model: str  # two shards with the same were written by the same model
    commit: str  # of which these are the segments


class SearchRequest(NamedTuple):
    """The queries of a batch, as all shards are asked them."""

    queries: Sequence[Mapping[str, ShardQuery]]  # by arm
    depth: int
    mean_lengths: Mapping[str, float]
    condition: Condition | None
    trying: Trying
    threads: int = 1


class Shard:
    """The documents of one shard, open."""

    def __init__(self, source: ShardSource):
        """Raises IndexFormatError for a folder that cannot be opened."""
        self.source = source
        self.snapshot, self.commit, self.model = read_current(source.folder, KIND, self._read)
        self._arms = lru_cache(MOST_KEPT)(self._arms_under)

    def _read(self, commit: Commit) -> tuple[Snapshot, str, str]:
        snapshot = Snapshot.read(commit)
        assert snapshot.model is not None
        if (self.source.end or 0) > len(snapshot.segments):
            raise IndexFormatError(
                f"{self.source.folder} has {len(snapshot.segments)} segments, and a shard was to have those up to "
                f"{self.source.end}; it was committed to meanwhile: open the retriever anew."
            )
        parts = {name: part.sha256 for name, part in snapshot.parts.items()}
        identity = digest({"commit": snapshot.number, "parts": parts})
        own = replace(snapshot, segments=snapshot.segments[self.source.first : self.source.end])
        return own, identity, model_of(snapshot)

    def describe(self) -> ShardDescription:
        """Its size, and what its statistics add to those of all."""
        totals = {}
        for name, arm in self.snapshot.arms.items():
            if isinstance(arm, SparseArm):
                lengths = sum(one.length for one in arm.statistics)
                totals[name] = ArmTotals(arm.documents, lengths, dimension=None)
            else:
                totals[name] = ArmTotals(0, 0, arm.dimension)
        snapshot = self.snapshot
        return ShardDescription(snapshot.first_docs[-1], snapshot.num_docs, totals, self.model, self.commit)

    def document_frequency(self, commit: str, terms: Mapping[str, Sequence[str] | np.ndarray]) -> dict[str, np.ndarray]:
        """int64 [terms] for each arm: live documents here that hold each term, a word or an encoder's number."""
        self._check(commit)
        found = {}
        for name, asked in terms.items():
            arm = self.snapshot.arms[name]
            assert isinstance(arm, SparseArm)
            found[name] = arm.document_frequency(numbered(asked, arm))
        return found

    def objections(self, commit: str, condition: Condition) -> list[str | None]:
        """For each comparison of a filter what keeps it from meaning any document here; None: nothing."""
        self._check(commit)
        return objections(self.snapshot, condition)

    def search(self, commit: str, request: SearchRequest) -> list[dict[str, Answer]]:
        """For each query and each arm the best documents here, by their numbers in this shard."""
        self._check(commit)
        means = tuple(sorted(request.mean_lengths.items()))
        arms = self._arms(means, request.condition)
        names = list(request.queries[0]) if request.queries else []
        found = {name: self._found(arms[name], [one[name] for one in request.queries], request) for name in names}
        return [{name: found[name][i] for name in names} for i in range(len(request.queries))]

    def documents(self, commit: str, docs: Sequence[int], stored: bool) -> list[Document]:
        """Those with these numbers here, in this order; unless `stored` with their ids alone."""
        self._check(commit)
        return read_documents(self.snapshot, docs, stored)

    def _found(self, arm: SparseArm | DenseArm, queries: Sequence[Any], request: SearchRequest) -> list[Answer]:
        if isinstance(arm, DenseArm):
            return arm.search_batch(np.stack(queries), request.depth, request.threads, request.trying.dense)
        own = [numbered_query(query, arm) for query in queries]
        if len(own) == 1:
            return [arm.search(own[0], request.depth, request.trying.effort)]
        return arm.search_batch(own, request.depth, request.threads, request.trying.effort)

    def _arms_under(
        self, means: tuple[tuple[str, float], ...], condition: Condition | None
    ) -> dict[str, SparseArm | DenseArm]:
        snapshot = self.snapshot if condition is None else fitting(self.snapshot, condition)
        return {name: snapshot.arm(name, mean) for name, mean in means}

    def _check(self, commit: str) -> None:
        if commit != self.commit:
            raise WinnowError(
                f"{self.source.folder} has been committed to since the retriever was opened, and a shard of it was opened anew; "
                "open the retriever anew too."
            )


def numbered(terms: Sequence[str] | np.ndarray, arm: SparseArm) -> list[np.ndarray]:
    """int32 for each segment: the numbers of the terms there, -1 where it has not got them."""
    if isinstance(terms, np.ndarray):
        return [terms] * arm.num_segments
    return arm.find(terms)


def numbered_query(query: TermsOfQuery, arm: SparseArm) -> list[SparseQuery]:
    """The query as each segment numbers its terms; those that a segment lacks are left out there."""
    found = []
    for own in numbered(query.terms, arm):
        known = own >= 0
        found.append(SparseQuery(own[known], query.weights[known]))
    return found


def model_of(snapshot: Snapshot) -> str:
    """A digest of the encoders and of the files that they are read from; fusion and reranker may differ."""
    part = snapshot.model
    assert part is not None
    assert part.sha256 is not None
    files = read_description(part.path, part.sha256).files
    return digest({"encoder": part.contents["encoder"], "files": {name: file.sha256 for name, file in files.items()}})


def digest(described: dict[str, Any]) -> str:
    return hashlib.sha256(as_json(described)).hexdigest()
