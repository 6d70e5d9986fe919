"""Sparse vectors (CSR) of any dtype, shape and value: checked_rows against a check in plain Python."""

from itertools import pairwise

import numpy as np
from fuzz.watch import Draw, demand, outcome, watched

from index.vectors import as_sparse_rows, checked_rows, is_csr

WHOLE = ["<i4", "<i8", "i1", "u1", "<u2", "<u8", ">i4", ">u8"]
WEIGHTS = ["<f4", "<f8", "<f2", ">f4", "g", "u1", "?", "<i8", "<u8"]
OTHERS = ["<f4", "?", "<c8", "<m8[s]", "<M8[D]", "<U2", "S3", "O", "V4", [("a", "<i4")]]
SHAPES = ["plain"] * 12 + ["empty", "scalar", "column", "strided", "list", "ragged", "words", "none"]
LARGEST = float(np.finfo(np.float32).max)
SEEDS = [
    # one byte each: num_terms; then of indptr, terms, weights: family, dtype, shape, length, values
    bytes([9]) + b"\0\0\0\2\0\0\0\0\1\0\0\0" + b"\0\0\0\1\5\0\0\0" + b"\0\0\0\1\0\0\x80\x3f",
    bytes([9]) + b"\0\3\0\3\0\1\2" + b"\0\2\0\2\1\2" + b"\0\5\0\2\1\xff",
    bytes([9]) + b"\0\3\0\2\0\1" + b"\xff\3\0\1" + b"\0\0\0\x80\0\0\0\0" + b"\0\0\0\1\0\0\x80\x7f",
    bytes([9]) + b"\0\3\0\1\0" + b"\xff\5\x0c\0" + b"\0\0\x0c\0",
    bytes([9]) + b"\0\3\x10\1\0" + b"\0\0\x11\2" + bytes(8) + b"\0\0\x11\2" + bytes(8),
]


def array_of(draw, usual):
    """An array, or a list that might be one."""
    kinds = OTHERS if draw.number(256) > 250 else usual
    dtype, shape, length = np.dtype(draw.choice(kinds)), draw.choice(SHAPES), draw.number(16)
    if shape in ("ragged", "words", "none"):
        return {"ragged": [[1], [2, 3]], "words": ["a", 1], "none": None}[shape]
    if dtype.kind == "O":
        array = np.array([None, "a", 1, 2**70, 1.5][: length % 6], object)
    elif dtype.kind == "U":  # not any four bytes are a character
        array = np.full(length, "1", dtype)
    else:
        array = np.frombuffer(draw.bytes(length * dtype.itemsize), dtype)
    if shape == "scalar":
        return array.reshape(-1)[0] if len(array) else 7
    if shape == "list":
        return array.tolist()
    return {"empty": array[:0], "column": array.reshape(-1, 1), "strided": array[::-2]}.get(shape, array)


def plain_numbers(values, kinds):
    """The numbers of a row, as Python has them; ValueError unless it is one, of these kinds of dtype or empty."""
    array = np.asarray(values)  # ValueError for ragged lists
    if array.ndim != 1 or array.dtype.kind not in (kinds if len(array) else kinds + "f"):
        raise ValueError("not a row of numbers")
    return array.tolist() if kinds == "iu" else list(array)  # Python's own numbers would be rounded twice to float32


def plain_rows(indptr, terms, weights, num_terms):
    """[[(term, weight), ...] for each row]; ValueError where these are none."""
    indptr, terms = plain_numbers(indptr, "iu"), plain_numbers(terms, "iu")
    weights = plain_numbers(weights, "fiub")
    if not indptr or indptr[0] != 0 or indptr[-1] != len(terms) or sorted(indptr) != indptr:
        raise ValueError("indptr")
    check_entries(terms, weights, num_terms)
    rows = [list(zip(terms[a:b], weights[a:b], strict=True)) for a, b in pairwise(indptr)]
    if any(after <= before for row in rows for (before, _), (after, _) in pairwise(row)):
        raise ValueError("order")
    return rows


def check_entries(terms, weights, num_terms):
    if len(terms) != len(weights) or any(not 0 <= term < num_terms for term in terms):
        raise ValueError("terms")
    if any(not 0 <= weight < np.inf or not np.isfinite(as_float32(weight)) for weight in weights):
        raise ValueError("weights")


def as_float32(weight):
    with np.errstate(over="ignore"):
        return float(np.float32(weight))


def attack(data):
    draw = Draw(data)
    num_terms = 1 + draw.number(256)
    vectors = array_of(draw, WHOLE), array_of(draw, WHOLE), array_of(draw, WEIGHTS)
    demand(is_csr(vectors), "three arrays are not taken for rows")
    with watched(len(data)):
        rows, error = outcome(lambda: checked_rows(as_sparse_rows(vectors), num_terms))
    try:
        expected = plain_rows(*vectors, num_terms)
    except ValueError as reason:
        demand(error is not None, f"{vectors} is taken, but {reason}")
        return
    demand(error is None, f"{vectors} is refused: {error}")
    demand([array.dtype.str for array in rows] == ["<i8", "<i4", "<f4"], f"dtypes of {rows}")
    demand(all(array.flags.c_contiguous for array in rows), f"not contiguous: {rows}")
    cuts = zip(rows.indptr[:-1], rows.indptr[1:], strict=True)
    got = [list(zip(rows.indices[a:b].tolist(), rows.data[a:b].tolist(), strict=True)) for a, b in cuts]
    demand(got == [[(term, as_float32(weight)) for term, weight in row] for row in expected], f"{vectors} became {got}")
