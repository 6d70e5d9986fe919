"""Impacts of formats that hold whole numbers: round(weight * scale), half to even; 0 is left out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from index.errors import WinnowError
from retrieval.anserini_files import SCALE, check_scale
from retrieval.exports.protocol import Format, Sizes

LARGEST_IMPACT = 2**31 - 1


@dataclass(frozen=True, slots=True)
class WholeNumbers(Format):
    """Weights of documents and queries in steps of 1 / scale."""

    scale: float = SCALE

    def __post_init__(self) -> None:
        check_scale(self.scale)

    def check_sizes(self, sizes: Sizes, num_terms: int) -> None:
        check_range(self.name, sizes, self.scale)

    def written(self, weights: np.ndarray) -> np.ndarray:
        return in_steps(weights, self.scale)

    def held(self, written: np.ndarray) -> np.ndarray:
        return written / self.scale

    def query_held(self, weights: np.ndarray) -> np.ndarray:
        return in_steps(weights, self.scale) / self.scale


def in_steps(weights: np.ndarray, scale: float) -> np.ndarray:
    """int64"""
    return np.rint(weights.astype(np.float64) * scale).astype(np.int64)


def check_range(name: str, sizes: Sizes, scale: float) -> None:
    """Raise WinnowError for impacts beyond 32 bits, and for documents whose impacts together are."""
    if sizes.largest * scale > LARGEST_IMPACT:
        raise WinnowError(
            f"the largest weight is {sizes.largest:.6g}, {sizes.largest * scale:.6g} times the scale, and {name} takes 32 bits; give a smaller scale "
            f"than {scale}."
        )
    if sizes.largest_sum * scale + sizes.most_terms > LARGEST_IMPACT:
        raise WinnowError(
            f"the impacts of a document add up to {sizes.largest_sum * scale:.6g}, and {name} keeps such a length in 32 bits; give a smaller scale "
            f"than {scale}."
        )
