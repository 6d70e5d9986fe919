"""How fast this machine searches an index: what a budget in microseconds is turned into postings by."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from index.calibration import ROW_COST
from index.settings import NO_LIMIT, Setting
from index.vectors import SparseQuery

SAMPLED = 8  # one in so many sampled queries is measured
FEW = 16  # candidates of the measured searches
SearchBatch = Callable[[list[SparseQuery], Setting], float]  # searches and returns what it cost


class Speed(NamedTuple):
    """Microseconds of a query that reads nothing and scores nothing, and of each posting, or its equivalent, more."""

    fixed_us: float
    posting_us: float

    def postings(self, microseconds: float, candidates: int) -> int:
        """How many a query may read, at least one."""
        affordable = min((microseconds - self.fixed_us) / self.posting_us, float(NO_LIMIT))
        return max(int(affordable) - ROW_COST * candidates, 1)


def measure_speed(search_batch: SearchBatch, sampled: list[SparseQuery]) -> Speed:
    """On some queries sampled from the documents of the index."""
    queries = sampled[::SAMPLED]
    queries = queries or [SparseQuery(np.zeros(1, np.int32), np.ones(1, np.float32))]  # no document has a term
    points = []
    for postings in (1, NO_LIMIT):
        setting = Setting(0.0, postings, FEW)
        search_batch(queries, setting)  # once to warm up
        started = time.perf_counter()
        cost = search_batch(queries, setting)
        points.append((cost / len(queries), (time.perf_counter() - started) * 1e6 / len(queries)))
    (few, fast), (many, slow) = points
    posting_us = max((slow - fast) / max(many - few, 1), 1e-4)
    return Speed(max(fast - few * posting_us, 0.0), posting_us)
