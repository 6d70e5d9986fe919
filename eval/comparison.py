"""Is a fusion better than each of its arms, or is it chance? Paired over queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from eval.measures import Run, measure_queries
from eval.systems import Outcome
from retrieval.significance import PairedGain, paired_gain

CONFIDENCE = 0.95


class Comparison(NamedTuple):
    """A system beside another one, on the same queries."""

    system: str
    other: str
    gain: PairedGain
    p_holm: float  # the p value after Holm's correction for all comparisons of the report
    queries: tuple[int, int, int]  # on which it is better, equal, worse


def compare_with_parts(
    qrels: Mapping[str, Mapping[str, int]], outcomes: Sequence[Outcome], measure: str
) -> list[Comparison]:
    """Every system beside each of its parts that is among the outcomes, arms or a first stage, by the paired t-test."""
    by_query = {outcome.system: np.array(list(in_order(qrels, outcome.run, measure))) for outcome in outcomes}
    pairs = [(one.system, part) for one in outcomes for part in one.parts if part in by_query]
    gains = [paired_gain(by_query[system] - by_query[part], CONFIDENCE) for system, part in pairs]
    adjusted = holm([gain.p_value for gain in gains])
    return [
        Comparison(system, part, gain, p, better_equal_worse(by_query[system] - by_query[part]))
        for (system, part), gain, p in zip(pairs, gains, adjusted, strict=True)
    ]


def in_order(qrels: Mapping[str, Mapping[str, int]], run: Run, measure: str) -> list[float]:
    values = measure_queries(qrels, run, measure)
    return [values[query] for query in qrels]


def better_equal_worse(differences: np.ndarray) -> tuple[int, int, int]:
    better, worse = int(np.count_nonzero(differences > 0)), int(np.count_nonzero(differences < 0))
    return better, len(differences) - better - worse, worse


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (Scandinavian Journal of Statistics, 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, p_values[i] * (len(p_values) - rank)))
        adjusted[i] = largest
    return adjusted
