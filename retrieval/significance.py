"""Is a mean difference between two systems more than chance? The paired t-test over queries, with its interval."""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np

ROUNDING = 1e-12  # measures that differ by less are equal
NODES = 200  # of the quadrature
FALLEN = 12  # cos(a)^n is below exp(-n a^2 / 2): at a = 12 / sqrt(n) below 1e-31


class PairedGain(NamedTuple):
    """A mean difference over queries."""

    mean: float
    low: float  # of the confidence interval
    high: float
    p_value: float  # two-sided; below 1 - confidence exactly where the interval leaves 0 out


def paired_gain(differences: np.ndarray, confidence: float) -> PairedGain:
    """The mean of `differences` (one a query), its t interval and p value.

    Of one query nothing is known: the interval is infinite. Differences that are all equal have an interval of no width.
    """
    differences = np.where(np.abs(differences) < ROUNDING, 0.0, differences)
    mean, count = float(differences.mean()), len(differences)
    if count < 2:
        return PairedGain(mean, -math.inf, math.inf, 1.0)
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    if error == 0:
        return PairedGain(mean, mean, mean, 1.0 if mean == 0 else 0.0)
    reach = critical(1 - confidence, count - 1) * error
    return PairedGain(mean, mean - reach, mean + reach, two_sided(mean / error, count - 1))


def two_sided(t: float, degrees: int) -> float:
    """The chance that Student's t with so many degrees of freedom lies at least as far from 0.

    With x = sqrt(degrees) tan(angle) the density becomes a power of a cosine, which Gauss and Legendre's nodes integrate from the angle
    of t on, over that part of the way to a right angle in which it falls to nothing.
    """
    angle = math.atan(abs(t) / math.sqrt(degrees))
    reach = min(math.pi / 2 - angle, FALLEN / math.sqrt(degrees))
    nodes, weights = quadrature()
    beyond = reach / 2 * float(weights @ np.cos(angle + reach / 2 * (nodes + 1)) ** (degrees - 1))
    scale = 2 * math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(math.pi)
    return min(scale * beyond, 1.0)


@cache
def quadrature() -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    return nodes, weights


def critical(chance: float, degrees: int) -> float:
    """The t that is exceeded, on either side, with this chance."""
    low, high = 0.0, 1.0
    while two_sided(high, degrees) > chance:
        low, high = high, high * 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided(middle, degrees) > chance else (low, middle)
    return high
