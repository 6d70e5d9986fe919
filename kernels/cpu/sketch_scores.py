"""Scores of sketches in whole numbers, and the best positions by them."""

import numpy as np

from kernels.cpu.bits import prefetch
from kernels.cpu.cluster_groups import GROUP
from kernels.cpu.compiled import compiled
from kernels.cpu.sketches import SKETCH

AHEAD = 16  # groups whose sketches are asked for before they are read
ROOM = 256  # positions of a cluster that are looked at on each side
SCORE_BINS = 1_024


@compiled
def set_table(terms, weights, steps, table):
    """Write what a step of each query term's impact is worth into table[term], at least 1, in units that make the largest fit."""
    most = np.float32(1e-30)
    for i in range(terms.shape[0]):
        most = max(most, weights[i] * steps[np.int64(terms[i])])
    for i in range(terms.shape[0]):
        worth = np.int32(weights[i] * steps[np.int64(terms[i])] / most * np.float32(65_535))
        table[np.int64(terms[i])] = max(worth, np.int32(1))


@compiled
def sketch_score(position, sketch_terms, sketch_impacts, table):
    """Score of the sketch at a position, int32: below 2**29. The length of `table` is a power of two."""
    first, last_term = np.uint64(position) * np.uint64(SKETCH), np.uint32(table.shape[0] - 1)
    total = np.int32(0)
    for i in range(SKETCH):
        entry = first + np.uint64(i)
        total += np.int32(table[sketch_terms[entry] & last_term]) * np.int32(sketch_impacts[entry])
    return total


@compiled
def score_groups(groups, count, num_docs, sketch_terms, sketch_impacts, table, found, scores):
    """Write positions, int32, and sketch scores, int32, of the documents of `count` groups; returns their number."""
    num_found = 0
    for i in range(count + AHEAD):
        if i < count:
            first = np.int64(groups[i]) * (GROUP * SKETCH)
            for entry in range(first, first + GROUP * SKETCH, 64 // sketch_terms.itemsize):
                prefetch(sketch_terms, entry)
            prefetch(sketch_terms, first + GROUP * SKETCH - 1)
            prefetch(sketch_impacts, first)
            prefetch(sketch_impacts, first + GROUP * SKETCH - 1)
        if i >= AHEAD:
            first_position = np.int64(groups[i - AHEAD]) * GROUP
            for position in range(first_position, min(num_docs, first_position + GROUP)):
                found[num_found] = position
                scores[num_found] = sketch_score(position, sketch_terms, sketch_impacts, table)
                num_found += 1
    return num_found


@compiled
def score_clusters(
    leaders, num_leaders, nearest, second, cluster_starts, sketch_terms, sketch_impacts, table, seen, found, scores
):
    """The same of both clusters of each leader, a position, without those in `seen`; returns their number.

    Of a large cluster only what lies near the leader, or of its second cluster the middle. The clusters of several leaders
    are looked at once. Stops where `found` is full.
    """
    num_found, num_docs, num_clusters = 0, np.int64(nearest.shape[0]), cluster_starts.shape[0] - 2
    tried, num_tried = np.empty(2 * num_leaders, np.int64), 0
    for turn in range(2 * num_leaders):
        leader = np.int64(leaders[turn % num_leaders])
        is_second = turn >= num_leaders
        cluster = np.int64(second[leader] if is_second else nearest[leader])
        is_known = cluster < 0 or cluster >= num_clusters
        for i in range(num_tried):
            is_known = is_known or tried[i] == cluster
        if is_known:
            continue
        tried[num_tried] = cluster
        num_tried += 1
        # a damaged file may hold any numbers here
        first = min(max(cluster_starts[cluster], 0), num_docs)
        past_last = max(min(cluster_starts[cluster + 1], num_docs), first)
        middle = (first + past_last) // 2 if is_second else leader
        for position in range(max(first, middle - ROOM), min(past_last, middle + ROOM)):
            if num_found == found.shape[0]:
                return num_found
            if not is_marked(seen, position):
                found[num_found] = position
                scores[num_found] = sketch_score(position, sketch_terms, sketch_impacts, table)
                num_found += 1
    return num_found


@compiled
def choose_best(found, scores, count, wanted, bins, chosen, num_chosen):
    """Append the `wanted` best positions by sketch score, earlier ones where the last bin is too full; returns the new number.

    A position of score 0 is never chosen.
    """
    most, shift = np.int32(0), 0
    for i in range(count):
        most = max(most, scores[i])
    while most >> shift >= SCORE_BINS:
        shift += 1
    bins[:SCORE_BINS] = 0
    for i in range(count):
        bins[scores[i] >> shift] += 1
    lowest, above = SCORE_BINS - 1, np.int64(bins[SCORE_BINS - 1])
    while lowest > 0 and above < wanted:
        lowest -= 1
        above += bins[lowest]
    spare = wanted - (above - bins[lowest])
    for i in range(count):
        b = scores[i] >> shift
        if scores[i] > 0 and (b > lowest or (b == lowest and spare > 0)):
            spare -= b == lowest
            chosen[num_chosen] = found[i]
            num_chosen += 1
    return num_chosen


@compiled
def mark(seen, positions, count):
    """Set the bits of the positions in `seen`, uint8, eight positions a byte."""
    for i in range(count):
        seen[positions[i] >> 3] |= np.uint8(1 << (positions[i] & 7))


@compiled
def unmark(seen, positions, count):
    """Clear the bytes of the positions."""
    for i in range(count):
        seen[positions[i] >> 3] = 0


@compiled
def is_marked(seen, position):
    return (seen[position >> 3] >> np.uint8(position & 7)) & 1 != 0
