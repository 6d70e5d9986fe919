"""What a format says of itself, so that the same code checks, writes and measures it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from retrieval.exports.collection import Batch, WeightedTerms


class Sizes(NamedTuple):
    """What the first pass over a collection finds."""

    documents: int
    weights: int
    largest: float  # weight
    smallest: float
    most_terms: int  # of one document
    largest_sum: float  # of the weights of one document


@dataclass(slots=True)
class Loss:
    """What an engine's way to keep weights changes, counted while they are written."""

    weights: int = 0  # that are kept
    left_out: int = 0  # that would be kept as 0
    empty: int = 0  # documents without a weight
    largest_error: float = 0.0  # of a weight that is kept, relative to it

    def add(self, batch: Batch, held: np.ndarray) -> None:
        """held  float64 [weights of the batch]: what the engine has of each"""
        given, kept = batch.rows.data.astype(np.float64), held > 0
        self.weights += int(np.count_nonzero(kept))
        self.left_out += int(np.count_nonzero(~kept))
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])
        self.empty += int(np.count_nonzero(np.diff(before[batch.rows.indptr]) == 0))
        errors = np.abs(held[kept] - given[kept]) / given[kept]
        self.largest_error = max(self.largest_error, float(errors.max(initial=0.0)))


class Format(Protocol):
    """One engine's files. Whoever implements it inherits what most engines have in common: weights as float32."""

    name: str  # as `winnow export --to` has it

    def check_ids(self, doc_ids: Sequence[str]) -> None:
        """Raise WinnowError for an id that the engine cannot take."""

    def check_terms(self, terms: Iterable[str]) -> None:
        """The same of a term that some document has, or a query."""

    def check_sizes(self, sizes: Sizes, num_terms: int) -> None:
        """The same of the whole, of which a collection names so many terms."""

    def fitted(self, sizes: Sizes) -> Format:
        """The format with what it must know of the collection before it writes."""
        return self

    def written(self, weights: np.ndarray) -> np.ndarray:
        """What is written for weights, float32 above 0, in their order; 0 where nothing is."""
        return weights

    def held(self, written: np.ndarray) -> np.ndarray:
        """float64: what the engine scores by, as a weight of ours; 0 where it keeps none."""
        return written.astype(np.float64)

    def query_held(self, weights: np.ndarray) -> np.ndarray:
        """float64: the same of a query's weights."""
        return weights.astype(np.float64)

    def write(self, batches: Iterator[Batch], terms: Sequence[str], sizes: Sizes, folder: Path) -> None:
        """Write all files into a folder that is there; `batches` hold weights as `written` gives them."""
        ...

    def query_request(self, query: WeightedTerms, terms: Sequence[str], k: int) -> str:
        """What to send the engine, or say to it, for the k best documents. Raises WinnowError for weights that it refuses."""
        ...
