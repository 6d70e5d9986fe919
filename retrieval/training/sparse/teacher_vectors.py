"""Encoders as teachers: the vectors of all queries and documents, part by part, from the disk where they are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np

from index.arm_segments import EncodedDense, SparseArmSegment, build_arm
from index.arms import SparseArm
from index.documents import Document
from index.errors import WinnowError
from index.files import save_array
from index.manifest import sha256_of_file
from index.storage import Part, open_array
from index.vectors import SparseQuery, concatenate
from kernels.cpu.sparse import SparseRows
from retrieval.encoders.learned import LearnedSparseEncoder
from retrieval.encoders.loading import load_encoder, read_encoder
from retrieval.encoders.neural_side import NeuralSide
from retrieval.encoders.protocol import DenseEncoder, Encoder, SparseEncoder
from retrieval.encoding import told_once
from retrieval.progress import progress as counted
from retrieval.training.sparse.teacher_cache import Asked, Fill, TeacherFolder, Texts
from retrieval.training.sparse.teachers import DenseTeacher, Rows, SparseTeacher, Teacher, VectorsByRow

OF_A_PLACE = ("name", "revision", "trust_remote_code")  # where a model's files are, beside what they are

Items = Iterator[tuple[str, str]]  # (id, text)
FillWith = Callable[[Items, Path], dict[str, Any]]


def vector_teacher(
    name: str, queries: Texts, documents: Texts, cache: Path, options: Mapping[str, Any], progress: bool
) -> Teacher:
    """Of the encoder called `name`, see `teacher_of`."""
    asked, loaded = Asked.of(name, options, queries, documents), list[Encoder]()

    def identify() -> dict[str, Any]:
        own = dict(options)
        loaded.append(load_encoder(name, own.pop("impacts", None), own))
        if loaded[0].needs_vectors:
            raise WinnowError(f"{name} encodes no text, so it teaches nothing; give a model, such as minilm or bm25.")
        return identity_of(loaded[0])

    folder = TeacherFolder.find(cache, asked, identify)
    if loaded:
        encoder = loaded[0]
    else:
        assert folder.model_part is not None  # only a folder that is there is found without its model
        encoder = read_encoder(folder.model_part.path, folder.model_part.contents["model"])
    return (dense_teacher if encoder.kind == "dense" else sparse_teacher)(folder, encoder, progress)


def identity_of(encoder: Encoder) -> dict[str, Any]:
    """All that an encoder's vectors depend on: fingerprints and options, the files that it would keep, no place of any file."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        description = encoder.write(folder)
        files = {str(path.relative_to(folder)): sha256_of_file(path) for path in folder.rglob("*") if path.is_file()}
    description.pop("name", None)  # as the user calls it
    return {"encoder": without_places(description), "files": files}


def without_places(described: Any) -> Any:
    """The same without what `ModelFiles.describe` tells of where a model is."""
    if isinstance(described, list):
        return [without_places(one) for one in described]
    if not isinstance(described, dict):
        return described
    left_out = OF_A_PLACE if "fingerprint" in described else ()
    return {key: without_places(value) for key, value in described.items() if key not in left_out}


def dense_teacher(folder: TeacherFolder, encoder: Encoder, progress: bool) -> DenseTeacher:
    """Its vectors are kept as float16, of length 1 where they are compared by cosine."""
    dense = cast(DenseEncoder, encoder)

    def fill_documents(items: Items, path: Path) -> dict[str, Any]:
        encoded = cast(EncodedDense, dense.encode_documents(map(as_document, items)))
        return save_halves(encoded.vectors, path)

    def fill_queries(items: Items, path: Path) -> dict[str, Any]:
        return save_halves(dense.encode_queries(text for _, text in items), path)

    def save_halves(vectors: np.ndarray, path: Path) -> dict[str, Any]:
        if dense.similarity == "cosine":
            lengths = np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
            vectors = vectors / np.where(lengths > 0, lengths, 1)
        with np.errstate(over="ignore"):
            halves = vectors.astype(np.float16)
        if not np.isfinite(halves).all():
            worst = np.abs(vectors).max()
            raise WinnowError(
                f"{folder.asked.name} gives vectors with numbers up to {worst:.3g}, float16 keeps them up to 65,504; give the option "
                "similarity=cosine or normalize=true if its vectors allow that."
            )
        save_array(path / "vectors.npy", halves.reshape(-1))
        return {"dimension": vectors.shape[1]}

    grow(folder, encoder.write, {"documents": fill_documents, "queries": fill_queries}, progress)
    queries, documents = (
        VectorsByRow(Rows(folder.asked.name, side.what, side.ids), [*map(open_halves, folder.parts(side.what))])
        for side in (folder.asked.queries, folder.asked.documents)
    )
    return DenseTeacher(folder.asked.name, queries, documents, dense.similarity)


def open_halves(part: Part) -> np.ndarray:
    """float16 [rows, dimension]"""
    rows, dimension = part.contents["rows"], part.contents["dimension"]
    return open_array(part.path / "vectors.npy", "float16", rows * dimension).reshape(rows, dimension)


def sparse_teacher(folder: TeacherFolder, encoder: Encoder, progress: bool) -> SparseTeacher:
    """Each part of documents is a segment as an index has it; queries are kept only where a model encodes them."""
    sparse, asked = cast(SparseEncoder, encoder), folder.asked

    def fill_documents(items: Items, path: Path) -> dict[str, Any]:
        return {"arm": build_arm(sparse.encode_documents(map(as_document, items)), path).describe(path)}

    def fill_queries(items: Items, path: Path) -> dict[str, Any]:
        return save_rows(cast(LearnedSparseEncoder, encoder).encode_queries(text for _, text in items), path)

    has_model = isinstance(encoder, LearnedSparseEncoder) and isinstance(encoder.query, NeuralSide)
    grow(
        folder,
        encoder.write,
        {"documents": fill_documents, **({"queries": fill_queries} if has_model else {})},
        progress,
    )
    segments = [
        SparseArmSegment.read(part.path, part.contents["arm"], part.contents["rows"])
        for part in folder.parts("documents")
    ]
    arm = SparseArm.together(segments, [one.statistics for one in segments], [None] * len(segments))
    kept = concatenate([open_rows(part) for part in folder.parts("queries")])

    def encoded(row: int) -> list[SparseQuery]:
        if not has_model:
            return sparse.encode_query(asked.queries.texts[row], arm)
        own = slice(kept.indptr[row], kept.indptr[row + 1])
        return [SparseQuery(kept.indices[own], kept.data[own])] * len(segments)

    queries, documents = (Rows(asked.name, side.what, side.ids) for side in (asked.queries, asked.documents))
    return SparseTeacher(asked.name, queries, encoded, documents, arm)


def save_rows(rows: SparseRows, path: Path) -> dict[str, Any]:
    """What `open_rows` needs."""
    for name, array in zip(("starts", "terms", "weights"), rows, strict=True):
        save_array(path / f"rows.{name}.npy", array)
    return {"postings": len(rows.indices)}


def open_rows(part: Part) -> SparseRows:
    num_rows, postings = part.contents["rows"], part.contents["postings"]
    return SparseRows(
        open_array(part.path / "rows.starts.npy", "int64", num_rows + 1),
        open_array(part.path / "rows.terms.npy", "int32", postings),
        open_array(part.path / "rows.weights.npy", "float32", postings),
    )


def as_document(item: tuple[str, str]) -> Document:
    return Document(item[0], text=item[1])


def grow(folder: TeacherFolder, describe: Fill, fills: Mapping[str, FillWith], progress: bool) -> None:
    """Add what is missing of each side that is kept; `describe` writes the model into an empty folder."""
    sides = [side for side in (folder.asked.documents, folder.asked.queries) if side.what in fills]
    if all(folder.num_rows(side.what) == len(side.ids) for side in sides):
        return
    with told_once(), folder.growing(describe) as growing:
        for side in sides:
            there, doing = growing.num_rows(side.what), f"{folder.asked.name} reads"
            left = len(side.ids) - there
            items = zip(side.ids[there:], side.texts[there:], strict=True)
            growing.add_all(
                side.what,
                counted(items, total=left, doing=doing, unit=side.what, shown=progress),
                left,
                fills[side.what],
            )
