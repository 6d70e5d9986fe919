"""What a search reads: the segments of one commit, which of their documents are left, and the statistics of these.

A snapshot never changes. A commit makes a new one, and whoever holds the old one goes on searching it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from threading import Lock
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from index.arm_segments import DenseArmSegment, SparseArmSegment, Statistics
from index.arms import DenseArm, SparseArm
from index.documents import Document, numbers_of
from index.errors import IndexFormatError
from index.manifest import Manifest
from index.segment import Live, Segment
from index.storage import Commit, Part, read_only

MOST_KEPT = 16  # narrowed snapshots; each takes a byte a document


class LiveSegment(NamedTuple):
    """A segment and what is left of it."""

    segment: Segment
    live: Live
    deletes: Part | None = None  # where `live` is stored


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
    def arms(self) -> dict[str, SparseArm | DenseArm]:
        """The arms of the collection by name."""
        names = self.segments[0].segment.arms if self.segments else ()
        return {name: self.arm(name) for name in names}

    def arm(self, name: str, mean_length: float | None = None) -> SparseArm | DenseArm:
        """The arm of this name; `mean_length` is that of a collection of which this is a part, None: of these documents."""
        parts = [(segment.arms[name], live) for segment, live, _ in self.segments]
        first_docs = tuple(self.first_docs[:-1])
        dense = [part.index.seen(live.mask) for part, live in parts if isinstance(part, DenseArmSegment)]
        if len(dense) == len(parts):
            return DenseArm(tuple(dense), first_docs)
        statistics = tuple(live.statistics[name] for _, live in parts)
        if mean_length is None:
            mean_length = mean_length_of(statistics)
        sparse = [(part, live) for part, live in parts if isinstance(part, SparseArmSegment)]
        indexes = tuple(part.index.seen(live.mask, mean_length) for part, live in sparse)
        return SparseArm(indexes, tuple(part.vocabulary for part, _ in sparse), statistics, first_docs)

    def narrowed(self, asked: Hashable, masks: Callable[[], Sequence[np.ndarray]]) -> Snapshot:
        """`only` of the masks, kept under what was asked with the MOST_KEPT that were used last, and gone with this snapshot."""
        with self._narrowing:
            if asked in self._narrowed:
                self._narrowed.move_to_end(asked)
                return self._narrowed[asked]
        made = self.only(masks())
        with self._narrowing:
            self._narrowed[asked] = made
            while len(self._narrowed) > MOST_KEPT:
                self._narrowed.popitem(last=False)
        return made

    @cached_property
    def _narrowed(self) -> OrderedDict[Hashable, Snapshot]:
        return OrderedDict()

    @cached_property
    def _narrowing(self) -> Lock:
        return Lock()

    @property
    def parts(self) -> dict[str, Part]:
        """All parts of the folder that the snapshot holds, by name."""
        held = [self.model, *(part for segment, _, deletes in self.segments for part in (segment.part, deletes))]
        return {part.name: part for part in held if part is not None}

    def is_of(self, manifest: Manifest | None) -> bool:
        """True where the manifest names this very commit; another index may count its commits alike."""
        parts = {name: part.sha256 for name, part in self.parts.items()}
        return manifest is not None and (manifest.commit, manifest.parts) == (self.number, parts)

    def only(self, masks: Sequence[np.ndarray]) -> Snapshot:
        """The same documents to search, of which only some may be found: bool [documents] for each segment.

        The statistics stay those of the whole collection, so a document scores what it scores without the masks. To be
        searched, never to be changed: a commit on top of it would lose the documents left out.
        """
        segments = []
        for (segment, live, deletes), mask in zip(self.segments, masks, strict=True):
            found = read_only(mask if live.mask is None else live.mask & mask)
            count = int(np.count_nonzero(found))
            left = live if count == live.num_docs else Live(found, count, live.statistics)
            segments.append(LiveSegment(segment, left, deletes))
        return replace(self, segments=tuple(segments))

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

    def digests(self, docs: Sequence[int]) -> list[int]:
        """`digest_of` the documents with these numbers, in this order; where none was kept, of what is stored, without a vector."""
        return self._each(docs, lambda segment, own: segment.digests_of(own))

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
        kinds = [{name: type(arm) for name, arm in one.segment.arms.items()} for one in segments]
        if any(own != kinds[0] for own in kinds):
            raise IndexFormatError("the segments of the index have different arms; restore it from a copy.")
        return cls(tuple(segments), commit.parts[commit.contents["model"]], commit.number)


def mean_length_of(statistics: Sequence[Statistics]) -> float:
    """In tokens, of the documents that count for the encoder; 0 without any."""
    return sum(one.length for one in statistics) / max(sum(one.documents for one in statistics), 1)
