"""Where a build takes its rows from, window by window: vectors as they were given, or rows that other indexes store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, NoReturn, Protocol

import numpy as np

from index.errors import IndexFormatError, InvalidVectorsError
from index.storage import read_only
from index.vectors import MAX_DOCUMENTS, check_counts, checked_rows
from kernels.cpu import forward_rows
from kernels.cpu.forward_rows import WINDOW, ForwardRows
from kernels.cpu.quantise import unsound_count
from kernels.cpu.sparse import SparseRows, unsound_entry

KEPT_BYTES = 1 << 30  # of decoded rows, where no memory limit is given: the rest is decoded anew in every pass


class Source(Protocol):
    """The rows of a collection."""

    indptr: np.ndarray  # int64 [documents + 1]
    scales: np.ndarray | None  # float32 [documents] where the rows hold levels already, of these scales
    entry_bytes: int  # what an entry of a window takes beside the rows themselves

    def window(self, window: int) -> SparseRows:
        """The rows of one window of documents, from entry 0; all callers get the same types, so share compiled kernels."""

    def check(self, window: int, rows: SparseRows, num_terms: int, counts: bool) -> None:
        """Raise an error for rows of a window that cannot be indexed."""


class Given:
    """Vectors as they were given: their shape is checked, their content not yet."""

    scales: np.ndarray | None = None
    entry_bytes = 0

    def __init__(self, rows: SparseRows):
        self.rows, self.indptr = rows, rows.indptr

    def window(self, window: int) -> SparseRows:
        indptr = self.indptr[window * WINDOW : (window + 1) * WINDOW + 1]
        entries = slice(int(indptr[0]), int(indptr[-1]))
        return as_rows(indptr - indptr[0], self.rows.indices[entries], self.rows.data[entries])

    def check(self, window: int, rows: SparseRows, num_terms: int, counts: bool) -> None:
        """Raise InvalidVectorsError for rows of a window that cannot be indexed."""
        indptr = self.indptr[window * WINDOW : (window + 1) * WINDOW + 1]
        given = self.rows.indices[int(indptr[0]) : int(indptr[-1])]
        # a wide number may have been cut to an innocent one
        is_cut = given.dtype.itemsize > 4 and not np.array_equal(rows.indices, given)
        if is_cut or unsound_entry(rows, num_terms) >= 0:
            checked_rows(self.rows, num_terms)  # says which and why
        if counts and (unsound_count(rows) >= 0 or self.rows.data.dtype.itemsize > 4):
            check_counts(given, self.rows.data[int(indptr[0]) : int(indptr[-1])])


class Piece(NamedTuple):
    """Documents of one index that go into another."""

    forward: ForwardRows
    num_terms: int
    docs: np.ndarray  # int32, ascending
    new_terms: np.ndarray | None  # int32 [num_terms], ascending: what each term is called now; None: as before


class Stored:
    """The rows of some documents of some indexes, one index after another, in the levels that they have there.

    kept_bytes  the first windows that together take no more than this are decoded only once
    """

    entry_bytes = 8

    def __init__(self, pieces: Sequence[Piece], kept_bytes: int):
        self.pieces, self.kept_bytes = pieces, kept_bytes
        self.kept: dict[int, SparseRows] = {}
        self.first_docs = np.cumsum([0, *(len(piece.docs) for piece in pieces)])
        if self.first_docs[-1] > MAX_DOCUMENTS:
            raise InvalidVectorsError(
                f"{self.first_docs[-1]} documents are more than one index holds, {MAX_DOCUMENTS}; merge fewer indexes."
            )
        lengths = [row_lengths(piece.forward, piece.docs) for piece in pieces]
        self.indptr = np.cumsum(np.concatenate([np.zeros(1, np.int64), *lengths]))
        self.scales: np.ndarray | None = np.concatenate(
            [np.empty(0, np.float32), *(piece.forward.scales[piece.docs] for piece in pieces)]
        )

    def window(self, window: int) -> SparseRows:
        rows = self.kept.get(window)
        if rows is None:
            rows = self.decoded(window)
            last = min((window + 1) * WINDOW, len(self.indptr) - 1)
            if self.indptr[last] * self.entry_bytes <= self.kept_bytes:
                self.kept[window] = rows
        return rows

    def decoded(self, window: int) -> SparseRows:
        first_doc, past_doc = window * WINDOW, min((window + 1) * WINDOW, len(self.indptr) - 1)
        indptr = self.indptr[first_doc : past_doc + 1] - self.indptr[first_doc]
        terms, levels = np.zeros(indptr[-1], np.int32), np.zeros(indptr[-1], np.float32)
        for piece, first, past in zip(self.pieces, self.first_docs, self.first_docs[1:], strict=False):
            begin, end = max(first, first_doc), min(past, past_doc)
            if begin < end:
                own = indptr[begin - first_doc : end - first_doc + 1]
                docs = read_only(piece.docs[begin - first : end - first])
                forward_rows.decode(piece.forward, docs, piece.num_terms, read_only(own), terms, levels)
                if piece.new_terms is not None:
                    entries = slice(own[0], own[-1])
                    terms[entries] = piece.new_terms[terms[entries]]
        return as_rows(indptr, terms, levels)

    def check(self, window: int, rows: SparseRows, num_terms: int, counts: bool) -> None:
        """Raise IndexFormatError for rows of a window that no sound index stores."""
        entry = unsound_entry(rows, num_terms)
        if entry >= 0:
            raise_damaged(int(rows.indices[entry]), num_terms)


def raise_damaged(term: int, num_terms: int) -> NoReturn:
    raise IndexFormatError(
        f"a stored row has term {term} out of order or outside the {num_terms} terms, or an impact that is no number; "
        "the index is damaged, so build it again."
    )


def row_lengths(forward: ForwardRows, docs: np.ndarray) -> np.ndarray:
    """int64: entries of the rows of some documents, each named once. Raises IndexFormatError where a file is damaged."""
    lengths: np.ndarray = forward.starts[docs + np.int64(1)] - forward.starts[docs]
    if len(docs) and (lengths.min() < 0 or lengths.max() > len(forward.low) or lengths.sum() > len(forward.low)):
        raise IndexFormatError(
            f"{len(docs)} stored rows have from {lengths.min()} to {lengths.max()} of {len(forward.low)} entries; the index is "
            "damaged, so build it again."
        )
    return lengths


def as_rows(indptr: np.ndarray, indices: np.ndarray, data: np.ndarray) -> SparseRows:
    """The arrays in the dtypes of SparseRows, read-only, so that all callers share one compiled kernel."""
    return SparseRows(
        read_only(np.ascontiguousarray(indptr, np.int64)),
        read_only(np.ascontiguousarray(indices, np.int32)),
        read_only(np.ascontiguousarray(data, np.float32)),
    )
