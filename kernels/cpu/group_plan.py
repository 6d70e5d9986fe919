"""Which lists of groups a query reads, what a posting of each adds, and where they lie."""

import numpy as np

from kernels.cpu.bits import prefetch
from kernels.cpu.cluster_groups import GROUP_TIERS
from kernels.cpu.compiled import compiled

FULL = 255  # the largest accumulator
MOST_TERMS = 255  # of a query, so that rounding leaves half of the units
HALVINGS = 14  # of the span in which the smallest contribution read is looked for


@compiled
def choose_lists(terms, weights, means, counts, max_postings, lists, adds):
    """Choose the tiers with the largest contributions, about max_postings postings: (lists, postings to read).

    Writes lists, int64 = term * GROUP_TIERS + tier, and adds, uint8, what a posting of each adds, to the nearest. One tier is
    always read.
    """
    most, high, low = np.float32(0), np.float32(0), np.float32(0)
    for i in range(terms.shape[0]):
        largest = weights[i] * means[np.int64(terms[i]) * GROUP_TIERS]
        most += largest
        high = max(high, largest)
    for _ in range(HALVINGS):
        middle, postings = (low + high) / 2, np.int64(0)
        for i in range(terms.shape[0]):
            first = np.int64(terms[i]) * GROUP_TIERS
            for cell in range(first, first + GROUP_TIERS):
                if weights[i] * means[cell] < middle:
                    break
                postings += counts[cell]
        if postings > max_postings:
            low = middle
        else:
            high = middle
    num_lists, postings = 0, np.int64(0)
    unit = max(most, np.float32(1e-30)) / np.float32(max(FULL - terms.shape[0] // 2, 1))  # no sum exceeds FULL
    for i in range(terms.shape[0]):
        first = np.int64(terms[i]) * GROUP_TIERS
        for cell in range(first, first + GROUP_TIERS):
            contribution = weights[i] * means[cell]
            if not contribution >= high:
                break
            if counts[cell] <= 0:
                continue
            add = np.int32(contribution / unit + np.float32(0.5))
            if add > 0:
                lists[num_lists], adds[num_lists] = cell, np.uint8(add)
                postings += counts[cell]
                num_lists += 1
    return num_lists, postings


@compiled
def load_runs(starts, num_postings, lists, num_lists, num_windows, begins, ends):
    """Where each list begins and ends in each window, as [window][list], so that no later branch waits for memory."""
    for i in range(num_lists):
        for cell in range(lists[i] * num_windows, (lists[i] + 1) * num_windows + 1, 8):
            prefetch(starts, cell)
    for i in range(num_lists):
        cell = lists[i] * num_windows
        for window in range(num_windows):
            # a damaged file may hold any number here: neither end may leave the postings
            begin = min(max(starts[cell + window], 0), num_postings)
            begins[window * num_lists + i] = begin
            ends[window * num_lists + i] = max(min(starts[cell + window + 1], num_postings), begin)
