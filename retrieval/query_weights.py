"""How much to trust an arm's list for one query, told from its scores alone: no judgments, no other queries.

WIG, the weighted information gain of Zhou and Croft ("Query Performance Prediction in Web Search Environments", SIGIR 2007), with the
list in the place of the collection: how many standard deviations the first hit stands above the mean of the list. It
does not change with scale or origin of the scores, so arms of any kind can be weighed against each other.
"""

from __future__ import annotations

import numpy as np


def confidence(scores: np.ndarray) -> float:
    """(first - mean) / standard deviation of scores (best first), at least 0; 1 of one hit or equal ones; 0 of none."""
    if len(scores) == 0:
        return 0.0
    if scores[0] == scores[-1]:
        return 1.0
    exact = scores.astype(np.float64)
    return float((exact[0] - exact.mean()) / exact.std())
