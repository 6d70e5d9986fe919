"""Search over the segments of one arm: each from the best found so far, one ranking of them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from index.arm_segments import Statistics
from index.dense.index import DenseIndex
from index.dense.search import DenseSearch
from index.effort import EXACT, Budget, Effort
from index.impact_search import NOTHING, Answer
from index.inverted import InvertedIndex
from index.settings import NO_FLOOR
from index.vectors import SparseQuery, checked_count
from index.vocabulary import Vocabulary


class ArmStatistics(Protocol):
    """What the weights of a query may depend on, of the documents of an arm, wherever they are; `SparseArm` has it of its segments."""

    @property
    def documents(self) -> int:
        """Live documents that count for the encoder."""
        ...

    @property
    def num_segments(self) -> int:
        """How many there are that may number terms each in its own way."""
        ...

    def find(self, terms: Sequence[str]) -> list[np.ndarray]:
        """int32 [len(terms)] for each segment: the numbers of the terms there, -1 where it has not got them."""
        ...

    def document_frequency(self, numbers: Sequence[np.ndarray]) -> np.ndarray:
        """int64 [terms]: live documents that hold each term, which is called `numbers[i]` (-1: nothing) in segment i."""
        ...


@dataclass(frozen=True)
class SparseArm:
    """All that queries of sparse vectors need: the index of each segment, and the statistics of the live documents."""

    indexes: tuple[InvertedIndex, ...]  # one a segment, that sees live documents only
    vocabularies: tuple[Vocabulary | None, ...]
    statistics: tuple[Statistics, ...]
    first_docs: tuple[int, ...]

    @classmethod
    def alone(cls, index: InvertedIndex, statistics: Statistics, vocabulary: Vocabulary | None = None) -> SparseArm:
        """Of one index that is all there is."""
        return cls((index,), (vocabulary,), (statistics,), (0,))

    @property
    def documents(self) -> int:
        """Live documents that count for the encoder."""
        return sum(statistics.documents for statistics in self.statistics)

    @property
    def num_segments(self) -> int:
        return len(self.indexes)

    def find(self, terms: Sequence[str]) -> list[np.ndarray]:
        """int32 [len(terms)] for each segment: the numbers of the terms there, -1 where it has not got them."""
        return [vocabulary.find(terms) for vocabulary in self.vocabularies if vocabulary is not None]

    def document_frequency(self, numbers: Sequence[np.ndarray]) -> np.ndarray:
        """int64 [terms]: live documents that hold each term, which is called `numbers[i]` (-1: nothing) in segment i."""
        total = np.zeros(len(numbers[0]), np.int64)
        for own, statistics in zip(numbers, self.statistics, strict=True):
            if len(statistics.document_frequency):
                total += np.where(own >= 0, statistics.document_frequency[own], 0)
        return total

    @cached_property
    def largest_first(self) -> list[int]:
        """The segments in the order to search them: the best hits of the large ones spare work in the small ones."""
        return sorted(range(len(self.indexes)), key=lambda position: -self.indexes[position].num_live)

    @property
    def num_live(self) -> int:
        return sum(index.num_live for index in self.indexes)

    @property
    def num_findable(self) -> int:
        """Live documents that a query can match."""
        return sum(index.num_live_with_terms for index in self.indexes)

    @property
    def nbytes(self) -> int:
        """All that scoring reads."""
        return sum(index.nbytes for index in self.indexes)

    def search(self, queries: Sequence[SparseQuery], k: int, effort: Effort = EXACT) -> Answer:
        """The best k live documents: (scores float32, docs int32), best first; fewer where fewer score above 0.

        queries  the one query as each segment numbers its terms
        """
        k, found = checked_count("k", k), []
        best, given, num_terms = Best(k), None, 0
        for position in self.largest_first:
            index, query = self.indexes[position], queries[position]
            if query is not given or num_terms != index.options.num_terms:
                given, num_terms = query, index.options.num_terms
                checked = index.checked(*query)
            scores, docs = index.search_from(checked, k, self._share(effort, position), best.floor)
            found.append((scores, docs + np.int32(self.first_docs[position])))
            best.add(scores)
        return best_of(found, k)

    def search_batch(
        self, queries: Sequence[Sequence[SparseQuery]], k: int, threads: int, effort: Effort = EXACT
    ) -> list[Answer]:
        """`search` for each query, on several threads."""
        k, threads = checked_count("k", k), checked_count("threads", threads)
        best: list[Best] = [Best(k) for _ in queries]
        found: list[list[Answer]] = [[] for _ in queries]
        for position in self.largest_first:
            index, own_effort = self.indexes[position], self._share(effort, position)
            floors = np.array([one.floor for one in best], np.float32)
            answers = index.search_batch([query[position] for query in queries], k, threads, own_effort, floors=floors)
            for one, own, (scores, docs) in zip(best, found, answers, strict=True):
                own.append((scores, docs + np.int32(self.first_docs[position])))
                one.add(scores)
        return [best_of(own, k) for own in found]

    def _share(self, effort: Effort, position: int) -> Effort:
        """A segment's part of a budget; any other effort as it is."""
        if not isinstance(effort, Budget) or len(self.indexes) == 1:
            return effort
        share = self.indexes[position].num_live / max(self.num_live, 1)
        if effort.postings is None:
            return replace(effort, microseconds=max((effort.microseconds or 0) * share, 1e-3))
        return replace(effort, postings=max(int(effort.postings * share), 1))


@dataclass(frozen=True)
class DenseArm:
    """The same of dense vectors, whose queries need no statistics."""

    indexes: tuple[DenseIndex, ...]  # one a segment, that sees live documents only
    first_docs: tuple[int, ...]

    @property
    def dimension(self) -> int:
        return self.indexes[0].options.dimension

    @property
    def num_findable(self) -> int:
        """Live documents that have a vector."""
        return sum(index.num_live_with_vectors for index in self.indexes)

    @property
    def nbytes(self) -> int:
        """All that a search reads."""
        return sum(index.nbytes for index in self.indexes)

    def search(self, query: np.ndarray, k: int, parameters: DenseSearch | None = None) -> Answer:
        """The best k live documents: (scores float32, docs int32), best first; fewer where fewer have a vector.

        query  float32 [dimension]
        """
        (answer,) = self.search_batch(query[None], k, 1, parameters)
        return answer

    def search_batch(
        self, queries: np.ndarray, k: int, threads: int, parameters: DenseSearch | None = None
    ) -> list[Answer]:
        """`search` for each query, float32 [queries, dimension], on several threads."""
        k, threads = checked_count("k", k), checked_count("threads", threads)
        found: list[list[Answer]] = [[] for _ in queries]
        for index, first_doc in zip(self.indexes, self.first_docs, strict=True):
            answers = index.search_batch(queries, k, threads, parameters=parameters)
            for own, (scores, docs) in zip(found, answers, strict=True):
                own.append((scores, docs + np.int32(first_doc)))
        return [best_of(own, k) for own in found]


class Best:
    """The k best scores so far."""

    def __init__(self, k: int):
        self._k, self._scores = k, list[float]()

    @property
    def floor(self) -> np.float32:
        """What a document must score to be among the k best: the least of k scores, or 0 while there are fewer."""
        return np.float32(self._scores[-1]) if len(self._scores) == self._k else NO_FLOOR

    def add(self, scores: np.ndarray) -> None:
        """float32, best first"""
        self._scores += scores.tolist()
        self._scores.sort(reverse=True)
        del self._scores[self._k :]


def best_of(found: Sequence[Answer], k: int) -> Answer:
    """The best k of all, best first; equal scores by document."""
    found = [answer for answer in found if len(answer[0])]
    if len(found) <= 1:
        return found[0] if found else NOTHING
    scores, docs = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    order = np.lexsort((docs, -scores))[:k]
    return scores[order], docs[order]
