"""Which documents a search may find, and what they must score: checked once, counted once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from index.effort import is_number
from index.errors import InvalidVectorsError
from index.settings import NO_FLOOR
from index.storage import read_only

NO_FILTER = read_only(np.zeros(0, np.bool_))


class Filter(NamedTuple):
    """The documents that may be found."""

    mask: np.ndarray  # bool [documents], or empty: all may
    num_docs: int

    @classmethod
    def of(cls, name: str, mask: np.ndarray | None, num_docs: int) -> Filter:
        """A mask, or None for all documents. Raises InvalidVectorsError for one of another type or length."""
        if mask is None:
            return cls(NO_FILTER, num_docs)
        mask = np.asarray(mask)
        if mask.dtype != np.bool_ or mask.shape != (num_docs,):
            raise InvalidVectorsError(
                f"the {name} has dtype {mask.dtype} and shape {mask.shape}; it needs one bool for each of the "
                f"{num_docs} documents."
            )
        count = int(np.count_nonzero(mask))
        return cls(NO_FILTER if count == num_docs else read_only(np.ascontiguousarray(mask)), count)

    def but_only(self, allowed: np.ndarray | None, num_docs: int) -> Filter:
        """Those that are in `allowed` as well."""
        if allowed is None:
            return self
        asked = Filter.of("filter", allowed, num_docs)
        if len(self.mask) == 0:
            return asked
        return self if len(asked.mask) == 0 else Filter.of("filter", self.mask & asked.mask, num_docs)


def checked_floor(floor: float | np.floating[Any]) -> np.float32:
    """The smallest float32 that is not below `floor`. Raises InvalidVectorsError unless that is a number of at least 0."""
    if floor == 0:
        return NO_FLOOR
    if not is_number(floor) or floor < 0:
        raise InvalidVectorsError(f"floor is {floor!r}; it must be a number of at least 0.")
    if isinstance(floor, np.float32):
        return floor
    with np.errstate(over="ignore"):
        nearest = np.float32(floor)
    return np.nextafter(nearest, np.float32(np.inf)) if float(nearest) < floor else nearest


def checked_floors(floors: np.ndarray | None, num_queries: int) -> np.ndarray:
    """float32 [queries]; None: no query has one. Raises InvalidVectorsError for another length and what is no floor."""
    if floors is None:
        return np.zeros(num_queries, np.float32)
    floors = np.asarray(floors)
    if floors.shape != (num_queries,) or floors.dtype.kind not in "fiu" or not np.all(floors >= 0):
        raise InvalidVectorsError(
            f"floors are {floors!r:.60}; give one number of at least 0 for each of the {num_queries} queries."
        )
    return rounded_up(floors)


def rounded_up(numbers: np.ndarray) -> np.ndarray:
    """float32: the smallest numbers that are not below."""
    with np.errstate(over="ignore"):
        nearest = numbers.astype(np.float32)
    below = nearest.astype(np.float64) < numbers
    return np.where(below, np.nextafter(nearest, np.float32(np.inf)), nearest)
