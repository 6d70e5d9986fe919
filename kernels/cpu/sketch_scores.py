"""Scores of sketches in whole numbers, and the best positions by them."""

import numpy as np

from kernels.cpu.bits import prefetch
from kernels.cpu.cluster_groups import GROUP, first_places, record_bytes
from kernels.cpu.compiled import compiled
from kernels.cpu.sketches import SKETCH

AHEAD = 4  # groups whose records are asked for before they are read
SPAN_AHEAD = 4  # the same where groups lie side by side
ROOM = 256  # positions of a cluster that are looked at on each side
SCORE_BINS = 1_024


@compiled
def set_table(terms, weights, steps, table):
    """Write what a step of each query term's impact is worth into table[term], uint8, at least 1 and the largest 255.

    The sums of 20 such products tell sketches well enough apart, and the table of a vocabulary of 30,000 fits the fastest cache.
    """
    most = np.float32(1e-30)
    for i in range(terms.shape[0]):
        most = max(most, weights[i] * steps[np.int64(terms[i])])
    for i in range(terms.shape[0]):
        worth = np.int32(weights[i] * steps[np.int64(terms[i])] / most * np.float32(255))
        table[np.int64(terms[i])] = max(worth, np.int32(1))


@compiled
def fetch(table, length):
    """Bring the beginning of a table into the cache, from which reading postings may have driven it."""
    for place in range(0, length, 64 // table.itemsize):
        prefetch(table, place)


@compiled
def sketch_score(terms, impacts, term, impact, table):
    """Score of the sketch that begins at these places, int32: below 2**21. The length of `table` is a power of two."""
    first_term, first_impact, last_term = np.uint64(term), np.uint64(impact), np.uint32(table.shape[0] - 1)
    total = np.int32(0)
    for i in range(SKETCH):
        worth = np.int32(table[terms[first_term + np.uint64(i)] & last_term])
        total += worth * np.int32(impacts[first_impact + np.uint64(i)])
    return total


@compiled
def prefetch_record(impacts, first_impact, size):
    """Ask for the lines of a record that begins at a byte."""
    for byte in range(first_impact, first_impact + size, 64):
        prefetch(impacts, byte)
    prefetch(impacts, first_impact + size - 1)


@compiled
def score_groups(groups, count, num_docs, records, table, found, scores):
    """Write positions, int32, and sketch scores, int32, of the documents of `count` groups; returns their number."""
    terms, impacts, num_found = records.terms, records.impacts, 0
    size = record_bytes(terms.itemsize)
    for i in range(min(AHEAD, count)):
        prefetch_record(impacts, np.int64(groups[i]) * size, size)
    for i in range(count):
        if i + AHEAD < count:
            prefetch_record(impacts, np.int64(groups[i + AHEAD]) * size, size)
        first_position = np.int64(groups[i]) * GROUP
        term, impact, _ = first_places(first_position, terms.itemsize)
        for member in range(min(GROUP, num_docs - first_position)):
            found[num_found] = first_position + member
            scores[num_found] = sketch_score(terms, impacts, term + member * SKETCH, impact + member * SKETCH, table)
            num_found += 1
    return num_found


@compiled
def near_leaders(leaders, num_docs, nearest, second, cluster_starts, spans):
    """Write the positions near the leaders into spans, int64 [4 * leaders]: first, past the last; returns how many spans.

    The nearest clusters of all leaders, then the second ones, each cluster once. Of a large cluster only what lies near the
    leader, or of its second cluster the middle.
    """
    num_clusters, num_tried = cluster_starts.shape[0] - 2, 0
    tried = np.empty(2 * leaders.shape[0], np.int64)
    for turn in range(2 * leaders.shape[0]):
        leader = np.int64(leaders[turn % leaders.shape[0]])
        is_second = turn >= leaders.shape[0]
        cluster = np.int64(second[leader] if is_second else nearest[leader])
        is_known = cluster < 0 or cluster >= num_clusters
        for i in range(num_tried):
            is_known = is_known or tried[i] == cluster
        if not is_known:
            # a damaged file may hold any numbers here
            first = min(max(cluster_starts[cluster], 0), num_docs)
            past_last = max(min(cluster_starts[cluster + 1], num_docs), first)
            middle = (first + past_last) // 2 if is_second else leader
            spans[2 * num_tried], spans[2 * num_tried + 1] = max(first, middle - ROOM), min(past_last, middle + ROOM)
            tried[num_tried] = cluster
            num_tried += 1
    return num_tried


@compiled
def score_spans(spans, num_spans, records, table, seen, found, scores):
    """As score_groups, of the positions in spans that are not in `seen`. Stops where `found` is full."""
    terms, impacts, num_found = records.terms, records.impacts, 0
    size = record_bytes(terms.itemsize)
    for span in range(num_spans):
        prefetch_record(impacts, spans[2 * span] // GROUP * size, size)
    for span in range(num_spans):
        for position in range(spans[2 * span], spans[2 * span + 1]):
            if position % GROUP == 0:
                prefetch_record(impacts, (position // GROUP + SPAN_AHEAD) * size, size)
            if num_found < found.shape[0] and not is_marked(seen, position):
                term, impact, _ = first_places(position, terms.itemsize)
                found[num_found] = position
                scores[num_found] = sketch_score(terms, impacts, term, impact, table)
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
