"""Dense vectors at the boundary: checked, brought to float32 and perhaps to length 1, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from index.dense.options import DenseIndexOptions
from index.errors import InvalidVectorsError
from index.files import new_array
from index.storage import read_only
from index.vectors import MAX_DOCUMENTS
from kernels.cpu.dense_scores import lengths_of, normalise

PIECE_BYTES = 1 << 22  # of float32 that are looked at together
LONGEST = 1e18  # of a vector: a product of two such lengths is far from what float32 can hold
ALMOST_ONE = 1e-6  # how far from 1 a length may be that counts as 1 (kernels/cpu/dense_scores.py: normalise)


class Rows(NamedTuple):
    """Vectors that come piece by piece."""

    num_docs: int
    without: np.ndarray  # int32, ascending: documents that have no vector
    pieces: Callable[[], Iterator[np.ndarray]]  # float32 [rows of a piece, dimension], fresh arrays or read-only ones
    checked: bool  # they were stored in an index of the same options before


def pieces_of(num_docs: int, dimension: int) -> Iterator[slice]:
    """Of the rows, so that a piece has PIECE_BYTES, or one row."""
    step = max(1, PIECE_BYTES // (4 * dimension))
    for first in range(0, num_docs, step):
        yield slice(first, min(first + step, num_docs))


def rows_of(vectors: Any, without: np.ndarray | None, options: DenseIndexOptions) -> Rows:
    """Of an array of the caller's. Raises InvalidVectorsError for another shape or type; the numbers are looked at later."""
    array = as_floats("vectors", vectors, 2)
    num_docs, dimension = array.shape
    if dimension != options.dimension:
        raise InvalidVectorsError(
            f"vectors have {dimension} dimensions, the index has {options.dimension}; use the encoder that it was made for."
        )
    if num_docs > MAX_DOCUMENTS:
        raise InvalidVectorsError(f"{num_docs:,} vectors are more than one index holds, {MAX_DOCUMENTS:,}.")

    def pieces() -> Iterator[np.ndarray]:
        for piece in pieces_of(num_docs, dimension):
            with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and found so
                yield np.array(array[piece], np.float32, order="C")

    return Rows(num_docs, checked_without(without, num_docs), pieces, checked=False)


def as_floats(name: str, values: Any, dimensions: int) -> np.ndarray:
    """An array of so many dimensions, of a type of float. Raises InvalidVectorsError."""
    try:
        array = np.asanyarray(values)
    except (ValueError, TypeError) as error:
        raise InvalidVectorsError(f"{name} are no array ({error!s:.80}); give an array of float32.") from error
    if array.dtype.kind != "f" or array.dtype.itemsize > 8 or array.ndim != dimensions:
        raise InvalidVectorsError(
            f"{name} have dtype {array.dtype} and shape {array.shape}; give an array of float32, float64 or float16 with "
            f"{dimensions} dimension{'s' * (dimensions > 1)}."
        )
    plain: np.ndarray = array.view(np.ndarray)
    return plain


def checked_without(without: Any, num_docs: int) -> np.ndarray:
    """int32, ascending. Raises InvalidVectorsError."""
    docs = np.empty(0, np.int32) if without is None else np.asarray(without)
    if docs.size == 0:
        return read_only(np.empty(0, np.int32))
    if (
        docs.ndim != 1
        or docs.dtype.kind not in "iu"
        or docs[0] < 0
        or docs[-1] >= num_docs
        or np.any(docs[1:] <= docs[:-1])
    ):
        raise InvalidVectorsError(
            f"documents without a vector are {docs!r:.60}; they must be whole numbers from 0 to {num_docs - 1}, ascending."
        )
    return read_only(docs.astype(np.int32))


def stored(
    path: Path | None, rows: Rows, options: DenseIndexOptions, watch: Callable[[int], Any]
) -> tuple[np.ndarray, float]:
    """(all rows, float32, one after another; the greatest length of one), in `path`/vectors.npy if given, in memory otherwise.

    watch  is told how many rows were looked at

    Raises InvalidVectorsError for a number that is not finite, for a vector of zeros under cosine, unless it is `without` one,
    and for a vector that is too long; StorageError.
    """
    dimension = options.dimension
    length = rows.num_docs * dimension
    vectors = np.empty(length, np.float32) if path is None else new_array(path / "vectors.npy", "float32", length)
    first, longest = 0, 0.0
    for rows_of_piece in rows.pieces():
        count = len(rows_of_piece)
        flat, lengths = rows_of_piece.reshape(-1), np.empty(count)
        if rows.checked:
            lengths_of(read_only(flat), dimension, lengths)
            lengths = np.sign(lengths) if options.similarity == "cosine" else lengths
        else:
            within = rows.without[slice(*np.searchsorted(rows.without, [first, first + count]))] - first
            flat = flat.copy() if not flat.flags.writeable else flat
            check_lengths(flat, dimension, lengths, first, within, options)
        vectors[first * dimension : (first + count) * dimension] = flat
        longest = max(longest, float(lengths.max(initial=0.0)))
        first += count
        watch(count)
    return read_only(vectors), longest


def check_lengths(
    flat: np.ndarray, dimension: int, lengths: np.ndarray, first: int, without: np.ndarray, options: DenseIndexOptions
) -> None:
    """Write the lengths of rows, of documents from `first` on; bring those to length 1 that should be. InvalidVectorsError."""
    if options.similarity == "cosine":
        normalise(flat, dimension, lengths)
    else:
        lengths_of(flat, dimension, lengths)
    for row in np.flatnonzero(~np.isfinite(lengths) | (lengths > LONGEST))[:1]:
        values = flat[row * dimension : (row + 1) * dimension]
        found = values[~np.isfinite(values)]
        what = f"holds {found[0]}" if len(found) else f"has a length of {lengths[row]:.3g}"
        raise InvalidVectorsError(
            f"the vector of document {first + row} {what}; every number must be finite and a length at most {LONGEST:.0e}."
        )
    if np.any(lengths[without] != 0):
        doc = without[np.flatnonzero(lengths[without])[0]]
        raise InvalidVectorsError(
            f"document {first + doc} is said to have no vector and its row is not all zeros; make it zeros or leave it out of "
            "`without`."
        )
    if options.similarity == "cosine":
        is_zero = lengths == 0
        is_zero[without] = False
        for row in np.flatnonzero(is_zero)[:1]:
            raise InvalidVectorsError(
                f"the vector of document {first + row} is all zeros, which has no direction for cosine; name such documents in "
                '`without`, or use similarity="dot".'
            )
        lengths[lengths > 0] = 1


def checked_queries(queries: Any, options: DenseIndexOptions) -> np.ndarray:
    """float32 [queries, dimension], of length 1 under cosine; rows of zeros stay. Raises InvalidVectorsError."""
    array = as_floats("queries", queries, 2)
    if array.shape[1] != options.dimension:
        raise InvalidVectorsError(
            f"a query has {array.shape[1]} dimensions, the index has {options.dimension}; use the encoder that it was made for."
        )
    with np.errstate(over="ignore"):
        checked = np.array(array, np.float32, order="C")
    lengths = np.empty(len(checked))
    flat = checked.reshape(-1)
    if options.similarity == "cosine":
        normalise(flat, options.dimension, lengths)
    else:
        lengths_of(flat, options.dimension, lengths)
    if not np.all(lengths <= LONGEST):
        worst = checked[np.flatnonzero(~(lengths <= LONGEST))[0]]
        found = worst[~np.isfinite(worst)]
        what = f"holds {found[0]}" if len(found) else f"has a length above {LONGEST:.0e}"
        raise InvalidVectorsError(f"a query {what}; every number of it must be finite, and small enough for float32.")
    return read_only(checked)


def mask_without(docs: np.ndarray, num_docs: int) -> np.ndarray | None:
    """bool [documents]: all but some; None where there are none of these."""
    if len(docs) == 0:
        return None
    mask = np.ones(num_docs, np.bool_)
    mask[docs] = False
    return mask
