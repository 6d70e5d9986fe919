"""From sparse vectors to the second tier: sketches, clusters, an order of the documents, lists of groups.

Like index/building.py it works on windows or equal parts on several threads, and the arrays do not depend on how many. What is
needed only while building goes to files that have no name where the memory limit is too small for it.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from index.building import Allocate, count_windows, on_threads
from index.errors import WinnowError
from index.files import reserve
from kernels.cpu import cluster_groups, clustering, sketches
from kernels.cpu.cluster_groups import (
    GROUP,
    GROUP_TIERS,
    GROUP_WINDOW,
    LEVELS,
    ClusterGroups,
    Records,
    record_bytes,
    view_records,
)
from kernels.cpu.clustering import CENTROID
from kernels.cpu.forward_rows import WINDOW
from kernels.cpu.impact_tiers import TIERS, ImpactTiers
from kernels.cpu.quantise import SMALLEST_STEP
from kernels.cpu.sketches import SKETCH
from kernels.cpu.sparse import SparseRows

NAME = "second_tier"
SEED_SHARE = 32  # documents to one that seeds a cluster
SAMPLE_SHARE = 8  # documents to one that refines the seeds
SMALLEST_CLUSTER = 3  # documents of the sample, below which a cluster is given up
MOST_SMALL_TERMS = 65_536  # terms whose numbers fit 16 bits
TEMPORARY_BYTES = 3 * SKETCH + 5 * 4  # a document: its sketch, its clusters, its place while sorting


class SecondTierBuild:
    """One build of the second tier of rows whose first tier is built: what its passes share.

    indptr      int64 [documents + 1], of all rows
    impacts_of  the rows of a window with their stored impacts

    Raises WinnowError for too little memory.
    """

    def __init__(
        self,
        indptr: np.ndarray,
        impacts_of: Callable[[int], SparseRows],
        tiers: ImpactTiers,
        allocate: Allocate,
        threads: int,
        memory_limit: int | None,
        folder: Path | None,
    ):
        self.impacts_of, self.folder = impacts_of, folder
        self.num_docs = len(indptr) - 1
        self.num_terms = len(tiers.counts) // TIERS
        self.allocate = lambda name, dtype, length: allocate(f"{NAME}.{name}", dtype, length)
        self.threads, self.scratch_in_files = affordable(indptr, self.num_terms, threads, memory_limit)
        self.term_type = type_of_terms(self.num_terms)
        self.num_groups = -(-self.num_docs // GROUP)
        self.largest = tiers.edges[:: TIERS + 1]
        self.document_frequency = tiers.counts.reshape(-1, TIERS).sum(1)

    def run(self) -> ClusterGroups:
        steps = self.allocate("steps", "float32", self.num_terms)
        steps[:] = np.maximum(self.largest / np.float32(255), SMALLEST_STEP)
        self.steps = steps
        self.make_sketches()
        cluster_starts, nearest, second, doc_at = self.order_by_clusters()
        stored = self.records(doc_at)
        del self.sketches, doc_at
        lists = self.lists(view_records(stored, self.term_type))
        return ClusterGroups(*lists, stored, steps, nearest, second, cluster_starts)

    def on_parts(self, count: int, work: Callable[[int, int], Any]) -> list[Any]:
        """`work` for as many ranges of 0..count as there are threads; the results in order."""
        edges = [count * part // self.threads for part in range(self.threads + 1)]
        return on_threads(self.threads, lambda part: work(*part), itertools.pairwise(edges))

    def scratch(self, dtype: Any, length: int) -> np.ndarray:
        """An array for this build only, all zero."""
        if self.scratch_in_files and length:
            with tempfile.TemporaryFile(dir=self.folder) as file:  # the mapping keeps it
                size = length * np.dtype(dtype).itemsize
                reserve(file.fileno(), size, self.folder or Path(tempfile.gettempdir()))
                return np.memmap(file, dtype, "r+", shape=(length,))
        return np.zeros(length, dtype)

    def make_sketches(self) -> None:
        terms = self.scratch(self.term_type, self.num_docs * SKETCH)
        impacts = self.scratch("uint8", self.num_docs * SKETCH)

        def make(window: int) -> None:
            own = slice(window * WINDOW * SKETCH, (window + 1) * WINDOW * SKETCH)
            sketches.make_sketches(self.impacts_of(window), self.steps, terms[own], impacts[own])

        on_threads(self.threads, make, range(count_windows(self.num_docs)))
        self.sketches = terms, impacts

    def order_by_clusters(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(positions of the clusters, nearest and second cluster by position, document by position)."""
        idf = np.log(1 + self.num_docs / (1 + self.document_frequency))
        self.factors = (self.steps * np.sqrt(idf)).astype(np.float32)
        docs = self.scratch("int32", self.num_docs)
        docs[:] = np.arange(self.num_docs, dtype=np.int32)
        centroids = self.train()
        num_clusters = len(centroids[0]) // CENTROID
        nearest_of, second_of = self.assign(docs, *centroids)
        by_second = self.scratch("int32", self.num_docs)
        clustering.sort_by(docs, second_of, num_clusters + 1, by_second)
        doc_at = self.scratch("int32", self.num_docs)
        cluster_starts = self.allocate("cluster_starts", "int64", num_clusters + 2)
        cluster_starts[:] = clustering.sort_by(by_second, nearest_of, num_clusters + 1, doc_at)
        nearest = self.allocate("nearest", "int32", self.num_docs)
        second = self.allocate("second", "int32", self.num_docs)
        np.take(nearest_of, doc_at, out=nearest)
        np.take(second_of, doc_at, out=second)
        return cluster_starts, nearest, second, doc_at

    def train(self) -> tuple[np.ndarray, np.ndarray]:
        """Terms and weights of the centroids, CENTROID of each."""
        seeds, sample = (clustering.sample(self.num_docs, share) for share in (SEED_SHARE, SAMPLE_SHARE))
        nearest, _ = self.assign(sample, *self.centroids(np.arange(len(seeds) + 1), seeds))
        members = np.empty(len(sample), np.int32)
        places = np.arange(len(sample), dtype=np.int32)
        starts = clustering.sort_by(places, nearest, len(seeds) + 1, members)
        terms, weights = self.centroids(starts[:-1], sample[members])
        is_kept = np.repeat(np.diff(starts)[:-1] >= SMALLEST_CLUSTER, CENTROID)
        return terms[is_kept], weights[is_kept]

    def centroids(self, starts: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count = len(starts) - 1
        terms, weights = np.zeros(count * CENTROID, np.int32), np.zeros(count * CENTROID, np.float32)

        def make(first: int, past_last: int) -> None:
            clustering.centroids(first, past_last, starts, members, *self.sketches, self.factors, terms, weights)

        self.on_parts(count, make)
        return terms, weights

    def assign(self, docs: np.ndarray, terms: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(nearest, second nearest centroid of each of the documents)."""
        lists = clustering.invert(terms, weights, self.num_terms)
        nearest, second = self.scratch("int32", len(docs)), self.scratch("int32", len(docs))

        def find(first: int, past_last: int) -> None:
            clustering.assign(
                first, past_last, docs, *self.sketches, self.factors, *lists, len(terms) // CENTROID, nearest, second
            )

        self.on_parts(len(docs), find)
        return nearest, second

    def records(self, doc_at: np.ndarray) -> np.ndarray:
        size = record_bytes(np.dtype(self.term_type).itemsize)
        stored = self.allocate("records", "uint8", self.num_groups * size)
        views = view_records(stored, self.term_type)

        def fill(first: int, past_last: int) -> None:
            cluster_groups.fill_records(first, past_last, doc_at, *self.sketches, views)

        self.on_parts(self.num_docs, fill)
        return stored

    def lists(self, records: Records) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(starts, groups, means, counts) of ClusterGroups."""
        cells, num_windows = self.num_terms * GROUP_TIERS, count_group_windows(self.num_docs)

        def count(first: int, past_last: int) -> np.ndarray:
            counted = np.zeros(self.num_terms * LEVELS, np.int32)
            cluster_groups.count_levels(first, past_last, records, counted)
            return counted

        level_counts = np.zeros(self.num_terms * LEVELS, np.int32)
        for counted in self.on_parts(self.num_groups, count):
            level_counts += counted
        tier_of_level = np.zeros(self.num_terms * LEVELS, np.uint8)
        means, counts = self.allocate("means", "float32", cells), self.allocate("counts", "int64", cells)
        cluster_groups.choose_tiers(level_counts, self.steps, tier_of_level, means, counts)
        starts = self.allocate("starts", "int64", cells * num_windows + 1)

        def count_window(window: int) -> None:
            cluster_groups.count_window(window, num_windows, self.num_groups, records, tier_of_level, starts[1:])

        on_threads(self.threads, count_window, range(num_windows))
        np.cumsum(starts, out=starts)
        groups = self.allocate("groups", "uint16", int(starts[-1]))

        def fill_window(window: int) -> None:
            cluster_groups.fill_window(window, num_windows, self.num_groups, records, tier_of_level, starts, groups)

        on_threads(self.threads, fill_window, range(num_windows))
        return starts, groups, means, counts


def type_of_terms(num_terms: int) -> Any:
    """Of the terms in sketches."""
    return np.uint16 if num_terms <= MOST_SMALL_TERMS else np.uint32


def count_group_windows(num_docs: int) -> int:
    """Windows that hold the groups of this many documents."""
    return -(-num_docs // (GROUP * GROUP_WINDOW))


def affordable(indptr: np.ndarray, num_terms: int, threads: int, memory_limit: int | None) -> tuple[int, bool]:
    """(as many threads as the memory limit allows, whether temporary arrays must go to files); WinnowError if it allows none."""
    num_docs = len(indptr) - 1
    if memory_limit is None or num_docs == 0:
        return threads, False
    entries_of_window = int(np.diff(np.append(indptr[::WINDOW], indptr[-1])).max())
    num_seeds = num_docs // SEED_SHARE
    per_thread = max(entries_of_window * 16, num_terms * (LEVELS * 4 + GROUP_TIERS * 8)) + num_seeds * 2
    shared = num_terms * LEVELS * 5 + num_seeds * CENTROID * 24 + num_docs // SAMPLE_SHARE * 24
    affordable_threads = (memory_limit - shared) // per_thread
    if affordable_threads < 1:
        raise WinnowError(
            f"memory_limit is {memory_limit:,} bytes; the second tier of this collection needs at least "
            f"{shared + per_thread:,}, so allow that much or build with second_tier=False."
        )
    threads = min(threads, affordable_threads)
    return threads, memory_limit < shared + threads * per_thread + num_docs * TEMPORARY_BYTES
