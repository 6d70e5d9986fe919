"""Queries of sparse terms: checked_query against a check in plain Python."""

import numpy as np
from fuzz.vectors import WEIGHTS, WHOLE, array_of, as_float32, check_entries, plain_numbers
from fuzz.watch import Draw, demand, outcome, watched

from index.vectors import SparseQuery, checked_query

SEEDS = [
    bytes([9]) + b"\0\3\0\3\5\2\4" + b"\0\5\0\3\1\0\2",
    bytes([9]) + b"\0\3\0\2\5\5" + b"\0\5\0\2\1\1",
    bytes([9]) + b"\0\0\x10\2" + bytes(8) + b"\0\0\x10\2" + bytes(8),
    bytes([9]) + b"\xff\3\0\1" + b"\0\0\0\0\0\0\0\x80" + b"\0\0\0\1\0\0\x80\x3f",
    bytes([9]) + b"\xff\5\x0c\0" + b"\0\0\x0c\0",
]


def plain_query(terms, weights, num_terms):
    """[(term, weight), ...] by term; ValueError where these are none."""
    terms, weights = plain_numbers(terms, "iu"), plain_numbers(weights, "fiub")
    check_entries(terms, weights, num_terms)
    entries = sorted((term, as_float32(weight)) for term, weight in zip(terms, weights, strict=True))
    entries = [(term, weight) for term, weight in entries if weight]
    if len({term for term, _ in entries}) < len(entries):
        raise ValueError("twice")
    return entries


def attack(data):
    draw = Draw(data)
    num_terms = 1 + draw.number(256)
    terms, weights = array_of(draw, WHOLE), array_of(draw, WEIGHTS)
    with watched(len(data)):
        query, error = outcome(checked_query, SparseQuery(terms, weights), num_terms)
    try:
        expected = plain_query(terms, weights, num_terms)
    except ValueError as reason:
        demand(error is not None, f"{terms}, {weights} is taken, but {reason}")
        return
    demand(error is None, f"{terms}, {weights} is refused: {error}")
    demand((query.terms.dtype, query.weights.dtype) == (np.int32, np.float32), f"dtypes of {query}")
    got = list(zip(query.terms.tolist(), query.weights.tolist(), strict=True))
    demand(got == expected, f"{terms}, {weights} became {got}, not {expected}")
