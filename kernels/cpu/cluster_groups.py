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
    """Lists of groups, their records and the clusters of `len(nearest)` documents; a position is a place in the order of clusters.

    List (term, tier) has in a window the postings starts[cell]:starts[cell + 1], cell = (term * GROUP_TIERS + tier) * windows + window.
    """

    starts: np.ndarray  # int64 [terms * GROUP_TIERS * windows + 1]
    groups: np.ndarray  # uint16 [postings], the group's number within its window, ascending
    means: np.ndarray  # float32 [terms * GROUP_TIERS], mean over a tier of the largest impact in a group
    counts: np.ndarray  # int64 [terms * GROUP_TIERS], postings of each tier in all windows
    records: np.ndarray  # uint8 [groups * record_bytes], see Records
    steps: np.ndarray  # float32 [terms], of the impacts in sketches
    nearest: np.ndarray  # int32 [documents], the cluster of each position; the number of clusters where there is none
    second: np.ndarray  # int32 [documents], the second nearest cluster
    cluster_starts: (
        np.ndarray
    )  # int64 [clusters + 2]: positions of each cluster, then those of the documents without one


class Records(NamedTuple):
    """Three views of the same bytes. The record of a group holds the terms of its sketches, then their impacts, then the numbers of
    its documents: with terms of 16 bits it is four cache lines that lie together.
    """

    terms: np.ndarray  # uint16 or uint32
    impacts: np.ndarray  # uint8, in steps; 0 where a sketch has no more terms
    docs: np.ndarray  # int32


def view_records(records, term_type):
    """The typed views of `ClusterGroups.records`."""
    return Records(records.view(term_type), records, records.view(np.int32))


@compiled
def record_bytes(term_bytes):
    """Bytes of the record of a group."""
    return GROUP * (SKETCH * (term_bytes + 1) + 4)


@compiled
def first_places(position, term_bytes):
    """Where in the Records the sketch at a position begins: (in terms, in impacts, and in docs its document), int64."""
    size = record_bytes(term_bytes)
    group, member = position // GROUP, position % GROUP
    first_impact = group * size + GROUP * SKETCH * term_bytes
    return (
        group * (size // term_bytes) + member * SKETCH,
        first_impact + member * SKETCH,
        (first_impact + GROUP * SKETCH) // 4 + member,
    )


@compiled
def fill_records(first, past_last, doc_at, sketch_terms, sketch_impacts, records):
    """Write the sketches and numbers of documents doc_at[first:past_last] to the positions first..past_last."""
    for position in range(first, past_last):
        sketch = np.int64(doc_at[position]) * SKETCH
        term, impact, doc = first_places(position, records.terms.itemsize)
        for i in range(SKETCH):
            records.terms[term + i] = sketch_terms[sketch + i]
            records.impacts[impact + i] = sketch_impacts[sketch + i]
        records.docs[doc] = doc_at[position]


@compiled
def terms_of_group(group, records, largest, found):
    """Write the terms of a group into `found` and their largest impacts into largest[term], uint8, zero before and for the
    caller to clear; returns their number."""
    count = 0
    first_term, first_impact, _ = first_places(group * GROUP, records.terms.itemsize)
    for i in range(GROUP * SKETCH):
        impact = records.impacts[first_impact + i]
        if impact > 0:
            term = records.terms[first_term + i]
            if largest[term] == 0:
                found[count] = term
                count += 1
            largest[term] = max(largest[term], impact)
    return count


@compiled
def count_levels(first, past_last, records, counts):
    """Count the postings of groups first..past_last into counts[term * LEVELS + impact], int32."""
    largest, found = np.zeros(counts.shape[0] // LEVELS, np.uint8), np.empty(GROUP * SKETCH, np.int64)
    for group in range(first, past_last):
        for i in range(terms_of_group(group, records, largest, found)):
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
def count_window(window, num_windows, num_groups, records, tier_of_level, ends):
    """Count the postings of each list in one window into ends[cell], a view of `starts` from its second number on."""
    largest, found = np.zeros(tier_of_level.shape[0] // LEVELS, np.uint8), np.empty(GROUP * SKETCH, np.int64)
    for group in range(window * GROUP_WINDOW, min((window + 1) * GROUP_WINDOW, num_groups)):
        for i in range(terms_of_group(group, records, largest, found)):
            term = found[i]
            ends[(term * GROUP_TIERS + tier_of_level[term * LEVELS + largest[term]]) * num_windows + window] += 1
            largest[term] = 0


@compiled
def fill_window(window, num_windows, num_groups, records, tier_of_level, starts, groups):
    """Write the postings of one window; groups ascend in each list."""
    num_terms = tier_of_level.shape[0] // LEVELS
    largest, found = np.zeros(num_terms, np.uint8), np.empty(GROUP * SKETCH, np.int64)
    filled = np.empty(num_terms * GROUP_TIERS, np.int64)
    for cell in range(filled.shape[0]):
        filled[cell] = starts[cell * num_windows + window]
    for group in range(window * GROUP_WINDOW, min((window + 1) * GROUP_WINDOW, num_groups)):
        for i in range(terms_of_group(group, records, largest, found)):
            term = found[i]
            cell = term * GROUP_TIERS + tier_of_level[term * LEVELS + largest[term]]
            groups[filled[cell]] = group - window * GROUP_WINDOW
            filled[cell] += 1
            largest[term] = 0
