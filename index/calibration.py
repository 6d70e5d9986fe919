"""Which setting of the approximate search reaches a wanted recall: found on sample queries when an index is built.

Short and long queries need different settings and are calibrated apart. Cost is counted in postings, not in time, so the
same vectors give the same settings on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from index.vectors import SparseQuery
from kernels.cpu.sparse import SparseRows

K = 10
SHORT = 12  # terms, up to which a query is short
LEFT_OUT = (0.01, 0.03, 0.05, 0.08, 0.12, 0.18, 0.25, 0.35, 0.5)
CANDIDATES = (30, 60, 100, 200)
ROW_COST = 400  # postings that scoring one document takes as long as
WINDOW_COST = 2_000.0  # the same for going through a window of documents
GROUP_POSTING_COST, SKETCH_COST, GROUP_WINDOW_COST = 0.7, 40.0, 500.0  # the same for what the second tier reads
SHARES = (0.01, 0.02, 0.03, 0.04, 0.06, 0.1)  # postings of groups read, for each document of the collection
WIDTHS = (  # groups, rows, leaders, rows of their clusters
    (300, 100, 3, 60),
    (600, 100, 3, 60),
    (600, 150, 3, 60),
    (1_000, 150, 3, 60),
    (1_000, 150, 5, 100),
    (1_000, 400, 3, 100),
    (1_500, 400, 5, 200),
)
SAMPLED = {6: 128, 24: 128}  # terms of a sampled query -> how many such queries
WORTH_IT = 50_000  # documents; below, an exact search costs little


class Dial(NamedTuple):
    """One setting and what it was measured to give."""

    left_out: float
    candidates: int
    recall: float
    cost: float  # postings read and their equivalent in scored documents


class ClusterDial(NamedTuple):
    """One setting of the second tier, see kernels/cpu/cluster_search.py, and what it was measured to give."""

    postings: float  # for each document of the collection
    groups: int
    rows: int
    leaders: int
    expanded: int
    recall: float
    cost: float


AnyDial = Dial | ClusterDial
AnyDialType = TypeVar("AnyDialType", Dial, ClusterDial)


class Calibration(NamedTuple):
    """Settings worth having, cheapest first, each with more recall than those before; none: always search exactly."""

    short: tuple[Dial, ...] = ()
    long: tuple[Dial, ...] = ()
    short_clusters: tuple[ClusterDial, ...] = ()
    long_clusters: tuple[ClusterDial, ...] = ()

    def dial(self, num_terms: int, target: float, second_tier: bool = True) -> AnyDial | None:
        """The cheapest setting measured to reach the target, of either tier or of the first; None if there is none."""
        is_short = num_terms <= SHORT
        dials: tuple[AnyDial, ...] = (self.short or self.long) if is_short else (self.long or self.short)
        if second_tier:
            short, long = self.short_clusters, self.long_clusters
            dials += (short or long) if is_short else (long or short)
        return min((dial for dial in dials if dial.recall >= target), key=lambda dial: dial.cost, default=None)

    def as_json(self) -> dict[str, Any]:
        return {name: [list(dial) for dial in dials] for name, dials in self._asdict().items()}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Calibration:
        def first(name: str) -> tuple[Dial, ...]:
            return tuple(Dial(float(a), int(b), float(c), float(d)) for a, b, c, d in stored[name])

        def second(name: str) -> tuple[ClusterDial, ...]:
            return tuple(
                ClusterDial(float(p), int(g), int(r), int(b), int(e), float(c), float(d))
                for p, g, r, b, e, c, d in stored[name]
            )

        return cls(first("short"), first("long"), second("short_clusters"), second("long_clusters"))


Run = Callable[[list[SparseQuery], AnyDial], tuple[list[np.ndarray], float]]
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
    queries: Sequence[SparseQuery], truth: Sequence[np.ndarray], run: Run, second_tier: bool = False
) -> Calibration:
    """Measure every setting on the queries.

    truth        the documents each query should find
    run          (queries, setting) -> (documents found for each, mean cost)
    second_tier  measure its settings as well
    """
    judged = list(zip(queries, truth, strict=True))
    short, long = ([pair for pair in judged if (len(pair[0].terms) <= SHORT) == is_short] for is_short in (True, False))
    first = [Dial(left_out, candidates, 0.0, 0.0) for left_out in LEFT_OUT for candidates in CANDIDATES]
    second = [ClusterDial(share, *widths, 0.0, 0.0) for share in SHARES for widths in WIDTHS] if second_tier else []
    return Calibration(
        frontier(short, first, run),
        frontier(long, first, run),
        frontier(short, second, run),
        frontier(long, second, run),
    )


def frontier(
    judged: list[tuple[SparseQuery, np.ndarray]], settings: Sequence[AnyDialType], run: Run
) -> tuple[AnyDialType, ...]:
    """The settings that no cheaper one equals in recall."""
    queries = [query for query, _ in judged]
    dials: list[AnyDialType] = []
    for setting in settings if judged else ():
        answers, cost = run(queries, setting)
        shares = [
            len(np.intersect1d(found, wanted)) / max(len(wanted), 1)
            for found, (_, wanted) in zip(answers, judged, strict=True)
        ]
        dials.append(setting._replace(recall=float(np.mean(shares)), cost=cost))
    best: list[AnyDialType] = []
    for dial in sorted(dials, key=lambda dial: dial.cost):
        if not best or dial.recall > best[-1].recall:
            best.append(dial)
    return tuple(best)
