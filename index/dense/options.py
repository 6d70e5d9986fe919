"""What is fixed when a dense index is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from index.dense.factory import Factory
from index.dense.methods import within_budget
from index.effort import is_number
from index.errors import WinnowError

Similarity = Literal["cosine", "dot"]
MOST_DIMENSIONS = 65_536
MOST_BYTES = 4 * MOST_DIMENSIONS


@dataclass(frozen=True, slots=True)
class DenseIndexOptions:
    """How vectors are compared and found.

    dimension         of every vector
    similarity        cosine: of vectors as if they had length 1; dot: the dot product as it is
    factory           how FAISS finds candidates, in its own words: "Flat", "HNSW32", "IVF256,PQ64", "SQ8", "RaBitQ", ...
                      (None: what `bytes_per_vector` leads to, or else "Flat", an exact search)
    bytes_per_vector  instead: how much memory the search may take for each vector
    training_seconds  how long training may take (None: as long as it takes)
    """

    dimension: int
    similarity: Similarity = "cosine"
    factory: str | None = None
    bytes_per_vector: int | None = None
    training_seconds: float | None = None

    def __post_init__(self) -> None:
        if not is_whole(self.dimension, MOST_DIMENSIONS):
            raise WinnowError(
                f"dimension is {self.dimension!r:.60}; it must be a whole number from 1 to {MOST_DIMENSIONS:,}."
            )
        object.__setattr__(self, "dimension", int(self.dimension))
        if self.similarity not in get_args(Similarity):
            raise WinnowError(
                f"similarity is {self.similarity!r:.60}; it must be one of {', '.join(get_args(Similarity))}."
            )
        if self.factory is not None and self.bytes_per_vector is not None:
            raise WinnowError(
                f"factory={self.factory!r:.60} and bytes_per_vector={self.bytes_per_vector!r} both say how vectors are found; "
                "give one of them."
            )
        if self.factory is not None:
            Factory.parse(self.factory, self.dimension)
        if self.bytes_per_vector is not None:
            if not is_whole(self.bytes_per_vector, MOST_BYTES):
                raise WinnowError(
                    f"bytes_per_vector is {self.bytes_per_vector!r:.60}; it must be a whole number from 1 to {MOST_BYTES:,}."
                )
            object.__setattr__(self, "bytes_per_vector", int(self.bytes_per_vector))
            within_budget(self.bytes_per_vector, self.dimension)
        if self.training_seconds is not None:
            if not is_number(self.training_seconds) or not 0 < self.training_seconds < np.inf:
                raise WinnowError(
                    f"training_seconds is {self.training_seconds!r:.60}; it must be a number above 0, or None for no limit."
                )
            object.__setattr__(self, "training_seconds", float(self.training_seconds))


def is_whole(value: object, most: int) -> bool:
    """True for a whole number from 1 to `most`."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(1 <= value <= most)
