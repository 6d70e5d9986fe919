"""Inverted index over sparse vectors: impact tiers to find documents, a forward index to score them exactly.

A score is the float32 sum, in ascending term order, of query weight times stored impact; equal scores rank by
document number. Every search method must give exactly that (docs/format.md).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from index.building import DTYPES, Allocate, Parts, build_parts, in_files, in_memory, parse_size, spilled
from index.calibration import (
    GROUP_WINDOW_COST,
    NOT_CALIBRATED,
    ROW_COST,
    WINDOW_COST,
    WORTH_IT,
    AnyDial,
    Calibration,
    ClusterDial,
    calibrate,
    sample_queries,
)
from index.calibration import K as CALIBRATED_K
from index.effort import EXACT, Budget, Effort, Exact, Recall
from index.errors import InvalidVectorsError, WinnowError
from index.second_tier import WORTH_IT as SECOND_TIER_WORTH_IT
from index.second_tier import ClusterSetting, SecondTier
from index.second_tier_building import build_second_tier, count_group_windows
from index.storage import Verify, commit, open_array, read_current, read_only, save_array
from index.vectors import SparseQuery, checked_query, checked_shape
from kernels.cpu import anytime, forward_rows, query_batch, rank_safe
from kernels.cpu.forward_rows import WINDOW, ForwardRows, count_buckets
from kernels.cpu.impact_tiers import CODES, GROUP, TIERS, ImpactTiers, first_cell
from kernels.cpu.score_documents import TOUCH_AHEAD, is_plain_query, score_documents
from kernels.cpu.sparse import SparseRows
from kernels.cpu.windowed_taat import NUM_BINS, Workspace

KIND = "inverted-index"
MOST_TERMS = 8_192  # of a query that is answered from its lists; a longer one scores every document
NO_FILTER = read_only(np.zeros(0, np.bool_))
NO_LIMIT = 2**62
CHUNK = 32  # queries of a batch that a thread answers before it comes back to Python
NOTHING = np.empty(0, np.float32), np.empty(0, np.int32)
ROWS_A_BATCH = 32_768  # decoded at a time when indexes are merged


class Setting(NamedTuple):
    """The dials of an approximate search; no candidates: exact."""

    left_out: float
    max_postings: int
    candidates: int


EXACTLY = Setting(0.0, NO_LIMIT, 0)
AnySetting = Setting | ClusterSetting


class Speed(NamedTuple):
    """Microseconds of a query that reads next to nothing, and of each posting more."""

    fixed_us: float
    posting_us: float


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
        if self.impacts not in DTYPES:
            raise InvalidVectorsError(f"impacts is {self.impacts!r}; it must be one of {', '.join(DTYPES)}.")
        if self.second_tier not in (True, False, None):
            raise InvalidVectorsError(f"second_tier is {self.second_tier!r}; it must be True, False or None.")


class InvertedIndex:
    """Top-k search by dot product: exact, up to a recall, or within a budget.

    >>> from kernels.cpu.sparse import SparseRows
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

        vectors         all of them, or batches, which are spilled to a file first
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
        if not isinstance(vectors, SparseRows):
            with spilled(vectors, options.num_terms, folder) as rows:
                return cls._build(rows, options, threads, limit, allocate, folder, calibrate_with)
        rows = checked_shape(vectors)
        parts = build_parts(rows, options.num_terms, options.impacts, allocate, threads, limit)
        index = cls(parts, options)
        if index.num_docs >= SECOND_TIER_WORTH_IT if options.second_tier is None else options.second_tier:
            index.second_tier = SecondTier(build_second_tier(rows, parts.tiers, allocate, threads, limit, folder))
        if calibrate_with is not None or index.num_docs >= WORTH_IT:
            index._calibrate(sample_queries(rows) if calibrate_with is None else calibrate_with, rows, threads)
        return index

    @classmethod
    def merge(cls, indexes: Sequence[InvertedIndex], **build_options: Any) -> InvertedIndex:
        """One index of the documents of all, numbered one index after another; keywords as for `build`.

        With `f32` impacts it equals an index built from all vectors at once. Quantised impacts are quantised again where
        the largest weight of a term differs among the indexes: each then moves by at most half a step.
        """
        if not indexes:
            raise WinnowError("there is no index to merge; give at least one.")
        if any(index.options != indexes[0].options for index in indexes):
            raise WinnowError(
                f"the indexes have different options ({', '.join(sorted({str(index.options) for index in indexes}))}); "
                "merge indexes built with the same."
            )
        batches = (batch for index in indexes for batch in index.vectors())
        return cls.build(batches, indexes[0].options, **build_options)

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
        checked = [self._query(query.terms, query.weights) for query in queries]
        allowed = NO_FILTER if allowed is None else self._checked_filter(allowed)
        return self._search_batch(checked, k, threads, effort, allowed)[0]

    def impacts(self, doc: int, terms: np.ndarray) -> np.ndarray:
        """float32 [len(terms)]: the stored impact of each term in one document, 0 where it has no posting."""
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
        having = np.ones(self.num_docs, np.bool_)
        for term in checked_query(SparseQuery(np.asarray(terms), np.ones(len(terms))), self.options.num_terms).terms:
            with_term = np.zeros(self._num_windows * WINDOW, np.bool_)
            for window in range(self._num_windows):
                cell = first_cell(int(term), window, self.options.num_terms, self._num_windows)
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
        for part_name, part in (("tiers", self.tiers), ("forward", self.forward)):
            for name, array in part._asdict().items():
                save_array(path / f"{part_name}.{name}.npy", array)
        if self.second_tier is not None:
            self.second_tier.write(path)
        return self.description()

    def description(self) -> dict[str, Any]:
        """What `read` needs besides the arrays."""
        return {
            "documents": self.num_docs,
            "postings": self.num_postings,
            "low_bits": 8 * self.forward.low.itemsize,
            "high_words": len(self.forward.high),
            "options": asdict(self.options),
            "calibration": self.calibration.as_json(),
            "second_tier": None if self.second_tier is None else self.second_tier.description(),
        }

    @classmethod
    def read(cls, path: Path, description: dict[str, Any]) -> InvertedIndex:
        """Map what `write` wrote; IndexFormatError if an array is not of the type and length described."""
        options = InvertedIndexOptions(**description["options"])
        num_docs, num_postings, num_terms = description["documents"], description["postings"], options.num_terms
        num_windows = count_windows(num_docs)

        def array(name: str, dtype: str, length: int) -> np.ndarray:
            return open_array(path / f"{name}.npy", dtype, length)

        tiers = ImpactTiers(
            array("tiers.starts", "int64", num_windows * num_terms * TIERS + 1),
            array("tiers.docs", "uint16", num_postings),
            array("tiers.codes", "uint8", (num_postings + 1) // 2),
            array("tiers.edges", "float32", num_terms * (TIERS + 1)),
            array("tiers.counts", "int64", num_terms * TIERS),
        )
        forward = ForwardRows(
            array("forward.starts", "int64", num_docs + 1),
            array("forward.low", f"uint{description['low_bits']}", num_postings),
            array("forward.high", "uint64", description["high_words"]),
            array("forward.high_starts", "int64", num_windows + 1),
            array("forward.levels", DTYPES[options.impacts], num_postings),
            array("forward.steps", "float32", num_terms),
        )
        calibration = Calibration.from_json(description["calibration"])
        second_tier = SecondTier.read(path, description["second_tier"], num_docs, num_terms)
        return cls(Parts(tiers, forward), options, calibration, second_tier)

    @property
    def _num_windows(self) -> int:
        return count_windows(self.num_docs)

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

    def _search(
        self, query: SparseQuery, k: int, effort: Effort | AnySetting, allowed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(scores, docs) of length k, empty slots last; one call into one compiled loop."""
        found: tuple[np.ndarray, np.ndarray]
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
            assert isinstance(setting, Setting)
        if setting == EXACTLY:
            found = rank_safe.search(self.tiers, self.forward, *query, allowed, k, work)
            return found
        work = self._workspace(len(query.terms), setting.candidates)
        found = anytime.search(self.tiers, self.forward, *query, allowed, k, *setting, work)
        return found

    def _search_batch(
        self, queries: list[SparseQuery], k: int, threads: int, effort: Effort | AnySetting, allowed: np.ndarray
    ) -> tuple[list[tuple[np.ndarray, np.ndarray]], float]:
        """(the answers to checked queries, their cost together in postings)."""
        chunks = [queries[first : first + CHUNK] for first in range(0, len(queries), CHUNK)]

        def search(chunk: list[SparseQuery]) -> tuple[list[tuple[np.ndarray, np.ndarray]], float]:
            return self._search_chunk(chunk, k, effort, allowed)

        if threads == 1 or len(chunks) <= 1:
            answered = list(map(search, chunks))
        else:
            with ThreadPoolExecutor(threads) as pool:  # the kernels let go of Python's lock
                answered = list(pool.map(search, chunks))
        return [answer for answers, _ in answered for answer in answers], sum(cost for _, cost in answered)

    def _search_chunk(
        self, queries: list[SparseQuery], k: int, effort: Effort | AnySetting, allowed: np.ndarray
    ) -> tuple[list[tuple[np.ndarray, np.ndarray]], float]:
        """The same for a few queries, in one call of the compiled loop where lists are to be read."""
        longest = max(len(query.terms) for query in queries)
        if k == 0 or longest > MOST_TERMS or any(self._is_rare(query.terms, allowed) for query in queries):
            return [
                hits(*self._search(query, k, effort, allowed)) if k and len(query.terms) else NOTHING
                for query in queries
            ], 0.0
        settings = [self._setting(len(query.terms), k, effort, allowed) for query in queries]
        if self.second_tier is not None and any(isinstance(setting, ClusterSetting) for setting in settings):
            before = self.second_tier.cost()
            answers = [
                hits(*self._search(query, k, effort, allowed)) if len(query.terms) else NOTHING for query in queries
            ]
            return answers, self.second_tier.cost() - before
        left_out, max_postings, candidates = map(np.array, zip(*settings, strict=True))
        scores, docs, read, scored = query_batch.search(
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
            self._workspace(longest, max(k, int(candidates.max()))),
        )
        return list(map(hits, scores, docs)), float(read + ROW_COST * scored)

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
        if isinstance(effort, Exact):
            return EXACTLY
        if isinstance(effort, Recall):
            tier = self.second_tier
            second_tier = second_tier and len(allowed) == 0 and tier is not None and tier.answers(num_terms, k)
            dial = self.calibration.dial(num_terms, effort.target, second_tier)
            return EXACTLY if dial is None else self._setting_of(dial, k)
        if isinstance(effort, Budget):
            postings = effort.postings
            if postings is None:
                speed = self._measured_speed()
                postings = max(int(((effort.microseconds or 0) - speed.fixed_us) / speed.posting_us), 1)
            return Setting(0.0, min(postings, NO_LIMIT), max(effort.candidates, k))
        raise WinnowError(f"effort is {effort!r}; give Exact(), Recall(...) or Budget(...).")

    def _setting_of(self, dial: AnyDial, k: int) -> AnySetting:
        if isinstance(dial, ClusterDial):
            assert self.second_tier is not None
            return self.second_tier.setting(dial, k)
        return Setting(dial.left_out, NO_LIMIT, max(dial.candidates, dial.candidates * k // CALIBRATED_K))

    def _workspace(self, num_terms: int, k: int) -> Workspace:
        """The scratch arrays of this thread, grown where this query needs more."""
        work: Workspace | None = getattr(self._workspaces, "arrays", None)
        if work is None or len(work.keep) < num_terms or len(work.docs) < 4 * k:
            terms = max(num_terms, 64)
            vocabulary = 1 << (max(self.options.num_terms, 2) - 1).bit_length()
            work = Workspace(
                accumulators=np.zeros(WINDOW, np.uint16),
                noted=np.empty(WINDOW + 1, np.int32),
                bins=np.zeros(NUM_BINS, np.int32),
                query_weights=np.zeros(vocabulary, np.float32),
                in_query=np.zeros(vocabulary, np.uint8),
                keep=np.zeros(terms, np.int64),
                table=np.zeros(terms * TIERS * CODES, np.uint16),
                cells=np.zeros(terms * (GROUP * TIERS + 1), np.int64),
                matches=np.empty(self.options.num_terms + 2, np.uint64),
                scores=np.empty(TOUCH_AHEAD, np.float32),
                docs=np.empty(max(4 * k, 8192), np.int32),
                partials=np.empty(max(4 * k, 8192), np.uint16),
                counters=np.zeros(4, np.int64),
            )
            self._workspaces.arrays = work
        return work

    def _calibrate(self, queries: Sequence[SparseQuery], rows: SparseRows | None, threads: int) -> None:
        """Set `calibration`; recall is against `rows`, the weights before they were quantised, if given."""
        checked = [self._query(query.terms, query.weights) for query in queries]
        checked = [query for query in checked if 0 < len(query.terms) <= MOST_TERMS]
        k = min(CALIBRATED_K, self.num_docs)
        if not checked or k == 0:
            return
        is_quantised = self.options.impacts != "f32"
        depth = min(4 * k, self.num_docs) if is_quantised and rows is not None else k
        truth = [docs for _, docs in self.search_batch(checked, depth, threads)]
        if is_quantised and rows is not None:
            truth = [best_by(rows, query, docs, k) for query, docs in zip(checked, truth, strict=True)]

        def run(queries: list[SparseQuery], dial: AnyDial) -> tuple[list[np.ndarray], float]:
            answers, cost = self._search_batch(queries, k, threads, self._setting_of(dial, k), NO_FILTER)
            windows = WINDOW_COST * self._num_windows
            if isinstance(dial, ClusterDial):
                windows = GROUP_WINDOW_COST * count_group_windows(self.num_docs)
            return [docs for _, docs in answers], cost / len(queries) + windows

        self.calibration = calibrate(checked, truth, run, self.second_tier is not None)

    def _measured_speed(self) -> Speed:
        """What a query costs on this machine now, on queries sampled from the first documents; measured once."""
        if self._speed is None:
            queries = sample_queries(next(self.vectors()))[::4]
            queries = queries or [SparseQuery(np.zeros(1, np.int32), np.ones(1, np.float32))]  # no document has a term
            points = []
            for effort in (Budget(postings=1), Budget(postings=NO_LIMIT)):
                self.search_batch(queries, 1, 1, effort)  # once to warm up
                counters = self._workspace(1, 1).counters
                read, started = int(counters[0]), time.perf_counter()
                self.search_batch(queries, 1, 1, effort)
                elapsed = (time.perf_counter() - started) * 1e6
                points.append(((int(counters[0]) - read) / len(queries), elapsed / len(queries)))
            (few, fast), (many, slow) = points
            posting = max((slow - fast) / max(many - few, 1), 1e-4)
            self._speed = Speed(max(fast - few * posting, 0.0), posting)
        return self._speed


def hits(scores: np.ndarray, docs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without the empty slots at the end."""
    if scores[-1] > 0:
        return scores, docs
    found = np.count_nonzero(scores)
    return scores[:found], docs[:found]


def best_by(rows: SparseRows, query: SparseQuery, docs: np.ndarray, k: int) -> np.ndarray:
    """The k of `docs` that score best by the weights in `rows`."""
    weights = dict(zip(query.terms.tolist(), query.weights.tolist(), strict=True))
    scores = []
    for doc in docs.tolist():
        entries = slice(*rows.indptr[doc : doc + 2])
        terms, data = rows.indices[entries].tolist(), rows.data[entries].tolist()
        scores.append(-sum(weights.get(t, 0.0) * w for t, w in zip(terms, data, strict=True)))
    return docs[np.lexsort((docs, scores))[:k]]


def count_windows(num_docs: int) -> int:
    """Windows that hold this many documents, the last one perhaps in part."""
    return -(-num_docs // WINDOW)


def checked_count(name: str, count: int) -> int:
    """`count` as an int; InvalidVectorsError unless it is a whole number of at least 1."""
    if not isinstance(count, int | np.integer) or isinstance(count, bool) or count < 1:
        raise InvalidVectorsError(f"{name} is {count!r}; it must be a whole number of at least 1.")
    return int(count)
