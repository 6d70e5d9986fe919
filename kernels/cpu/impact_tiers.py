"""Inverted lists cut into windows of documents and, within a window, into tiers of impacts, heaviest first.

A posting is 16 bits for its document in the window and 4 bits, its code, for where its impact lies between the ends of
its tier; the exact impact is in the forward index. Documents ascend within a tier. Windows come in groups of GROUP;
within a group, memory order is [term][window][tier], so what a query reads of a term in a group lies side by side.
"""

from typing import NamedTuple

import numpy as np

from kernels.cpu.compiled import compiled

GROUP = 16  # windows; a group of a million documents is what a build holds in memory
TIERS = 4
CODES = 16
BINS = 64  # eight for each halving of a weight below the largest of its term
SHORT_LIST = 64  # postings a window, up to which a list is not cut


class ImpactTiers(NamedTuple):
    """Inverted lists of `len(edges) // (TIERS + 1)` terms.

    Cell (term, window, tier) of a group holds postings starts[cell]:starts[cell + 1]; `first_cell` numbers the cells.
    The tier's impacts lie from edges[term, tier + 1] to edges[term, tier]; code c says at most the fraction (c + 1) / 16 of
    the way up.
    """

    starts: np.ndarray  # int64 [windows * terms * TIERS + 1]
    docs: np.ndarray  # uint16 [postings], the document's number within its window
    codes: np.ndarray  # uint8 [(postings + 1) // 2], two codes a byte, the lower half first
    edges: np.ndarray  # float32 [terms * (TIERS + 1)]
    counts: np.ndarray  # int64 [terms * TIERS], postings of each tier in all windows
    growth: np.ndarray  # float64 [1]: impacts may be this many times what edges and codes say; at least 1


@compiled
def windows_in_group(group, num_windows):
    """GROUP, or fewer in the last group."""
    return min(GROUP, num_windows - group * GROUP)


@compiled
def first_cell(term, window, num_terms, num_windows):
    """The cell of tier 0 of a term in a window."""
    group = window // GROUP
    in_group = window - group * GROUP
    return (group * GROUP * num_terms + term * windows_in_group(group, num_windows) + in_group) * TIERS


@compiled
def weight_bin(weight, largest):
    """How far a weight lies below the largest of its term, in eighths of a halving (both as int32 patterns), 0..BINS - 1."""
    return min((largest - weight) >> 20, BINS - 1)


@compiled
def count_bins(terms, weights, largest, histogram):
    """Add the entries to histogram[term * BINS + bin]; weights and largest are the int32 patterns of float32 numbers > 0."""
    for entry in range(np.uint64(terms.shape[0])):
        term = np.uint64(terms[entry])
        histogram[term * np.uint64(BINS) + np.uint64(weight_bin(weights[entry], largest[term]))] += 1


@compiled
def choose_tiers(histogram, fractions, num_windows):
    """uint8 [terms * BINS]: the tier of each bin, so that about fractions[k] of a long list lies in tiers 0..k."""
    tier_of_bin = np.zeros(histogram.shape[0], np.uint8)
    for term in range(histogram.shape[0] // BINS):
        bins = histogram[term * BINS : (term + 1) * BINS]
        total = bins.sum()
        if total > SHORT_LIST * num_windows:
            seen, tier = 0, 0
            for b in range(BINS):
                while tier < TIERS - 1 and seen >= fractions[tier] * total:
                    tier += 1
                tier_of_bin[term * BINS + b] = tier
                seen += bins[b]
    return tier_of_bin


@compiled
def tier_cell(term, weight, largest, tier_of_bin):
    """Where a term's tier of that weight stands among the tiers of all terms, uint64."""
    b = np.uint64(weight_bin(weight, largest[term]))
    return term * np.uint64(TIERS) + np.uint64(tier_of_bin[term * np.uint64(BINS) + b])


@compiled
def count_tiers(terms, weights, largest, tier_of_bin, counts, lowest, highest):
    """Count the postings of one window into counts[term * TIERS + tier] and widen the span of each tier's weights."""
    for entry in range(np.uint64(terms.shape[0])):
        weight = weights[entry]
        cell = tier_cell(np.uint64(terms[entry]), weight, largest, tier_of_bin)
        counts[cell] += 1
        lowest[cell] = min(lowest[cell], weight)
        highest[cell] = max(highest[cell], weight)


@compiled
def choose_edges(lowest, highest):
    """float32 [terms * (TIERS + 1)]: ends of the tiers, from the int32 patterns of their smallest and largest weights.

    A tier ends where the next non-empty one begins; empty tiers have no width.
    """
    num_terms = highest.shape[0] // TIERS
    edges = np.zeros(num_terms * (TIERS + 1), np.int32)
    for term in range(num_terms):
        bottom = 0
        for tier in range(TIERS - 1, -1, -1):
            cell = term * TIERS + tier
            if highest[cell] > 0:
                if bottom == 0:
                    bottom = lowest[cell]
                    for below in range(tier + 1, TIERS + 1):
                        edges[term * (TIERS + 1) + below] = bottom
                bottom = highest[cell]
            edges[term * (TIERS + 1) + tier] = bottom
    return edges.view(np.float32)


@compiled
def upper_end(low, high, code):
    """The largest impact that a code of a tier stands for, float64."""
    return low + (high - low) * ((code + 1) / CODES)


@compiled
def code_of(impact, low, high):
    """The smallest code whose upper end is not below the impact."""
    code = np.int64(0)
    if high > low:
        code = min(np.int64((impact - low) / (high - low) * CODES), CODES - 1)
        if code > 0 and upper_end(low, high, code - 1) >= impact:
            code -= 1
        if code < CODES - 1 and upper_end(low, high, code) < impact:
            code += 1
    return code


@compiled
def place(terms, local_docs, weights, largest, tier_of_bin, edges, filled, docs, codes):
    """Write the postings of one window where filled[term * TIERS + tier] says, which moves on; stable in documents.

    terms, local_docs, weights  the entries, as kernels.cpu.partition writes them
    codes                       uint8, one code a byte
    """
    impacts = weights.view(np.float32)
    for entry in range(np.uint64(terms.shape[0])):
        term = np.uint64(terms[entry])
        cell = tier_cell(term, weights[entry], largest, tier_of_bin)
        edge = cell + term
        slot = np.uint64(filled[cell])
        filled[cell] = slot + np.uint64(1)
        docs[slot] = local_docs[entry]
        codes[slot] = code_of(
            np.float64(impacts[entry]), np.float64(edges[edge + np.uint64(1)]), np.float64(edges[edge])
        )


@compiled
def pack_codes(codes, packed):
    """Two codes a byte, the lower half first."""
    for pair in range(codes.shape[0] >> 1):
        packed[pair] = codes[2 * pair] | (codes[2 * pair + 1] << 4)
    if codes.shape[0] & 1:
        packed[codes.shape[0] >> 1] = codes[codes.shape[0] - 1]
