"""Save what is sound of a damaged index: sound segments as they are, others built again from their sound documents."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from index.documents import Document, DocumentStore, StagedDocuments, numbers_of
from index.errors import IndexFormatError, WinnowError
from index.folder_writer import FolderWriter
from index.inverted import KIND as INVERTED_INDEX
from index.manifest import Description, file_problems, read_description, soundest_manifest
from index.segment import Live, Segment, live_mask
from index.snapshot import LiveSegment, Snapshot
from index.storage import Commit, Part, check_kind
from index.verification import damage_of_live, damage_of_segment, find_damage
from index.writer import Writer
from retrieval.encoders.loading import load_encoder, read_encoder
from retrieval.encoders.protocol import SparseEncoder
from retrieval.retriever import KIND

CONTRADICTIONS = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
)  # of a description with its files


class Repaired(NamedTuple):
    """What became of one segment."""

    part: str
    documents: int  # that it has now
    lost: int | None  # documents; None: nobody can tell how many there were
    returned: int | None  # deleted documents that came back; None: nobody can tell
    what: str  # was done


@dataclass(frozen=True)
class Found:
    """What can be read of one segment of a damaged index."""

    name: str
    segment: Segment | None  # None unless all of it is sound
    store: DocumentStore | None  # its documents, perhaps some of them damaged
    mask: np.ndarray | None  # bool: which are not deleted; None: all, or nobody can tell
    live: Live | None  # the same with sound statistics
    deletes: Part | None  # where that is stored
    lost_deletes: bool  # what was deleted is not known
    num_live: int | None  # how many were not deleted, as far as is known


def repair(folder: str | Path, *, model: str | None = None) -> list[Repaired]:
    """Write a new commit of all that is sound; what is not is removed. Returns what became of each segment that was touched.

    Segments whose files are damaged are encoded and indexed again from the documents that match their checksums. Where the
    file that says what was deleted is damaged, deleted documents come back, unless a later one has their id; where only the
    statistics beside it are, they are counted anew. Of several documents with one id the last stays.

    model  the name of the model, needed where the part that says it is damaged

    Raises IndexFormatError where neither the manifest nor its copy is sound, for an index of another version and for an
    inverted index without documents, LockedError while another process writes.
    """
    check_repairable(Path(folder))
    if not find_damage(folder):
        return []
    with FolderWriter(folder, KIND, on_damage="salvage") as files:
        commit = files.current
        if commit is None:
            raise IndexFormatError(f"{folder} holds no index that was ever committed; build it again.")
        encoder, model_part = model_of(commit, files, model)
        segments: list[LiveSegment] = []
        report: list[Repaired] = []
        later_ids: set[str] = set()
        for entry in reversed(commit.contents["segments"]):
            found = look_at(commit, files.folder, entry, encoder.name)
            segment, done = saved(found, later_ids, encoder, files)
            if segment is not None:
                segments.insert(0, segment)
                later_ids.update(live_ids(segment))
            if done is not None:
                report.insert(0, done)
        Writer(Snapshot(model=model_part), {encoder.name: encoder}, files).publish(segments)
    return report


def check_repairable(folder: Path) -> None:
    """Raise IndexFormatError for what is no retriever."""
    manifest = soundest_manifest(folder)
    if manifest and manifest.kind == INVERTED_INDEX:
        raise IndexFormatError(
            f"{folder} holds an inverted index without documents, of which nothing can be built again; where "
            "`winnow verify` finds it damaged, restore it from a backup, or build it again."
        )
    if manifest:
        check_kind(folder, manifest, KIND)


def model_of(commit: Commit, files: FolderWriter, model: str | None) -> tuple[SparseEncoder, Part]:
    """The encoder of the index and the part that describes it, written anew where it is damaged."""
    part = commit.parts.get(commit.contents["model"])
    if part is not None:
        return read_encoder(part.path, part.contents["encoder"]), part
    if model is None:
        raise WinnowError(
            f"{files.folder / commit.contents['model']} is damaged, which says what model the index was built with; "
            "name it (--model)."
        )
    encoder, part = load_encoder(model), files.new_part()
    part.contents = {"model": encoder.name, "encoder": encoder.write(part.path)}
    return encoder, part


def look_at(commit: Commit, folder: Path, entry: dict[str, str | None], arm: str) -> Found:
    """What can be read of the segment that an entry of the manifest names."""
    name, deletes_name = str(entry["part"]), entry["deletes"]
    segment, live = sound_segment(commit.parts.get(name), arm), None
    store = segment.documents if segment else damaged_store(folder / name)
    deletes = commit.parts.get(deletes_name) if deletes_name else None
    if deletes_name is None or store is None:
        live = Live.all_of(segment) if segment else None
        return Found(name, segment, store, None, live, None, False, None if store is None else len(store))
    mask, num_live = sound_mask(folder / deletes_name, name, len(store))
    if mask is not None and segment is not None and deletes is not None:
        with suppress(*CONTRADICTIONS):
            read = Live.read(deletes, segment)
            live = None if any(damage_of_live(read, segment, deletes)) else read
    return Found(name, segment, store, mask, live, deletes if live else None, mask is None, num_live)


def sound_segment(part: Part | None, arm: str) -> Segment | None:
    """The segment of a part whose checksums are right, unless it contradicts itself or has not just this arm."""
    with suppress(*CONTRADICTIONS):
        segment = None if part is None else Segment.read(part)
        if segment is not None and segment.arms.keys() == {arm} and not any(damage_of_segment(segment)):
            return segment
    return None


def damaged_store(part: Path) -> DocumentStore | None:
    """The documents of a part of which something is damaged; None where they cannot be read."""
    description = sound_description(part)
    with suppress(*CONTRADICTIONS):
        return DocumentStore.read(part, None if description is None else int(description.contents["documents"]))
    with suppress(IndexFormatError):
        return DocumentStore.read(part)
    return None


def sound_mask(part: Path, segment: str, num_docs: int) -> tuple[np.ndarray | None, int | None]:
    """(bool [documents]: which are left; how many), as a part of deletes says; None: it does not say so reliably."""
    description = sound_description(part)
    if description is None or description.contents.get("segment") != segment:
        return None, None
    num_live = description.contents.get("documents")
    with suppress(*CONTRADICTIONS):
        stored = {"live.npy": description.files["live.npy"]}
        mask = live_mask(Part(part.name, part), num_docs)
        if not any(file_problems(part, stored, "full")) and np.count_nonzero(mask) == num_live:
            return mask, num_live
    return None, num_live


def sound_description(part: Path) -> Description | None:
    """What a part says of itself, if that is what the manifest vouches for."""
    manifest = soundest_manifest(part.parent)
    with suppress(IndexFormatError):
        return read_description(part, manifest.parts[part.name]) if manifest and part.name in manifest.parts else None
    return None


def saved(
    found: Found, later_ids: set[str], encoder: SparseEncoder, files: FolderWriter
) -> tuple[LiveSegment | None, Repaired | None]:
    """The segment as it goes on, and what had to be done; neither if it is kept as it is."""
    if found.store is None:
        return None, Repaired(found.name, 0, None, 0, "its documents cannot be read: all are lost")
    if found.segment is not None and not found.lost_deletes:
        return kept(found, found.segment, later_ids, encoder, files)
    wanted = numbers_of(found.mask, len(found.store))
    staged, num_sound = StagedDocuments(), 0

    def wanted_still() -> Iterator[Document]:
        nonlocal num_sound
        assert found.store is not None
        for _, document in found.store.sound(wanted):
            num_sound += 1
            if document.doc_id not in later_ids:
                yield document

    staged.add(wanted_still(), replace=True)
    lost, documents = len(wanted) - num_sound, len(staged)
    returned: int | None = 0
    what = "built again from its documents"
    if found.lost_deletes:
        returned = None if lost or found.num_live is None else max(documents - found.num_live, 0)
        what += "; deleted documents " + ("may have come back" if returned is None else f"that came back: {returned:,}")
    if documents == 0:
        what = (
            "none of its documents can be read" if num_sound == 0 else "later ones have taken the place of all it had"
        )
        return None, Repaired(found.name, 0, lost, 0, what)
    segment = Segment.build(staged, {encoder.name: encoder}, files.new_part())
    return LiveSegment(segment, Live.all_of(segment)), Repaired(found.name, documents, lost, returned, what)


def kept(
    found: Found, segment: Segment, later_ids: set[str], encoder: SparseEncoder, files: FolderWriter
) -> tuple[LiveSegment | None, Repaired | None]:
    """A sound segment: as it is, or with its deletes written anew."""
    left = numbers_of(found.mask, segment.num_docs)
    ids = segment.documents.ids(left)
    replaced = [doc for doc, doc_id in zip(left, ids, strict=True) if doc_id in later_ids]
    if found.live is not None and not replaced:
        return LiveSegment(segment, found.live, found.deletes), None
    encoders = {encoder.name: encoder}
    live = found.live
    if live is None:
        assert found.mask is not None
        live = Live.all_of(segment).without(segment, np.flatnonzero(~found.mask), encoders)
    if replaced:
        live = live.without(segment, np.array(replaced, np.int64), encoders)
    what = f"documents dropped whose ids later ones have: {len(replaced):,}" if replaced else "statistics counted anew"
    if live.num_docs == 0:
        return None, Repaired(found.name, 0, 0, 0, what)
    deletes = files.new_part()
    live.write(deletes, segment)
    return LiveSegment(segment, live, deletes), Repaired(found.name, live.num_docs, 0, 0, what)


def live_ids(one: LiveSegment) -> Iterator[str]:
    """The ids of the documents that are left of a segment."""
    return iter(one.segment.documents.ids(numbers_of(one.live.mask, one.segment.num_docs)))
