"""Wall-clock time of single queries, one after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from retrieval import Retriever
from retrieval.fusion import Fusion
from retrieval.two_steps import TwoSteps

LATENCY_K = 10
WARM_UP_QUERIES = 20
TIMED_QUERIES = 1000  # of a larger set the first; their percentiles no longer move
Answer = TypeVar("Answer")


class Latency(NamedTuple):
    """Milliseconds a query."""

    mean: float
    p50: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        times_ms = np.asarray(seconds) * 1e3
        return cls(float(np.mean(times_ms)), *np.percentile(times_ms, [50, 99]).tolist())


class QueryTimes(NamedTuple):
    """Of `Retriever.search(query, k=10)`; None where that was not timed."""

    query_ms: Latency | None = None  # all of it: encoding, search, fusion, stored fields, and all of the reranking
    encode_ms: Latency | None = None  # the query as the arms search for it, one arm after another
    search_ms: Latency | None = None  # the search for an encoded query: arms, fusion, stored fields


def measure_latency(retriever: Retriever, queries: Sequence[str], fusion: Fusion | None = None) -> QueryTimes:
    """Each query once as a whole, without a reranker, and once in two steps, after a warm-up on the first few."""
    queries, steps = queries[:TIMED_QUERIES], TwoSteps(retriever, fusion)
    whole, _ = timed(lambda text: retriever.search(text, k=LATENCY_K, fusion=fusion, rerank=False), queries)
    encode_seconds, search_seconds = [], []
    for query in queries:
        started = time.perf_counter()
        encoded = steps.encode(query)
        between = time.perf_counter()
        steps.search(query, encoded, LATENCY_K)
        search_seconds.append(time.perf_counter() - between)
        encode_seconds.append(between - started)
    return QueryTimes(whole, Latency.of(encode_seconds), Latency.of(search_seconds))


def timed(
    search: Callable[[str], Answer],
    queries: Sequence[str],
    warm_up: int = WARM_UP_QUERIES,
    counted: Callable[[Sequence[str]], Iterable[str]] = iter,
) -> tuple[Latency, list[Answer]]:
    """The latency, and the answer to each query.

    counted  the queries again, counted on a progress bar, say, between the searches
    """
    for query in queries[:warm_up]:
        search(query)
    seconds, answers = [], []
    for query in counted(queries):
        started = time.perf_counter()
        answers.append(search(query))
        seconds.append(time.perf_counter() - started)
    return Latency.of(seconds), answers
