"""Entries of a window brought from the order of documents into ranges of terms, so that what is kept for each term is near.

One pass of a radix sort: counting or placing 30,000 lists at once misses the caches at every entry, a range of them does not.
"""

import numpy as np

from kernels.cpu.compiled import compiled

RANGES = 256  # at most: as many places that are written to at a time


@compiled
def range_bits(num_terms):
    """The low bits of a term that its range leaves out."""
    bits = 0
    while (num_terms - 1) >> bits >= RANGES:
        bits += 1
    return bits


@compiled
def partition(rows, weights, num_terms, terms, docs, kept):
    """Write the entries above 0 of one window by range of terms, documents ascending in each; returns how many.

    weights  int32, the patterns of the impacts, beside rows.indices
    terms    int32, docs  uint16, kept  int32: as long as rows.indices
    """
    bits = range_bits(num_terms)
    slots = np.zeros(RANGES + 1, np.uint64)
    for entry in range(np.uint64(rows.indices.shape[0])):
        if weights[entry] > 0:
            slots[np.uint64(rows.indices[entry] >> bits) + np.uint64(1)] += np.uint64(1)
    for number in range(RANGES):
        slots[number + 1] += slots[number]
    count = np.int64(slots[RANGES])
    for row in range(rows.indptr.shape[0] - 1):
        for entry in range(np.uint64(rows.indptr[row]), np.uint64(rows.indptr[row + 1])):
            if weights[entry] > 0:
                term = rows.indices[entry]
                slot = slots[np.uint64(term >> bits)]
                slots[np.uint64(term >> bits)] = slot + np.uint64(1)
                terms[slot], docs[slot], kept[slot] = term, row, weights[entry]
    return count
