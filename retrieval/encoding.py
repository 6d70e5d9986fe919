"""Encode a corpus once, for many indexes: its vectors in a folder that grows part by part and goes on where it was stopped."""

from __future__ import annotations

import filecmp
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from index.arm_segments import Encoded
from index.documents import Document
from index.encoded_vectors import KIND, EncodedPart, parts_of, read_model_part
from index.errors import CorpusError, WinnowError
from index.folder_writer import FolderWriter
from index.manifest import MARKER, as_json
from index.options import WeightImpacts
from index.storage import Part, check_target
from index.vocabulary import Vocabulary
from kernels.cpu.sparse import SparseRows
from retrieval.corpus import Corpus, FieldNames, read_corpus
from retrieval.encoders.loading import load_encoder, read_encoder
from retrieval.encoders.protocol import SparseEncoder
from retrieval.encoders.shipped import DEFAULT_MODEL
from retrieval.encoders.text_stream import TruncationWarning
from retrieval.encoders.weighted_terms import renumbered
from retrieval.progress import progress as counted
from retrieval.vectors_by_id import RowIds

DOCUMENTS_A_PART = 4_096  # at least; a multiple of those that an encoder takes together
SHARE_A_PART = (
    64  # of the documents before it: some hundred parts for millions of documents, each open while it is read
)


class EncodedFolder(NamedTuple):
    """What a folder of vectors holds now."""

    documents: int
    there_before: int  # of these, encoded by an earlier call


def encode_corpus(
    corpus: Corpus,
    folder: str | Path,
    model: str = DEFAULT_MODEL,
    *,
    options: Mapping[str, Any] | None = None,
    names: FieldNames | None = None,
    progress: bool = True,
) -> EncodedFolder:
    """Write the vectors of a corpus to a folder, which `Retriever.index(corpus, vectors=folder)` takes them from.

    options  of the model, as `Retriever.from_pretrained` takes them

    Each part of some thousand documents is committed as soon as it is encoded. A folder that holds the corpus's first documents
    already, by their ids and from the same model, is gone on with: what was encoded stays.

    Raises WinnowError for a model whose vocabulary is that of a segment, and for a folder of other documents or another model,
    CorpusError for a corpus that cannot be read or has an id twice, LockedError while another process writes.
    """
    check_target(folder)  # before a model is loaded
    encoder = load_encoder(model, options=options)
    if encoder.kind == "dense":
        raise WinnowError(
            f"{model} makes dense vectors, which no folder of vectors holds; index the corpus with it, or give a sparse model."
        )
    if encoder.terms is None:
        raise WinnowError(
            f"{model} has a vocabulary of its own in each segment, so nothing can be encoded once for many indexes; use a model "
            "whose vocabulary is fixed, such as winnow-mini."
        )
    documents = counted(read_corpus(corpus, names), total=None, doing="encoding", unit="documents", shown=progress)
    with told_once(), FolderWriter(folder, KIND) as files:
        growing = Growing(files, cast(SparseEncoder, encoder))
        growing.pass_by(documents)
        there_before = len(growing.ids)
        for first in documents:
            growing.add(chain([first], islice(documents, part_size(len(growing.ids)) - 1)))
        if len(growing.ids) == 0:
            raise CorpusError("the corpus holds no documents; give at least one.")
        return EncodedFolder(len(growing.ids), there_before)


@contextmanager
def told_once() -> Iterator[None]:
    """What the parts say of texts that were cut becomes one warning of them all."""
    counts: list[tuple[int, int, int]] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", TruncationWarning)
            yield
    finally:
        for one in caught:
            if isinstance(one.message, TruncationWarning):
                counts.append(one.message.numbers)
            else:
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
        if counts:
            cut, texts, lengths = zip(*counts, strict=True)
            warnings.warn(TruncationWarning(sum(cut), sum(texts), lengths[0]), stacklevel=4)


def part_size(documents_before: int) -> int:
    """How many documents the next part takes."""
    return DOCUMENTS_A_PART * max(1, documents_before // SHARE_A_PART // DOCUMENTS_A_PART)


class Growing:
    """A folder of vectors while documents are added to it."""

    def __init__(self, files: FolderWriter, encoder: SparseEncoder):
        """Raises WinnowError where the folder's vectors are another model's."""
        self.files, self.encoder, self.ids = files, encoder, RowIds()
        model = files.new_part()
        model.contents = {"model": encoder.name, "encoder": encoder.write(model.path)}
        self.model, self.parts = model, list[Part]()
        if files.current is not None:
            self.model, self.parts = files.current.parts[files.current.contents["model"]], parts_of(files.current)
            if not is_same_model(model, self.model):
                raise WinnowError(
                    f"{files.folder} holds vectors of {self.model.contents['model']} with other options or files than those of "
                    f"{encoder.name} now; give another folder, or the same model."
                )
            files.discard(model)

    def pass_by(self, documents: Iterator[Document]) -> None:
        """Skip the documents that are here. Raises WinnowError unless they are the first ones."""
        for part in self.parts:
            for doc_id in EncodedPart.read(part).ids:
                document = next(documents, None)
                if document is None or document.doc_id != doc_id:
                    given = "ends there" if document is None else f"has {document.doc_id!r:.60} there"
                    raise WinnowError(
                        f"{self.files.folder} has document {len(self.ids) + 1} as {doc_id!r:.60}, and the corpus {given}; give "
                        "the corpus that the folder was begun with, or another folder."
                    )
                self.ids.add(doc_id, len(self.ids), f"document {len(self.ids) + 1} of the corpus")

    def add(self, documents: Iterator[Document]) -> None:
        """Encode documents and commit them as one part."""
        ids: list[str] = []

        def passing() -> Iterator[Document]:
            for document in documents:
                self.ids.add(document.doc_id, len(self.ids), f"document {len(self.ids) + 1} of the corpus")
                ids.append(document.doc_id)
                yield document

        encoded = self.encoder.encode_documents(passing())
        part = self.files.new_part()
        as_part(ids, encoded, self.encoder).write(part)
        self.parts.append(part)
        contents = {"model": self.model.name, "parts": [part.name for part in self.parts]}
        self.files.commit(contents, [self.model, *self.parts])


def is_same_model(one: Part, other: Part) -> bool:
    """True where both parts describe the same model, in every byte of its files."""
    names = [
        sorted(file.relative_to(one.path) for file in one.path.rglob("*") if file.is_file()) for one in (one, other)
    ]
    own = [name for name in names[0] if name.as_posix() != MARKER]
    return (
        json.loads(as_json(one.contents)) == other.contents
        and set(own) <= set(names[1])
        and all(filecmp.cmp(one.path / name, other.path / name, shallow=False) for name in own)
    )


def as_part(ids: list[str], encoded: Encoded, encoder: SparseEncoder) -> EncodedPart:
    """The vectors with a vocabulary of the terms that they have."""
    assert encoder.terms is not None
    indptr, indices, data = encoded.vectors
    used = np.unique(indices)
    terms = [encoder.terms[number] for number in used.tolist()]
    vocabulary = Vocabulary.build(terms)
    rows = SparseRows(indptr, np.searchsorted(used, indices).astype(np.int32), data)
    return EncodedPart(ids, renumbered(rows, vocabulary.find(terms)), vocabulary)


def read_encoder_of(folder: str | Path, impacts: WeightImpacts | None = None) -> SparseEncoder:
    """The encoder that made a folder of vectors, to store weights with these impacts. Raises IndexFormatError."""
    part = read_model_part(folder)
    description: dict[str, Any] = part.contents["encoder"]
    if impacts is not None:
        description = {**description, "impacts": impacts}
    return cast(SparseEncoder, read_encoder(part.path, description))
