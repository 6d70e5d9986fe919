"""How a query is answered over the arrays of an inverted index: checked, then handed to one compiled loop.

A score is the float32 sum, in ascending term order, of query weight times stored impact; equal scores rank by
document number. Every search method must give exactly that (docs/format.md).
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import numpy as np

from index.building import Parts
from index.calibration import NOT_CALIBRATED, ROW_COST, Calibration, sample_queries
from index.effort import EXACT, Budget, Effort, Exact, Recall, is_number
from index.errors import InvalidVectorsError, WinnowError, interruptible
from index.filters import Filter, checked_floor, checked_floors
from index.options import InvertedIndexOptions
from index.second_tier import MOST_K, SecondTier
from index.settings import EXACTLY, NO_FLOOR, NO_LIMIT, AnySetting, ClusterSetting, Setting
from index.speed import Speed, measure_speed
from index.storage import read_only
from index.stored_documents import impacts_of, stored_rows
from index.vectors import SparseQuery, checked_count, checked_query
from kernels.cpu import anytime, query_batch, rank_safe
from kernels.cpu.forward_rows import ForwardRows, count_buckets
from kernels.cpu.impact_tiers import TIERS, ImpactTiers
from kernels.cpu.score_documents import is_plain_query, score_documents, score_table
from kernels.cpu.workspace import Workspace, grown, has_room

MOST_TERMS = 8_192  # of a query that is answered from its lists; a longer one scores every document
CHUNK = 32  # queries of a batch that a thread answers before it comes back to Python
NOTHING = np.empty(0, np.float32), np.empty(0, np.int32)
Answer = tuple[np.ndarray, np.ndarray]

WORKSPACES = threading.local()  # one a thread: going over several indexes, it stays in the nearest caches


class ImpactSearch:
    """Top-k search by dot product over impact tiers and forward rows, on any number of threads."""

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
        self.mean_length = self._built_mean_length = parts.mean_length
        self.calibration = calibration
        self.second_tier = second_tier
        self._wanted = Filter.of("", None, self.num_docs)
        self._speed: Speed | None = None

    def seen(self, live: np.ndarray | None = None, mean_length: float | None = None) -> Self:
        """The same index as a part of a collection that changed around it; it shares all arrays and may be searched beside.

        live         bool [documents]: only these may be found; None: all
        mean_length  of the collection's documents now, where the index holds counts; None or 0: as built
        """
        view = copy.copy(self)
        view._wanted = Filter.of("mask of live documents", live, self.num_docs)
        view.mean_length = checked_mean(mean_length) or self._built_mean_length
        saturation = self.options.saturation(view.mean_length)
        growth = self.options.growth(self._built_mean_length, view.mean_length)
        view.forward = self.forward._replace(saturation=read_only(saturation))
        view.tiers = self.tiers._replace(growth=read_only(np.array([growth])))
        return view

    @interruptible
    def search(
        self,
        terms: np.ndarray,
        weights: np.ndarray,
        k: int = 10,
        effort: Effort = EXACT,
        allowed: np.ndarray | None = None,
        floor: float | np.floating[Any] = 0.0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best k documents: (scores float32, docs int32), best first.

        effort   Exact(), Recall(0.99) or Budget(...)
        allowed  bool [documents]: only these may be found
        floor    only documents that score at least this are wanted; the higher, the faster

        Fewer than k when fewer documents score above 0. Scores are exact whatever the effort. Raises InvalidVectorsError
        for a query the index cannot take, for k below 1 and a floor below 0.
        """
        k, wanted, lowest = checked_count("k", k), self._wanted.but_only(allowed, self.num_docs), checked_floor(floor)
        return self._hits(self.checked(terms, weights), k, effort, wanted, lowest)

    @interruptible
    def search_from(self, query: SparseQuery, k: int, effort: Effort, floor: np.float32) -> Answer:
        """`search` for a query that `checked` gave, without further checks: going over many parts should cost little."""
        return self._hits(query, k, effort, self._wanted, floor)

    def _hits(self, query: SparseQuery, k: int, effort: Effort, wanted: Filter, floor: np.float32) -> Answer:
        if wanted.num_docs == 0 or len(query.terms) == 0:
            return NOTHING
        return hits(*self._search(query, min(k, wanted.num_docs), effort, wanted, floor))

    @interruptible
    def search_batch(
        self,
        queries: Sequence[SparseQuery],
        k: int = 10,
        threads: int = 1,
        effort: Effort = EXACT,
        allowed: np.ndarray | None = None,
        floors: np.ndarray | None = None,
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """`search` for each query in turn, on several threads; the results do not depend on how many.

        floors  float32 [queries]
        """
        k, threads = checked_count("k", k), checked_count("threads", threads)
        wanted, lowest = self._wanted.but_only(allowed, self.num_docs), checked_floors(floors, len(queries))
        checked = [self.checked(*query) for query in queries]
        return self._search_batch(checked, min(k, wanted.num_docs), threads, effort, wanted, lowest)[0]

    @interruptible
    def scores(self, queries: Sequence[SparseQuery], docs: np.ndarray) -> np.ndarray:
        """float32 [queries, docs]: what `search` would score each of the documents for each query; 0 for one without its terms.

        docs  whole numbers, each of a document here, whether it may be found or not

        Raises InvalidVectorsError for a query the index cannot take, and for what is no document.
        """
        docs, checked = np.asarray(docs), [self.checked(*query) for query in queries]
        if docs.size and (docs.dtype.kind not in "iu" or docs.min() < 0 or docs.max() >= self.num_docs):
            raise InvalidVectorsError(
                f"documents {docs!r:.60} are not all of the {self.num_docs} documents, 0 to {self.num_docs - 1}."
            )
        found = np.zeros((len(checked), len(docs)), np.float32)
        if found.size:
            score_table(
                self.forward,
                self._buckets,
                np.cumsum([0] + [len(query.terms) for query in checked]),
                read_only(np.concatenate([query.terms for query in checked])),
                read_only(np.concatenate([query.weights for query in checked])),
                read_only(docs.astype(np.int32)),
                self._workspace(max(len(query.terms) for query in checked), 1),
                found,
            )
        return found

    @property
    def live(self) -> np.ndarray | None:
        """bool [documents]: those that may be found; None: all."""
        return self._wanted.mask if len(self._wanted.mask) else None

    @property
    def num_live(self) -> int:
        """Documents that may be found."""
        return self._wanted.num_docs

    @property
    def num_postings(self) -> int:
        """Entries of all inverted lists together."""
        return len(self.forward.low)

    @property
    def document_frequency(self) -> np.ndarray:
        """int64 [terms]: how many documents have each, whether they may be found or not."""
        frequency: np.ndarray = self.tiers.counts.reshape(-1, TIERS).sum(1)
        return frequency

    @property
    def _buckets(self) -> int:
        return int(count_buckets(self.options.num_terms, 8 * self.forward.low.itemsize))

    def checked(self, terms: np.ndarray, weights: np.ndarray) -> SparseQuery:
        """The query, its terms ascending; most come sorted and sound, which one look tells. Raises InvalidVectorsError."""
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

    def _search(
        self, query: SparseQuery, k: int, effort: Effort | AnySetting, wanted: Filter, floor: np.float32
    ) -> Answer:
        """(scores, docs) of length k, empty slots last; one call into one compiled loop."""
        found: Answer
        work = self._workspace(len(query.terms), k)
        if len(query.terms) > MOST_TERMS or self._is_rare(query.terms, wanted):
            docs = np.flatnonzero(wanted.mask) if len(wanted.mask) else np.arange(self.num_docs)
            docs = read_only(docs.astype(np.int32))
            found = score_documents(self.forward, self._buckets, *query, docs, floor, k, work)
            return found
        setting = self._setting(len(query.terms), k, effort, wanted)
        if isinstance(setting, ClusterSetting):
            assert self.second_tier is not None
            found = self.second_tier.search(self.forward, query, k, setting, floor)
            if isinstance(effort, ClusterSetting) or not lacks_hits(found[0], effort, floor):
                return found
            setting = self._setting(len(query.terms), k, effort, wanted, second_tier=False)
        if setting == EXACTLY:
            found = rank_safe.search(self.tiers, self.forward, *query, wanted.mask, floor, k, work)
            return found
        assert isinstance(setting, Setting)
        work = self._workspace(len(query.terms), setting.candidates)
        found = anytime.search(self.tiers, self.forward, *query, wanted.mask, floor, k, *setting, work)
        return self._search(query, k, EXACT, wanted, floor) if lacks_hits(found[0], effort, floor) else found

    def _search_batch(
        self,
        queries: list[SparseQuery],
        k: int,
        threads: int,
        effort: Effort | AnySetting,
        wanted: Filter,
        floors: np.ndarray,
    ) -> tuple[list[Answer], float]:
        """(the answers to checked queries, their cost together in postings)."""

        def search(first: int) -> tuple[list[Answer], float]:
            chunk = slice(first, first + CHUNK)
            return self._search_chunk(queries[chunk], k, effort, wanted, floors[chunk])

        chunks = range(0, len(queries), CHUNK)
        if threads == 1 or len(chunks) <= 1:
            answered = list(map(search, chunks))
        else:
            with ThreadPoolExecutor(threads) as pool:  # the kernels let go of Python's lock
                answered = list(pool.map(search, chunks))
        return [answer for answers, _ in answered for answer in answers], sum(cost for _, cost in answered)

    def _search_chunk(
        self, queries: list[SparseQuery], k: int, effort: Effort | AnySetting, wanted: Filter, floors: np.ndarray
    ) -> tuple[list[Answer], float]:
        """The same for a few queries, in one call of the compiled loop where lists are to be read."""
        longest = max(len(query.terms) for query in queries)
        settings = [self._setting(len(query.terms), k, effort, wanted) for query in queries]
        if (
            k == 0
            or longest > MOST_TERMS
            or any(isinstance(setting, ClusterSetting) for setting in settings)
            or any(self._is_rare(query.terms, wanted) for query in queries)
        ):
            before = self._cost()
            answers = [
                hits(*self._search(query, k, effort, wanted, floor)) if k and len(query.terms) else NOTHING
                for query, floor in zip(queries, floors, strict=True)
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
            wanted.mask,
            read_only(floors),
            k,
            left_out,
            max_postings,
            candidates,
            work,
        )
        cost = self._cost() - before
        for i, query in enumerate(queries):
            if candidates[i] and lacks_hits(scores[i], effort, floors[i]):
                scores[i], docs[i] = self._search(query, k, EXACT, wanted, floors[i])
        return list(map(hits, scores, docs)), round(cost, 1)

    def _cost(self) -> float:
        """What the searches of this thread have cost so far, in postings."""
        read, scored, _ = self._workspace(0, 0).counters
        return float(read + ROW_COST * scored) + (0.0 if self.second_tier is None else self.second_tier.cost())

    def _is_rare(self, terms: np.ndarray, wanted: Filter) -> bool:
        """True where scoring the wanted documents one by one costs less than reading the query's lists."""
        one_by_one = wanted.num_docs * ROW_COST
        if len(wanted.mask) == 0 or one_by_one >= self.num_postings:
            return False
        return bool(one_by_one < self.tiers.counts.reshape(-1, TIERS)[terms].sum())

    def _setting(
        self, num_terms: int, k: int, effort: Effort | AnySetting, wanted: Filter, second_tier: bool = True
    ) -> AnySetting:
        """What an effort means for a query of so many terms; with a filter the first tier answers it."""
        if isinstance(effort, Setting | ClusterSetting):
            return effort
        if isinstance(effort, Exact) or (isinstance(effort, Recall) and (effort.target == 1 or k > MOST_K)):
            return EXACTLY
        if isinstance(effort, Recall):
            tier = self.second_tier
            second_tier = second_tier and len(wanted.mask) == 0 and tier is not None and tier.answers(num_terms, k)
            setting = self.calibration.setting(num_terms, effort.target, second_tier)
            return EXACTLY if setting is None else setting.for_hits(k)
        if isinstance(effort, Budget):
            candidates, postings = min(max(int(effort.candidates), k), self.num_docs), effort.postings
            if postings is None:
                postings = self._measured_speed().postings(effort.microseconds or 0, candidates)
            return Setting(0.0, min(int(postings), NO_LIMIT), candidates)
        raise WinnowError(f"effort is {effort!r}; give Exact(), Recall(...) or Budget(...).")

    def _workspace(self, query_terms: int, candidates: int) -> Workspace:
        """The scratch arrays of this thread, which all indexes share, grown where this query needs more."""
        work: Workspace | None = getattr(WORKSPACES, "arrays", None)
        if work is None or not has_room(work, self.options.num_terms, query_terms, candidates):
            work = grown(work, self.options.num_terms, query_terms, candidates)
            WORKSPACES.arrays = work
        return work

    def _measured_speed(self) -> Speed:
        """What a query costs on this machine now; measured once."""
        if self._speed is None:

            def search(queries: list[SparseQuery], setting: AnySetting) -> float:
                return self._search_batch(queries, 1, 1, setting, self._wanted, no_floors(queries))[1]

            self._speed = measure_speed(search, self._sampled())
        return self._speed

    def _sampled(self) -> list[SparseQuery]:
        """Queries made of stored documents; where these hold counts, a term weighs the more the rarer it is."""
        worth = np.ones(self.options.num_terms, np.float32)
        if self.options.impacts == "counts":
            frequency = self.document_frequency
            worth[:] = np.log(1 + (self.num_docs - frequency + 0.5) / (frequency + 0.5))

        def row(doc: int) -> SparseQuery:
            docs = np.array([doc])
            rows = stored_rows(self.forward, self.options.num_terms, docs)
            return SparseQuery(rows.indices, impacts_of(self.forward, rows, docs) * worth[rows.indices])

        return sample_queries(self.num_docs, row)


def checked_mean(mean_length: float | None) -> float | None:
    """`mean_length`; InvalidVectorsError unless it is None, 0 or a finite number of at least 1, as every length is."""
    if mean_length is None or (is_number(mean_length) and (mean_length == 0 or 1 <= mean_length < np.inf)):
        return mean_length
    raise InvalidVectorsError(
        f"mean_length is {mean_length!r}; it must be a number of at least 1, or 0 where no document has a term."
    )


def no_floors(queries: Sequence[SparseQuery]) -> np.ndarray:
    return np.zeros(len(queries), np.float32)


def lacks_hits(scores: np.ndarray, effort: Effort | AnySetting, floor: np.float32) -> bool:
    """True where a search for a recall found fewer hits than asked for, though every score above 0 is wanted."""
    return isinstance(effort, Recall) and floor == NO_FLOOR and not scores[-1] > 0


def hits(scores: np.ndarray, docs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without the empty slots at the end."""
    if scores[-1] > 0:
        return scores, docs
    found = np.count_nonzero(scores)
    return scores[:found], docs[:found]
