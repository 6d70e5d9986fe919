"""How the scores of one arm become comparable with those of another.

Every normalisation but "none" maps an arm's list to values of at least 0, the order kept, so that a document that the arm did
not return counts 0 and is never better off than the lowest that it did. The definitions are Anserini's for min-max, Bruch,
Gai and Ingber's for the theoretical minimum ("An Analysis of Fusion Functions for Hybrid Retrieval", TOIS 2023), and
Qdrant's distribution-based score fusion.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from index.errors import WinnowError

Normalisation = Literal["min-max", "z-score", "theoretical-min", "distribution", "none"]
SIGMAS = 3  # each side of the mean, of "distribution"


class Normalised(NamedTuple):
    """One arm's scores, comparable with those of others."""

    scores: np.ndarray  # float64 [hits], best first
    missing: float  # what a document that is not among the hits counts as


def normalised(scores: np.ndarray, how: Normalisation, theoretical_minimum: float | None) -> Normalised:
    """`scores` (best first, finite) as `how` says; an empty list stays one.

    min-max          (s - min) / (max - min) over the list; 1 each where all are equal, one hit alone too
    z-score          (s - min) / standard deviation of the list: the z-score as it is above that of the lowest; 1 each where
                     all are equal
    theoretical-min  (s - m) / (max - m), m the least that the arm can score; 0 for what rounding puts below m
    distribution     (s - (mean - 3 sd)) / 6 sd, at least 0, with the sample's standard deviation; 1/2 each where all are equal. Above 1
                     it goes on: cut off there, as it is often told, the best of a long list would all be equal
    none             as they are; a document not returned counts 0, or the lowest score where that is below 0

    Raises WinnowError where the theoretical minimum is asked for and not known.
    """
    scores = scores.astype(np.float64)
    if how == "theoretical-min" and (theoretical_minimum is None or not np.isfinite(theoretical_minimum)):
        raise WinnowError(
            "normalisation='theoretical-min' needs the least score that an arm can give, and a dot product of any length has "
            "none; choose another normalisation."
        )
    if len(scores) == 0:
        return Normalised(scores, 0.0)
    highest, lowest = float(scores[0]), float(scores[-1])
    if how == "none":
        return Normalised(scores, min(0.0, lowest))
    if how == "theoretical-min":
        reach = highest - theoretical_minimum  # type: ignore[operator]  # checked above
        return Normalised(np.maximum(scores - theoretical_minimum, 0.0) / (reach if reach > 0 else 1.0), 0.0)
    if highest == lowest:
        return Normalised(np.full(len(scores), 0.5 if how == "distribution" else 1.0), 0.0)
    if how == "min-max":
        return Normalised((scores - lowest) / (highest - lowest), 0.0)
    mean = scores.mean()
    squares = float(np.square(scores - mean).sum())
    if how == "z-score":
        return Normalised((scores - lowest) / np.sqrt(squares / len(scores)), 0.0)
    deviation = np.sqrt(squares / (len(scores) - 1))
    low = mean - SIGMAS * deviation
    return Normalised(np.maximum(scores - low, 0.0) / (2 * SIGMAS * deviation), 0.0)
