"""Inverted lists of groups of similar documents, in windows and tiers of impacts: the second tier of a large index.

Documents stand in the order of their nearest cluster, then of their second nearest; GROUP neighbours are a group. A list names the
groups in whose sketches its term occurs, so it is several times shorter than one of documents. A posting is a number of 16 bits
and no impact: the mean of its tier counts. Memory order is [term][tier][window], heaviest tier first.
"""

from typing import NamedTuple

import numpy as np

from kernels.cpu.compiled import compiled
from kernels.cpu.sketches import SKETCH

GROUP = 4  # documents
GROUP_WINDOW = 65_536  # groups; 2**16, so that the number of a group within its window is a uint16
GROUP_TIERS = 6
LEVELS = 256  # of the impacts in a sketch
FRACTIONS = np.array([0.05, 0.12, 0.25, 0.45, 0.7, 1.0])  # of a list's postings up to the end of each tier


class ClusterGroups(NamedTuple):
    """Lists of groups, sketches and clusters of `len(doc_at)` documents; a position is a place in the order of clusters.

    List (term, tier) has in a window the postings starts[cell]:starts[cell + 1], cell = (term * GROUP_TIERS + tier) * windows + window.
    """

    starts: np.ndarray  # int64 [terms * GROUP_TIERS * windows + 1]
    groups: np.ndarray  # uint16 [postings], the group's number within its window, ascending
    means: np.ndarray  # float32 [terms * GROUP_TIERS], mean over a tier of the largest impact in a group
    counts: np.ndarray  # int64 [terms * GROUP_TIERS], postings of each tier in all windows
    sketch_terms: np.ndarray  # uint16 or uint32 [documents * SKETCH], by position
    sketch_impacts: np.ndarray  # uint8, beside it: impact in steps; 0 where unused
    steps: np.ndarray  # float32 [terms]
    doc_at: np.ndarray  # int32 [documents], by position
    nearest: np.ndarray  # int32 [documents], the cluster of each position; the number of clusters where there is none
    second: np.ndarray  # int32 [documents], the second nearest cluster
    cluster_starts: (
        np.ndarray
    )  # int64 [clusters + 2]: positions of each cluster, then those of the documents without one


@compiled
def terms_of_group(group, sketch_terms, sketch_impacts, largest, found):
    """Write the terms of a group into `found` and their largest impacts into largest[term], uint8, zero before and for the
    caller to clear; returns their number."""
    count = 0
    first, past_last = group * GROUP * SKETCH, min((group + 1) * GROUP * SKETCH, sketch_terms.shape[0])
    for i in range(first, past_last):
        impact = sketch_impacts[i]
        if impact > 0:
            term = sketch_terms[i]
            if largest[term] == 0:
                found[count] = term
                count += 1
            largest[term] = max(largest[term], impact)
    return count


@compiled
def count_levels(first, past_last, sketch_terms, sketch_impacts, counts):
    """Count the postings of groups first..past_last into counts[term * LEVELS + impact], int32."""
    largest, found = np.zeros(counts.shape[0] // LEVELS, np.uint8), np.empty(GROUP * SKETCH, np.int64)
    for group in range(first, past_last):
        for i in range(terms_of_group(group, sketch_terms, sketch_impacts, largest, found)):
            counts[found[i] * LEVELS + largest[found[i]]] += 1
            largest[found[i]] = 0


@compiled
def choose_tiers(level_counts, steps, tier_of_level, means, counts):
    """Cut each list so that about FRACTIONS[tier] of it lies in the tiers up to a tier.

    Writes tier_of_level, uint8 [terms * LEVELS], and the means and counts of the tiers, zero before.
    """
    for term in range(steps.shape[0]):
        levels = level_counts[term * LEVELS : (term + 1) * LEVELS]
        total, seen, tier = levels.sum(), 0, 0
        sums = np.zeros(GROUP_TIERS)
        for level in range(LEVELS - 1, 0, -1):
            while tier < GROUP_TIERS - 1 and seen >= FRACTIONS[tier] * total:
                tier += 1
            tier_of_level[term * LEVELS + level] = tier
            sums[tier] += levels[level] * level
            counts[term * GROUP_TIERS + tier] += levels[level]
            seen += levels[level]
        for tier in range(GROUP_TIERS):
            cell = term * GROUP_TIERS + tier
            if counts[cell] > 0:
                means[cell] = sums[tier] * steps[term] / counts[cell]
            elif tier > 0:
                means[cell] = means[cell - 1]  # so that they descend


@compiled
def count_window(window, num_windows, sketch_terms, sketch_impacts, tier_of_level, ends):
    """Count the postings of each list in one window into ends[cell], a view of `starts` from its second number on."""
    largest, found = np.zeros(tier_of_level.shape[0] // LEVELS, np.uint8), np.empty(GROUP * SKETCH, np.int64)
    for group in range(window * GROUP_WINDOW, past_window(window, sketch_terms.shape[0])):
        for i in range(terms_of_group(group, sketch_terms, sketch_impacts, largest, found)):
            term = found[i]
            ends[(term * GROUP_TIERS + tier_of_level[term * LEVELS + largest[term]]) * num_windows + window] += 1
            largest[term] = 0


@compiled
def fill_window(window, num_windows, sketch_terms, sketch_impacts, tier_of_level, starts, groups):
    """Write the postings of one window; groups ascend in each list."""
    num_terms = tier_of_level.shape[0] // LEVELS
    largest, found = np.zeros(num_terms, np.uint8), np.empty(GROUP * SKETCH, np.int64)
    filled = np.empty(num_terms * GROUP_TIERS, np.int64)
    for cell in range(filled.shape[0]):
        filled[cell] = starts[cell * num_windows + window]
    for group in range(window * GROUP_WINDOW, past_window(window, sketch_terms.shape[0])):
        for i in range(terms_of_group(group, sketch_terms, sketch_impacts, largest, found)):
            term = found[i]
            cell = term * GROUP_TIERS + tier_of_level[term * LEVELS + largest[term]]
            groups[filled[cell]] = group - window * GROUP_WINDOW
            filled[cell] += 1
            largest[term] = 0


@compiled
def past_window(window, sketch_entries):
    """The group after the last of a window."""
    num_groups = (sketch_entries // SKETCH + GROUP - 1) // GROUP
    return min((window + 1) * GROUP_WINDOW, num_groups)
