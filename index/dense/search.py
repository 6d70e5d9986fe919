"""How a query is answered over dense vectors: candidates by FAISS, then exact scores, the best of them kept.

A score is the float32 dot product of query and stored vector as kernels/cpu/dense_scores.py defines it; equal scores rank by
document number. FAISS only says which documents are worth scoring.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np

from index.dense.codes import Codes, Wish, one_thread, packed
from index.dense.methods import FEW
from index.dense.options import DenseIndexOptions
from index.dense.vectors import as_floats, checked_queries, mask_without
from index.effort import is_number
from index.errors import IndexFormatError, InvalidVectorsError, interruptible
from index.filters import NO_FILTER, Filter
from index.impact_search import NOTHING, Answer
from index.storage import read_only
from index.vectors import checked_count
from kernels.cpu import dense_scores

CHUNK = 16  # queries that are answered before a thread comes back to Python
MOST_IN_CHUNK = (
    2_048  # of an exact search, where FAISS multiplies matrices once there are many (of 384 dimensions: from 334 on)
)
MOST_CANDIDATES = 1 << 21  # of all queries of such a chunk
MARGIN = 32  # candidates beyond k of an exact search
FEW_LEFT_OUT = 64  # documents that may not be found: as many more candidates cost less than a filter
ROUNDING = 2.0**-24  # of one operation, relative
LEAST_NORMAL = 2.0**-126  # below, rounding is absolute
MOST_RESCORED = 10_000  # times k


@dataclass(frozen=True, slots=True)
class DenseSearch:
    """How hard a search tries; None: the index's own choice. An exact index needs none of it.

    nprobe     lists of IVF that are looked through
    ef_search  documents that a walk through HNSW's graph keeps in sight
    rescored   how many candidates are scored exactly, in multiples of k
    """

    nprobe: int | None = None
    ef_search: int | None = None
    rescored: int | float | None = None

    def __post_init__(self) -> None:
        for name, most in (("nprobe", 2**31 - 1), ("ef_search", 2**31 - 1), ("rescored", MOST_RESCORED)):
            value = getattr(self, name)
            is_whole = name == "rescored" or (is_number(value) and value == value // 1)
            if value is not None and not (is_number(value) and is_whole and 1 <= value <= most):
                kind = "number" if name == "rescored" else "whole number"
                raise InvalidVectorsError(f"{name} is {value!r:.60}; it must be a {kind} from 1 to {most:,}, or None.")


DEFAULT = DenseSearch()


class DenseSearching:
    """Top-k search over stored vectors on any number of threads."""

    def __init__(
        self,
        vectors: np.ndarray,
        without: np.ndarray,
        options: DenseIndexOptions,
        longest: float,
        codes: Codes | None = None,
    ):
        self.vectors, self.without, self.options, self.longest = read_only(vectors), without, options, longest
        self.num_docs = len(vectors) // options.dimension
        self.codes = codes  # None: every search is exact
        self.live: np.ndarray | None = None
        self._has_vector = Filter.of("", mask_without(without, self.num_docs), self.num_docs)
        self._wanted, self._num_live = self._has_vector, self.num_docs
        # where only some documents have codes: which they are, and each one's number among them
        self._coded = read_only(np.flatnonzero(self._has_vector.mask)) if len(without) and codes is not None else None

    def seen(self, live: np.ndarray | None = None) -> Self:
        """The same index as a part of a collection that changed around it; it shares all arrays and may be searched beside.

        live  bool [documents]: only these may be found; None: all
        """
        view = copy.copy(self)
        wanted = Filter.of("mask of live documents", live, self.num_docs)
        view.live = wanted.mask if len(wanted.mask) else None
        view._num_live = wanted.num_docs
        view._wanted = self._has_vector.but_only(live, self.num_docs)
        return view

    @property
    def num_live(self) -> int:
        """Documents that are left, with a vector or without."""
        return self._num_live

    @property
    def num_live_with_vectors(self) -> int:
        """Documents that may be found."""
        return self._wanted.num_docs

    @interruptible
    def search(
        self,
        query: np.ndarray,
        k: int = 10,
        *,
        allowed: np.ndarray | None = None,
        parameters: DenseSearch | None = None,
    ) -> Answer:
        """The best k documents: (scores float32, docs int32), best first; scores may be negative.

        query       float [dimension]; one of zeros finds nothing
        allowed     bool [documents]: only these may be found
        parameters  how hard an approximate index tries

        Fewer than k only where fewer may be found. Raises InvalidVectorsError for a query that the index cannot take.
        """
        queries = as_floats("a query", query, 1)[np.newaxis]
        return self.search_batch(queries, k, allowed=allowed, parameters=parameters)[0]

    @interruptible
    def search_batch(
        self,
        queries: np.ndarray,
        k: int = 10,
        threads: int = 1,
        *,
        allowed: np.ndarray | None = None,
        parameters: DenseSearch | None = None,
    ) -> list[Answer]:
        """`search` for each row of queries (float [queries, dimension]), on several threads; answers do not depend on how many."""
        k, threads = checked_count("k", k), checked_count("threads", threads)
        checked = checked_queries(queries, self.options)
        parameters = self.checked_parameters(parameters)
        wanted = self._wanted.but_only(allowed, self.num_docs)
        k = min(k, wanted.num_docs)
        if k == 0:
            return [NOTHING] * len(checked)
        answer = self._how(wanted, k, parameters)

        size = CHUNK
        if self.codes is None:
            most = min(MOST_IN_CHUNK, MOST_CANDIDATES // (k + MARGIN))
            size = max(CHUNK, min(-(-len(checked) // threads), most))

        def search(first: int) -> list[Answer]:
            chunk = checked[first : first + size]
            return [found if query.any() else NOTHING for query, found in zip(chunk, answer(chunk), strict=True)]

        chunks = range(0, len(checked), size)
        if threads == 1 or len(chunks) <= 1:
            answered = list(map(search, chunks))
        else:
            with ThreadPoolExecutor(threads) as pool:  # FAISS and the kernels let go of Python's lock
                answered = list(pool.map(search, chunks))
        answers = [found for some in answered for found in some]
        for query, found in zip(checked, answers, strict=True):
            self._check(query, found)
        return answers

    def _check(self, query: np.ndarray, found: Answer) -> None:
        """Raise IndexFormatError for a score that no vector of this index could have: a file was changed under us."""
        scores, docs = found
        if len(scores) == 0:
            return
        most = float(np.linalg.norm(query.astype(np.float64))) * self.longest + self._rounding(query)
        if not (float(scores[0]) <= most and float(scores[-1]) >= -most and docs.min() >= 0):
            raise IndexFormatError(
                f"document {docs[0]} scores {scores[0]}, which no vector of the index can; run `winnow verify --full`."
            )

    @interruptible
    def scores(self, query: np.ndarray, docs: np.ndarray) -> np.ndarray:
        """float32 [len(docs)]: what `search` would score each of the documents; 0 for one without a vector."""
        checked = checked_queries(as_floats("a query", query, 1)[np.newaxis], self.options)[0]
        docs = self.checked_docs(docs)
        found = np.empty(len(docs), np.float32)
        dense_scores.score_rows(self.vectors, checked, docs, found)
        return found

    def stored_rows(self, docs: np.ndarray) -> np.ndarray:
        """float32 [len(docs), dimension]: the vectors as they are stored; zeros for a document without one."""
        rows: np.ndarray = self.vectors.reshape(self.num_docs, self.options.dimension)[self.checked_docs(docs)]
        return rows

    def checked_docs(self, docs: np.ndarray) -> np.ndarray:
        """int64. Raises InvalidVectorsError for what is no document."""
        docs = np.asarray(docs)
        if docs.size == 0:
            return read_only(np.empty(0, np.int64))
        if docs.ndim != 1 or docs.dtype.kind not in "iu" or docs.min() < 0 or docs.max() >= self.num_docs:
            raise InvalidVectorsError(
                f"documents {docs!r:.60} are not all of the {self.num_docs} documents, 0 to {self.num_docs - 1}."
            )
        return read_only(np.ascontiguousarray(docs, np.int64))

    def checked_parameters(self, parameters: DenseSearch | None) -> DenseSearch:
        """Raises InvalidVectorsError for one that the method asked for does not have."""
        if parameters is None:
            return DEFAULT
        if not isinstance(parameters, DenseSearch):
            raise InvalidVectorsError(f"parameters are {parameters!r:.60}; give DenseSearch(...).")
        if (
            self.codes is not None and self.options.factory is not None
        ):  # another may be in use elsewhere in the collection
            for name, has_it, where in (
                ("nprobe", self.codes.factory.lists, "IVF"),
                ("ef_search", self.codes.factory.links, "HNSW"),
            ):
                if getattr(parameters, name) is not None and not has_it:
                    raise InvalidVectorsError(
                        f"{name}={getattr(parameters, name)} is for an index with {where}, this one is {self.options.factory}; "
                        "leave it out."
                    )
        return parameters

    def _how(self, wanted: Filter, k: int, parameters: DenseSearch) -> Callable[[np.ndarray], Iterable[Answer]]:
        """What answers a few queries at once."""
        if self.codes is None:
            if wanted.num_docs <= k + MARGIN or wanted.num_docs * 4 <= self.num_docs:
                return self._one_by_one(wanted, k)
            return self._exactly(wanted, k)
        return self._approximately(self.codes, wanted, k, parameters)

    def _one_by_one(self, wanted: Filter, k: int) -> Callable[[np.ndarray], Iterable[Answer]]:
        """Every wanted document is scored."""
        docs = read_only(np.flatnonzero(wanted.mask)) if len(wanted.mask) else None

        def answer(queries: np.ndarray) -> Iterable[Answer]:
            for query in queries:
                if docs is None:
                    yield dense_scores.best_of_all(self.vectors, query, NO_FILTER, k)
                else:
                    yield dense_scores.best_of(self.vectors, query, docs, k)

        return answer

    def _exactly(self, wanted: Filter, k: int) -> Callable[[np.ndarray], Iterable[Answer]]:
        """FAISS looks through all stored vectors; where its rounding could have hidden one, we look again."""
        import faiss

        left_out = self.num_docs - wanted.num_docs
        passes_over = left_out > FEW_LEFT_OUT
        bits = packed(wanted.mask) if passes_over else None
        count = min(k + MARGIN + (0 if passes_over else left_out), self.num_docs)
        dimension = self.options.dimension

        def answer(queries: np.ndarray) -> Iterable[Answer]:
            scores = np.empty((len(queries), count), np.float32)
            docs = np.empty((len(queries), count), np.int64)
            selector = None if bits is None else faiss.IDSelectorBitmap(bits)
            with one_thread():
                faiss.knn_inner_product(
                    *map(faiss.swig_ptr, (queries, self.vectors)), dimension, len(queries), self.num_docs, count,
                    *map(faiss.swig_ptr, (scores, docs)), selector,
                )  # fmt: skip
            for query, found_scores, found in zip(queries, scores, docs, strict=True):
                if not passes_over and left_out:
                    found = np.where(wanted.mask[found], found, -1)  # FAISS was asked for so many more
                best = dense_scores.best_of(self.vectors, query, read_only(found), k)
                if count < self.num_docs and float(best[0][-1]) <= float(found_scores[-1]) + self._rounding(query):
                    best = dense_scores.best_of_all(self.vectors, query, wanted.mask, k)
                yield best

        return answer

    def _rounding(self, query: np.ndarray) -> float:
        """How far two float32 dot products with the same vector can be apart, in whatever order they are added up.

        Each is within n * u / (1 - n * u) * sum |q_i * v_i| of the true one (Higham 2002, 3.5), and the sum is at most the
        product of both lengths.
        """
        dimension = self.options.dimension
        lengths = float(np.linalg.norm(query.astype(np.float64))) * self.longest
        share = dimension * ROUNDING / (1 - dimension * ROUNDING)
        return 2.001 * (share * lengths + dimension * LEAST_NORMAL)

    def _approximately(
        self, codes: Codes, wanted: Filter, k: int, parameters: DenseSearch
    ) -> Callable[[np.ndarray], Iterable[Answer]]:
        """FAISS finds candidates by their codes; of few wanted documents, all are candidates."""
        share = wanted.num_docs / len(codes)
        asked_for = max(math.ceil(k * rescored_of(codes)), k + MARGIN // 2)
        count = asked_for if parameters.rescored is None else math.ceil(k * parameters.rescored)
        count = min(count, wanted.num_docs)
        wish = self._wish(codes, count, share, parameters)
        if wanted.num_docs <= FEW or wanted.num_docs <= rows_looked_at(codes, wish, count, share):
            return self._one_by_one(wanted, k)
        left_out = len(codes) - wanted.num_docs
        bits, asked = None, count + left_out
        if left_out > FEW_LEFT_OUT:
            mask = wanted.mask if self._coded is None else wanted.mask[self._coded]
            bits, asked = (packed(mask), count) if codes.takes_filters else (None, math.ceil(count / share * 1.5))
        asked = min(asked, len(codes))

        def answer(queries: np.ndarray) -> Iterable[Answer]:
            for query, found in zip(queries, codes.candidates(queries, asked, wish, bits), strict=True):
                docs = self._docs_of(found, wanted, filtered=bits is not None or not left_out)
                if np.count_nonzero(docs >= 0) < k:  # too few lists, or a walk that ended early
                    yield dense_scores.best_of_all(self.vectors, query, wanted.mask, k)
                else:
                    yield dense_scores.best_of(self.vectors, query, read_only(docs), k)

        return answer

    def _docs_of(self, rows: np.ndarray, wanted: Filter, filtered: bool) -> np.ndarray:
        """The documents of vectors that FAISS names, -1 for those that may not be found."""
        docs = rows if self._coded is None else np.where(rows >= 0, self._coded[rows], -1)
        return docs if filtered else np.where((docs >= 0) & wanted.mask[docs], docs, -1)

    def _wish(self, codes: Codes, count: int, share: float, parameters: DenseSearch) -> Wish:
        """How hard FAISS looks: the harder, the fewer documents of those that it passes may be found."""
        lists = codes.factory.lists
        nprobe = min(int(parameters.nprobe or max(8, 3 * math.isqrt(lists))), lists)
        ef_search = min(int(parameters.ef_search or max(128, 2 * count)), len(codes))
        if share < 1:
            nprobe = min(math.ceil(nprobe / share), lists)
            ef_search = min(math.ceil(ef_search / share), len(codes))
        return Wish(nprobe, ef_search)


def rescored_of(codes: Codes) -> float:
    """How many candidates are scored exactly unless a search says so, in multiples of k (docs/results.md)."""
    factory = codes.factory
    if factory.dimension < factory.given_dimension:
        return 10
    if factory.codec == "Flat":
        return 1
    if factory.codec == "SQ" or (factory.codec == "RaBitQ" and factory.bits >= 4):
        return 4
    return 10


def rows_looked_at(codes: Codes, wish: Wish, count: int, share: float) -> float:
    """About how many exact scores a search of the codes costs."""
    if codes.factory.links:
        return float(min(wish.ef_search * codes.factory.links, len(codes)))
    looked_at = len(codes) * (wish.nprobe / codes.factory.lists if codes.factory.lists else 1)
    if not codes.takes_filters:
        count = math.ceil(count / share * 1.5)
    return looked_at * codes.factory.code_bytes / (4 * codes.factory.given_dimension) + count
