"""Tests on paired differences that need scipy, and corrections for several of them.

The t-test and its interval are in `retrieval.significance`, as tuning needs them where scipy is not installed. Which test suits
retrieval measures: Smucker, Allan and Carterette (CIKM 2007); both are given, and seldom disagree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

PERMUTATIONS = 100_000
RESAMPLES = 10_000
NUMBERS_TOGETHER = 2_000_000  # of one batch: 16 MB
SEED = 0


def randomisation_test(differences: np.ndarray, seed: int = SEED) -> float:
    """The two-sided p value of Fisher's paired randomisation test (The Design of Experiments, 1935): how often the mean of the
    differences, each with a sign drawn anew, is at least as far from 0.

    Exact for up to 16 differences that are not 0, whose signs say nothing; else from 100,000 seeded draws, and never below 2 / 100,001.
    """
    from scipy.stats import permutation_test

    told = differences[differences != 0]
    if len(told) < 2:
        return 1.0  # either sign of one difference is as far from 0
    found = permutation_test(
        (told,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=PERMUTATIONS,
        batch=batch_of(told),
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def bootstrap_interval(differences: np.ndarray, confidence: float, seed: int = SEED) -> tuple[float, float]:
    """The percentile interval of the mean of 10,000 seeded resamples of the queries; of one query nothing is known: infinite."""
    if len(differences) < 2:
        return -math.inf, math.inf
    from scipy.stats import bootstrap

    found = bootstrap(
        (differences,),
        np.mean,
        confidence_level=confidence,
        n_resamples=RESAMPLES,
        batch=batch_of(differences),
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def batch_of(differences: np.ndarray) -> int:
    """How many resamples are computed together."""
    return max(1, NUMBERS_TOGETHER // len(differences))


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


def bonferroni(p_values: Sequence[float]) -> list[float]:
    """Each times their number, at most 1."""
    return [min(1.0, p * len(p_values)) for p in p_values]


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Of the false discovery rate (Benjamini and Hochberg, Journal of the Royal Statistical Society B, 1995): of comparisons called
    different below x, the share that is not is at most x in expectation."""
    from scipy.stats import false_discovery_control

    return [float(p) for p in false_discovery_control(p_values)] if p_values else []


def uncorrected(p_values: Sequence[float]) -> list[float]:
    return list(p_values)


CORRECTIONS: dict[str, Callable[[Sequence[float]], list[float]]] = {
    "holm": holm,
    "bonferroni": bonferroni,
    "benjamini-hochberg": benjamini_hochberg,
    "none": uncorrected,
}
