"""What one segment holds of one arm: an index of its documents' vectors, sparse or dense, and their statistics.

It depends on the segment's own documents alone, so segments merge without loss: the merged one equals what would be built
from all documents at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, Self, cast

import numpy as np

from index.dense.index import DenseIndex
from index.dense.options import DenseIndexOptions
from index.documents import Document
from index.errors import IndexFormatError
from index.files import save_array
from index.inverted import InvertedIndex
from index.options import InvertedIndexOptions
from index.storage import open_array
from index.vocabulary import Vocabulary
from kernels.cpu.sparse import SparseRows


class BuildLimits(NamedTuple):
    """What building an index may use; what is built does not depend on it."""

    threads: int | None = None  # None: all cores
    memory: int | None = None  # bytes; None: as much as is fastest


UNLIMITED = BuildLimits()


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

    def encode_documents(self, documents: Iterable[Document]) -> Encoded | EncodedDense:
        """A vector for each document; of sparse ones the statistics of them all too."""
        ...


class SparseDocumentEncoder(DocumentEncoder, Protocol):
    """The same, where vectors are sparse."""

    def encode_documents(self, documents: Iterable[Document]) -> Encoded:
        """A vector for each document, and the statistics of them all."""
        ...

    def statistics(self, documents: Iterable[Document], vectors: SparseRows, num_terms: int) -> Statistics:
        """The statistics of some documents of a segment of so many terms; `vectors` are as it stores them."""
        ...


@dataclass(frozen=True, slots=True)
class SparseArmSegment:
    """An inverted index, with the vocabulary that numbers its terms where the encoder has none for all segments."""

    index: InvertedIndex
    statistics: Statistics
    vocabulary: Vocabulary | None
    given: bool = False  # some of the vectors came with their documents

    @classmethod
    def build(cls, encoded: Encoded, path: Path | None, limits: BuildLimits = UNLIMITED) -> Self:
        """Index what an encoder made; into `path` if given."""
        index = InvertedIndex.build_into(
            path, encoded.vectors, encoded.options, threads=limits.threads, memory_limit=limits.memory
        )
        return cls(index, encoded.statistics, encoded.vocabulary, encoded.given)

    @classmethod
    def merged(
        cls,
        parts: Sequence[tuple[Self, np.ndarray | None, Statistics]],
        path: Path | None,
        limits: BuildLimits = UNLIMITED,
    ) -> Self:
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
        index = InvertedIndex.merge_into(
            path,
            indexes,
            live=live,
            terms=terms,
            num_terms=num_terms,
            threads=limits.threads,
            memory_limit=limits.memory,
        )
        frequency = np.zeros(num_terms, np.int32)
        for i, (_, _, statistics) in enumerate(parts):
            own = np.flatnonzero(statistics.document_frequency)
            frequency[own if terms is None else terms[i][own]] += statistics.document_frequency[own]
        documents, length = (sum(getattr(stats, name) for _, _, stats in parts) for name in ("documents", "length"))
        given = any(part.given for part, _, _ in parts)
        return cls(index, Statistics(documents, length, frequency), vocabulary, given)

    def statistics_of(self, docs: np.ndarray, documents: Iterable[Document], encoder: DocumentEncoder) -> Statistics:
        """Of some of its documents, their numbers int64 ascending."""
        return cast(SparseDocumentEncoder, encoder).statistics(
            documents, self.index.stored_rows(docs), self.index.options.num_terms
        )

    def write(self, path: Path) -> None:
        """Copy the index into the folder `path`."""
        self.index.write(path)

    def describe(self, path: Path) -> dict[str, Any]:
        """Write all but the index into `path`; returns the description that `read_arm` needs."""
        return {
            "index": self.index.description(),
            "statistics": self.statistics.write(path),
            "vocabulary": None if self.vocabulary is None else self.vocabulary.write(path),
            **({"given": True} if self.given else {}),
        }

    @classmethod
    def read(cls, path: Path, description: dict[str, Any], num_docs: int) -> Self:
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
class DenseArmSegment:
    """A dense index. Its statistics count the documents that have a vector, and no terms."""

    index: DenseIndex
    given: ClassVar[bool] = False

    @property
    def statistics(self) -> Statistics:
        return without_terms(self.index.num_docs - len(self.index.without))

    @classmethod
    def build(cls, encoded: EncodedDense, path: Path | None, progress: bool) -> Self:
        """Index what an encoder made; into `path` if given."""
        vectors, options, without = encoded
        return cls(DenseIndex.build_into(path, vectors, options, without=without, progress=progress))

    @classmethod
    def merged(
        cls, parts: Sequence[tuple[Self, np.ndarray | None, Statistics]], path: Path | None, progress: bool
    ) -> Self:
        """One of the live documents (bool, None: all) of all parts."""
        indexes, live = [part.index for part, _, _ in parts], [mask for _, mask, _ in parts]
        return cls(DenseIndex.merge_into(path, indexes, live=live, progress=progress))

    def statistics_of(
        self, docs: np.ndarray, documents: Iterable[Document] = (), encoder: DocumentEncoder | None = None
    ) -> Statistics:
        """Of some of its documents, their numbers int64 ascending; nothing else is looked at."""
        return without_terms(len(docs) - int(np.count_nonzero(np.isin(docs, self.index.without))))

    def write(self, path: Path) -> None:
        self.index.write(path)

    def describe(self, path: Path) -> dict[str, Any]:
        return {"kind": DENSE, "index": self.index.description()}

    @classmethod
    def read(cls, path: Path, description: dict[str, Any], num_docs: int) -> Self:
        """Map what was written; IndexFormatError where the files do not fit each other."""
        index = DenseIndex.read(path, description["index"])
        if index.num_docs != num_docs:
            raise IndexFormatError(
                f"{path} has vectors of {index.num_docs} documents, its segment {num_docs}; `winnow repair` may save it."
            )
        return cls(index)


DENSE = "dense"  # the kind of an arm that is not sparse, in its description
ArmSegment = SparseArmSegment | DenseArmSegment


def without_terms(documents: int) -> Statistics:
    """The statistics of dense vectors."""
    return Statistics(documents, 0, np.zeros(0, np.int32))


def build_arm(
    encoded: Encoded | EncodedDense, path: Path | None, progress: bool = False, limits: BuildLimits = UNLIMITED
) -> ArmSegment:
    """Index what an encoder made; into `path` if given. `progress` shows how a dense index is trained."""
    if isinstance(encoded, EncodedDense):
        return DenseArmSegment.build(encoded, path, progress)
    return SparseArmSegment.build(encoded, path, limits)


def merged_arm(
    parts: Sequence[tuple[ArmSegment, np.ndarray | None, Statistics]],
    path: Path | None,
    progress: bool = False,
    limits: BuildLimits = UNLIMITED,
) -> ArmSegment:
    """One of the live documents (bool, None: all) of all parts, which are of one kind; their statistics come with them."""
    if isinstance(parts[0][0], DenseArmSegment):
        return DenseArmSegment.merged(parts, path, progress)  # type: ignore[arg-type]
    return SparseArmSegment.merged(parts, path, limits)  # type: ignore[arg-type]


def read_arm(path: Path, description: dict[str, Any], num_docs: int) -> ArmSegment:
    """Map what was written of an arm. Raises IndexFormatError."""
    kind = DenseArmSegment if description.get("kind") == DENSE else SparseArmSegment
    return kind.read(path, description, num_docs)
