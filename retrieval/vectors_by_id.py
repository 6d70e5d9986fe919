"""Vectors of a whole collection, read once into temporary files and found by the ids of their documents."""

from __future__ import annotations

import sqlite3
import weakref
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np

from index.documents import PAGE, Document, open_unsynced, storing
from index.errors import CorpusError
from index.scratch import GrowingArray
from kernels.cpu.sparse import SparseRows

BUFFERED = 1 << 18  # entries in memory before they are written


class RowIds:
    """The id of each row, in a temporary file, found without reading them all."""

    def __init__(self) -> None:
        with storing():
            self._connection = open_unsynced("")
            weakref.finalize(self, self._connection.close)
            self._connection.execute("CREATE TABLE ids (doc_id TEXT PRIMARY KEY, row INTEGER) WITHOUT ROWID")
            self._connection.execute("BEGIN")
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, doc_id: str, row: int, where: str) -> None:
        """Raises CorpusError, beginning with `where`, for an id that is used, empty or not Unicode."""
        if not doc_id:
            raise CorpusError(f"{where} has an empty id; a document's id must be a string that is not empty.")
        try:
            self._connection.execute("INSERT INTO ids VALUES (?, ?)", (doc_id, row))
        except sqlite3.IntegrityError as error:
            raise CorpusError(
                f"{where} has the id {doc_id!r:.60} of one before it; give each document its own id."
            ) from error
        except UnicodeEncodeError as error:
            raise CorpusError(f"{where} has an id that is not valid Unicode ({error.reason}); repair it.") from error
        self._length += 1

    def rows(self, doc_ids: Sequence[str]) -> dict[str, int]:
        """The rows of those ids that are here."""
        marks = ",".join("?" * len(doc_ids))
        with storing():
            return dict(self._connection.execute(f"SELECT doc_id, row FROM ids WHERE doc_id IN ({marks})", doc_ids))

    def in_order(self) -> Iterator[tuple[str, int]]:
        """All by row."""
        with storing():
            yield from self._connection.execute("SELECT doc_id, row FROM ids ORDER BY row")


class VectorsById:
    """A vector for each of many documents.

    >>> vectors = VectorsById.of("mine", [("document a", "a", {"tea": 2.0}), ("document b", "b", {})])
    >>> vectors.find(["b", "a", "z"])
    [{}, {'tea': 2.0}, None]
    """

    def __init__(self, name: str, ids: RowIds, terms: Sequence[str], rows: SparseRows):
        """`rows` fit each other, and name terms by their numbers in `terms`; their weights are finite and 0 or greater."""
        self.name, self._ids, self._terms, self._rows = name, ids, terms, rows

    @classmethod
    def of(cls, name: str, vectors: Iterable[tuple[str, str, Mapping[str, float]]]) -> VectorsById:
        """Of (where it stands, id, checked weights by term) for each document. Raises CorpusError for an id used twice."""
        ids, number_of = RowIds(), dict[str, int]()
        indptr, indices, data = array("q", [0]), GrowingArray("int32"), GrowingArray("float32")
        terms, weights = array("i"), array("f")
        for row, (where, doc_id, vector) in enumerate(vectors):
            ids.add(doc_id, row, where)
            terms.extend(number_of.setdefault(term, len(number_of)) for term in vector)
            weights.extend(vector.values())
            indptr.append(indptr[-1] + len(vector))
            if len(terms) >= BUFFERED:
                flush(terms, indices)
                flush(weights, data)
        flush(terms, indices)
        flush(weights, data)
        return cls(name, ids, list(number_of), SparseRows(np.asarray(indptr), indices.mapped(), data.mapped()))

    def __len__(self) -> int:
        return len(self._ids)

    def find(self, doc_ids: Sequence[str]) -> list[dict[str, float] | None]:
        """The vectors of these documents, in this order; None for one that has none here."""
        found: dict[str, int] = {}
        for start in range(0, len(doc_ids), PAGE):
            found.update(self._ids.rows(doc_ids[start : start + PAGE]))
        return [self._vector(doc_id, found[doc_id]) if doc_id in found else None for doc_id in doc_ids]

    def documents(self) -> Iterator[Document]:
        """All as documents without texts, in the order of the rows."""
        for doc_id, row in self._ids.in_order():
            yield Document(doc_id, vector=self._vector(doc_id, row))

    @property
    def terms(self) -> Sequence[str]:
        """By the numbers that `batches` calls them."""
        return self._terms

    def batches(self) -> Iterator[tuple[list[str], SparseRows]]:
        """All ids and vectors, in the order of the rows, some at a time; each row ascends by term and holds no weight of 0."""
        ids = self._ids.in_order()
        while page := list(islice(ids, PAGE)):
            rows = [self._row(doc_id, row) for doc_id, row in page]
            lengths = [len(terms) for terms, _ in rows]
            indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
            terms, weights = (np.concatenate([row[side] for row in rows]) for side in (0, 1))
            yield [doc_id for doc_id, _ in page], SparseRows(indptr, terms, weights)

    def given_to(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The documents with their vectors of here; a stored field `vector` is taken for the same thing and left out.

        Raises CorpusError for a document that has none here.
        """
        documents = iter(documents)
        while page := list(islice(documents, PAGE)):
            for document, vector in zip(page, self.find([document.doc_id for document in page]), strict=True):
                yield self.given(document, vector)

    def given(self, document: Document, vector: Mapping[str, float] | None) -> Document:
        """The document with what `find` found of it. Raises CorpusError where that is nothing."""
        if vector is None:
            raise CorpusError(
                f"{self.name} has no vector for the document {document.doc_id!r:.60}; each document needs one there."
            )
        fields = {name: value for name, value in document.fields.items() if name != "vector"}
        return Document(document.doc_id, document.title, document.text, fields, vector)

    def _vector(self, doc_id: str, row: int) -> dict[str, float]:
        entries = slice(int(self._rows.indptr[row]), int(self._rows.indptr[row + 1]))
        numbers, weights = self._rows.indices[entries].tolist(), self._rows.data[entries].tolist()
        if len(set(numbers)) < len(numbers):
            raise self._twice(doc_id)
        return {self._terms[number]: weight for number, weight in zip(numbers, weights, strict=True) if weight > 0}

    def _row(self, doc_id: str, row: int) -> tuple[np.ndarray, np.ndarray]:
        """(term numbers, weights above 0), ascending by term."""
        entries = slice(int(self._rows.indptr[row]), int(self._rows.indptr[row + 1]))
        numbers, weights = self._rows.indices[entries], self._rows.data[entries]
        order = np.argsort(numbers, kind="stable")
        numbers, weights = numbers[order], weights[order]
        if np.any(numbers[1:] == numbers[:-1]):
            raise self._twice(doc_id)
        return numbers[weights > 0], weights[weights > 0]

    def _twice(self, doc_id: str) -> CorpusError:
        return CorpusError(
            f"{self.name} names a term twice in the vector of {doc_id!r:.60}; a vector has each term once."
        )


def flush(values: array[int] | array[float], into: GrowingArray) -> None:
    into.append(np.asarray(values))
    del values[:]
