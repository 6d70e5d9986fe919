"""A segment: some documents and, for each arm, an index of their vectors. Nothing changes it once it is made.

What it stores depends on its own documents alone, so segments merge without loss: the merged one equals what would be
built from all documents at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from index.dense_options import DenseIndexOptions
from index.documents import Document, DocumentStore, StagedDocuments
from index.errors import IndexFormatError
from index.files import make_folder, save_array
from index.inverted import InvertedIndex
from index.options import InvertedIndexOptions
from index.storage import Part, open_array, read_only
from index.vocabulary import Vocabulary
from kernels.cpu.sparse import SparseRows


class Statistics(NamedTuple):
    """What the weights of a query depend on, of some documents; of disjoint sets of documents they add up."""

    documents: int  # that count for the encoder
    length: int  # of these together, in tokens
    document_frequency: np.ndarray  # int32 [terms]

    @classmethod
    def of_counts(cls, rows: SparseRows, num_terms: int) -> Statistics:
        """Of documents whose vectors hold term counts: those that have a term count."""
        frequency = np.bincount(rows.indices, minlength=num_terms).astype(np.int32)
        return cls(int(np.count_nonzero(np.diff(rows.indptr))), int(rows.data.sum(dtype=np.float64)), frequency)

    def plus(self, others: Statistics) -> Statistics:
        """With the documents of `others`, of which none is counted yet."""
        return Statistics(
            self.documents + others.documents,
            self.length + others.length,
            self.document_frequency + others.document_frequency,
        )

    def less(self, others: Statistics) -> Statistics:
        """Without the documents of `others`."""
        return Statistics(
            self.documents - others.documents,
            self.length - others.length,
            self.document_frequency - others.document_frequency,
        )

    def write(self, path: Path) -> dict[str, Any]:
        """Write one array into `path`; returns the description that `read` needs."""
        save_array(path / "document_frequency.npy", self.document_frequency)
        return {"documents": self.documents, "length": self.length, "terms": len(self.document_frequency)}

    @classmethod
    def read(cls, path: Path, description: dict[str, Any]) -> Statistics:
        """Map what `write` wrote; IndexFormatError if the array is not as described."""
        frequency = open_array(path / "document_frequency.npy", "int32", description["terms"])
        return cls(description["documents"], description["length"], frequency)


class Encoded(NamedTuple):
    """What an encoder makes of some documents."""

    vectors: SparseRows
    options: InvertedIndexOptions
    statistics: Statistics
    vocabulary: Vocabulary | None = None  # None: the encoder numbers terms alike in every segment
    given: bool = False  # some of the vectors came with their documents: no encoder can make them again


class EncodedDense(NamedTuple):
    """The same of an encoder whose vectors are dense."""

    vectors: np.ndarray  # float32 [documents, dimension], perhaps mapped from a temporary file
    options: DenseIndexOptions
    without: np.ndarray  # int32, ascending: documents that have no vector, rows of zeros here; no query finds them


class DocumentEncoder(Protocol):
    """What a collection asks of the encoder of an arm."""

    def encode_documents(self, documents: Iterable[Document]) -> Encoded:
        """A vector for each document, and the statistics of them all."""
        ...

    def statistics(self, documents: Iterable[Document], vectors: SparseRows, num_terms: int) -> Statistics:
        """The statistics of some documents of a segment of so many terms; `vectors` are as it stores them."""
        ...


@dataclass(frozen=True, slots=True)
class ArmSegment:
    """What one segment holds of one arm."""

    index: InvertedIndex
    statistics: Statistics
    vocabulary: Vocabulary | None
    given: bool = False  # some of the vectors came with their documents

    @classmethod
    def build(cls, encoded: Encoded, path: Path | None) -> ArmSegment:
        """Index what an encoder made; into `path` if given."""
        index = InvertedIndex.build_into(path, encoded.vectors, encoded.options)
        return cls(index, encoded.statistics, encoded.vocabulary, encoded.given)

    @classmethod
    def merged(cls, parts: Sequence[tuple[ArmSegment, np.ndarray | None, Statistics]], path: Path | None) -> ArmSegment:
        """One of the live documents (bool, None: all) of all parts, whose statistics come with them."""
        indexes, live = [part.index for part, _, _ in parts], [mask for _, mask, _ in parts]
        vocabularies = [
            (part.vocabulary, statistics.document_frequency > 0)
            for part, _, statistics in parts
            if part.vocabulary is not None
        ]
        vocabulary, terms, num_terms = None, None, indexes[0].options.num_terms
        if len(vocabularies) == len(parts):  # a term that no document holds any more is dropped
            vocabulary, terms = Vocabulary.merged(vocabularies)
            num_terms = len(vocabulary)
        index = InvertedIndex.merge_into(path, indexes, live=live, terms=terms, num_terms=num_terms)
        frequency = np.zeros(num_terms, np.int32)
        for i, (_, _, statistics) in enumerate(parts):
            own = np.flatnonzero(statistics.document_frequency)
            frequency[own if terms is None else terms[i][own]] += statistics.document_frequency[own]
        documents, length = (sum(getattr(stats, name) for _, _, stats in parts) for name in ("documents", "length"))
        given = any(part.given for part, _, _ in parts)
        return cls(index, Statistics(documents, length, frequency), vocabulary, given)

    def describe(self, path: Path) -> dict[str, Any]:
        """Write all but the index into `path`; returns the description that `read` needs."""
        return {
            "index": self.index.description(),
            "statistics": self.statistics.write(path),
            "vocabulary": None if self.vocabulary is None else self.vocabulary.write(path),
            **({"given": True} if self.given else {}),
        }

    @classmethod
    def read(cls, path: Path, description: dict[str, Any], num_docs: int) -> ArmSegment:
        """Map what was written; IndexFormatError where the files do not fit each other."""
        index = InvertedIndex.read(path, description["index"])
        statistics = Statistics.read(path, description["statistics"])
        stored = description["vocabulary"]
        vocabulary = None if stored is None else Vocabulary.read(path, stored)
        num_terms = index.options.num_terms
        if index.num_docs != num_docs or (vocabulary is not None and len(vocabulary) != num_terms):
            raise IndexFormatError(
                f"{path} has {index.num_docs} documents and {num_terms} terms, which its segment contradicts; "
                "`winnow repair` may save it."
            )
        if len(statistics.document_frequency) != num_terms:
            raise IndexFormatError(
                f"{path} has statistics of {len(statistics.document_frequency)} terms, not {num_terms}."
            )
        return cls(index, statistics, vocabulary, description.get("given", False))


@dataclass(frozen=True, slots=True)
class Segment:
    """Documents and, by the name of each arm, the index of their vectors."""

    documents: DocumentStore
    arms: Mapping[str, ArmSegment]
    part: Part | None = None  # where it is stored; holds its files for as long as the segment is in use

    @property
    def num_docs(self) -> int:
        return len(self.documents)

    @classmethod
    def build(
        cls,
        staged: StagedDocuments,
        encoders: Mapping[str, DocumentEncoder],
        part: Part | None,
        watch: Callable[[Iterable[Document]], Iterable[Document]] = iter,
    ) -> Segment:
        """Encode and index the staged documents; into `part` if given. `watch` sees each document go by."""
        arms = {}
        for name, encoder in encoders.items():
            encoded = encoder.encode_documents(watch(staged))
            arms[name] = ArmSegment.build(encoded, folder_of(name, part))
        return cls.of(staged, arms, part)

    @classmethod
    def of(cls, staged: StagedDocuments, arms: Mapping[str, ArmSegment], part: Part | None) -> Segment:
        """Staged documents with arms that index them, row by row; these were built into `part` if given."""
        return cls(staged.sealed(None if part is None else part.path), arms)._stored(part)

    @classmethod
    def merged(cls, segments: Sequence[tuple[Segment, Live]], part: Part | None) -> Segment:
        """One segment of the live documents of all, in order; into `part` if given."""
        arms = {
            name: ArmSegment.merged(
                [(segment.arms[name], live.mask, live.statistics[name]) for segment, live in segments],
                folder_of(name, part),
            )
            for name in segments[0][0].arms
        }
        stores = [(segment.documents, live.mask) for segment, live in segments]
        return cls(DocumentStore.merged(stores, None if part is None else part.path), arms)._stored(part)

    def write(self, part: Part) -> Segment:
        """The same segment, copied into `part`."""
        self.documents.write(part.path)
        for name, arm in self.arms.items():
            arm.index.write(made(part.path / name))
        return self._stored(part)

    def _stored(self, part: Part | None) -> Segment:
        """The segment that lies in `part` once the rest of it is written; itself where there is none."""
        if part is None:
            return self
        arms = {name: arm.describe(part.path / name) for name, arm in self.arms.items()}
        part.contents = {"documents": self.num_docs, "arms": arms}
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
            name: ArmSegment.read(part.path / name, description, num_docs)
            for name, description in part.contents["arms"].items()
        }
        return cls(documents, arms, part)


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
            documents = segment.documents.each(docs.tolist())
            rows = arm.index.stored_rows(docs)
            gone = encoders[name].statistics(documents, rows, arm.index.options.num_terms)
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
