"""The statistics of a collection in shards: those of each added up, so that a query weighs what it would weigh with all documents
in one place.

Documents and lengths are known from the beginning. How many documents hold a term is asked of the shards the first time that a
query has the term, and kept: the segments of a commit do not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from index.vectors import SparseQuery

MOST_KEPT = 1_000_000  # terms of an arm whose frequency is kept; then it begins anew

Term = str | int


class ArmTotals(NamedTuple):
    """What a shard adds to the statistics of an arm."""

    documents: int  # that count for the encoder
    length: int  # of these together, in tokens
    dimension: int | None  # of the vectors of a dense arm


Totals = Mapping[str, ArmTotals]  # by arm


class TermsOfQuery(NamedTuple):
    """A query as every shard understands it: words, or the numbers that the encoder has for all segments, ascending; float32 weights."""

    terms: Sequence[str] | np.ndarray
    weights: np.ndarray


class CollectionStatistics:
    """Of one sparse arm of all shards."""

    def __init__(self, totals: Iterable[ArmTotals]):
        each = list(totals)
        self.documents = sum(one.documents for one in each)
        self.mean_length = sum(one.length for one in each) / max(self.documents, 1)
        self._frequency: dict[Term, int] = {}

    def unknown(self, terms: Iterable[Term]) -> list[Term]:
        """Those whose frequency must be asked for, each once."""
        return [term for term in dict.fromkeys(terms) if term not in self._frequency]

    def learn(self, frequency: Mapping[Term, int]) -> None:
        """Keep what all shards together have of some terms."""
        if len(self._frequency) + len(frequency) > MOST_KEPT:
            self._frequency = {}
        self._frequency.update(frequency)

    def frequency(self, terms: Sequence[Term], beside: Mapping[Term, int]) -> np.ndarray:
        """int64 [terms]; what is not kept is taken from `beside`, and is 0 where that lacks it too."""
        return np.array([self._frequency.get(term, beside.get(term, 0)) for term in terms], np.int64)


class AskedStatistics:
    """The statistics of an arm for one query: `ArmStatistics` of a collection that numbers its terms as they are asked for.

    wanted  of what the encoder asked, the terms whose frequency nobody has told yet; the query must then be encoded once more
    """

    num_segments = 1

    def __init__(self, collection: CollectionStatistics, told: Mapping[Term, int]):
        """told  frequencies for this query alone, as of shards that have answered while others have not"""
        self._collection, self._told = collection, told
        self._words: Sequence[str] | None = None
        self.wanted: list[Term] = []

    @property
    def documents(self) -> int:
        return self._collection.documents

    def find(self, terms: Sequence[str]) -> list[np.ndarray]:
        self._words = terms
        return [np.arange(len(terms), dtype=np.int32)]

    def document_frequency(self, numbers: Sequence[np.ndarray]) -> np.ndarray:
        terms: list[Term] = [self._words[n] for n in numbers[0]] if self._words is not None else numbers[0].tolist()
        self.wanted += [term for term in self._collection.unknown(terms) if term not in self._told]
        return self._collection.frequency(terms, self._told)

    def sent(self, query: SparseQuery) -> TermsOfQuery:
        """The encoded query with its terms as shards know them."""
        if self._words is None:
            return TermsOfQuery(query.terms, query.weights)
        return TermsOfQuery([self._words[number] for number in query.terms], query.weights)
