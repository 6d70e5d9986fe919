"""Term-at-a-time scoring in windows: the partial scores of 65,536 documents lie in an array that fits the cache.

The memory idea of SINDI (arXiv:2509.08395), with whole-number contributions in 16 or 8 bits, and impact tiers instead of
whole lists. Once a threshold is known, documents above it are noted while adding, so that no window is scanned for them.
Memory is asked for ahead: the lists of a window while those of the one before are added.
"""

import numpy as np

from kernels.cpu.bits import prefetch
from kernels.cpu.compiled import compiled
from kernels.cpu.forward_rows import WINDOW
from kernels.cpu.impact_tiers import CODES, GROUP, TIERS, first_cell, windows_in_group

SEED_GROUPS = 1024  # their maxima tell a first threshold; a group is every 1,024th document of a window
FULL, FULL_NARROW = 65_535, 255  # the largest accumulators
NUM_BINS = 2_048  # partial scores are counted in bins: of 32 numbers, or of one where accumulators are narrow
SCANNED = 64  # accumulators looked at together
DOCS_A_LINE, CODES_A_LINE, CELLS_A_LINE = 32, 128, 8  # in 64 bytes


@compiled
def bin_bits(accumulators):
    """The low bits of a partial score that its bin leaves out."""
    return 5 if accumulators.itemsize == 2 else 0


@compiled
def prefetch_cells(tiers, terms, num_terms, num_windows, group):
    """Ask for what `load_cells` will read."""
    width = windows_in_group(group, num_windows) * TIERS + 1
    for i in range(terms.shape[0]):
        cell = first_cell(np.int64(terms[i]), group * GROUP, num_terms, num_windows)
        for first in range(0, width, CELLS_A_LINE):
            prefetch(tiers.starts, cell + first)


@compiled
def load_cells(tiers, terms, num_terms, num_windows, group, work):
    """Copy where a group's cells start of each term that is read, and ask for the lists of its first window."""
    width = windows_in_group(group, num_windows) * TIERS + 1
    for i in range(terms.shape[0]):
        if work.keep[i] > 0:
            cell = first_cell(np.int64(terms[i]), group * GROUP, num_terms, num_windows)
            first = i * (GROUP * TIERS + 1)
            work.cells[first : first + width] = tiers.starts[cell : cell + width]
            # after the last window of a short group no lists are to be asked for
            work.cells[first + width : first + min(width + TIERS, GROUP * TIERS + 1)] = work.cells[first + width - 1]
            prefetch_lists(tiers.docs, tiers.codes, work.cells[first], work.cells[first + work.keep[i]])


@compiled
def prefetch_lists(docs, codes, first, past_last):
    """Ask for postings first:past_last. A damaged file may name any: none beyond the arrays, which asking does not harm."""
    first, past_last = max(first, 0), min(past_last, docs.shape[0])
    for posting in range(first, past_last, DOCS_A_LINE):
        prefetch(docs, posting)
    for posting in range(first, past_last, CODES_A_LINE):
        prefetch(codes, posting >> 1)


@compiled
def add_window(tiers, terms, window, accumulators, work, threshold):
    """Add the tiers kept of every query term in one window; returns (documents noted above the threshold, postings read).

    Threshold 0 notes nothing. A document may be noted several times; where more were noted than a window has documents, the
    window must be scanned. The loop calls nothing and slices nothing: either would count references to arrays, at a cost
    of more than a posting each.
    """
    docs, codes, noted, keep, cells, table = tiers.docs, tiers.codes, work.noted, work.keep, work.cells, work.table
    last, one = docs.shape[0], np.uint64(1)
    limit = np.uint32(threshold if threshold > 0 else FULL)
    has_next = window % GROUP + 1 < GROUP
    count, read = np.uint64(0), np.int64(0)
    for i in range(terms.shape[0]):
        cell = i * (GROUP * TIERS + 1) + (window % GROUP) * TIERS
        if keep[i] == 0:
            continue
        if has_next:
            next_first, next_last = max(cells[cell + TIERS], 0), min(cells[cell + TIERS + keep[i]], last)
            for posting in range(next_first, next_last, DOCS_A_LINE):
                prefetch(docs, posting)
            for posting in range(next_first, next_last, CODES_A_LINE):
                prefetch(codes, posting >> 1)
        # a damaged file may hold any number as a cell: no bound may leave the arrays
        first = np.uint64(min(max(cells[cell], 0), last))
        for tier in range(keep[i]):
            past_last = np.uint64(max(min(cells[cell + tier + 1], last), np.int64(first)))
            row = np.uint64((i * TIERS + tier) * CODES)
            read += np.int64(past_last - first)
            # two codes a byte: the first and the last byte may be shared with the list before or after
            if first & one and first < past_last:
                doc = docs[first]
                partial = np.uint32(accumulators[doc]) + np.uint32(table[row + np.uint64(codes[first >> one] >> 4)])
                accumulators[doc] = partial
                if partial > limit:
                    noted[min(count, np.uint64(WINDOW))] = doc
                    count += one
                first += one
            for pair in range(first >> one, past_last >> one):
                both = np.uint32(codes[pair])
                doc, next_doc = docs[pair << one], docs[(pair << one) | one]
                partial = np.uint32(accumulators[doc]) + np.uint32(table[row + np.uint64(both & np.uint32(15))])
                accumulators[doc] = partial
                next_partial = np.uint32(accumulators[next_doc]) + np.uint32(
                    table[row + np.uint64(both >> np.uint32(4))]
                )
                accumulators[next_doc] = next_partial
                if (partial > limit) | (next_partial > limit):  # almost never: one branch for two postings
                    slot = min(count, np.uint64(WINDOW))
                    noted[slot] = doc
                    noted[slot + np.uint64(partial > limit)] = next_doc
                    count += np.uint64(partial > limit) + np.uint64(next_partial > limit)
            if past_last & one and first < past_last:
                doc = docs[past_last - one]
                partial = np.uint32(accumulators[doc]) + np.uint32(table[row + np.uint64(codes[past_last >> one] & 15)])
                accumulators[doc] = partial
                if partial > limit:
                    noted[min(count, np.uint64(WINDOW))] = doc
                    count += one
            first = past_last
    return np.int64(count), read


@compiled
def scan(accumulators, threshold, noted):
    """Note every document above the threshold, ascending: the maximum of a block first, then its members."""
    count = 0
    for block in range(accumulators.shape[0] // SCANNED):
        first = np.uint64(block * SCANNED)
        if largest_of(accumulators, first, first + np.uint64(SCANNED)) > threshold:
            for doc in range(first, first + np.uint64(SCANNED)):
                if accumulators[doc] > threshold:
                    noted[count] = doc
                    count += 1
    return count


@compiled
def largest_of(accumulators, first, past_last):
    """The largest of some accumulators; uint64 bounds, which cannot be negative, let the loop run in vectors."""
    largest = accumulators[first]
    for doc in range(first, past_last):
        largest = max(largest, accumulators[doc])
    return largest


@compiled
def seed_bin(accumulators, wanted):
    """The highest bin that `wanted` of the groups' maxima reach, so that many documents do; 0 if fewer are above 0."""
    largest = accumulators[:SEED_GROUPS].copy()
    for block in range(1, accumulators.shape[0] // SEED_GROUPS):
        members = accumulators[block * SEED_GROUPS : (block + 1) * SEED_GROUPS]
        for j in range(SEED_GROUPS):
            largest[j] = max(largest[j], members[j])
    bins, shift = np.zeros(NUM_BINS, np.int32), bin_bits(accumulators)
    for j in range(SEED_GROUPS):
        bins[largest[j] >> shift] += 1
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
    for doc in range(np.uint64(min(accumulators.shape[0], allowed.shape[0] - first_doc))):  # uint64: runs in vectors
        if not allowed[np.uint64(first_doc) + doc]:
            accumulators[doc] = 0


@compiled
def size_of_window(num_docs):
    """Accumulators in use: a whole window, or as many groups of documents as hold a small collection."""
    return min(WINDOW, (num_docs + SEED_GROUPS - 1) // SEED_GROUPS * SEED_GROUPS)
