"""Batches of sparse vectors: checked once at the boundary, joined, and cut from Python lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from index.errors import InvalidVectorsError, WinnowError
from kernels.cpu.quantise import LARGEST_COUNT
from kernels.cpu.sparse import SparseRows

MAX_DOCUMENTS = 2**31 - 1
LARGEST_WEIGHT = float(np.finfo(np.float32).max)


class SparseQuery(NamedTuple):
    """One query: its terms and their weights, in any order, each term once."""

    terms: np.ndarray  # int32 [query terms]
    weights: np.ndarray  # float32 [query terms]


def empty_rows() -> SparseRows:
    """No rows: what a collection starts from."""
    return SparseRows(np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))


def concatenate(batches: Sequence[SparseRows]) -> SparseRows:
    """The rows of all batches, one after another."""
    batches = [empty_rows(), *batches]
    offsets = np.cumsum([0] + [len(batch.indices) for batch in batches])
    return SparseRows(
        np.concatenate([[0]] + [b.indptr[1:] + offset for b, offset in zip(batches, offsets, strict=False)]).astype(
            np.int64
        ),
        np.concatenate([batch.indices for batch in batches]).astype(np.int32),
        np.concatenate([batch.data for batch in batches]).astype(np.float32),
    )


def is_csr(vectors: Any) -> bool:
    """True for a tuple (indptr, indices, data) and for whatever has arrays of these names."""
    is_triple = isinstance(vectors, tuple) and len(vectors) == 3 and not hasattr(vectors[0], "indptr")
    return is_triple or hasattr(vectors, "indptr")


def as_sparse_rows(vectors: Any) -> SparseRows:
    """SparseRows of a tuple (indptr, indices, data) or of whatever has arrays of these names, as scipy's CSR matrices do."""
    if isinstance(vectors, tuple):
        return SparseRows(*vectors)
    return SparseRows(vectors.indptr, vectors.indices, vectors.data)


def checked_rows(rows: SparseRows, num_terms: int) -> SparseRows:
    """`rows` in the dtypes of SparseRows.

    Raises InvalidVectorsError for lengths that disagree, more documents than int32 can number, a term outside
    0..num_terms-1, terms that do not ascend within a row, and weights that are NaN, infinite or negative.
    """
    indptr, indices, data = checked_shape(rows)
    check_range(indices, num_terms)
    check_weights(indices, data)
    is_row_start = np.zeros(len(indices) + 1, bool)
    is_row_start[indptr] = True
    falls = np.flatnonzero((indices[1:] <= indices[:-1]) & ~is_row_start[1:-1])
    if len(falls):
        row = int(np.searchsorted(indptr, falls[0], side="right")) - 1
        raise InvalidVectorsError(
            f"row {row} has term {indices[falls[0] + 1]} after term {indices[falls[0]]}; the terms of a row must "
            "ascend, each once."
        )
    return SparseRows(
        np.ascontiguousarray(indptr, np.int64),
        np.ascontiguousarray(indices, np.int32),
        np.ascontiguousarray(data, np.float32),
    )


def checked_shape(rows: SparseRows) -> SparseRows:
    """`rows` as arrays that fit each other; their terms and weights may be anything. Raises InvalidVectorsError."""
    indptr, indices, data = map(as_array, ("indptr", "terms", "weights"), rows)
    check_whole("indptr", indptr)
    check_whole("terms", indices)
    check_numbers(data)
    if len(indptr) == 0 or indptr[0] != 0 or indptr[-1] != len(indices) or np.any(indptr[1:] < indptr[:-1]):
        raise InvalidVectorsError(
            f"indptr does not cut {len(indices)} entries into rows; it must start at 0, never fall, and end at "
            f"{len(indices)}."
        )
    if data.shape != indices.shape:
        raise InvalidVectorsError(
            f"there are {len(indices)} terms but weights of shape {data.shape}; each term needs one weight."
        )
    if len(indptr) - 1 > MAX_DOCUMENTS:
        raise InvalidVectorsError(f"{len(indptr) - 1} documents are more than one index holds, {MAX_DOCUMENTS}.")
    return SparseRows(indptr, indices, data)


def checked_query(query: SparseQuery, num_terms: int) -> SparseQuery:
    """`query` with its terms ascending, weights of 0 left out, in the dtypes of SparseQuery."""
    terms, weights = as_array("terms", query.terms), as_array("weights", query.weights)
    check_whole("terms", terms)
    if terms.shape != weights.shape:
        raise InvalidVectorsError(
            f"a query has terms of shape {terms.shape} and weights of shape {weights.shape}; it needs one weight a term."
        )
    check_numbers(weights)
    check_range(terms, num_terms)
    check_weights(terms, weights)
    weights = weights.astype(np.float32)  # before zeros are left out: the smallest of other types become zeros here
    kept = np.flatnonzero(weights)
    kept = kept[np.argsort(terms[kept], kind="stable")]
    terms = terms[kept].astype(np.int32)
    repeated = np.flatnonzero(terms[1:] == terms[:-1])
    if len(repeated):
        raise InvalidVectorsError(f"a query names term {terms[repeated[0]]} twice; add its weights up first.")
    return SparseQuery(terms, weights[kept])


def as_array(name: str, values: Any) -> np.ndarray:
    """`values` as an array. Raises InvalidVectorsError for lists that are none, as their rows differ in length."""
    try:
        return np.asarray(values)
    except ValueError as error:
        raise InvalidVectorsError(f"{name} are no array ({error!s:.80}); they must be one row of numbers.") from error


def check_whole(name: str, numbers: np.ndarray) -> None:
    """Raise InvalidVectorsError unless `numbers` is one-dimensional and of an integer type."""
    # time spans (kind m) count as integers to numpy's issubdtype; an empty list has dtype float64
    is_whole = numbers.dtype.kind in "iu" or (numbers.dtype.kind == "f" and numbers.size == 0)
    if numbers.ndim != 1 or not is_whole:
        raise InvalidVectorsError(
            f"{name} have dtype {numbers.dtype!s:.60} and shape {numbers.shape}; they must be one row of whole numbers."
        )


def check_numbers(weights: np.ndarray) -> None:
    """Raise InvalidVectorsError for weights of a type that is not numbers."""
    if weights.dtype.kind not in "fiub":
        raise InvalidVectorsError(f"weights have dtype {weights.dtype!s:.60}; they must be numbers, such as float32.")


def check_range(terms: np.ndarray, num_terms: int) -> None:
    """Raise InvalidVectorsError for a term outside 0..num_terms-1."""
    outside = np.flatnonzero((terms < 0) | (terms >= num_terms))
    if len(outside):
        raise InvalidVectorsError(
            f"term {terms[outside[0]]} is outside the vocabulary of {num_terms} terms, numbered from 0; build with more "
            "(num_terms), or search with the encoder that the index was built with."
        )


def check_weights(terms: np.ndarray, weights: np.ndarray) -> None:
    """Raise InvalidVectorsError for a weight that is negative or no finite float32 number."""
    with np.errstate(over="ignore"):
        bad = np.flatnonzero(~np.isfinite(weights.astype(np.float32)) | (weights < 0))
    if len(bad):
        raise InvalidVectorsError(
            f"weight {weights[bad[0]]} of term {terms[bad[0]]} cannot be scored; weights must be finite float32 numbers, "
            "0 or greater."
        )


def checked_weights(weights: Any, where: str, error: type[WinnowError] = InvalidVectorsError) -> dict[str, float]:
    """A vector by its terms, its weights float32 numbers; a weight of 0, or too small for float32, is left out.

    Raises `error`, beginning with `where`, for what is no mapping of Unicode strings to finite numbers of 0 or greater.
    """
    if not isinstance(weights, Mapping):
        raise error(
            f"{where} has {type(weights).__name__} {weights!r:.60} as its vector; it must map terms to weights."
        )
    for term, weight in weights.items():
        if not isinstance(term, str):
            raise error(f"{where} has the term {term!r:.60} in its vector; a term must be a string.")
        is_number = isinstance(weight, int | float | np.integer | np.floating) and not isinstance(weight, bool)
        if not is_number or not 0 <= weight <= LARGEST_WEIGHT:
            raise error(
                f"{where} has the weight {weight!r:.60} of the term {term!r:.60}; a weight must be a finite float32 number, "
                "0 or greater."
            )
    try:
        "".join(weights).encode()
    except UnicodeEncodeError as unicode_error:
        raise error(
            f"{where} has a term that is not valid Unicode ({unicode_error.reason}); repair its source."
        ) from unicode_error
    rounded = np.fromiter(weights.values(), np.float32, len(weights)).tolist()
    return {term: weight for term, weight in zip(weights, rounded, strict=True) if weight > 0}


def check_counts(terms: np.ndarray, counts: np.ndarray) -> None:
    """Raise InvalidVectorsError for a term count that is not whole or too large."""
    bad = np.flatnonzero((counts != np.floor(counts)) | (counts > LARGEST_COUNT))
    if len(bad):
        raise InvalidVectorsError(
            f'count {counts[bad[0]]} of term {terms[bad[0]]} cannot be stored; with impacts="counts" weights must be whole '
            f"numbers from 0 to {LARGEST_COUNT:.0f}."
        )


def checked_count(name: str, count: int) -> int:
    """`count` as an int; InvalidVectorsError unless it is a whole number of at least 1."""
    if not isinstance(count, int | np.integer) or isinstance(count, bool) or count < 1:
        raise InvalidVectorsError(f"{name} is {count!r}; it must be a whole number of at least 1.")
    return int(count)
