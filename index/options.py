"""Choices fixed when an index is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from index.errors import InvalidVectorsError

LEVELS = {"u8": 255, "u16": 65_535}
DTYPES = {"u8": "uint8", "u16": "uint16", "f32": "float32"}
MOST_TERMS = 2**31 - 1
SECOND_TIER_WORTH_IT = 2_000_000  # documents; below, the first tier is about as fast


@dataclass(frozen=True, slots=True)
class InvertedIndexOptions:
    """Choices fixed when the index is built and stored with it.

    `impacts` is how a weight is stored: `u8` and `u16` in 255 or 65,535 steps up to the largest weight of its term,
    `f32` as it is. `second_tier` says whether clusters of similar documents are kept as well, a sixth more bytes, which make
    `Recall(...)` faster in large collections; None: where there are 2,000,000 documents or more.
    """

    num_terms: int
    impacts: Literal["u8", "u16", "f32"] = "u8"
    second_tier: bool | None = None

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

    def wants_second_tier(self, num_docs: int) -> bool:
        """Whether so many documents get clusters."""
        return num_docs >= SECOND_TIER_WORTH_IT if self.second_tier is None else self.second_tier
