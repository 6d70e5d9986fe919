"""Which setting of the approximate search reaches a wanted recall: found on sample queries when an index is built.

Short and long queries need different settings and are calibrated apart. Cost is counted in postings, not in time, so the
same vectors give the same settings on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from index.vectors import SparseQuery
from kernels.cpu.sparse import SparseRows

K = 10
SHORT = 12  # terms, up to which a query is short
LEFT_OUT = (0.01, 0.03, 0.05, 0.08, 0.12, 0.18, 0.25, 0.35, 0.5)
CANDIDATES = (30, 60, 100, 200)
ROW_COST = 400  # postings that scoring one document takes as long as
SAMPLED = {6: 128, 24: 128}  # terms of a sampled query -> how many such queries
WORTH_IT = 50_000  # documents; below, an exact search costs little


class Dial(NamedTuple):
    """One setting and what it was measured to give."""

    left_out: float
    candidates: int
    recall: float
    cost: float  # postings read and their equivalent in scored documents


class Calibration(NamedTuple):
    """Settings worth having, cheapest first, each with more recall than those before; none: always search exactly."""

    short: tuple[Dial, ...] = ()
    long: tuple[Dial, ...] = ()

    def dial(self, num_terms: int, target: float) -> Dial | None:
        """The cheapest setting measured to reach the target; None if there is none."""
        dials = (self.short or self.long) if num_terms <= SHORT else (self.long or self.short)
        return next((dial for dial in dials if dial.recall >= target), None)

    def as_json(self) -> dict[str, Any]:
        return {name: [list(dial) for dial in dials] for name, dials in self._asdict().items()}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Calibration:
        return cls(
            *(tuple(Dial(float(a), int(b), float(c), float(d)) for a, b, c, d in stored[name]) for name in cls._fields)
        )


Run = Callable[[list[SparseQuery], float, int], tuple[list[np.ndarray], float]]
NOT_CALIBRATED = Calibration()


def sample_queries(rows: SparseRows, seed: int = 0) -> list[SparseQuery]:
    """Queries made of documents: some of their terms, drawn by squared weight, with the document's weights."""
    rng = np.random.default_rng(seed)
    queries = []
    for num_terms, count in SAMPLED.items():
        for doc in rng.integers(0, len(rows.indptr) - 1, count):
            entries = slice(*rows.indptr[doc : doc + 2])
            terms, weights = np.asarray(rows.indices[entries]), np.asarray(rows.data[entries], np.float64)
            chance = weights**2 / max((weights**2).sum(), 1e-300)
            drawn = min(num_terms, int(np.count_nonzero(chance)))
            if drawn:
                chosen = np.sort(rng.choice(len(terms), drawn, replace=False, p=chance))
                queries.append(SparseQuery(terms[chosen].astype(np.int32), weights[chosen].astype(np.float32)))
    return queries


def calibrate(
    queries: Sequence[SparseQuery],
    truth: Sequence[np.ndarray],
    run: Run,
) -> Calibration:
    """Measure every setting on the queries.

    truth  the documents each query should find
    run    (queries, left_out, candidates) -> (documents found for each, mean cost)
    """
    return Calibration(
        *(
            frontier([(q, t) for q, t in zip(queries, truth, strict=True) if (len(q.terms) <= SHORT) == is_short], run)
            for is_short in (True, False)
        )
    )


def frontier(judged: list[tuple[SparseQuery, np.ndarray]], run: Run) -> tuple[Dial, ...]:
    """The settings that no cheaper one equals in recall."""
    queries = [query for query, _ in judged]
    dials: list[Dial] = []
    for left_out in LEFT_OUT if judged else ():
        for candidates in CANDIDATES:
            answers, cost = run(queries, left_out, candidates)
            shares = [
                len(np.intersect1d(found, wanted)) / max(len(wanted), 1)
                for found, (_, wanted) in zip(answers, judged, strict=True)
            ]
            dials.append(Dial(left_out, candidates, float(np.mean(shares)), cost))
    best: list[Dial] = []
    for dial in sorted(dials, key=lambda dial: dial.cost):
        if not best or dial.recall > best[-1].recall:
            best.append(dial)
    return tuple(best)
