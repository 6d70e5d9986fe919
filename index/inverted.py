"""Inverted index over sparse vectors: quantised impacts, exact top-k, documents known by their number.

A score is the float32 sum, in ascending term order, of query weight times stored impact; equal scores rank by
document number. Every search method must give exactly that (docs/format.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from index.errors import InvalidVectorsError
from index.storage import Verify, commit, open_array, read_current, read_only, save_array
from index.vectors import SparseQuery, checked_query, checked_rows
from kernels.cpu import windowed_taat
from kernels.cpu.postings import WINDOW, Postings, invert, largest_weights, quantise
from kernels.cpu.sparse import SparseRows

KIND = "inverted-index"
LEVELS = {"u8": 255, "u16": 65_535}
DTYPES = {"u8": "uint8", "u16": "uint16", "f32": "float32"}
SMALLEST_STEP = np.finfo(np.float32).tiny  # keeps the step of a denormal weight above 0


@dataclass(frozen=True, slots=True)
class InvertedIndexOptions:
    """Choices fixed when the index is built and stored with it.

    `impacts` is how a weight is stored: `u8` and `u16` in 255 or 65,535 steps up to the largest weight of its term,
    `f32` as it is.
    """

    num_terms: int
    impacts: Literal["u8", "u16", "f32"] = "u8"

    def __post_init__(self) -> None:
        if self.impacts not in DTYPES:
            raise InvalidVectorsError(f"impacts is {self.impacts!r}; it must be one of {', '.join(DTYPES)}.")


class InvertedIndex:
    """Exact top-k search by dot product.

    >>> from kernels.cpu.sparse import SparseRows
    >>> documents = SparseRows(np.array([0, 2, 3]), np.array([0, 2, 2]), np.array([5.0, 1.0, 9.0]))
    >>> index = InvertedIndex.build(documents, InvertedIndexOptions(num_terms=3, impacts="f32"))
    >>> scores, docs = index.search(np.array([0, 2]), np.array([1.0, 2.0]), k=2)
    >>> docs.tolist(), scores.tolist()
    ([1, 0], [18.0, 7.0])
    """

    def __init__(self, postings: Postings, num_docs: int, options: InvertedIndexOptions):
        self.postings = Postings(*map(read_only, postings))
        self.num_docs = num_docs
        self.options = options

    @classmethod
    def build(cls, vectors: SparseRows, options: InvertedIndexOptions) -> InvertedIndex:
        """Index one vector a document; a document is known by its row number. Raises InvalidVectorsError."""
        rows = checked_rows(vectors, options.num_terms)
        num_docs = len(rows.indptr) - 1
        steps, impacts = quantised_impacts(rows, options)
        num_postings = int(np.count_nonzero(impacts))
        docs = np.empty(num_postings, np.uint16)
        sorted_impacts = np.empty(num_postings, DTYPES[options.impacts])
        starts = invert(rows, impacts, options.num_terms, count_windows(num_docs), docs, sorted_impacts)
        return cls(Postings(starts, docs, sorted_impacts, steps), num_docs, options)

    def search(self, terms: np.ndarray, weights: np.ndarray, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """The best k documents: (scores float32, docs int32), best first.

        Fewer than k when fewer documents score above 0. Raises InvalidVectorsError for a query the index cannot take
        and for k below 1.
        """
        k = min(checked_count("k", k), self.num_docs)
        query = checked_query(SparseQuery(terms, weights), self.options.num_terms)
        if k == 0:
            return np.empty(0, np.float32), np.empty(0, np.int32)
        scores, docs = windowed_taat.search(self.postings, query.terms, query.weights, self.num_docs, k)
        best_first = np.lexsort((docs, -scores))[: np.count_nonzero(scores)]
        return scores[best_first], docs[best_first]

    def search_batch(
        self, queries: Sequence[SparseQuery], k: int = 10, threads: int = 1
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """`search` for each query in turn, on several threads; the results do not depend on how many."""
        k, threads = checked_count("k", k), checked_count("threads", threads)
        with ThreadPoolExecutor(threads) as pool:  # the kernel lets go of Python's lock
            return list(pool.map(lambda query: self.search(query.terms, query.weights, k), queries))

    def impacts(self, doc: int, terms: np.ndarray) -> np.ndarray:
        """float32 [len(terms)]: the stored impact of each term in one document, 0 where it has no posting."""
        window, local = divmod(doc, WINDOW)
        starts, docs, impacts, steps = self.postings
        found = np.zeros(len(terms), np.float32)
        for i, term in enumerate(np.asarray(terms, np.int64)):
            list_number = term * count_windows(self.num_docs) + window
            # as in the kernel, a damaged file must not lead outside the arrays
            first, past_last = np.clip(starts[list_number : list_number + 2], 0, len(docs))
            posting = first + np.searchsorted(docs[first:past_last], local)
            if posting < past_last and docs[posting] == local:
                found[i] = steps[term] * np.float32(impacts[posting])
        return found

    @property
    def num_postings(self) -> int:
        """Entries of all inverted lists together."""
        return len(self.postings.docs)

    @property
    def nbytes(self) -> int:
        """Bytes of all that search reads, in memory and on disk alike."""
        return sum(array.nbytes for array in self.postings)

    def save(self, folder: str | Path) -> None:
        """Write an index folder of its own, whole or not at all; an index there before is replaced."""
        with commit(folder, KIND) as generation:
            generation.contents = self.write(generation.path)

    @classmethod
    def open(cls, folder: str | Path, verify: Verify = "quick") -> InvertedIndex:
        """Map a saved index into memory; pages are read when a search touches them. Raises IndexFormatError."""
        return read_current(folder, KIND, lambda stored: cls.read(stored.path, stored.contents), verify)

    def write(self, path: Path) -> dict[str, Any]:
        """Write the arrays into `path`; returns the description that `read` needs."""
        for name, array in self.postings._asdict().items():
            save_array(path / f"postings.{name}.npy", array)
        return {"documents": self.num_docs, "postings": self.num_postings, "options": asdict(self.options)}

    @classmethod
    def read(cls, path: Path, description: dict[str, Any]) -> InvertedIndex:
        """Map what `write` wrote; IndexFormatError if an array is not of the type and length described."""
        options = InvertedIndexOptions(**description["options"])
        num_docs, num_postings = description["documents"], description["postings"]
        postings = Postings(
            open_array(path / "postings.starts.npy", "int64", options.num_terms * count_windows(num_docs) + 1),
            open_array(path / "postings.docs.npy", "uint16", num_postings),
            open_array(path / "postings.impacts.npy", DTYPES[options.impacts], num_postings),
            open_array(path / "postings.steps.npy", "float32", options.num_terms),
        )
        return cls(postings, num_docs, options)


def quantised_impacts(rows: SparseRows, options: InvertedIndexOptions) -> tuple[np.ndarray, np.ndarray]:
    """(steps float32 [terms], impacts in steps [entries]); an impact of 0 has no posting."""
    if options.impacts == "f32":
        return np.ones(options.num_terms, np.float32), rows.data
    levels = LEVELS[options.impacts]
    steps = np.maximum(largest_weights(rows, options.num_terms) / np.float32(levels), SMALLEST_STEP)
    return steps, quantise(rows, steps, levels)


def count_windows(num_docs: int) -> int:
    """Windows that hold this many documents, the last one perhaps in part."""
    return -(-num_docs // WINDOW)


def checked_count(name: str, count: int) -> int:
    """`count` as an int; InvalidVectorsError unless it is a whole number of at least 1."""
    if not isinstance(count, int | np.integer) or isinstance(count, bool) or count < 1:
        raise InvalidVectorsError(f"{name} is {count!r}; it must be a whole number of at least 1.")
    return int(count)
