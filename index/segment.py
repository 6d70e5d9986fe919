"""A segment: some documents and, for each arm, an index of their vectors. Nothing changes it once it is made.

What it stores depends on its own documents alone, so segments merge without loss: the merged one equals what would be
built from all documents at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from index.arm_segments import (
    UNLIMITED,
    ArmSegment,
    BuildLimits,
    DocumentEncoder,
    Statistics,
    build_arm,
    merged_arm,
    read_arm,
)
from index.documents import Document, DocumentStore, StagedDocuments, digest_of
from index.errors import IndexFormatError
from index.files import make_folder, save_array
from index.storage import Part, open_array, read_only

DIGESTS = "digests.npy"


@dataclass(frozen=True, slots=True)
class Segment:
    """Documents and, by the name of each arm, the index of their vectors."""

    documents: DocumentStore
    arms: Mapping[str, ArmSegment]
    part: Part | None = None  # where it is stored; holds its files for as long as the segment is in use
    digests: np.ndarray | None = None  # uint64 [documents]: `digest_of` each; None where nobody asked for them

    @property
    def num_docs(self) -> int:
        return len(self.documents)

    def digests_of(self, docs: Sequence[int]) -> list[int]:
        """Of these documents; where none were kept, of what is stored of them."""
        if self.digests is None:
            return list(map(digest_of, self.documents.each(docs)))
        found: list[int] = self.digests[list(docs)].tolist()
        return found

    @classmethod
    def build(
        cls,
        staged: StagedDocuments,
        encoders: Mapping[str, DocumentEncoder],
        part: Part | None,
        watch: Callable[[Iterable[Document]], Iterable[Document]] = iter,
        progress: bool = False,
    ) -> Segment:
        """Encode and index the staged documents; into `part` if given.

        watch     sees each document go by, once for each arm
        progress  shows how a dense index is trained
        """
        arms = {}
        for name, encoder in encoders.items():
            encoded = encoder.encode_documents(watch(staged))
            arms[name] = build_arm(encoded, folder_of(name, part), progress)
        return cls.of(staged, arms, part)

    @classmethod
    def of(
        cls,
        staged: StagedDocuments,
        arms: Mapping[str, ArmSegment],
        part: Part | None,
        digests: np.ndarray | None = None,
    ) -> Segment:
        """Staged documents with arms that index them, row by row; these were built into `part` if given."""
        return cls(staged.sealed(None if part is None else part.path), arms, digests=digests)._stored(part)

    @classmethod
    def merged(
        cls,
        segments: Sequence[tuple[Segment, Live]],
        part: Part | None,
        progress: bool = False,
        limits: BuildLimits = UNLIMITED,
    ) -> Segment:
        """One segment of the live documents of all, in order; into `part` if given."""
        arms = {
            name: merged_arm(
                [(segment.arms[name], live.mask, live.statistics[name]) for segment, live in segments],
                folder_of(name, part),
                progress,
                limits,
            )
            for name in segments[0][0].arms
        }
        stores = [(segment.documents, live.mask) for segment, live in segments]
        found = [
            segment.digests if live.mask is None or segment.digests is None else segment.digests[live.mask]
            for segment, live in segments
        ]
        known = [one for one in found if one is not None]
        digests = np.concatenate(known) if len(known) == len(found) else None
        documents = DocumentStore.merged(stores, None if part is None else part.path)
        return cls(documents, arms, digests=digests)._stored(part)

    def write(self, part: Part) -> Segment:
        """The same segment, copied into `part`."""
        self.documents.write(part.path)
        for name, arm in self.arms.items():
            arm.write(made(part.path / name))
        return self._stored(part)

    def _stored(self, part: Part | None) -> Segment:
        """The segment that lies in `part` once the rest of it is written; itself where there is none."""
        if part is None:
            return self
        arms = {name: arm.describe(part.path / name) for name, arm in self.arms.items()}
        part.contents = {"documents": self.num_docs, "arms": arms}
        if self.digests is not None:
            save_array(part.path / DIGESTS, self.digests)
            part.contents["digests"] = True
        return Segment.read(part)

    @classmethod
    def read(cls, part: Part) -> Segment:
        """Map what lies in `part`. Raises IndexFormatError."""
        documents, num_docs = DocumentStore.read(part.path), part.contents["documents"]
        if len(documents) != num_docs:
            raise IndexFormatError(
                f"{part.path} holds {len(documents)} documents, its description says {num_docs}; `winnow repair` may save it."
            )
        arms = {
            name: read_arm(part.path / name, description, num_docs)
            for name, description in part.contents["arms"].items()
        }
        has_digests = part.contents.get("digests", False)
        digests = open_array(part.path / DIGESTS, "uint64", num_docs) if has_digests else None
        return cls(documents, arms, part, digests)


class Live(NamedTuple):
    """Which documents of a segment are left, and their statistics in each arm."""

    mask: np.ndarray | None  # bool [documents]; None: all
    num_docs: int
    statistics: Mapping[str, Statistics]

    @classmethod
    def all_of(cls, segment: Segment) -> Live:
        return cls(None, segment.num_docs, {name: arm.statistics for name, arm in segment.arms.items()})

    def without(self, segment: Segment, docs: np.ndarray, encoders: Mapping[str, DocumentEncoder]) -> Live:
        """After these live documents (each once) were deleted."""
        mask = np.ones(segment.num_docs, np.bool_) if self.mask is None else self.mask.copy()
        mask[docs] = False
        statistics = {}
        for name, arm in segment.arms.items():
            gone = arm.statistics_of(docs, segment.documents.each(docs.tolist()), encoders[name])
            statistics[name] = self.statistics[name].less(gone)
        return Live(read_only(mask), int(np.count_nonzero(mask)), statistics)

    def write(self, part: Part, segment: Segment) -> None:
        """Write into a part of its own."""
        assert self.mask is not None
        assert segment.part is not None
        save_array(part.path / "live.npy", np.packbits(self.mask, bitorder="little"))
        statistics = {name: arm.write(made(part.path / name)) for name, arm in self.statistics.items()}
        part.contents = {"segment": segment.part.name, "documents": self.num_docs, "statistics": statistics}

    @classmethod
    def read(cls, part: Part, segment: Segment) -> Live:
        """What `write` wrote for the segment. Raises IndexFormatError."""
        mask, num_docs = live_mask(part, segment.num_docs), part.contents["documents"]
        if np.count_nonzero(mask) != num_docs or part.contents["segment"] != (segment.part and segment.part.name):
            raise IndexFormatError(
                f"{part.path} does not say which documents of its segment are left; run `winnow repair`."
            )
        statistics = {
            name: Statistics.read(part.path / name, description)
            for name, description in part.contents["statistics"].items()
        }
        return cls(read_only(mask), num_docs, statistics)


def live_mask(part: Part, num_docs: int) -> np.ndarray:
    """bool [documents], as `Live.write` stored it. Raises IndexFormatError."""
    bits = open_array(part.path / "live.npy", "uint8", -(-num_docs // 8))
    return np.unpackbits(bits, count=num_docs, bitorder="little").view(np.bool_)


def folder_of(arm: str, part: Part | None) -> Path | None:
    """The folder of an arm within a part, made; None without a part."""
    return None if part is None else made(part.path / arm)


def made(folder: Path) -> Path:
    """The folder, which did not exist before."""
    make_folder(folder)
    return folder
