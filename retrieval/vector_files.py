"""Vectors made elsewhere, from the files that hold them: JSONL, CIFF, CSR arrays of NumPy, sparse tensors, folders of `winnow encode`.

Nothing in them is executed, and none is read into memory whole: see `retrieval.vectors_by_id`. A file that is damaged or says
impossible things raises CorpusError or IndexFormatError with its name and the place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from index.documents import Document
from index.encoded_vectors import KIND, read_parts
from index.errors import CorpusError, ModelError
from index.scratch import GrowingArray
from index.storage import newest_manifest
from index.vectors import checked_weights
from kernels.cpu.sparse import SparseRows
from retrieval.ciff import read_ciff
from retrieval.corpus import (
    JSON_LINES,
    Corpus,
    FieldNames,
    as_document,
    ending_of,
    jsonl_files,
    read_corpus,
    records_of,
)
from retrieval.csr_files import read_npz
from retrieval.encoders.learned import LearnedSparseEncoder
from retrieval.encoders.protocol import Encoder
from retrieval.encoding import read_encoder_of
from retrieval.packed_files import PACKED
from retrieval.tensor_files import read_tensors
from retrieval.vectors_by_id import RowIds, VectorsById

Vectors = str | Path | Mapping[str, Mapping[str, float]]
TENSOR_FILES = ".pt", ".pth", ".safetensors"
OWN = ("vector",)  # the field of a record that holds its vector


def documents_of(
    corpus: Corpus, names: FieldNames | None, vectors: Vectors | None, encoder: Encoder
) -> Iterator[Document]:
    """The documents of a corpus with the vectors that the encoder is to take, each one checked by it.

    vectors  where they are found by id; None: an encoder that needs vectors takes those of the records

    A CIFF or NumPy file, or a folder of `winnow encode`, may be the corpus itself: its documents have no text.
    """
    if is_vector_file(corpus):
        documents = vectors_alone(Path(str(corpus)), vectors, encoder)
    else:
        names = names or FieldNames()
        if encoder.needs_vectors and vectors is None:
            names = replace(names, vector=names.vector or OWN)
        documents = read_corpus(corpus, names)
        if vectors is not None:
            check_vocabulary(vectors, encoder)
            documents = read_vectors(vectors).given_to(documents)
    for document in documents:
        encoder.check(document)
        yield document


def check_vocabulary(vectors: Vectors, encoder: Encoder) -> None:
    """Raise ModelError for a folder of `winnow encode` whose model has another vocabulary than the encoder."""
    if encoder.terms is None or not isinstance(vectors, str | Path) or not is_encoded(Path(vectors)):
        return
    made_by = read_encoder_of(vectors)
    terms = made_by.terms or ()
    if list(terms) != list(encoder.terms):
        raise ModelError(
            f"{vectors} holds vectors of {made_by.name}, whose vocabulary of {len(terms):,} terms is not that of {encoder.name}, "
            f"{len(encoder.terms):,} terms; index with the model that encoded them, or with the model vectors."
        )
    if isinstance(made_by, LearnedSparseEncoder) and isinstance(encoder, LearnedSparseEncoder):
        differs = made_by.document.differs_from(encoder.document)
        if differs:
            raise ModelError(
                f"{vectors} holds vectors that {made_by.name} made with other {differs} than those of {encoder.name} here; index with the "
                "model and options that encoded them."
            )


def vectors_alone(path: Path, vectors: Vectors | None, encoder: Encoder) -> Iterator[Document]:
    """The documents of a file of vectors."""
    check_alone(path, vectors, encoder)
    return read_vectors(path).documents()


def check_alone(path: Path, vectors: Vectors | None, encoder: Encoder) -> None:
    """Raise CorpusError where a file of vectors cannot be the corpus of this encoder."""
    if vectors is not None:
        raise CorpusError(f"{path} holds vectors, and so does vectors=; give one of them, or texts as the corpus.")
    if not encoder.needs_vectors:
        raise CorpusError(
            f"{path} holds vectors without texts, and {encoder.name} reads texts; index it with the model vectors, or give "
            "the texts as the corpus and these as its vectors."
        )


def is_vector_file(corpus: Any) -> bool:
    """True for a path that can only be one of vectors, whether it exists or not."""
    if not isinstance(corpus, str | Path):
        return False
    return ending_of(Path(corpus)) in (".ciff", ".npz", *TENSOR_FILES) or is_encoded(Path(corpus))


def is_encoded(folder: Path) -> bool:
    """True for a folder that `winnow encode` wrote."""
    try:
        manifest = newest_manifest(folder) if folder.is_dir() else None
    except OSError:  # a text given for a path
        return False
    return manifest is not None and manifest.kind == KIND


def read_vectors(source: Vectors) -> VectorsById:
    """All vectors of a source: a path, or a mapping {id: {term: weight}}.

    A path leads to a `.jsonl` file (`{"id": ..., "vector": {term: weight}}` in each line), a `.ciff` file (either also `.gz`),
    a `.npz` file of a CSR matrix, a `.pt`, `.pth` or `.safetensors` file of a sparse tensor, a folder of `winnow encode`,
    or one of JSONL files, as Anserini's JsonVectorCollection.

    Raises CorpusError, IndexFormatError, StorageError.
    """
    if isinstance(source, Mapping):
        return VectorsById.of("vectors=", of_mapping(source))
    if not isinstance(source, str | Path):
        raise CorpusError(
            f"vectors is {type(source).__name__} {source!r:.60}; give a path, or a mapping {{id: {{term: weight}}}}."
        )
    path = Path(source)
    if is_encoded(path):
        return read_encoded(path)
    if is_folder(path) and (parts := jsonl_files(path)):
        return read_jsonl(path, parts)
    if not is_file(path):
        raise CorpusError(f"{str(path)!r:.200} is no file of vectors; {KINDS}.")
    readers = {
        ".ciff": read_ciff,
        ".npz": read_npz,
        **dict.fromkeys(TENSOR_FILES, read_tensors),
        **dict.fromkeys(JSON_LINES, read_jsonl),
    }
    reader = readers.get(ending_of(path))
    cannot_be_packed_so = {read_npz: PACKED, read_tensors: PACKED, read_ciff: (".zst",)}
    if reader is None or path.suffix in cannot_be_packed_so.get(reader, ()):
        raise CorpusError(f"{path} is of no known kind; {KINDS}.")
    return reader(path)


KINDS = "give a .jsonl or .ciff file (or .gz), a .npz, .pt or .safetensors file, a folder of .jsonl files, or one that `winnow encode` wrote"


def is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a text given for a path
        return False


def is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a text given for a path
        return False


def of_mapping(vectors: Mapping[Any, Any]) -> Iterator[tuple[str, str, dict[str, float]]]:
    for doc_id, vector in vectors.items():
        where = f"the vector of {doc_id!r:.60}"
        if not isinstance(doc_id, str):
            raise CorpusError(f"{where} has no string for its id; give ids as strings.")
        yield where, doc_id, checked_weights(vector, where, CorpusError)


def read_jsonl(path: Path, parts: Sequence[Path] | None = None) -> VectorsById:
    """A record a line, with an id (`_id`, `id`, `doc_id` or `docid`) and a `vector`; Pyserini's other fields are ignored.

    parts  of a folder, its files
    """

    def vectors() -> Iterator[tuple[str, str, dict[str, float]]]:
        for where, record in chain.from_iterable(map(records_of, parts or [path])):
            document = as_document(record, where, FieldNames(vector=OWN))
            if document.vector is None:
                raise CorpusError(f'{where} has no vector; each line needs one, "vector": {{term: weight}}.')
            yield where, document.doc_id, dict(document.vector)

    return VectorsById.of(str(path), vectors())


def read_encoded(folder: Path) -> VectorsById:
    """The vectors of a folder that `winnow encode` wrote, its parts one after another."""
    ids, number_of = RowIds(), dict[str, int]()
    indptr, indices, data = GrowingArray("int64"), GrowingArray("int32"), GrowingArray("float32")
    indptr.append(np.zeros(1, np.int64))
    for stored, part in read_parts(folder):
        own = [number_of.setdefault(term, len(number_of)) for term in part.vocabulary]
        for doc_id in part.ids:
            ids.add(doc_id, len(ids), f"{stored.path}: document {len(ids)}")
        indptr.append(part.rows.indptr[1:] + len(indices))
        indices.append(np.array(own, np.int32)[part.rows.indices])
        data.append(part.rows.data)
    return VectorsById(str(folder), ids, list(number_of), SparseRows(indptr.mapped(), indices.mapped(), data.mapped()))
