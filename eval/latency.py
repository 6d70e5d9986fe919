"""Wall-clock time of single queries, one after another on one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

WARM_UP_QUERIES = 20
Answer = TypeVar("Answer")


class Latency(NamedTuple):
    """Milliseconds a query."""

    mean: float
    p50: float
    p99: float


def measure_latency(search: Callable[[str], object], queries: Sequence[str]) -> Latency:
    """Each query once, after a warm-up on the first few."""
    return timed(search, queries)[0]


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
    times_ms, answers = [], []
    for query in counted(queries):
        started = time.perf_counter()
        answers.append(search(query))
        times_ms.append((time.perf_counter() - started) * 1e3)
    return Latency(float(np.mean(times_ms)), *np.percentile(times_ms, [50, 99]).tolist()), answers
