"""How hard a search tries: exactly, up to a recall, or within a budget."""

from __future__ import annotations

from dataclasses import dataclass

from index.errors import InvalidVectorsError


@dataclass(frozen=True, slots=True)
class Exact:
    """The best documents by score, the same as if every document were scored."""


@dataclass(frozen=True, slots=True)
class Recall:
    """About this share of the exact top k, as calibrated for the index; exact where no setting was found to reach it."""

    target: float

    def __post_init__(self) -> None:
        if not 0 < self.target <= 1:
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
        if len(given) != 1 or not given[0] > 0 or self.candidates < 1:
            raise InvalidVectorsError(
                f"budget is postings={self.postings!r}, microseconds={self.microseconds!r}, "
                f"candidates={self.candidates!r}; give one of the first two, and all above 0."
            )


Effort = Exact | Recall | Budget
EXACT = Exact()
