"""Wall-clock time of single queries, one after another on one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

WARM_UP_QUERIES = 20


class Latency(NamedTuple):
    """Milliseconds a query."""

    mean: float
    p50: float
    p99: float


def measure_latency(search: Callable[[str], object], queries: Sequence[str]) -> Latency:
    """Each query once, after a warm-up on the first few."""
    for query in queries[:WARM_UP_QUERIES]:
        search(query)
    times_ms = []
    for query in queries:
        started = time.perf_counter()
        search(query)
        times_ms.append((time.perf_counter() - started) * 1e3)
    return Latency(float(np.mean(times_ms)), *np.percentile(times_ms, [50, 99]).tolist())
