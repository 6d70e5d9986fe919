"""Encoders as teachers: the vectors of all queries and documents, part by part, from the disk where they are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np

from index.arm_segments import EncodedDense, SparseArmSegment, build_arm, merged_arm
from index.arms import SparseArm
from index.documents import Document
from index.errors import WinnowError
from index.files import new_array, save_array
from index.manifest import sha256_of_file
from index.storage import Part, open_array
from index.vectors import concatenate
from kernels.cpu.sparse import SparseRows
from retrieval.encoders.learned import LearnedSparseEncoder
from retrieval.encoders.loading import load_encoder, read_encoder
from retrieval.encoders.neural_side import NeuralSide
from retrieval.encoders.protocol import DenseEncoder, Encoder, SparseEncoder
from retrieval.encoders.weighted_terms import one_row
from retrieval.encoding import told_once
from retrieval.progress import progress as counted
from retrieval.training.sparse.teacher_cache import Asked, Growing, TeacherFolder, Texts
from retrieval.training.sparse.teachers import DenseTeacher, Rows, SparseTeacher, Teacher, VectorsByRow

OF_A_PLACE = ("name", "revision", "trust_remote_code")  # where a model's files are, beside what they are

ROWS_TOGETHER = 4_096  # that are looked at in float64
LARGEST_HALF = float(np.finfo(np.float16).max)

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
        halves = new_array(path / "vectors.npy", "float16", vectors.size).reshape(vectors.shape)
        for first in range(0, len(vectors), ROWS_TOGETHER):
            piece = vectors[first : first + ROWS_TOGETHER].astype(np.float64)
            if dense.similarity == "cosine":
                lengths = np.linalg.norm(piece, axis=1, keepdims=True)
                piece /= np.where(lengths > 0, lengths, 1)
            if not np.abs(piece).max() <= LARGEST_HALF:
                raise WinnowError(
                    f"{folder.asked.name} gives vectors with numbers up to {np.abs(piece).max():.3g}, float16 keeps them up to "
                    f"{LARGEST_HALF:,.0f}; give the option similarity=cosine or normalize=true if its vectors allow that."
                )
            halves[first : first + ROWS_TOGETHER] = piece
        return {"dimension": vectors.shape[1]}

    asked = folder.asked
    if folder.num_rows("queries") < len(asked.queries.ids):  # which come last
        with told_once(), folder.growing(encoder.write) as growing:
            grow(growing, asked.name, asked.documents, fill_documents, progress)
            grow(growing, asked.name, asked.queries, fill_queries, progress)
    queries, documents = (
        VectorsByRow(Rows(asked.name, side.what, side.ids), [*map(open_halves, folder.parts(side.what))])
        for side in (asked.queries, asked.documents)
    )
    return DenseTeacher(asked.name, queries, documents, dense.similarity)


def open_halves(part: Part) -> np.ndarray:
    """float16 [rows, dimension]"""
    rows, dimension = part.contents["rows"], part.contents["dimension"]
    return open_array(part.path / "vectors.npy", "float16", rows * dimension).reshape(rows, dimension)


def sparse_teacher(folder: TeacherFolder, encoder: Encoder, progress: bool) -> SparseTeacher:
    """Documents are the segment of an index, merged of the parts that they came in; queries are its queries."""
    sparse, asked = cast(SparseEncoder, encoder), folder.asked

    def fill_documents(items: Items, path: Path) -> dict[str, Any]:
        return {"arm": build_arm(sparse.encode_documents(map(as_document, items)), path).describe(path)}

    def fill_queries(segment: SparseArmSegment, items: Items, path: Path) -> dict[str, Any]:
        texts = (text for _, text in items)
        if isinstance(encoder, LearnedSparseEncoder) and isinstance(encoder.query, NeuralSide):
            rows = encoder.encode_queries(texts)
        else:
            arm = SparseArm.alone(segment.index, segment.statistics, segment.vocabulary)
            rows = concatenate([one_row(*sparse.encode_query(text, arm)[0]) for text in texts])
        return save_rows(rows, path)

    if folder.num_rows("queries") < len(asked.queries.ids):
        with told_once(), folder.growing(encoder.write) as growing:
            grow(growing, asked.name, asked.documents, fill_documents, progress)
            merge_documents(growing)
            segment = open_segment(growing.parts("documents")[0])
            grow(growing, asked.name, asked.queries, partial(fill_queries, segment), progress)
    (part,) = folder.parts("documents")
    rows = concatenate(list(map(open_rows, folder.parts("queries"))))
    queries, documents = (Rows(asked.name, side.what, side.ids) for side in (asked.queries, asked.documents))
    return SparseTeacher(asked.name, queries, rows, documents, open_segment(part).index)


def merge_documents(growing: Growing) -> None:
    """One segment in the place of several, so that a query has one number for each term."""
    segments = [open_segment(part) for part in growing.parts("documents")]

    def fill(path: Path) -> dict[str, Any]:
        return {"arm": merged_arm([(one, None, one.statistics) for one in segments], path).describe(path)}

    if len(segments) > 1:
        growing.add("documents", growing.num_rows("documents"), fill, instead=True)


def open_segment(part: Part) -> SparseArmSegment:
    return SparseArmSegment.read(part.path, part.contents["arm"], part.contents["rows"])


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


def grow(growing: Growing, name: str, side: Texts, fill: FillWith, progress: bool) -> None:
    """Add what is missing of a side."""
    there, doing = growing.num_rows(side.what), f"{name} reads"
    items, left = zip(side.ids[there:], side.texts[there:], strict=True), len(side.ids) - there
    if left:
        growing.add_all(side.what, counted(items, total=left, doing=doing, unit=side.what, shown=progress), left, fill)
