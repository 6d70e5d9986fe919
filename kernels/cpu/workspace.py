"""Scratch arrays of one thread that searches, made once and handed to every kernel of a search."""

from typing import NamedTuple

import numpy as np

from kernels.cpu.forward_rows import SIEVE, WINDOW
from kernels.cpu.impact_tiers import CODES, GROUP, TIERS
from kernels.cpu.score_documents import AHEAD
from kernels.cpu.windowed_taat import NUM_BINS

FEWEST_TERMS = 64  # of a query that there is room for from the beginning


class Workspace(NamedTuple):
    """Accumulators, query tables and bins are zero before and after every search."""

    accumulators: np.ndarray  # uint16 [WINDOW]
    narrow: np.ndarray  # uint8 [WINDOW], the accumulators of an approximate search
    noted: np.ndarray  # int32 [WINDOW + 2]
    bins: np.ndarray  # int32 [NUM_BINS]
    query_weights: np.ndarray  # float32, one for each term of every bucket
    sieve: np.ndarray  # uint8 [SIEVE]
    keep: np.ndarray  # int64 [query terms], tiers to read
    left: np.ndarray  # float64 [query terms], the most that an unread posting adds
    table: np.ndarray  # uint16 [query terms * TIERS * CODES]
    cells: np.ndarray  # int64 [query terms * (GROUP * TIERS + 1)], starts of a group's cells
    matches: np.ndarray  # uint64 [terms + 2]
    batch: np.ndarray  # int32 [rows scored at a time]
    scores: np.ndarray  # float32, beside it
    docs: np.ndarray  # int32 [candidates, at least WINDOW]
    partials: np.ndarray  # uint16, beside it
    counters: np.ndarray  # int64 [3]: postings read, rows scored, searches read in full


def new_workspace(num_terms: int, query_terms: int, candidates: int) -> Workspace:
    """For an index of so many terms and queries up to so many terms and candidates."""
    query_terms, room = max(query_terms, FEWEST_TERMS), max(4 * candidates, WINDOW)
    return Workspace(
        accumulators=np.zeros(WINDOW, np.uint16),
        narrow=np.zeros(WINDOW, np.uint8),
        noted=np.empty(WINDOW + 2, np.int32),
        bins=np.zeros(NUM_BINS, np.int32),
        query_weights=np.zeros(1 << (max(num_terms, 2) - 1).bit_length(), np.float32),
        sieve=np.zeros(SIEVE, np.uint8),
        keep=np.zeros(query_terms, np.int64),
        left=np.zeros(query_terms, np.float64),
        table=np.zeros(query_terms * TIERS * CODES, np.uint16),
        cells=np.zeros(query_terms * (GROUP * TIERS + 1), np.int64),
        matches=np.empty(num_terms + 2, np.uint64),
        batch=np.empty(AHEAD, np.int32),
        scores=np.empty(AHEAD, np.float32),
        docs=np.empty(room, np.int32),
        partials=np.empty(room, np.uint16),
        counters=np.zeros(3, np.int64),
    )


def has_room(work: Workspace, num_terms: int, query_terms: int, candidates: int) -> bool:
    is_wide = len(work.matches) >= num_terms + 2
    return is_wide and len(work.keep) >= query_terms and len(work.docs) >= 4 * candidates


def grown(work: Workspace | None, num_terms: int, query_terms: int, candidates: int) -> Workspace:
    """A workspace with room for what `work` has room for and for this; its counters go on."""
    if work is None:
        return new_workspace(num_terms, query_terms, candidates)
    larger = new_workspace(
        max(num_terms, len(work.matches) - 2), max(query_terms, len(work.keep)), max(candidates, len(work.docs) // 4)
    )
    larger.counters[:] = work.counters
    return larger
