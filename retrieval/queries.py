"""Queries as they are given, in words or as weights by term, checked and numbered for each segment of an arm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from index.errors import WinnowError
from index.snapshot import Arm
from index.vectors import SparseQuery, checked_weights
from retrieval.encoders.protocol import SparseEncoder
from retrieval.encoders.weighted_terms import weighted_query

Query = str | Mapping[str, float]


def numbered(query: Query, encoder: SparseEncoder, arm: Arm) -> list[SparseQuery]:
    """The query as each segment numbers its terms: encoded if it is text, looked up if it maps terms to weights.

    Terms that the arm does not know are ignored. Raises WinnowError for any other query, and for weights that cannot be scored.
    """
    if isinstance(query, Mapping):
        weights = checked_weights(query, "the query")
        return weighted_query(weights, encoder.numbers(list(weights), arm))
    if not isinstance(query, str):
        raise WinnowError(
            f"the query is {type(query).__name__} {query!r:.60}; it must be a string, or a mapping of terms to weights."
        )
    return encoder.encode_query(checked_text("the query", query), arm)


def checked_text(name: str, text: Any) -> str:
    """`text`; WinnowError unless it is a string of valid Unicode."""
    if not isinstance(text, str):
        raise WinnowError(f"{name} is {type(text).__name__} {text!r:.60}; it must be a string.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise WinnowError(f"{name} {text!r:.60} is not valid Unicode ({error.reason}); repair it.") from error
    return text
