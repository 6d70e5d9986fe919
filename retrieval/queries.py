"""Queries as they are given, in words, as weights by term or as a vector, checked and as the segments of an arm take them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from index.arms import ArmStatistics
from index.errors import WinnowError
from index.vectors import SparseQuery, checked_weights
from retrieval.encoders.protocol import DenseEncoder, SparseEncoder
from retrieval.encoders.weighted_terms import weighted_query

NEXT_TURN = " [SEP] "

OneQuery = str | Mapping[str, float] | Sequence[float] | np.ndarray
Query = OneQuery | Mapping[str, OneQuery]


def conversation_text(turns: Sequence[str]) -> str:
    """A conversation as one query, as encoders of conversations are trained to read it: the newest turn first, so that what is cut off a
    long one is what was said long ago (DiSCo, Lupart et al., arXiv:2410.14609).

    turns  what was said, oldest first, the last by the one who asks; turns without words are left out

    Raises WinnowError where the last has none.

    >>> conversation_text(["When did the band part?", "In late 1969.", "Why?"])
    'Why? [SEP] In late 1969. [SEP] When did the band part?'
    """
    if isinstance(turns, str) or not isinstance(turns, Sequence):
        raise WinnowError(f"the turns are {type(turns).__name__} {turns!r:.60}; give a list of strings, oldest first.")
    said = [checked_text("a turn", turn).strip() for turn in turns]
    if not said or not said[-1]:
        raise WinnowError(f"the last of {len(said)} turns has no words; give what is asked now as the last one.")
    return NEXT_TURN.join(turn for turn in reversed(said) if turn)


def each_query(queries: Iterable[Query]) -> list[Query]:
    """A list of queries; WinnowError for what is a single one."""
    if isinstance(queries, str | Mapping) or not isinstance(queries, Iterable):
        raise WinnowError(
            f"queries is {type(queries).__name__} {queries!r:.60}; it must be a list of strings or of mappings."
        )
    return list(queries)


def by_arm(query: Query, arms: Sequence[str]) -> Mapping[str, Any]:
    """What each arm is asked: words are for all, anything else names the arm that it is for. Raises WinnowError."""
    if isinstance(query, str):
        return dict.fromkeys(arms, query)
    if isinstance(query, Mapping) and query.keys() >= set(arms) and any(is_a_query(value) for value in query.values()):
        return query
    if len(arms) == 1:
        return {arms[0]: query}
    raise WinnowError(
        f"the query is {type(query).__name__} {query!r:.60}; with the arms {', '.join(arms)} it must be a string, or a mapping "
        "that gives each of them a query of its own."
    )


def is_a_query(value: Any) -> bool:
    """Rather than the weight of a term."""
    return isinstance(value, str | Mapping | list | tuple | np.ndarray)


def numbered(query: Any, encoder: SparseEncoder, arm: ArmStatistics) -> list[SparseQuery]:
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


def vectors_of(queries: Sequence[Any], encoder: DenseEncoder, dimension: int) -> np.ndarray:
    """float32 [queries, dimension]: encoded if it is text, else the vector that it is. Zeros find nothing. Raises WinnowError."""
    vectors = np.zeros((len(queries), dimension), np.float32)
    texts = [i for i, query in enumerate(queries) if isinstance(query, str)]
    if len(texts) == 1:
        vectors[texts[0]] = encoder.encode_query(checked_text("the query", queries[texts[0]]))
    elif texts:
        vectors[texts] = encoder.encode_queries([checked_text("the query", queries[i]) for i in texts])
    for i in set(range(len(queries))) - set(texts):
        vectors[i] = checked_vector(queries[i], dimension)
    return vectors


def checked_vector(query: Any, dimension: int) -> np.ndarray:
    """float32 [dimension]; WinnowError for what is no vector of finite numbers."""
    try:
        if isinstance(query, Mapping):
            raise TypeError("a mapping")
        vector = np.asarray(query, np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise WinnowError(
            f"the query is {type(query).__name__} {query!r:.60}; it must be a string, or a vector of {dimension} numbers."
        ) from error
    if vector.shape != (dimension,) or not np.isfinite(vector).all():
        raise WinnowError(
            f"the query is a vector of shape {vector.shape} ({vector.ravel()[:3]} ...); it must be {dimension} finite numbers."
        )
    return vector


def checked_text(name: str, text: Any) -> str:
    """`text`; WinnowError unless it is a string of valid Unicode."""
    if not isinstance(text, str):
        raise WinnowError(f"{name} is {type(text).__name__} {text!r:.60}; it must be a string.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise WinnowError(f"{name} {text!r:.60} is not valid Unicode ({error.reason}); repair it.") from error
    return text
