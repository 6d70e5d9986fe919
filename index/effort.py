"""How hard a search tries: exactly, up to a recall, or within a budget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from index.errors import InvalidVectorsError


@dataclass(frozen=True, slots=True)
class Exact:
    """The best documents by score, the same as if every document were scored."""


@dataclass(frozen=True, slots=True)
class Recall:
    """About this share of the exact top k, as calibrated for the index with k = 10; settings grow with k.

    Exact for 1.0, for k above 100, where no setting was found to reach the target (as in every index that was not calibrated),
    and for a query that would get fewer than k hits.
    """

    target: float

    def __post_init__(self) -> None:
        if not is_number(self.target) or not 0 < self.target <= 1:
            raise InvalidVectorsError(f"recall target is {self.target!r}; it must lie above 0 and be at most 1.")


@dataclass(frozen=True, slots=True)
class Budget:
    """The best that reading so many postings finds, heaviest first; at least one tier of one list is read.

    microseconds  instead: as many postings as this machine was measured to read in that time
    candidates    documents then scored exactly
    """

    postings: int | None = None
    microseconds: float | None = None
    candidates: int = 50

    def __post_init__(self) -> None:
        given = [value for value in (self.postings, self.microseconds) if value is not None]
        whole = [value for value in (self.postings, self.candidates) if value is not None]
        if (
            len(given) != 1
            or not all(is_number(value) and value > 0 for value in given)
            or not all(is_number(value) and value >= 1 and value == value // 1 < 2**62 for value in whole)
        ):
            raise InvalidVectorsError(
                f"budget is postings={self.postings!r}, microseconds={self.microseconds!r}, "
                f"candidates={self.candidates!r}; give one of the first two, and all above 0."
            )


def is_number(value: object) -> bool:
    """True for a number of Python or numpy, nan and truth values left out."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool) and value == value


Effort = Exact | Recall | Budget
EXACT = Exact()
