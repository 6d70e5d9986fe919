"""What an index folder holds, for a person or a program to read (`winnow info`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from index.arm_segments import ArmSegment, DenseArmSegment
from index.encoded_vectors import KIND as ENCODED_VECTORS
from index.encoded_vectors import parts_of, read_model_part
from index.errors import IndexFormatError
from index.manifest import VERSION, read_manifest
from index.snapshot import LiveSegment, Snapshot
from index.storage import Part, read_current
from retrieval.opened import KIND
from retrieval.vector_files import is_encoded

if TYPE_CHECKING:
    from retrieval.retriever import Retriever

# the beginning of a file's name -> what it belongs to
KINDS_OF_BYTES = {
    "documents.sqlite": "stored documents",
    "digests.": "stored documents",
    "forward.": "forward index",
    "tiers.": "inverted lists",
    "second_tier.": "clusters",
    "vocabulary.": "vocabulary",
    "document_frequency": "statistics",
    "live.": "deletes",
    "vectors.": "dense vectors",
    "without.": "dense vectors",
    "codes.": "codes of dense vectors",
}


def describe(folder: str | Path) -> dict[str, Any]:
    """Documents, segments, bytes, model and versions of a saved retriever, or of a folder of vectors. Raises IndexFormatError."""
    if is_encoded(Path(folder)):
        return describe_encoded(folder)
    snapshot = read_current(folder, KIND, Snapshot.read)
    if snapshot.model is None:
        raise IndexFormatError(f"{folder} names no model; `winnow verify` says more.")
    return {
        "folder": str(folder),
        "model": snapshot.model.contents["model"],
        "encoder": snapshot.model.contents["encoder"],
        **{name: snapshot.model.contents[name] for name in ("fusion", "reranker") if name in snapshot.model.contents},
        **job_of(Path(folder)),
        "commit": snapshot.number,
        "documents": snapshot.num_docs,
        "deleted_documents": snapshot.first_docs[-1] - snapshot.num_docs,
        "segments": [describe_segment(one) for one in snapshot.segments],
        "bytes": {**bytes_of(snapshot), "manifest": len(read_manifest(Path(folder)).as_bytes())},
        "format_version": VERSION,
        "winnow": installed_version(),
    }


def job_of(folder: Path) -> dict[str, Any]:
    """How far the job of the folder is, where one wrote it."""
    job = read_manifest(folder).contents.get("job")
    return {"job": {"shards": job["shards"], "is_done": job["is_done"]}} if isinstance(job, dict) else {}


def held_of(retriever: Retriever, doc_ids: Sequence[str]) -> set[str]:
    """Those of the ids that a retriever has a document of."""
    return set(retriever._opened.snapshot.find(doc_ids))


def describe_encoded(folder: str | Path) -> dict[str, Any]:
    """The same of a folder that `winnow encode` wrote, with its parts in the place of segments."""
    model = read_model_part(folder)
    described = read_current(folder, ENCODED_VECTORS, lambda commit: list(map(describe_part, parts_of(commit))))
    return {
        "folder": str(folder),
        "kind": ENCODED_VECTORS,
        "model": model.contents["model"],
        "encoder": model.contents["encoder"],
        "commit": read_manifest(Path(folder)).commit,
        "documents": sum(one["documents"] for one in described),
        "parts": described,
        "bytes": {
            "vectors": sum(one["bytes"] for one in described),
            "model and descriptions": sum(size for _, size in files_of(model)),
            "manifest": len(read_manifest(Path(folder)).as_bytes()),
        },
        "format_version": VERSION,
        "winnow": installed_version(),
    }


def describe_part(part: Part) -> dict[str, Any]:
    """The size of one part of a folder of vectors."""
    return {
        "part": part.name,
        "documents": part.contents["documents"],
        "postings": part.contents["postings"],
        "terms": part.contents["vocabulary"]["terms"],
        "bytes": sum(size for _, size in files_of(part)),
    }


def describe_segment(one: LiveSegment) -> dict[str, Any]:
    """The size of one segment and of its arms."""
    segment, live, _ = one
    return {
        "part": segment.part and segment.part.name,
        "documents": live.num_docs,
        "deleted_documents": segment.num_docs - live.num_docs,
        "bytes": sum(size for _, size in files_of(segment.part)),
        "arms": {name: describe_arm(arm) for name, arm in segment.arms.items()},
    }


def describe_arm(arm: ArmSegment) -> dict[str, Any]:
    """The size of one arm of a segment, and how it is searched."""
    if isinstance(arm, DenseArmSegment):
        index = arm.index
        return {
            "vectors": index.num_docs - len(index.without),
            "dimension": index.options.dimension,
            "similarity": index.options.similarity,
            "method": index.method,
        }
    return {
        "postings": arm.index.num_postings,
        "terms": arm.index.options.num_terms,
        "impacts": arm.index.options.impacts,
        "is_calibrated": bool(arm.index.calibration.short or arm.index.calibration.long),
    }


def bytes_of(snapshot: Snapshot) -> dict[str, int]:
    """Bytes on disk by what they are for."""
    sizes: dict[str, int] = {}
    for part in snapshot.parts.values():
        for name, size in files_of(part):
            kind = next(
                (kind for start, kind in KINDS_OF_BYTES.items() if name.startswith(start)), "model and descriptions"
            )
            sizes[kind] = sizes.get(kind, 0) + size
    return dict(sorted(sizes.items(), key=lambda entry: -entry[1]))


def files_of(part: Part | None) -> list[tuple[str, int]]:
    """Name and bytes of every file of a part."""
    if part is None:
        return []
    return [
        (name, os.path.getsize(os.path.join(parent, name))) for parent, _, names in os.walk(part.path) for name in names
    ]


def installed_version() -> str | None:
    """Of this package; None where it runs from a folder."""
    try:
        return version("winnow-ir")
    except PackageNotFoundError:
        return None
