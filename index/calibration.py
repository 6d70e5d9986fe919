"""Which setting of the approximate search reaches a wanted recall: found on sample queries when an index is built.

Short and long queries need different settings and are calibrated apart. Cost is counted in postings, not in time, so the
same vectors give the same settings on every machine. A setting counts as reaching a recall if it was measured to, less the
standard error of the measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from index.settings import NO_LIMIT, AnySetting, ClusterSetting, Setting
from index.vectors import SparseQuery
from kernels.cpu.sparse import SparseRows

SHORT = 12  # terms, up to which a query is short
ROW_COST = 400  # postings that scoring one document takes as long as
WINDOW_COST, LIST_COST = 1_100.0, 40.0  # the same for going through a window, and through each list in it
FIRST_TIER = tuple(
    Setting(left_out, NO_LIMIT, candidates)
    for left_out in (0.03, 0.05, 0.08, 0.1, 0.12, 0.15, 0.18, 0.25, 0.35)
    for candidates in (30, 60, 100, 200)
)
SAMPLED = {6: 256, 24: 256}  # terms of a sampled query -> how many such queries
LOOK = 64  # queries, about, on which every setting is measured; those worth having then on all
WORTH_IT = 50_000  # documents; below, an exact search costs little


class Dial(NamedTuple):
    """One setting and what it was measured to give."""

    setting: AnySetting
    recall: float
    error: float  # of recall, its standard error
    cost: float  # postings read and the equivalent of all else


class Calibration(NamedTuple):
    """Settings worth having, cheapest first, each with more recall than those of its tier before; none: search exactly."""

    short: tuple[Dial, ...] = ()
    long: tuple[Dial, ...] = ()

    def setting(self, num_terms: int, target: float, second_tier: bool) -> AnySetting | None:
        """The cheapest setting measured to reach the target, perhaps of the second tier; None if there is none."""
        dials = (self.short or self.long) if num_terms <= SHORT else (self.long or self.short)
        for dial in dials:
            if dial.recall - dial.error >= target and (second_tier or isinstance(dial.setting, Setting)):
                return dial.setting
        return None

    def as_json(self) -> dict[str, Any]:
        return {
            name: [{**dial._asdict(), "setting": dial.setting._asdict()} for dial in dials]
            for name, dials in self._asdict().items()
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Calibration:
        def setting(fields: dict[str, Any]) -> AnySetting:
            return Setting(**fields) if "left_out" in fields else ClusterSetting(**fields)

        def dials(name: str) -> tuple[Dial, ...]:
            return tuple(Dial(**{**dial, "setting": setting(dial["setting"])}) for dial in stored[name])

        return cls(*map(dials, cls._fields))


NOT_CALIBRATED = Calibration()
Judged = tuple[SparseQuery, np.ndarray]  # a query and the documents it should find
Run = Callable[[list[SparseQuery], AnySetting], tuple[list[np.ndarray], float]]


def sample_queries(num_docs: int, row: Callable[[int], SparseQuery], seed: int = 0) -> list[SparseQuery]:
    """Queries made of documents: some of their terms, drawn by squared weight, with the document's weights.

    row  terms and weights of a document
    """
    rng = np.random.default_rng(seed)
    queries = []
    for num_terms, count in SAMPLED.items():
        for doc in rng.integers(0, num_docs, count):
            terms, weights = (np.asarray(array) for array in row(int(doc)))
            # of a damaged file any number may come
            weights = np.where((weights > 0) & (weights < np.inf), weights, 0).astype(np.float64)
            chance = weights**2 / max((weights**2).sum(), 1e-300)
            drawn = min(num_terms, int(np.count_nonzero(chance)))
            if drawn:
                chosen = np.sort(rng.choice(len(terms), drawn, replace=False, p=chance))
                queries.append(SparseQuery(terms[chosen].astype(np.int32), weights[chosen].astype(np.float32)))
    return queries


def calibrate(judged: Sequence[Judged], tiers: Sequence[Sequence[AnySetting]], run: Run) -> Calibration:
    """Measure the settings of each tier.

    run  (queries, setting) -> (documents found for each, mean cost)
    """
    short = [one for one in judged if len(one[0].terms) <= SHORT]
    long = [one for one in judged if len(one[0].terms) > SHORT]

    def worth_having(some: Sequence[Judged]) -> tuple[Dial, ...]:
        dials = [dial for settings in tiers for dial in frontier(some, settings, run)]
        return tuple(sorted(dials, key=lambda dial: dial.cost))

    return Calibration(worth_having(short), worth_having(long))


def frontier(judged: Sequence[Judged], settings: Sequence[AnySetting], run: Run) -> list[Dial]:
    """The settings that no cheaper one equals in recall: on a part of the queries first, then on all."""
    if not judged:
        return []
    some = judged[:: max(len(judged) // LOOK, 1)]
    hopeful = best_of([measure(some, setting, run) for setting in settings])
    return best_of([measure(judged, dial.setting, run) for dial in hopeful])


def measure(judged: Sequence[Judged], setting: AnySetting, run: Run) -> Dial:
    """Recall and cost of one setting."""
    answers, cost = run([query for query, _ in judged], setting)
    shares = [
        len({*found.tolist()} & {*wanted.tolist()}) / max(len(wanted), 1)
        for found, (_, wanted) in zip(answers, judged, strict=True)
    ]
    return Dial(setting, float(np.mean(shares)), float(np.std(shares) / len(shares) ** 0.5), cost)


def best_of(dials: Sequence[Dial]) -> list[Dial]:
    """Those that no cheaper one equals in recall, cheapest first."""
    best: list[Dial] = []
    for dial in sorted(dials, key=lambda dial: dial.cost):
        if not best or dial.recall > best[-1].recall:
            best.append(dial)
    return best


def row_of(rows: SparseRows, doc: int) -> SparseQuery:
    """Terms and weights of one row."""
    entries = slice(*rows.indptr[doc : doc + 2])
    return SparseQuery(rows.indices[entries], rows.data[entries])


def best_by(rows: SparseRows, query: SparseQuery, docs: np.ndarray, k: int, weights: np.ndarray) -> np.ndarray:
    """The k of `docs` that score best by the weights in `rows`; `weights`, float64 [terms], is all zero before and after."""
    weights[query.terms] = query.weights
    scores = np.array(
        [
            np.dot(weights[rows.indices[first:past_last]], rows.data[first:past_last])
            for first, past_last in zip(rows.indptr[docs], rows.indptr[docs + 1], strict=True)
        ]
    )
    weights[query.terms] = 0
    return docs[np.lexsort((docs, -scores))[:k]]
