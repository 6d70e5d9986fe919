"""Changes to a collection: staged, then made visible as a whole by a commit, or forgotten.

The one writer of a folder holds its lock from the first change to the commit or rollback.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from index.arm_segments import UNLIMITED, DocumentEncoder
from index.documents import PAGE, Document, StagedDocuments
from index.errors import IndexFormatError, WinnowError
from index.folder_writer import FolderWriter
from index.manifest import file_problems, read_description
from index.merge_policy import Size, due
from index.segment import Live, Segment
from index.snapshot import LiveSegment, Snapshot
from index.storage import Part

Watch = Callable[[Iterable[Document]], Iterable[Document]]


class Changes(NamedTuple):
    """What waits for a commit."""

    staged: StagedDocuments
    deleted: dict[int, set[int]]  # of each segment the documents that go

    @classmethod
    def none(cls) -> Changes:
        return cls(StagedDocuments(), {})


class Writer:
    """Changes on top of one snapshot, for a folder or for memory alone."""

    def __init__(self, snapshot: Snapshot, encoders: Mapping[str, DocumentEncoder], folder: FolderWriter | None = None):
        # one value: whatever interrupts a commit, its changes are never both committed and staged
        self._state = snapshot, Changes.none()
        self._encoders = encoders
        self._folder = folder
        self._copies = False
        self.limits = UNLIMITED
        self.beside: dict[
            str, Any
        ] = {}  # what commits say of the folder besides model and segments; the rest of it stays

    def copied_to(self, folder: FolderWriter, snapshot: Snapshot) -> Writer:
        """A writer of the same changes whose commit copies all segments to another folder; `snapshot` has its model."""
        writer = copy(self)
        writer._state, writer._folder, writer._copies = (snapshot, self._state[1]), folder, True
        return writer

    @property
    def snapshot(self) -> Snapshot:
        """The last commit."""
        return self._state[0]

    @property
    def _staged(self) -> StagedDocuments:
        return self._state[1].staged

    @property
    def _deleted(self) -> dict[int, set[int]]:
        return self._state[1].deleted

    def rollback(self) -> None:
        """Forget what is staged."""
        self._state = self.snapshot, Changes.none()

    @property
    def num_staged(self) -> int:
        """Documents that the next commit adds."""
        return len(self._staged)

    @property
    def is_changed(self) -> bool:
        """True where there is something to commit."""
        return len(self._staged) > 0 or bool(self._deleted)

    def add(self, documents: Iterable[Document]) -> int:
        """Stage new documents, all or none; returns how many. Raises CorpusError for an id that is in use."""

        def check(ids: list[str]) -> str | None:
            known = self._live(ids)
            used = next((doc_id for doc_id in ids if doc_id in known), None)
            return used and f"the id {used!r:.60} is in the index already; give each document its own id, or upsert it."

        return len(self._staged.add(documents, check=check))

    def upsert(self, documents: Iterable[Document]) -> int:
        """Stage documents that take the place of those with their ids, all or none; returns how many are new or changed."""
        replaced: dict[str, int] = {}

        def look_up(page: list[str]) -> None:
            replaced.update(self._live(page))

        staged = self._staged.add(documents, replace=True, check=look_up)
        self._delete(replaced.values())
        return len(set(staged))

    def delete(self, doc_ids: Sequence[str]) -> list[str]:
        """Stage the deletion of the documents with these ids; returns the ids that were there."""
        live, staged = self._live(doc_ids), set(self._staged.remove(doc_ids))
        self._delete(live.values())
        return [doc_id for doc_id in dict.fromkeys(doc_ids) if doc_id in live or doc_id in staged]

    def documents(self) -> Iterator[Document]:
        """All documents as a commit would leave them, in the order added."""
        yield from self.snapshot.documents(but=self._deleted)
        yield from self._staged

    def _live(self, doc_ids: Sequence[str]) -> dict[str, int]:
        """The numbers of the committed documents with these ids that no staged change deletes."""
        found = self.snapshot.find(doc_ids)
        return {doc_id: doc for doc_id, doc in found.items() if not self._is_deleted(*self.snapshot.place(doc))}

    def _is_deleted(self, position: int, doc: int) -> bool:
        return doc in self._deleted.get(position, ())

    def _delete(self, docs: Iterable[int]) -> None:
        for number in docs:
            position, doc = self.snapshot.place(number)
            self._deleted.setdefault(position, set()).add(doc)

    def commit(self, watch: Watch = iter, progress: bool = False) -> Snapshot:
        """Make all that is staged visible and, in a folder, durable; it stays staged if that fails.

        watch     sees each document that is encoded
        progress  shows how dense indexes are trained
        """
        with self._new_parts() as parts:
            segments = [self._after_deletes(position, parts) for position in range(len(self.snapshot.segments))]
            segments = [one for one in segments if one.live.num_docs > 0]
            if len(self._staged):
                segment = Segment.build(self._staged, self._encoders, self._new_part(parts), watch, progress)
                segments.append(LiveSegment(segment, Live.all_of(segment)))
            self.publish(segments)
        return self.snapshot

    def _after_deletes(self, position: int, parts: list[Part]) -> LiveSegment:
        """A segment without what is to be deleted of it, in this folder."""
        segment, live, _ = one = self.snapshot.segments[position]
        docs = np.array(sorted(self._deleted.get(position, ())), np.int64)
        if len(docs) == 0 and not self._copies:
            return one
        if len(docs):
            live = live.without(segment, docs, self._encoders)
        if live.num_docs == 0:
            return LiveSegment(segment, live)
        if self._copies and (copied := self._new_part(parts)):
            segment = segment.write(copied)
        deletes = None if live.mask is None else self._new_part(parts)
        if deletes is not None:
            live.write(deletes, segment)
        return LiveSegment(segment, live, deletes)

    def commit_built(self, fill: Callable[[Part], None]) -> Snapshot:
        """Commit the segment that `fill` puts into a part, built elsewhere; its documents take the place of those with their ids.

        Nothing may be staged. Raises IndexFormatError for a segment that cannot be read.
        """
        assert not self.is_changed
        with self._new_parts() as parts:
            part = self._new_part(parts)
            assert part is not None
            try:
                fill(part)
                segment = Segment.read(part)
                for first in range(0, segment.num_docs, PAGE):
                    ids = segment.documents.ids(range(first, min(first + PAGE, segment.num_docs)))
                    self._delete(self._live(ids).values())
                segments = [self._after_deletes(position, parts) for position in range(len(self.snapshot.segments))]
                segments = [one for one in segments if one.live.num_docs > 0]
                self.publish([*segments, LiveSegment(segment, Live.all_of(segment))])
            except BaseException:
                self.rollback()
                raise
        return self.snapshot

    def merge_due(self, progress: bool = False) -> Snapshot:
        """Merge the segments that have become too many or too empty (index.merge_policy). Nothing may be staged."""
        while (
            which := due([Size(live.num_docs, segment.num_docs) for segment, live, _ in self.snapshot.segments])
        ) is not None:
            self._merge(which, progress)
        return self.snapshot

    def merge_all(self, progress: bool = False) -> Snapshot:
        """Merge all segments into one without deleted documents. Nothing may be staged."""
        segments = self.snapshot.segments
        if len(segments) > 1 or any(live.mask is not None for _, live, _ in segments):
            self._merge(slice(0, len(segments)), progress)
        return self.snapshot

    def _merge(self, which: slice, progress: bool) -> None:
        assert not self.is_changed
        segments = list(self.snapshot.segments)
        for one in segments[which]:
            check_whole(one.segment.part)
        with self._new_parts() as parts:
            merged = Segment.merged(
                [(one.segment, one.live) for one in segments[which]], self._new_part(parts), progress, self.limits
            )
            segments[which] = [LiveSegment(merged, Live.all_of(merged))]
            self.publish(segments)

    def with_model(self, model: Part) -> Snapshot:
        """Commit another model part, of the same arms, to the folder. Nothing may be staged."""
        assert not self.is_changed
        self._state = replace(self.snapshot, model=model), self._state[1]
        self.publish(self.snapshot.segments)
        return self.snapshot

    def publish(self, segments: Sequence[LiveSegment]) -> None:
        """Make these segments the collection, in a folder by a commit; nothing is staged afterwards."""
        (model, number), none = (self.snapshot.model, self.snapshot.number), Changes.none()
        if self._folder is None:
            self._state = Snapshot(tuple(segments), model, number + 1), none
            return
        assert model is not None
        before = self._folder.current
        if not self._copies and before is not None and number not in (0, before.number):
            raise WinnowError(
                f"{self._folder.folder} has commit {before.number}, these changes are on top of commit {number}; roll back and "
                "stage them again."
            )
        stored = [part for one in segments for part in (one.segment.part, one.deletes) if part is not None]
        entries = [{"part": name_of(one.segment.part), "deletes": name_of(one.deletes)} for one in segments]
        kept = {} if self._copies or before is None else before.contents
        try:
            self._folder.commit({**kept, **self.beside, "model": model.name, "segments": entries}, [model, *stored])
        finally:
            # a failure after the manifest was renamed leaves a commit that readers see: ours must not be made twice
            if self._folder.current is not None and self._folder.current is not before:
                self._state = Snapshot(tuple(segments), model, self._folder.current.number), none

    def _new_part(self, parts: list[Part]) -> Part | None:
        """A part of the folder to write to, noted in `parts`; None in memory."""
        if self._folder is None:
            return None
        parts.append(self._folder.new_part())
        return parts[-1]

    @contextmanager
    def _new_parts(self) -> Iterator[list[Part]]:
        """Parts made within the block, thrown away if it fails."""
        parts: list[Part] = []
        try:
            yield parts
        except BaseException:
            for part in parts:
                assert self._folder is not None
                self._folder.discard(part)
            raise


def check_whole(part: Part | None) -> None:
    """Raise IndexFormatError for a part with a changed byte: what is merged gets new checksums, which would vouch for it."""
    if part is not None and part.sha256 is not None:
        for _, message in file_problems(part.path, read_description(part.path, part.sha256).files, "full"):
            raise IndexFormatError(message)


def name_of(part: Part | None) -> str | None:
    return None if part is None else part.name
