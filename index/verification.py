"""Is an index what its files claim? Checksums first (index/storage.py), then every invariant between the parts.

`quick` is what opening checks: manifest, descriptions, sizes and the first bytes of each file. `full` reads every byte,
then looks at every row, posting, term and document.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from index.arm_segments import ArmSegment, DenseArmSegment, Statistics
from index.dense.index import KIND as DENSE_INDEX
from index.dense.index import DenseIndex
from index.documents import numbers_of
from index.encoded_vectors import KIND as ENCODED_VECTORS
from index.encoded_vectors import damage_of_parts
from index.errors import IndexFormatError
from index.inverted import KIND as INVERTED_INDEX
from index.inverted import ROWS_A_BATCH, InvertedIndex
from index.manifest import (
    DESCRIPTION,
    FORMAT,
    MANIFEST,
    VERSION,
    Verify,
    is_count,
    parse_json,
    read_manifest,
    read_whole,
    soundest_manifest,
)
from index.segment import Live, Segment
from index.snapshot import Snapshot
from index.soundness import damage_of
from index.storage import Damage, Part, damage, open_array, read_current

TEACHER = "teacher"  # the kind of folder of retrieval/training/sparse/teacher_cache.py


def find_damage(folder: str | Path, verify: Verify = "full") -> list[Damage]:
    """Everything that is wrong with an index folder; empty if nothing is.

    Raises IndexFormatError where there is no index, or one of another version, which only its own release can judge.
    """
    check_version(Path(folder))
    found = damage(folder, verify)
    if found:
        return found
    try:
        kind = read_manifest(Path(folder)).kind
        if kind in (INVERTED_INDEX, DENSE_INDEX):
            index = (InvertedIndex if kind == INVERTED_INDEX else DenseIndex).open(folder)
            problem = damage_of_index(index) if verify == "full" else None
            return [Damage(None, "", problem)] if problem else []
        if kind == ENCODED_VECTORS:
            return list(damage_of_parts(folder)) if verify == "full" else []
        if kind == TEACHER:
            return []  # it is read by nobody before every byte is compared with its checksum
        snapshot = read_current(folder, kind, Snapshot.read)
        return list(damage_of_snapshot(snapshot)) if verify == "full" else []
    except IndexFormatError as error:
        return [Damage(None, "", str(error))]


def check_version(folder: Path) -> None:
    """Raise IndexFormatError where the manifest is of another version, unless its copy tells that this is damage."""
    try:
        fields = parse_json(read_whole(folder / MANIFEST), folder / MANIFEST)
    except IndexFormatError:
        return
    is_ours = fields.get("format") == FORMAT and is_count(fields.get("version"), 1)
    if is_ours and fields["version"] != VERSION and soundest_manifest(folder) is None:
        read_manifest(folder)  # says what to do


def check_snapshot(snapshot: Snapshot) -> None:
    """Raise IndexFormatError for the first invariant that does not hold."""
    for part, _, message in damage_of_snapshot(snapshot):
        raise IndexFormatError(f"{part or 'the index'}: {message}; `winnow repair` saves what is sound.")


def damage_of_snapshot(snapshot: Snapshot) -> Iterator[Damage]:
    """The invariants that do not hold, the first of each arm of each segment."""
    seen: set[str] = set()
    for segment, live, deletes in snapshot.segments:
        name = segment.part.name if segment.part else None
        problems = list(damage_of_segment(segment))
        yield from (Damage(name, file, message) for file, message in problems)
        if deletes is not None:
            found = damage_of_live(live, segment, deletes, {file for file, _ in problems})
            yield from (Damage(deletes.name, file, message) for file, message in found)
        if any(file == "documents.sqlite" for file, _ in problems):
            continue
        ids = segment.documents.ids(numbers_of(live.mask, segment.num_docs))
        if len(set(ids)) < len(ids) or not seen.isdisjoint(ids):
            yield Damage(name, "documents.sqlite", "an id belongs to two documents")
        seen.update(ids)


def damage_of_segment(segment: Segment) -> Iterator[tuple[str, str]]:
    """(file or folder, what is wrong)"""
    problem = segment.documents.damage()
    if problem:
        yield "documents.sqlite", problem
    for name, arm in segment.arms.items():
        problem = damage_of_arm(arm)
        if problem:
            yield name, problem


def damage_of_index(index: InvertedIndex | DenseIndex) -> str | None:
    """What is wrong with an index alone; None if nothing is."""
    return damage_of(index) if isinstance(index, InvertedIndex) else index.damage()


def damage_of_arm(arm: ArmSegment) -> str | None:
    """What is wrong with one arm of a segment; None if nothing is."""
    problem = damage_of_index(arm.index)
    if problem or isinstance(arm, DenseArmSegment):
        return problem
    problem = None if arm.vocabulary is None else arm.vocabulary.damage()
    if problem:
        return problem
    frequency, index = arm.statistics.document_frequency, arm.index
    if np.any(frequency < 0) or np.any(frequency > index.num_docs) or arm.statistics.documents > index.num_docs:
        return "its statistics are of more documents than there are"
    if arm.vocabulary is not None and not np.array_equal(frequency, index.document_frequency):
        return "its statistics are not those of its lists"
    if is_counted(arm) and not are_same(arm.statistics, counted(arm, np.arange(index.num_docs))):
        return "its statistics are not those of its rows"
    return None


def damage_of_live(
    live: Live, segment: Segment, deletes: Part, damaged: Collection[str] = ()
) -> Iterator[tuple[str, str]]:
    """(file or folder, what is wrong) of what `deletes` holds; rows of `damaged` arms of the segment are not looked at."""
    bits = open_array(deletes.path / "live.npy", "uint8", -(-segment.num_docs // 8))
    if np.any(np.unpackbits(bits[-1:], bitorder="little")[(segment.num_docs - 1) % 8 + 1 :]):
        yield "live.npy", "it has a document that the segment has not got"
    if live.statistics.keys() != segment.arms.keys():
        yield DESCRIPTION, "its statistics are not of the arms of its segment"
        return
    gone = np.flatnonzero(~live.mask) if live.mask is not None else np.empty(0, np.int64)
    for name, left in live.statistics.items():
        arm, whole = segment.arms[name], segment.arms[name].statistics
        if len(left.document_frequency) != len(whole.document_frequency):
            yield name, "its statistics are not of the terms of its segment"
        elif np.any(left.document_frequency < 0) or np.any(left.document_frequency > whole.document_frequency):
            yield name, "its statistics are of documents that the segment has not got"
        elif not 0 <= left.documents <= live.num_docs or not 0 <= left.length <= whole.length:
            yield name, "its statistics are of more documents than are left"
        elif name in damaged or not is_counted(arm):
            continue
        elif not are_same(left, whole.less(counted(arm, gone))):
            yield name, "its statistics are not those of the documents that are left"


def is_counted(arm: ArmSegment) -> bool:
    """True where the statistics of documents can be told from what is stored of their vectors."""
    return isinstance(arm, DenseArmSegment) or arm.index.options.impacts == "counts"


def counted(arm: ArmSegment, docs: np.ndarray) -> Statistics:
    """The statistics of some documents (int64) of such an arm."""
    if isinstance(arm, DenseArmSegment):
        return arm.statistics_of(docs)
    num_terms = arm.index.options.num_terms
    total = Statistics(0, 0, np.zeros(num_terms, np.int32))
    for first in range(0, len(docs), ROWS_A_BATCH):
        rows = arm.index.stored_rows(docs[first : first + ROWS_A_BATCH])
        total = total.plus(Statistics.of_counts(rows, num_terms))
    return total


def are_same(one: Statistics, other: Statistics) -> bool:
    """True where all numbers are."""
    is_same = (one.documents, one.length) == (other.documents, other.length)
    return is_same and np.array_equal(one.document_frequency, other.document_frequency)
