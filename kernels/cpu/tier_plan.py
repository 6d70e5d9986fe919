"""Which tiers of impacts a query reads, and what a posting of them adds to an accumulator.

Reading fewer tiers gives away a bound: a document seen in none of a term's unread tiers' postings misses at most
weight * (the largest unread impact). The plan gives bounds away where they save most postings.
"""

import numpy as np

from kernels.cpu.bits import prefetch
from kernels.cpu.compiled import compiled
from kernels.cpu.impact_tiers import CODES, TIERS, upper_end

CELL_COST = 200.0  # postings that visiting one more tier in every window costs as much as


@compiled
def next_drop(i, terms, weights, tiers, keep, left, costs, gains):
    """Set the price of no longer reading the lightest tier kept of term i, and the postings saved for that price."""
    term = np.int64(terms[i])
    while keep[i] > 0 and tiers.counts[term * TIERS + keep[i] - 1] == 0:
        keep[i] -= 1
    gains[i] = 0.0
    if keep[i] > 0:
        tier = keep[i] - 1
        costs[i] = max(weights[i] * np.float64(tiers.edges[term * (TIERS + 1) + tier]) - left[i], 1e-300)
        gains[i] = (tiers.counts[term * TIERS + tier] + CELL_COST) / costs[i]


@compiled
def choose(terms, weights, tiers, left_out, max_postings, keep, left):
    """Write into keep[i] how many tiers of term i to read and into left[i], float64, the most that an unread posting of it
    adds; returns (upper bound, bound left out, postings to read).

    left_out      fraction of the query's upper bound that may be left out
    max_postings  leaves out more, where that is needed to read no more than these; one tier is always read
    """
    count = terms.shape[0]
    costs, gains = np.zeros(count), np.zeros(count)
    upper, total_left, postings = 0.0, 0.0, np.int64(0)
    for i in range(count):
        prefetch(tiers.counts, np.int64(terms[i]) * TIERS)
        prefetch(tiers.edges, np.int64(terms[i]) * (TIERS + 1))
    for i in range(count):
        term = np.int64(terms[i])
        upper += weights[i] * np.float64(tiers.edges[term * (TIERS + 1)])
        keep[i], left[i] = TIERS, 0.0
        for tier in range(TIERS):
            postings += tiers.counts[term * TIERS + tier]
    for i in range(count):
        next_drop(i, terms, weights, tiers, keep, left, costs, gains)
    room = left_out * upper
    while room > 0 or postings > max_postings:
        best, chosen = 0.0, -1
        for i in range(count):
            if gains[i] > best:
                best, chosen = gains[i], i
        if chosen < 0:
            break
        if total_left + costs[chosen] > room and postings <= max_postings:
            gains[chosen] = 0.0  # does not fit any more
            continue
        if postings == tiers.counts[np.int64(terms[chosen]) * TIERS + keep[chosen] - 1]:
            break  # the last tier of all: reading nothing finds nothing
        keep[chosen] -= 1
        left[chosen] += costs[chosen]
        total_left += costs[chosen]
        postings -= tiers.counts[np.int64(terms[chosen]) * TIERS + keep[chosen]]
        next_drop(chosen, terms, weights, tiers, keep, left, costs, gains)
    return upper, total_left, postings


@compiled
def contributions(terms, weights, tiers, keep, left, upper, full, safe, table):
    """Fill table[(i * TIERS + tier) * CODES + code], uint16, with what a posting of a tier kept adds;
    returns the unit, float64.

    full  largest sum there is room for
    safe  the number is at least (impact * weight - left) / unit: a document seen in a tier read has no posting in an unread
          one, so the bound of all that is left out, added to every document, is taken back for the term; otherwise it is
          the nearest to the middle of the code's impacts
    """
    count = terms.shape[0]
    rounding = 2.0 * count + 16.0 if safe else 0.5 * count + 1.0
    unit = max(upper / (full - rounding), 1e-300)
    for i in range(count):
        for tier in range(keep[i]):
            edge = np.int64(terms[i]) * (TIERS + 1) + tier
            low, high = np.float64(tiers.edges[edge + 1]), np.float64(tiers.edges[edge])
            first = (i * TIERS + tier) * CODES
            start, step = weights[i] * low / unit, weights[i] * (high - low) / unit / CODES
            for code in range(CODES):
                if safe:
                    table[first + code] = np.uint16(
                        np.int32((weights[i] * upper_end(low, high, code) - left[i]) / unit + 1.0)
                    )
                else:
                    table[first + code] = np.uint16(np.int32(start + (code + 0.5) * step + 0.5))
    return unit


@compiled
def rounding_of(num_terms):
    """(relative, absolute) most that a float32 sum of so many products lies above the sum of the numbers: the latter where
    numbers are denormal."""
    return (num_terms + 4) * 2.0**-23, num_terms * 2.0**-147


@compiled
def stays_below(floor, num_terms, upper):
    """True when no sum of so many products reaches the floor, given an upper bound of the numbers."""
    relative, absolute = rounding_of(num_terms)
    return upper + absolute < floor * (1.0 - relative)
