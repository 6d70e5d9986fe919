"""Choices fixed when an index is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from index.effort import is_number
from index.errors import InvalidVectorsError

WeightImpacts = Literal["u8", "u16", "f32"]  # how weights are stored
Impacts = WeightImpacts | Literal["counts"]
LEVELS = {"u8": 255, "u16": 65_535}
DTYPES = {"u8": ("uint8",), "u16": ("uint16",), "f32": ("float32",), "counts": ("uint8", "uint16", "float32")}
LARGEST_K1 = 1e6  # keeps every impact of a count far above the smallest float32 numbers
MOST_TERMS = 2**31 - 1
SECOND_TIER_WORTH_IT = 2_000_000  # documents; below, the first tier is about as fast


@dataclass(frozen=True, slots=True)
class InvertedIndexOptions:
    """Choices fixed when the index is built and stored with it.

    `impacts` is how a weight is stored: `u8` and `u16` in 255 or 65,535 steps up to the largest weight of its document,
    `f32` as it is. With `counts`, weights are term counts, stored as they are, and an impact is the part of BM25 that a count
    and its document's length make: count / (count + k1 * (1 - b + b * length / mean length)). `second_tier` says whether
    clusters of similar documents are kept as well, a sixth more bytes, which make `Recall(...)` faster in large collections;
    None: where there are 2,000,000 documents or more.
    """

    num_terms: int
    impacts: Impacts = "u8"
    second_tier: bool | None = None
    k1: float = 0.9  # with counts only, like b
    b: float = 0.4

    def __post_init__(self) -> None:
        is_whole = isinstance(self.num_terms, int | np.integer) and not isinstance(self.num_terms, bool)
        if not is_whole or not 0 <= self.num_terms <= MOST_TERMS:
            raise InvalidVectorsError(
                f"num_terms is {self.num_terms!r}; it must be a whole number from 0 to {MOST_TERMS}."
            )
        object.__setattr__(self, "num_terms", int(self.num_terms))
        if not isinstance(self.impacts, str) or self.impacts not in DTYPES:
            raise InvalidVectorsError(f"impacts is {self.impacts!r}; it must be one of {', '.join(DTYPES)}.")
        if self.second_tier is not None and not isinstance(self.second_tier, bool):
            raise InvalidVectorsError(f"second_tier is {self.second_tier!r}; it must be True, False or None.")
        for name, most in (("k1", LARGEST_K1), ("b", 1.0)):
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value <= most:
                raise InvalidVectorsError(f"{name} is {value!r}; it must be a number from 0 to {most:,.0f}.")
            object.__setattr__(self, name, float(value))

    def saturation(self, mean_length: float) -> np.ndarray:
        """float32 [2], what makes an impact of a count where documents have this mean length (kernels/cpu/forward_rows.py); or
        [0] where levels are no counts."""
        if self.impacts != "counts":
            return np.empty(0, np.float32)
        slope = self.k1 * self.b / mean_length if mean_length > 0 else 0.0
        return np.array([self.k1 * (1 - self.b), slope], np.float32)

    def growth(self, built: float, now: float) -> float:
        """How many times as large any impact may be with the mean length `now` as with the one it was `built` with.

        With half(mean) = k1 * (1 - b) + k1 * b * length / mean, an impact grows by (count + half(built)) / (count + half(now)):
        by at most 1 where now <= built. Otherwise half(built) >= half(now), so by at most half(built) / half(now), and
        half(built) * built <= half(now) * now, as both have the same second term and the first grows with the mean: so by
        at most now / built. Each of the 6 roundings that lead to an impact moves it by at most 2**-24 of it (a denormal half
        is lost beside the count, 1 or more), so all of both impacts by less than 2**-20: the margin is eight times that.
        """
        if built == 0 or np.array_equal(self.saturation(built), self.saturation(now)):
            return 1.0  # built of no document that has a term, or nothing moved
        return max(1.0, now / built) * (1 + 2.0**-17)

    def wants_second_tier(self, num_docs: int) -> bool:
        """Whether so many documents get clusters."""
        return num_docs >= SECOND_TIER_WORTH_IT if self.second_tier is None else self.second_tier
