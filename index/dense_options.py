"""What is fixed when a dense index is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from index.errors import WinnowError

Similarity = Literal["cosine", "dot"]
MOST_DIMENSIONS = 65_536


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
        if self.similarity not in get_args(Similarity):
            raise WinnowError(
                f"similarity is {self.similarity!r:.60}; it must be one of {', '.join(get_args(Similarity))}."
            )
        if self.factory is not None and self.bytes_per_vector is not None:
            raise WinnowError(
                f"factory={self.factory!r:.60} and bytes_per_vector={self.bytes_per_vector!r} both say how vectors are found; "
                "give one of them."
            )
