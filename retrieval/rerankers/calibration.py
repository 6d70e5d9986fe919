"""From a reranker's scores to probabilities that a document is relevant: Platt's scaling.

Platt, "Probabilistic outputs for support vector machines" (1999), with the fit of Lin, Lin and Weng (2007): p = 1 / (1 + exp(-(a s + b))),
a and b of the largest likelihood, where a relevant document counts as (n+ + 1) / (n+ + 2) and another as 1 / (n- + 2).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from index.errors import ModelError, WinnowError
from index.files import write_file
from retrieval.encoders.model_files import read_json

FILE = "calibration.json"
MOST_STEPS = 100
LARGEST = 1e300


@dataclass(frozen=True)
class PlattScaling:
    """Probability of relevance = 1 / (1 + exp(-(slope * score + intercept))).

    of  what tells the scores that it was fitted to from others; empty: nothing is known of them
    """

    slope: float
    intercept: float
    of: str = ""

    def __call__(self, score: float) -> float:
        """A probability, 0 to 1; of an infinite score 0 or 1."""
        logit = self.slope * score + self.intercept
        return 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0

    @classmethod
    def fit(cls, scores: Sequence[float], relevant: Sequence[bool], of: str = "") -> PlattScaling:
        """From judged documents. Raises WinnowError unless there are some of each kind, all with finite scores."""
        s, is_relevant = np.asarray(scores, np.float64), np.asarray(relevant, bool)
        if s.shape != is_relevant.shape or s.ndim != 1 or not np.isfinite(s).all():
            raise WinnowError(
                f"there are {s.shape} scores and {is_relevant.shape} judgments; give one finite score for each judgment."
            )
        num_relevant = int(is_relevant.sum())
        if num_relevant in (0, len(s)):
            raise WinnowError(
                f"{num_relevant} of {len(s)} judged documents are relevant; give some that are and some that are not."
            )
        target = np.where(is_relevant, (num_relevant + 1) / (num_relevant + 2), 1 / (len(s) - num_relevant + 2))
        middle, spread = s.mean(), s.std() or 1.0  # Newton's steps are taken on scores of mean 0 and deviation 1
        features = np.stack([(s - middle) / spread, np.ones(len(s))], 1)
        weights = np.array([0.0, math.log((num_relevant + 1) / (len(s) - num_relevant + 1))])
        for _ in range(MOST_STEPS):
            p = 1 / (1 + np.exp(-np.clip(features @ weights, -700, 700)))
            gradient = features.T @ (p - target)
            hessian = (features * (p * (1 - p))[:, None]).T @ features + 1e-12 * np.eye(2)
            step = shortened(features, target, weights, gradient, np.linalg.solve(hessian, gradient))
            weights = weights - step
            if np.abs(step).max() < 1e-10:
                break
        slope = weights[0] / spread
        return cls(float(slope), float(weights[1] - slope * middle), of)

    def save(self, folder: Path) -> None:
        """Write calibration.json there. Raises StorageError."""
        write_file(folder / FILE, (json.dumps(asdict(self)) + "\n").encode())

    @classmethod
    def open(cls, folder: Path) -> PlattScaling | None:
        """As saved there; None where there is none. Raises ModelError."""
        path = folder / FILE
        if not path.exists():
            return None
        found: dict[str, Any] = read_json(path)
        values = [found.get(name) for name in ("slope", "intercept")]
        is_known = found.keys() <= {"slope", "intercept", "of"} and isinstance(found.get("of", ""), str)
        if not is_known or not all(
            isinstance(value, int | float) and type(value) is not bool and abs(value) < LARGEST for value in values
        ):
            raise ModelError(f"{path} holds {found!r:.80}; it needs slope and intercept, so fit the calibration again.")
        return cls(**found)


def shortened(
    features: np.ndarray, target: np.ndarray, weights: np.ndarray, gradient: np.ndarray, step: np.ndarray
) -> np.ndarray:
    """As much of a step as makes the loss smaller."""
    before = loss(features, target, weights)
    while (
        loss(features, target, weights - step) > before - 1e-4 * float(gradient @ step) and np.abs(step).max() > 1e-10
    ):
        step = step / 2
    return step


def loss(features: np.ndarray, target: np.ndarray, weights: np.ndarray) -> float:
    logits = features @ weights
    return float((np.logaddexp(0, logits) - target * logits).sum())
