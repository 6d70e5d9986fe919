"""Inverted index over sparse vectors: impact tiers to find documents, a forward index to score them exactly.

A score is the float32 sum, in ascending term order, of query weight times stored impact; equal scores rank by
document number. Every search method must give exactly that (docs/format.md).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from index.building import Allocate, Parts, build_parts, count_windows, in_files, in_memory, parse_size, spilled
from index.calibration import (
    FIRST_TIER,
    LIST_COST,
    NOT_CALIBRATED,
    ROW_COST,
    WINDOW_COST,
    WORTH_IT,
    Calibration,
    best_by,
    calibrate,
    sample_queries,
)
from index.effort import EXACT, Budget, Effort, Exact, Recall
from index.errors import InvalidVectorsError, WinnowError, interruptible
from index.inverted_files import describe_parts, read_parts, write_parts
from index.options import InvertedIndexOptions
from index.second_tier import GROUP_WINDOW_COST, MOST_K, SecondTier
from index.second_tier_building import SecondTierBuild, count_group_windows
from index.settings import EXACTLY, NO_LIMIT, AnySetting, ClusterSetting, K, Setting
from index.speed import Speed, measure_speed
from index.storage import Verify, commit, read_current, read_only
from index.vectors import SparseQuery, as_sparse_rows, checked_count, checked_query, checked_shape, is_csr
from kernels.cpu import anytime, forward_rows, query_batch, rank_safe
from kernels.cpu.forward_rows import WINDOW, ForwardRows, count_buckets
from kernels.cpu.impact_tiers import TIERS, ImpactTiers, first_cell
from kernels.cpu.score_documents import is_plain_query, score_documents
from kernels.cpu.sparse import SparseRows
from kernels.cpu.workspace import Workspace, has_room, new_workspace

KIND = "inverted-index"
MOST_TERMS = 8_192  # of a query that is answered from its lists; a longer one scores every document
NO_FILTER = read_only(np.zeros(0, np.bool_))
CHUNK = 32  # queries of a batch that a thread answers before it comes back to Python
ROWS_A_BATCH = 32_768  # decoded at a time when indexes are merged
NOTHING = np.empty(0, np.float32), np.empty(0, np.int32)
Answer = tuple[np.ndarray, np.ndarray]


class InvertedIndex:
    """Top-k search by dot product: exact, up to a recall, or within a budget.

    >>> from index import InvertedIndexOptions, SparseRows
    >>> documents = SparseRows(np.array([0, 2, 3]), np.array([0, 2, 2]), np.array([5.0, 1.0, 9.0]))
    >>> index = InvertedIndex.build(documents, InvertedIndexOptions(num_terms=3, impacts="f32"))
    >>> scores, docs = index.search(np.array([0, 2]), np.array([1.0, 2.0]), k=2)
    >>> docs.tolist(), scores.tolist()
    ([1, 0], [18.0, 7.0])
    """

    def __init__(
        self,
        parts: Parts,
        options: InvertedIndexOptions,
        calibration: Calibration = NOT_CALIBRATED,
        second_tier: SecondTier | None = None,
    ):
        self.tiers = ImpactTiers(*map(read_only, parts.tiers))
        self.forward = ForwardRows(*map(read_only, parts.forward))
        self.num_docs = len(self.forward.starts) - 1
        self.options = options
        self.calibration = calibration
        self.second_tier = second_tier
        self._speed: Speed | None = None
        self._workspaces = threading.local()

    def __repr__(self) -> str:
        return (
            f"<InvertedIndex of {self.num_docs:,} documents, {self.num_postings:,} postings of {self.options.num_terms:,} terms, "
            f"{self.options.impacts} impacts, {self.nbytes:,} bytes>"
        )

    @classmethod
    def build(
        cls,
        vectors: SparseRows | Iterable[SparseRows],
        options: InvertedIndexOptions,
        *,
        threads: int | None = None,
        folder: str | Path | None = None,
        memory_limit: str | int | None = None,
        calibrate_with: Sequence[SparseQuery] | None = None,
    ) -> InvertedIndex:
        """Index one vector a document; a document is known by its row number.

        vectors         SparseRows(indptr, indices, data), or what has these three, such as a CSR matrix of scipy; or batches of
                        SparseRows, which are spilled to a file first
        threads         all cores unless told; the index does not depend on it
        folder          build straight into this folder (as `save` would leave it) and open it
        memory_limit    bytes or "2GB": most that building holds besides the vectors given and, without `folder`, the index
        calibrate_with  queries like those to come; otherwise queries sampled from the documents

        Raises InvalidVectorsError for vectors that cannot be indexed, WinnowError for a limit that is too small or a disk
        that is full; nothing is then left behind.
        """
        threads = checked_count("threads", (os.cpu_count() or 1) if threads is None else threads)
        limit = None if memory_limit is None else parse_size(memory_limit)
        if folder is None:
            return cls._build(vectors, options, threads, limit, in_memory, None, calibrate_with)
        with commit(folder, KIND) as generation:
            allocate = in_files(generation.path)
            built = cls._build(vectors, options, threads, limit, allocate, generation.path, calibrate_with)
            generation.contents = built.description()
        return cls.open(folder)

    @classmethod
    def _build(
        cls,
        vectors: SparseRows | Iterable[SparseRows],
        options: InvertedIndexOptions,
        threads: int,
        limit: int | None,
        allocate: Allocate,
        folder: Path | None,
        calibrate_with: Sequence[SparseQuery] | None,
    ) -> InvertedIndex:
        if is_csr(vectors):
            vectors = as_sparse_rows(vectors)
        if not isinstance(vectors, SparseRows):
            with spilled(vectors, options.num_terms, folder) as rows:
                return cls._build(rows, options, threads, limit, allocate, folder, calibrate_with)
        rows = checked_shape(vectors)
        parts = build_parts(rows, options.num_terms, options.impacts, allocate, threads, limit)
        index = cls(parts, options)
        if options.wants_second_tier(index.num_docs):
            index.second_tier = SecondTier(SecondTierBuild(rows, parts.tiers, allocate, threads, limit, folder).run())
        if calibrate_with is not None or index.num_docs >= WORTH_IT:
            index._calibrate(sample_queries(rows) if calibrate_with is None else calibrate_with, rows, threads)
        return index

    @classmethod
    def merge(cls, indexes: Iterable[InvertedIndex], **build_options: Any) -> InvertedIndex:
        """One index of the documents of all, numbered one index after another; keywords as for `build`.

        With `f32` impacts it equals an index built from all vectors at once. Quantised impacts are quantised again where
        the largest weight of a term differs among the indexes: each then moves by at most half a step.
        """
        indexes = list(indexes)
        if not indexes:
            raise WinnowError("there is no index to merge; give at least one.")
        if any(index.options != indexes[0].options for index in indexes):
            raise WinnowError(
                f"the indexes have different options ({', '.join(sorted({str(index.options) for index in indexes}))}); "
                "merge indexes built with the same."
            )
        batches = (batch for index in indexes for batch in index.vectors())
        return cls.build(batches, indexes[0].options, **build_options)

    @interruptible
    def search(
        self,
        terms: np.ndarray,
        weights: np.ndarray,
        k: int = 10,
        effort: Effort = EXACT,
        allowed: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best k documents: (scores float32, docs int32), best first.

        effort   Exact(), Recall(0.99) or Budget(...)
        allowed  bool [documents]: only these may be found

        Fewer than k when fewer documents score above 0. Scores are exact whatever the effort. Raises InvalidVectorsError
        for a query the index cannot take and for k below 1.
        """
        k = min(checked_count("k", k), self.num_docs)
        query = self._query(terms, weights)
        allowed = NO_FILTER if allowed is None else self._checked_filter(allowed)
        if k == 0 or len(query.terms) == 0:
            return NOTHING
        return hits(*self._search(query, k, effort, allowed))

    @interruptible
    def search_batch(
        self,
        queries: Sequence[SparseQuery],
        k: int = 10,
        threads: int = 1,
        effort: Effort = EXACT,
        allowed: np.ndarray | None = None,
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """`search` for each query in turn, on several threads; the results do not depend on how many."""
        k, threads = min(checked_count("k", k), self.num_docs), checked_count("threads", threads)
        checked = [self._query(*query) for query in queries]
        allowed = NO_FILTER if allowed is None else self._checked_filter(allowed)
        return self._search_batch(checked, k, threads, effort, allowed)[0]

    def impacts(self, doc: int, terms: np.ndarray) -> np.ndarray:
        """float32 [len(terms)]: the stored impact of each term in one document, 0 where it has no posting."""
        if not 0 <= doc < self.num_docs:
            raise InvalidVectorsError(
                f"document {doc} is not one of the {self.num_docs} documents, 0 to {self.num_docs - 1}."
            )
        held, impacts = self._rows(doc, doc + 1)
        wanted = np.asarray(terms, np.int64)
        slots = np.minimum(np.searchsorted(held, wanted), max(len(held) - 1, 0))
        return (
            np.where(held[slots] == wanted, impacts[slots], np.float32(0))
            if len(held)
            else np.zeros(len(wanted), np.float32)
        )

    def documents_with(self, terms: Sequence[int]) -> np.ndarray:
        """bool [documents]: those that have all the terms; a filter for `search`."""
        having, num_windows = np.ones(self.num_docs, np.bool_), count_windows(self.num_docs)
        for term in checked_query(SparseQuery(np.asarray(terms), np.ones(len(terms))), self.options.num_terms).terms:
            with_term = np.zeros(num_windows * WINDOW, np.bool_)
            for window in range(num_windows):
                cell = first_cell(int(term), window, self.options.num_terms, num_windows)
                docs = self.tiers.docs[slice(*self.tiers.starts[[cell, cell + TIERS]])]
                with_term[window * WINDOW + docs.astype(np.int64)] = True
            having &= with_term[: self.num_docs]
        return having

    def vectors(self) -> Iterator[SparseRows]:
        """The stored impacts of all documents, in batches of rows."""
        for first in range(0, self.num_docs, ROWS_A_BATCH):
            past_last = min(first + ROWS_A_BATCH, self.num_docs)
            starts = self.forward.starts[first : past_last + 1]
            yield SparseRows(starts - starts[0], *self._rows(first, past_last))

    def calibrate(self, queries: Sequence[SparseQuery], threads: int = 1) -> None:
        """Find anew which settings reach a recall, on queries like those to come; recall is against the stored impacts."""
        self._calibrate(queries, None, checked_count("threads", threads))

    @property
    def num_postings(self) -> int:
        """Entries of all inverted lists together."""
        return len(self.forward.low)

    @property
    def nbytes(self) -> int:
        """Bytes of all that search reads, in memory and on disk alike."""
        second_tier = 0 if self.second_tier is None else self.second_tier.nbytes
        return sum(array.nbytes for part in (self.tiers, self.forward) for array in part) + second_tier

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
        write_parts(path, Parts(self.tiers, self.forward))
        if self.second_tier is not None:
            self.second_tier.write(path)
        return self.description()

    def description(self) -> dict[str, Any]:
        """What `read` needs besides the arrays."""
        return {
            **describe_parts(Parts(self.tiers, self.forward), self.options),
            "calibration": self.calibration.as_json(),
            "second_tier": None if self.second_tier is None else self.second_tier.description(),
        }

    @classmethod
    def read(cls, path: Path, description: dict[str, Any]) -> InvertedIndex:
        """Map what `write` wrote; IndexFormatError if an array is not of the type and length described."""
        parts, options = read_parts(path, description)
        calibration = Calibration.from_json(description["calibration"])
        second_tier = SecondTier.read(path, description["second_tier"], description["documents"], options.num_terms)
        return cls(parts, options, calibration, second_tier)

    def _rows(self, first_doc: int, past_doc: int) -> tuple[np.ndarray, np.ndarray]:
        """(terms int32, impacts float32) of the entries of some documents, one document after another."""
        # a damaged file may say anything: no more entries than there are
        first, past_last = np.clip(self.forward.starts[[first_doc, past_doc]], 0, self.num_postings)
        terms, impacts = np.empty(max(past_last - first, 0), np.int32), np.empty(max(past_last - first, 0), np.float32)
        forward_rows.decode(self.forward, first_doc, past_doc, self._buckets, terms, impacts)
        return terms, impacts

    @property
    def _buckets(self) -> int:
        return int(count_buckets(self.options.num_terms, 8 * self.forward.low.itemsize))

    def _query(self, terms: np.ndarray, weights: np.ndarray) -> SparseQuery:
        """The query, checked; most come sorted and sound, which one look tells."""
        if (
            isinstance(terms, np.ndarray)
            and isinstance(weights, np.ndarray)
            and terms.dtype == np.int32
            and weights.dtype == np.float32
            and terms.ndim == weights.ndim == 1
            and terms.flags.c_contiguous
            and weights.flags.c_contiguous
            and is_plain_query(terms, weights, self.options.num_terms)
        ):
            return SparseQuery(read_only(terms), read_only(weights))
        query = checked_query(SparseQuery(terms, weights), self.options.num_terms)
        return SparseQuery(read_only(query.terms), read_only(query.weights))

    def _checked_filter(self, allowed: np.ndarray) -> np.ndarray:
        allowed = np.asarray(allowed)
        if allowed.dtype != np.bool_ or allowed.shape != (self.num_docs,):
            raise InvalidVectorsError(
                f"the filter has dtype {allowed.dtype} and shape {allowed.shape}; it needs one bool for each of the "
                f"{self.num_docs} documents."
            )
        return read_only(np.ascontiguousarray(allowed))

    def _search(self, query: SparseQuery, k: int, effort: Effort | AnySetting, allowed: np.ndarray) -> Answer:
        """(scores, docs) of length k, empty slots last; one call into one compiled loop."""
        found: Answer
        work = self._workspace(len(query.terms), k)
        if len(query.terms) > MOST_TERMS or self._is_rare(query.terms, allowed):
            docs = np.flatnonzero(allowed) if len(allowed) else np.arange(self.num_docs)
            found = score_documents(self.forward, *query, read_only(docs.astype(np.int32)), k, work)
            return found
        setting = self._setting(len(query.terms), k, effort, allowed)
        if isinstance(setting, ClusterSetting):
            assert self.second_tier is not None
            found = self.second_tier.search(self.forward, query, k, setting)
            if found[0][-1] > 0 or isinstance(effort, ClusterSetting):
                return found
            setting = self._setting(len(query.terms), k, effort, allowed, second_tier=False)  # too few hits
        if setting == EXACTLY:
            found = rank_safe.search(self.tiers, self.forward, *query, allowed, k, work)
            return found
        assert isinstance(setting, Setting)
        work = self._workspace(len(query.terms), setting.candidates)
        found = anytime.search(self.tiers, self.forward, *query, allowed, k, *setting, work)
        return self._search(query, k, EXACT, allowed) if lacks_hits(found[0], effort) else found

    def _search_batch(
        self, queries: list[SparseQuery], k: int, threads: int, effort: Effort | AnySetting, allowed: np.ndarray
    ) -> tuple[list[Answer], float]:
        """(the answers to checked queries, their cost together in postings)."""
        chunks = [queries[first : first + CHUNK] for first in range(0, len(queries), CHUNK)]

        def search(chunk: list[SparseQuery]) -> tuple[list[Answer], float]:
            return self._search_chunk(chunk, k, effort, allowed)

        if threads == 1 or len(chunks) <= 1:
            answered = list(map(search, chunks))
        else:
            with ThreadPoolExecutor(threads) as pool:  # the kernels let go of Python's lock
                answered = list(pool.map(search, chunks))
        return [answer for answers, _ in answered for answer in answers], sum(cost for _, cost in answered)

    def _search_chunk(
        self, queries: list[SparseQuery], k: int, effort: Effort | AnySetting, allowed: np.ndarray
    ) -> tuple[list[Answer], float]:
        """The same for a few queries, in one call of the compiled loop where lists are to be read."""
        longest = max(len(query.terms) for query in queries)
        settings = [self._setting(len(query.terms), k, effort, allowed) for query in queries]
        if (
            k == 0
            or longest > MOST_TERMS
            or any(isinstance(setting, ClusterSetting) for setting in settings)
            or any(self._is_rare(query.terms, allowed) for query in queries)
        ):
            before = self._cost()
            answers = [
                hits(*self._search(query, k, effort, allowed)) if k and len(query.terms) else NOTHING
                for query in queries
            ]
            return answers, round(self._cost() - before, 1)
        left_out, max_postings, candidates = map(np.array, zip(*settings, strict=True))
        work = self._workspace(longest, max(k, int(candidates.max())))
        before = self._cost()
        scores, docs = query_batch.search(
            self.tiers,
            self.forward,
            np.cumsum([0] + [len(query.terms) for query in queries]),
            read_only(np.concatenate([query.terms for query in queries])),
            read_only(np.concatenate([query.weights for query in queries])),
            allowed,
            k,
            left_out,
            max_postings,
            candidates,
            work,
        )
        cost = self._cost() - before
        for i, query in enumerate(queries):
            if candidates[i] and lacks_hits(scores[i], effort):
                scores[i], docs[i] = self._search(query, k, EXACT, allowed)
        return list(map(hits, scores, docs)), round(cost, 1)

    def _cost(self) -> float:
        """What the searches of this thread have cost so far, in postings."""
        read, scored, _ = self._workspace(0, 0).counters
        return float(read + ROW_COST * scored) + (0.0 if self.second_tier is None else self.second_tier.cost())

    def _is_rare(self, terms: np.ndarray, allowed: np.ndarray) -> bool:
        """True where scoring the allowed documents one by one costs less than reading the query's lists."""
        if len(allowed) == 0:
            return False
        counts = self.tiers.counts.reshape(-1, TIERS)[terms].sum()
        return bool(np.count_nonzero(allowed) * ROW_COST < counts)

    def _setting(
        self, num_terms: int, k: int, effort: Effort | AnySetting, allowed: np.ndarray, second_tier: bool = True
    ) -> AnySetting:
        """What an effort means for a query of so many terms; with a filter the first tier answers it."""
        if isinstance(effort, Setting | ClusterSetting):
            return effort
        if isinstance(effort, Exact) or (isinstance(effort, Recall) and (effort.target == 1 or k > MOST_K)):
            return EXACTLY
        if isinstance(effort, Recall):
            tier = self.second_tier
            second_tier = second_tier and len(allowed) == 0 and tier is not None and tier.answers(num_terms, k)
            setting = self.calibration.setting(num_terms, effort.target, second_tier)
            return EXACTLY if setting is None else setting.for_hits(k)
        if isinstance(effort, Budget):
            candidates, postings = min(max(int(effort.candidates), k), self.num_docs), effort.postings
            if postings is None:
                postings = self._measured_speed().postings(effort.microseconds or 0, candidates)
            return Setting(0.0, min(int(postings), NO_LIMIT), candidates)
        raise WinnowError(f"effort is {effort!r}; give Exact(), Recall(...) or Budget(...).")

    def _workspace(self, query_terms: int, candidates: int) -> Workspace:
        """The scratch arrays of this thread, grown where this query needs more."""
        work: Workspace | None = getattr(self._workspaces, "arrays", None)
        if work is None or not has_room(work, query_terms, candidates):
            counters = None if work is None else work.counters
            work = new_workspace(self.options.num_terms, query_terms, candidates)
            if counters is not None:
                work.counters[:] = counters
            self._workspaces.arrays = work
        return work

    @interruptible
    def _calibrate(self, queries: Sequence[SparseQuery], rows: SparseRows | None, threads: int) -> None:
        """Set `calibration`; recall is against `rows`, the weights before they were quantised, if given."""
        checked = [self._query(*query) for query in queries]
        checked = [query for query in checked if 0 < len(query.terms) <= MOST_TERMS]
        k = min(K, self.num_docs)
        if not checked or k == 0:
            return
        if self.options.impacts == "f32" or rows is None:
            wanted = [docs for _, docs in self.search_batch(checked, k, threads)]
        else:
            weights = np.zeros(self.options.num_terms)
            found = self.search_batch(checked, min(4 * k, self.num_docs), threads)
            wanted = [best_by(rows, query, docs, k, weights) for query, (_, docs) in zip(checked, found, strict=True)]

        def run(queries: list[SparseQuery], setting: AnySetting) -> tuple[list[np.ndarray], float]:
            answers, cost = self._search_batch(queries, k, threads, setting, NO_FILTER)
            num_terms = float(np.mean([len(query.terms) for query in queries]))
            windows = (WINDOW_COST + LIST_COST * num_terms) * count_windows(self.num_docs)
            if isinstance(setting, ClusterSetting):
                windows = GROUP_WINDOW_COST * count_group_windows(self.num_docs)
            return [docs for _, docs in answers], cost / len(queries) + windows

        tiers: list[Sequence[AnySetting]] = [FIRST_TIER]
        if self.second_tier is not None:
            tiers.append(self.second_tier.settings())
        self.calibration = calibrate(list(zip(checked, wanted, strict=True)), tiers, run)

    def _measured_speed(self) -> Speed:
        """What a query costs on this machine now; measured once."""
        if self._speed is None:
            self._speed = measure_speed(
                lambda queries, setting: self._search_batch(queries, 1, 1, setting, NO_FILTER)[1],
                next(self.vectors()),
            )
        return self._speed


def lacks_hits(scores: np.ndarray, effort: Effort | AnySetting) -> bool:
    """True where a search for a recall found fewer hits than asked for."""
    return isinstance(effort, Recall) and not scores[-1] > 0


def hits(scores: np.ndarray, docs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without the empty slots at the end."""
    if scores[-1] > 0:
        return scores, docs
    found = np.count_nonzero(scores)
    return scores[:found], docs[:found]
