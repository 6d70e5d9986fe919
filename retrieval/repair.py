"""Save what is sound of a damaged index: sound segments as they are, others built again from their sound documents.

Vectors that came with their documents no encoder can make again: they are kept where their rows are sound, and otherwise lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from index.arm_segments import ArmSegment, SparseArmSegment, build_arm
from index.dense.index import KIND as DENSE_INDEX
from index.documents import Document, DocumentStore, StagedDocuments, numbers_of
from index.encoded_vectors import KIND as ENCODED_VECTORS
from index.encoded_vectors import EncodedPart
from index.errors import IndexFormatError, WinnowError
from index.folder_writer import FolderWriter
from index.inverted import KIND as INVERTED_INDEX
from index.inverted import InvertedIndex
from index.manifest import Description, file_problems, read_description, soundest_manifest
from index.segment import Live, Segment, folder_of, live_mask
from index.snapshot import LiveSegment, Snapshot
from index.storage import Commit, Part, check_kind
from index.verification import damage_of_live, damage_of_segment, find_damage
from index.vocabulary import Vocabulary
from index.writer import Writer
from retrieval.encoders.loading import load_encoders, read_encoders
from retrieval.encoders.protocol import Encoder, SparseEncoder
from retrieval.opened import KIND, Opened, takes_vectors

CONTRADICTIONS = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
)  # of a description with its files

Encoders = Mapping[str, Encoder]  # by the name of their arms


class Repaired(NamedTuple):
    """What became of one segment."""

    part: str
    documents: int  # that it has now
    lost: int | None  # documents; None: nobody can tell how many there were
    returned: int | None  # deleted documents that came back; None: nobody can tell
    what: str  # was done
    without_vectors: int = (
        0  # documents that are kept, and not found any more: their vectors came with them and are damaged
    )


class Rows(NamedTuple):
    """The vectors of a segment, whatever became of its inverted lists."""

    inverted: InvertedIndex  # of which only rows are read
    vocabulary: Vocabulary | None


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
    given: bool | None  # some of its vectors came with their documents; None: nobody can tell
    rows: Rows | None  # its vectors, where these files are sound and vectors came with documents


def repair(folder: str | Path, *, model: str | None = None) -> list[Repaired]:
    """Write a new commit of all that is sound; what is not is removed. Returns what became of each segment that was touched.

    Segments whose files are damaged are encoded and indexed again from the documents that match their checksums. Where the
    file that says what was deleted is damaged, deleted documents come back, unless a later one has their id; where only the
    statistics beside it are, they are counted anew. Of several documents with one id the last stays.

    model  the name of the model, needed where the part that says it is damaged

    Raises IndexFormatError where neither the manifest nor its copy is sound, for an index of another version and for an
    index without documents, LockedError while another process writes. Of a folder of vectors the parts before the first
    damaged one stay, from where `winnow encode` goes on.
    """
    check_repairable(Path(folder))
    if not find_damage(folder):
        return []
    manifest = soundest_manifest(folder)
    if manifest is not None and manifest.kind == ENCODED_VECTORS:
        return repair_encoded(folder)
    with FolderWriter(folder, KIND, on_damage="salvage") as files:
        commit = files.current
        if commit is None:
            raise IndexFormatError(f"{folder} holds no index that was ever committed; build it again.")
        encoders, model_part = model_of(commit, files, model)
        segments: list[LiveSegment] = []
        report: list[Repaired] = []
        later_ids: set[str] = set()
        for entry in reversed(commit.contents["segments"]):
            found = look_at(commit, files.folder, entry, encoders)
            segment, done = saved(found, later_ids, encoders, files)
            if segment is not None:
                segments.insert(0, segment)
                later_ids.update(live_ids(segment))
            if done is not None:
                report.insert(0, done)
        Writer(Snapshot(model=model_part), encoders, files).publish(segments)
    return report


def check_repairable(folder: Path) -> None:
    """Raise IndexFormatError for what is no retriever."""
    manifest = soundest_manifest(folder)
    if manifest and manifest.kind in (INVERTED_INDEX, DENSE_INDEX):
        raise IndexFormatError(
            f"{folder} holds an index without documents, of which nothing can be built again; where "
            "`winnow verify` finds it damaged, restore it from a backup, or build it again."
        )
    if manifest and manifest.kind != ENCODED_VECTORS:
        check_kind(folder, manifest, KIND)


def model_of(commit: Commit, files: FolderWriter, model: str | None) -> tuple[Encoders, Part]:
    """The encoders of the index, by arm, and the part that describes them, written anew where it is damaged."""
    part = commit.parts.get(commit.contents["model"])
    if part is not None:
        return by_arm(read_encoders(part.path, part.contents["encoder"])), part
    if model is None:
        raise WinnowError(
            f"{files.folder / commit.contents['model']} is damaged, which says what model the index was built with; "
            "name it (--model)."
        )
    opened, part = Opened.empty(load_encoders(model), None), files.new_part()
    opened.write_model(part)
    return by_arm(opened.encoders), part


def by_arm(encoders: Sequence[Encoder]) -> Encoders:
    return {encoder.arm: encoder for encoder in encoders}


def look_at(commit: Commit, folder: Path, entry: dict[str, str | None], encoders: Encoders) -> Found:
    """What can be read of the segment that an entry of the manifest names."""
    name, deletes_name = str(entry["part"]), entry["deletes"]
    segment, live = sound_segment(commit.parts.get(name), encoders), None
    given, rows = given_vectors(folder / name, taker_of(encoders))
    store = segment.documents if segment else damaged_store(folder / name)
    deletes = commit.parts.get(deletes_name) if deletes_name else None
    if deletes_name is None or store is None:
        live = Live.all_of(segment) if segment else None
        return Found(name, segment, store, None, live, None, False, None if store is None else len(store), given, rows)
    mask, num_live = sound_mask(folder / deletes_name, name, len(store))
    if mask is not None and segment is not None and deletes is not None:
        with suppress(*CONTRADICTIONS):
            read = Live.read(deletes, segment)
            live = None if any(damage_of_live(read, segment, deletes)) else read
    return Found(name, segment, store, mask, live, deletes if live else None, mask is None, num_live, given, rows)


def taker_of(encoders: Encoders) -> Encoder | None:
    """The one encoder whose vectors may have come with documents."""
    return next((encoder for encoder in encoders.values() if takes_vectors(encoder)), None)


def sound_segment(part: Part | None, encoders: Encoders) -> Segment | None:
    """The segment of a part whose checksums are right, unless it contradicts itself or has not just these arms."""
    with suppress(*CONTRADICTIONS):
        segment = None if part is None else Segment.read(part)
        if segment is not None and segment.arms.keys() == encoders.keys() and not any(damage_of_segment(segment)):
            return segment
    return None


def given_vectors(part: Path, encoder: Encoder | None) -> tuple[bool | None, Rows | None]:
    """(whether vectors of a segment came with its documents, None: nobody can tell; the rows of these, if they are sound)"""
    if encoder is None:
        return False, None
    description = sound_description(part)
    if description is None:
        return encoder.needs_vectors or None, None
    with suppress(*CONTRADICTIONS):
        described = description.contents["arms"][encoder.arm]
        given = encoder.needs_vectors or bool(described.get("given", False))
        names = [f"{encoder.arm}/{start}" for start in ("forward.", "vocabulary.")]
        stored = {name: file for name, file in description.files.items() if name.startswith(tuple(names))}
        if not given or any(file_problems(part, stored, "full")):
            return given, None
        with suppress(*CONTRADICTIONS):
            arm, index = part / encoder.arm, InvertedIndex.read_rows(part / encoder.arm, described["index"])
            vocabulary = None if described["vocabulary"] is None else Vocabulary.read(arm, described["vocabulary"])
            if index.num_docs == description.contents["documents"] and not (vocabulary and vocabulary.damage()):
                return given, Rows(index, vocabulary)
        return given, None
    return encoder.needs_vectors or None, None


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
    found: Found, later_ids: set[str], encoders: Encoders, files: FolderWriter
) -> tuple[LiveSegment | None, Repaired | None]:
    """The segment as it goes on, and what had to be done; neither if it is kept as it is."""
    if found.store is None:
        return None, Repaired(found.name, 0, None, 0, "its documents cannot be read: all are lost")
    if found.segment is not None and not found.lost_deletes:
        return kept(found, found.segment, later_ids, encoders, files)
    wanted = numbers_of(found.mask, len(found.store))
    staged, docs, num_sound = StagedDocuments(), list[int](), 0

    def wanted_still() -> Iterator[Document]:
        nonlocal num_sound
        assert found.store is not None
        for doc, document in found.store.sound(wanted):
            num_sound += 1
            if document.doc_id not in later_ids:
                docs.append(doc)
                yield document

    staged.add(wanted_still(), replace=True)
    lost, documents = len(wanted) - num_sound, len(staged)
    if documents == 0:
        what = (
            "none of its documents can be read" if num_sound == 0 else "later ones have taken the place of all it had"
        )
        return None, Repaired(found.name, 0, lost, 0, what)
    segment, what, without_vectors = built_again(found, staged, docs, encoders, files)
    returned: int | None = 0
    if found.lost_deletes:
        returned = None if lost or found.num_live is None else max(documents - found.num_live, 0)
        what += "; deleted documents " + ("may have come back" if returned is None else f"that came back: {returned:,}")
    report = Repaired(found.name, documents, lost, returned, what, without_vectors)
    return LiveSegment(segment, Live.all_of(segment)), report


def built_again(
    found: Found, staged: StagedDocuments, docs: list[int], encoders: Encoders, files: FolderWriter
) -> tuple[Segment, str, int]:
    """(a segment of the staged documents, which are `docs` of the old one; what was done; how many have lost their vectors)"""
    if found.given is None:
        what = "built again from its documents, all encoded anew: whether vectors had come with them nobody can tell"
        return Segment.build(staged, encoders, files.new_part()), what, 0
    if not found.given:
        return Segment.build(staged, encoders, files.new_part()), "built again from its documents", 0
    if found.rows is not None and len(staged) == len(docs):
        part = files.new_part()
        with suppress(IndexFormatError):
            taker = cast(SparseEncoder, taker_of(encoders))
            arms: dict[str, ArmSegment] = {taker.arm: some_rows(found.rows, staged, docs, taker, part)}
            for name, encoder in encoders.items() - {(taker.arm, taker)}:
                arms[name] = build_arm(encoder.encode_documents(staged), folder_of(name, part))
            return Segment.of(staged, arms, part), "built again from its documents and their vectors", 0
        files.discard(part)
    bare = StagedDocuments()
    bare.add(replace(document, vector={}) for document in staged)
    what = (
        "its vectors came with its documents and are damaged, and no encoder can make them again: the documents are kept and "
        "not found by any query, until they are upserted with their vectors"
    )
    return Segment.build(bare, encoders, files.new_part()), what, len(bare)


def some_rows(
    rows: Rows, staged: StagedDocuments, docs: list[int], encoder: SparseEncoder, part: Part
) -> SparseArmSegment:
    """An arm of only these documents, their vectors as they are stored. Raises IndexFormatError where they are damaged."""
    mask = np.zeros(rows.inverted.num_docs, np.bool_)
    mask[docs] = True
    stored = rows.inverted.stored_rows(np.array(docs, np.int64))
    statistics = encoder.statistics(staged, stored, rows.inverted.options.num_terms)
    arm = SparseArmSegment(rows.inverted, statistics, rows.vocabulary, given=True)
    return SparseArmSegment.merged([(arm, mask, statistics)], folder_of(encoder.arm, part))


def kept(
    found: Found, segment: Segment, later_ids: set[str], encoders: Encoders, files: FolderWriter
) -> tuple[LiveSegment | None, Repaired | None]:
    """A sound segment: as it is, or with its deletes written anew."""
    left = numbers_of(found.mask, segment.num_docs)
    ids = segment.documents.ids(left)
    replaced = [doc for doc, doc_id in zip(left, ids, strict=True) if doc_id in later_ids]
    if found.live is not None and not replaced:
        return LiveSegment(segment, found.live, found.deletes), None
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


def repair_encoded(folder: str | Path) -> list[Repaired]:
    """Of a folder of vectors, keep the parts before the first damaged one."""
    with FolderWriter(folder, ENCODED_VECTORS, on_damage="salvage") as files:
        commit = files.current
        assert commit is not None
        model = commit.parts.get(commit.contents["model"])
        if model is None:
            raise WinnowError(
                f"{files.folder / commit.contents['model']} is damaged, which says what model the vectors are of; encode the corpus "
                "again, into another folder."
            )
        names, sound, documents = commit.contents["parts"], list[Part](), 0
        for name in names:
            with suppress(IndexFormatError, KeyError):
                documents += len(EncodedPart.read(commit.parts[name]).ids)
                sound.append(commit.parts[name])
                continue
            break
        files.commit({"model": model.name, "parts": [part.name for part in sound]}, [model, *sound])
    gone = names[len(sound) :]
    what = "`winnow encode` encodes it anew, and the parts after it, from where the vectors end now"
    return [Repaired(gone[0], documents, None, 0, what)] if gone else []
