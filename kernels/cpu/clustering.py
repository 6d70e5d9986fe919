"""Clusters of similar documents: every 32nd document seeds one, a larger sample refines it, each document joins its two nearest.

Single-pass k-means on sketches, with inverted lists of the centroids. The samples are chosen by a hash of the document number and
every sum has a fixed order, so clusters depend on neither chance nor threads.
"""

import numpy as np

from kernels.cpu.compiled import compiled
from kernels.cpu.sketches import SKETCH, insert, level

CENTROID = 16  # terms of a centroid
COMPARED = 10  # terms of a document that are compared with centroids
LIST_CAP = 150  # about the longest list of centroids of one term, the heaviest
LEVELS = 256


@compiled
def sample(num_docs, share):
    """int32: the documents whose hashed number falls into the first 1 / share of the range, ascending."""
    chosen, count = np.empty(num_docs, np.int32), 0
    for doc in range(num_docs):
        x = (np.uint64(doc) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        x = x ^ (x >> np.uint64(32))
        if (x & np.uint64(0xFFFFFF)) * np.uint64(share) < np.uint64(0x1000000):
            chosen[count] = doc
            count += 1
    return chosen[:count].copy()


@compiled
def to_unit_length(weights, count):
    """Scale the first `count` weights to a length of 1, in place, and clear the others."""
    squares = np.float32(1e-30)
    for i in range(count):
        squares += weights[i] * weights[i]
    for i in range(weights.shape[0]):
        weights[i] = weights[i] / np.sqrt(squares) if i < count else np.float32(0)


@compiled
def centroids(first, past_last, starts, members, sketch_terms, sketch_impacts, factors, terms, weights):
    """Write centroids first..past_last: the heaviest terms of the root of the sum of squared weights of the members.

    starts   int64 [centroids + 1]: cluster c has members[starts[c]:starts[c + 1]], documents
    factors  float32 [terms], what a step of a term weighs in the comparison
    terms    int32 [centroids * CENTROID]; `weights` float32 beside it, of length 1 together, 0 where unused
    """
    totals, seen = np.zeros(factors.shape[0], np.float32), np.empty(factors.shape[0], np.int32)
    for c in range(first, past_last):
        num_seen = 0
        for member in range(starts[c], starts[c + 1]):
            sketch = np.int64(members[member]) * SKETCH
            for i in range(sketch, sketch + SKETCH):
                if sketch_impacts[i] > 0:
                    term = sketch_terms[i]
                    weight = sketch_impacts[i] * factors[term]
                    if totals[term] == 0:
                        seen[num_seen] = term
                        num_seen += 1
                    totals[term] += max(weight * weight, np.float32(1e-37))
        own_terms, own_weights = terms[c * CENTROID : (c + 1) * CENTROID], weights[c * CENTROID : (c + 1) * CENTROID]
        count = 0
        for i in range(num_seen):
            count = insert(seen[i], np.sqrt(totals[seen[i]]), count, own_terms, own_weights)
            totals[seen[i]] = 0
        to_unit_length(own_weights, count)


@compiled
def invert(terms, weights, num_terms):
    """(starts int64 [terms + 1], ids uint32, levels uint8): which centroids have a term, about LIST_CAP heaviest each."""
    step = np.float32(1 / 255)
    counts = np.zeros(num_terms * LEVELS, np.int32)
    for i in range(terms.shape[0]):
        if weights[i] > 0:
            counts[np.int64(terms[i]) * LEVELS + level(weights[i], step)] += 1
    starts, lowest = np.zeros(num_terms + 1, np.int64), np.zeros(num_terms, np.int64)
    for term in range(num_terms):
        low, kept = 255, np.int64(counts[term * LEVELS + 255])
        while low > 1 and kept + counts[term * LEVELS + low - 1] <= LIST_CAP:
            low -= 1
            kept += counts[term * LEVELS + low]
        lowest[term], starts[term + 1] = low, starts[term] + kept
    filled = starts[:-1].copy()
    ids, levels = np.empty(starts[num_terms], np.uint32), np.empty(starts[num_terms], np.uint8)
    for i in range(terms.shape[0]):
        if weights[i] > 0:
            term, own = np.int64(terms[i]), level(weights[i], step)
            if own >= lowest[term]:
                ids[filled[term]], levels[filled[term]] = i // CENTROID, own
                filled[term] += 1
    return starts, ids, levels


@compiled
def assign(
    first, past_last, docs, sketch_terms, sketch_impacts, factors, starts, ids, levels, num_clusters, nearest, second
):
    """Write the two nearest centroids of docs[first:past_last], int32; num_clusters where there is none.

    A cosine between unit vectors is at most 200 * 255 in whole numbers, which 16 bits hold.
    """
    cosines = np.zeros(num_clusters, np.uint16)
    terms, weights = np.empty(COMPARED, np.int32), np.empty(COMPARED, np.float32)
    for i in range(first, past_last):
        sketch, count = np.int64(docs[i]) * SKETCH, 0
        for j in range(sketch, sketch + SKETCH):
            if sketch_impacts[j] > 0:
                count = insert(sketch_terms[j], sketch_impacts[j] * factors[sketch_terms[j]], count, terms, weights)
        to_unit_length(weights, count)
        for j in range(count):
            weight = np.uint32(weights[j] * 200)
            for p in range(np.uint64(starts[terms[j]]), np.uint64(starts[terms[j] + 1])):
                cosines[ids[p]] += np.uint16(weight * np.uint32(levels[p]))
        best, next_best = np.int32(num_clusters), np.int32(num_clusters)
        best_cosine, next_cosine = np.uint16(0), np.uint16(0)
        for j in range(count):  # a second walk finds the best and clears
            for p in range(np.uint64(starts[terms[j]]), np.uint64(starts[terms[j] + 1])):
                c = ids[p]
                cosine = cosines[c]
                cosines[c] = 0
                if cosine > next_cosine:
                    if cosine > best_cosine:
                        best, best_cosine, next_best, next_cosine = np.int32(c), cosine, best, best_cosine
                    else:
                        next_best, next_cosine = np.int32(c), cosine
        nearest[i], second[i] = best, next_best


@compiled
def sort_by(order, keys, num_keys, sorted_order):
    """Sort documents by keys[document] into `sorted_order`, stably; returns where each key begins, int64 [num_keys + 1]."""
    starts = np.zeros(num_keys + 1, np.int64)
    for i in range(order.shape[0]):
        starts[keys[order[i]] + 1] += 1
    for key in range(num_keys):
        starts[key + 1] += starts[key]
    filled = starts.copy()
    for i in range(order.shape[0]):
        key = keys[order[i]]
        sorted_order[filled[key]] = order[i]
        filled[key] += 1
    return starts
