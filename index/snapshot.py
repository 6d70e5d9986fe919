"""What a search reads: the segments of one commit, which of their documents are left, and the statistics of these.

A snapshot never changes. A commit makes a new one, and whoever holds the old one goes on searching it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from index.documents import Document, numbers_of
from index.effort import EXACT, Budget, Effort
from index.errors import IndexFormatError
from index.impact_search import NOTHING, Answer
from index.inverted import InvertedIndex
from index.manifest import Manifest
from index.segment import Live, Segment, Statistics
from index.settings import NO_FLOOR
from index.storage import Commit, Part
from index.vectors import SparseQuery, checked_count
from index.vocabulary import Vocabulary


class LiveSegment(NamedTuple):
    """A segment and what is left of it."""

    segment: Segment
    live: Live
    deletes: Part | None = None  # where `live` is stored


@dataclass(frozen=True)
class Arm:
    """All that one encoder's queries need: the index of each segment, and the statistics of the live documents."""

    indexes: tuple[InvertedIndex, ...]  # one a segment, that sees live documents only
    vocabularies: tuple[Vocabulary | None, ...]
    statistics: tuple[Statistics, ...]
    first_docs: tuple[int, ...]

    @classmethod
    def alone(cls, index: InvertedIndex, statistics: Statistics, vocabulary: Vocabulary | None = None) -> Arm:
        """Of one index that is all there is."""
        return cls((index,), (vocabulary,), (statistics,), (0,))

    @property
    def documents(self) -> int:
        """Live documents that count for the encoder."""
        return sum(statistics.documents for statistics in self.statistics)

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
class Snapshot:
    """The documents of one commit. A document's number counts those of the segments before its own, deleted ones too."""

    segments: tuple[LiveSegment, ...] = ()
    model: Part | None = None  # what the owner of the collection keeps beside it; None: in memory only
    number: int = 0  # of the commit

    @property
    def num_docs(self) -> int:
        """Documents that are not deleted."""
        return sum(live.num_docs for _, live, _ in self.segments)

    @cached_property
    def first_docs(self) -> list[int]:
        """The number of each segment's first document, then the first number that is free."""
        return [0, *np.cumsum([segment.num_docs for segment, _, _ in self.segments]).tolist()]

    @cached_property
    def arms(self) -> dict[str, Arm]:
        """The arms of the collection by name."""
        names = self.segments[0].segment.arms if self.segments else ()
        return {name: self._arm(name) for name in names}

    def _arm(self, name: str) -> Arm:
        parts = [segment.arms[name] for segment, _, _ in self.segments]
        statistics = tuple(live.statistics[name] for _, live, _ in self.segments)
        mean_length = sum(one.length for one in statistics) / max(sum(one.documents for one in statistics), 1)
        indexes = tuple(
            part.index.seen(live.mask, mean_length) for part, (_, live, _) in zip(parts, self.segments, strict=True)
        )
        return Arm(indexes, tuple(part.vocabulary for part in parts), statistics, tuple(self.first_docs[:-1]))

    @property
    def parts(self) -> dict[str, Part]:
        """All parts of the folder that the snapshot holds, by name."""
        held = [self.model, *(part for segment, _, deletes in self.segments for part in (segment.part, deletes))]
        return {part.name: part for part in held if part is not None}

    def is_of(self, manifest: Manifest | None) -> bool:
        """True where the manifest names this very commit; another index may count its commits alike."""
        parts = {name: part.sha256 for name, part in self.parts.items()}
        return manifest is not None and (manifest.commit, manifest.parts) == (self.number, parts)

    def place(self, doc: int) -> tuple[int, int]:
        """(segment, number within it) of a document."""
        position = int(np.searchsorted(self.first_docs, doc, side="right")) - 1
        return position, doc - self.first_docs[position]

    def get(self, docs: Sequence[int]) -> list[Document]:
        """The documents with these numbers, in this order."""
        return self._each(docs, lambda segment, own: segment.documents.get(own))

    def ids(self, docs: Sequence[int]) -> list[str]:
        """Only the ids of these documents, in this order."""
        return self._each(docs, lambda segment, own: segment.documents.ids(own))

    def _each(self, docs: Sequence[int], read: Callable[[Segment, list[int]], list[Any]]) -> list[Any]:
        if len(self.segments) == 1:
            return read(self.segments[0].segment, list(docs))
        found: list[Any] = [None] * len(docs)
        places = [self.place(doc) for doc in docs]
        for position in {position for position, _ in places}:
            own = [i for i, place in enumerate(places) if place[0] == position]
            read_ones = read(self.segments[position].segment, [places[i][1] for i in own])
            for i, one in zip(own, read_ones, strict=True):
                found[i] = one
        return found

    def find(self, doc_ids: Sequence[str]) -> dict[str, int]:
        """The numbers of the live documents with these ids; those not there are left out."""
        found = {}
        for first_doc, (segment, live, _) in zip(self.first_docs, self.segments, strict=False):
            for doc_id, doc in segment.documents.find(doc_ids).items():
                if live.mask is None or live.mask[doc]:
                    found[doc_id] = first_doc + doc
        return found

    def documents(self, but: Mapping[int, Collection[int]] = MappingProxyType({})) -> Iterator[Document]:
        """All live documents in the order they were added, without those named: of each segment, its numbers."""
        for position, (segment, live, _) in enumerate(self.segments):
            gone = but.get(position, ())
            numbers = numbers_of(live.mask, segment.num_docs)
            yield from segment.documents.each([doc for doc in numbers if doc not in gone])

    @classmethod
    def read(cls, commit: Commit, known: Snapshot | None = None) -> Snapshot:
        """Open the segments that a commit names; those that `known` has open are taken from there."""
        open_segments = {id(one.segment.part): one.segment for one in known.segments} if known else {}
        segments, entries = [], commit.contents["segments"]
        if not isinstance(entries, list):
            raise IndexFormatError(f"the manifest's segments are {entries!r:.60}, no list; restore it from a copy.")
        for entry in entries:
            part = commit.parts[entry["part"]]
            segment = open_segments.get(id(part)) or Segment.read(part)
            deletes = None if entry["deletes"] is None else commit.parts[entry["deletes"]]
            live = Live.all_of(segment) if deletes is None else Live.read(deletes, segment)
            segments.append(LiveSegment(segment, live, deletes))
        if any(one.segment.arms.keys() != segments[0].segment.arms.keys() for one in segments):
            raise IndexFormatError("the segments of the index have different arms; restore it from a copy.")
        return cls(tuple(segments), commit.parts[commit.contents["model"]], commit.number)


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
