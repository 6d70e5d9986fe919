"""Term-at-a-time scoring in windows: the partial scores of 65,536 documents lie in an array that fits the cache.

The memory idea of SINDI (arXiv:2509.08395), with whole-number contributions in 16 bits, and impact tiers instead of whole
lists. Once a threshold is known, documents above it are noted while adding, so that no window is scanned for them.
"""

from typing import NamedTuple

import numpy as np

from kernels.cpu.compiled import compiled
from kernels.cpu.forward_rows import WINDOW
from kernels.cpu.impact_tiers import CODES, GROUP, TIERS, first_cell, windows_in_group

SEED_GROUPS = 1024  # their maxima tell a first threshold; a group is every 1,024th document of a window
FULL = 65_535  # the largest accumulator
BIN_BITS = 5  # partial scores are counted in bins of 32
NUM_BINS = 65_536 >> BIN_BITS


class Workspace(NamedTuple):
    """Scratch arrays of one thread. Accumulators, query tables and bins are zero before and after every search."""

    accumulators: np.ndarray  # uint16 [WINDOW]
    noted: np.ndarray  # int32 [WINDOW + 1]
    bins: np.ndarray  # int32 [NUM_BINS]
    query_weights: np.ndarray  # float32, one for each term of every bucket
    in_query: np.ndarray  # uint8, beside it
    keep: np.ndarray  # int64 [query terms], tiers to read
    table: np.ndarray  # uint16 [query terms * TIERS * CODES]
    cells: np.ndarray  # int64 [query terms * (GROUP * TIERS + 1)], starts of a group's cells
    matches: np.ndarray  # uint64 [terms + 2]
    scores: np.ndarray  # float32 [TOUCH_AHEAD]
    docs: np.ndarray  # int32 [candidates]
    partials: np.ndarray  # uint16 [candidates]
    counters: np.ndarray  # int64 [4]: postings read, rows scored, searches read in full, a sum nobody reads


@compiled
def load_cells(tiers, terms, num_terms, num_windows, group, work):
    """Copy where a group's cells start of each term that is read, so that no later branch waits for memory."""
    width = windows_in_group(group, num_windows) * TIERS + 1
    for i in range(terms.shape[0]):
        if work.keep[i] > 0:
            cell = first_cell(np.int64(terms[i]), group * GROUP, num_terms, num_windows)
            first = i * (GROUP * TIERS + 1)
            work.cells[first : first + width] = tiers.starts[cell : cell + width]


@compiled
def add(docs, codes, contributions, accumulators, threshold, noted, count):
    """Add contributions[code], uint16 [CODES], to the accumulator of each document; codes come two a byte.

    Notes each document found above the threshold, perhaps several times; returns how many were noted.
    """
    room = noted.shape[0] - 1
    for pair in range(codes.shape[0]):
        both = np.uint32(codes[pair])
        doc, next_doc = docs[2 * pair], docs[2 * pair + 1]
        partial = np.uint16(np.uint32(accumulators[doc]) + np.uint32(contributions[both & np.uint32(15)]))
        accumulators[doc] = partial
        next_partial = np.uint16(np.uint32(accumulators[next_doc]) + np.uint32(contributions[both >> np.uint32(4)]))
        accumulators[next_doc] = next_partial
        if (partial > threshold) | (next_partial > threshold):  # almost never: one branch for two postings
            if partial > threshold:
                noted[min(count, room)] = doc
                count += 1
            if next_partial > threshold:
                noted[min(count, room)] = next_doc
                count += 1
    return count


@compiled
def add_one(doc, contribution, accumulators, threshold, noted, count):
    """`add` for one document."""
    partial = np.uint16(np.uint32(accumulators[doc]) + np.uint32(contribution))
    accumulators[doc] = partial
    if partial > threshold:
        noted[min(count, noted.shape[0] - 1)] = doc
        count += 1
    return count


@compiled
def touch_lists(tiers, num_query_terms, window, work):
    """Load the beginning of every list that a window needs, so that their cache misses overlap."""
    sink = np.int64(0)
    last = tiers.docs.shape[0] - 1
    for i in range(num_query_terms):
        if work.keep[i] > 0:
            first = max(work.cells[i * (GROUP * TIERS + 1) + (window % GROUP) * TIERS], 0)
            sink += tiers.docs[min(first, last)] + tiers.codes[min(first, last) >> 1]
            sink += tiers.docs[min(first + 32, last)]
    return sink


@compiled
def add_window(tiers, terms, window, work, threshold):
    """Add the tiers kept of every query term in one window; returns (documents noted above the threshold, postings read).

    Threshold 0 notes nothing. Where more were noted than there is room for, the window must be scanned.
    """
    docs, codes, accumulators, noted, table = tiers.docs, tiers.codes, work.accumulators, work.noted, work.table
    count, read = 0, np.int64(0)
    last = docs.shape[0]
    limit = np.uint16(threshold if threshold > 0 else FULL)
    if last > 0:
        work.counters[3] += touch_lists(tiers, terms.shape[0], window, work)
    for i in range(terms.shape[0]):
        cell = i * (GROUP * TIERS + 1) + (window % GROUP) * TIERS
        for tier in range(work.keep[i]):
            # a damaged file may hold any number here: neither bound may leave the arrays
            first = min(max(work.cells[cell + tier], 0), last)
            past_last = max(min(work.cells[cell + tier + 1], last), first)
            if first == past_last:
                continue
            row = (i * TIERS + tier) * CODES
            read += past_last - first
            # a byte of codes may be shared with the list before or after
            if first & 1:
                contribution = table[row + (codes[first >> 1] >> 4)]
                count = add_one(docs[first], contribution, accumulators, limit, noted, count)
                first += 1
            if past_last & 1 and first < past_last:
                past_last -= 1
                contribution = table[row + (codes[past_last >> 1] & 15)]
                count = add_one(docs[past_last], contribution, accumulators, limit, noted, count)
            count = add(
                docs[first:past_last], codes[first >> 1 : past_last >> 1], table[row : row + CODES], accumulators,
                limit, noted, count,
            )  # fmt: skip
    return count, read


@compiled
def scan(accumulators, threshold, noted):
    """Note every document above the threshold, ascending: the maximum of a block first, then its members."""
    count = 0
    limit = np.uint16(threshold)
    for block in range(accumulators.shape[0] // 512):
        members = accumulators[block * 512 : block * 512 + 512]
        largest = np.uint16(0)
        for j in range(512):
            largest = max(largest, members[j])
        if largest > limit:
            for j in range(512):
                if members[j] > limit:
                    noted[count] = block * 512 + j
                    count += 1
    return count


@compiled
def seed_bin(accumulators, wanted):
    """The highest bin that `wanted` of the groups' maxima reach, so that many documents do; 0 if fewer are above 0."""
    largest = accumulators[:SEED_GROUPS].copy()
    for block in range(1, accumulators.shape[0] // SEED_GROUPS):
        members = accumulators[block * SEED_GROUPS : (block + 1) * SEED_GROUPS]
        for j in range(SEED_GROUPS):
            largest[j] = max(largest[j], members[j])
    bins = np.zeros(NUM_BINS, np.int32)
    for j in range(SEED_GROUPS):
        bins[largest[j] >> BIN_BITS] += 1
    return bin_reached(bins, wanted)


@compiled
def bin_reached(bins, wanted):
    """The highest bin with at least `wanted` entries in it and above; 0 if there are fewer."""
    seen = 0
    for b in range(bins.shape[0] - 1, 0, -1):
        seen += bins[b]
        if seen >= wanted:
            return b
    return 0


@compiled
def drop_forbidden(accumulators, allowed, first_doc):
    """Clear the accumulators of the documents of a window that the filter does not allow."""
    for doc in range(min(accumulators.shape[0], allowed.shape[0] - first_doc)):
        accumulators[doc] *= np.uint16(allowed[first_doc + doc])


@compiled
def size_of_window(num_docs):
    """Accumulators in use: a whole window, or as many groups of documents as hold a small collection."""
    return min(WINDOW, (num_docs + SEED_GROUPS - 1) // SEED_GROUPS * SEED_GROUPS)
