"""A bounded min-heap over parallel arrays: the k best (score, doc) seen so far.

Total order everywhere in this project: higher score first, then lower document number.
The heap's root is its worst entry, so `scores[0]` is the threshold a newcomer must reach; just below the
score asked for, at least 0, while the heap has room.
"""

import numpy as np

from kernels.cpu.compiled import compiled

EMPTY = -1  # document number of an unfilled slot; its score comes back as 0, which no hit has


@compiled
def new_heap(k, floor):
    """(scores float32 [k], docs int32 [k]) of k unfilled slots, which a score of at least `floor` (float32) can enter; with
    floor 0, one above 0."""
    below = np.nextafter(floor, np.float32(0))
    return np.full(k, below, np.float32), np.full(k, EMPTY, np.int32)


@compiled
def is_worse(score_a, doc_a, score_b, doc_b):
    """True when entry a ranks below entry b."""
    return score_a < score_b or (score_a == score_b and doc_a > doc_b)


@compiled
def offer(scores, docs, score, doc):
    """Take (score, doc) into the heap if it ranks above the root, in place.

    scores, docs: as from `new_heap`.
    """
    if is_worse(scores[0], docs[0], score, doc):
        sift_down(scores, docs, scores.shape[0], score, doc)


@compiled
def sift_down(scores, docs, size, score, doc):
    """Put (score, doc) in place of the root of the heap's first `size` entries and restore their order, in place."""
    slot = 0
    while True:
        child = 2 * slot + 1
        if child >= size:
            break
        if child + 1 < size and is_worse(scores[child + 1], docs[child + 1], scores[child], docs[child]):
            child += 1
        if not is_worse(scores[child], docs[child], score, doc):
            break
        scores[slot], docs[slot] = scores[child], docs[child]
        slot = child
    scores[slot], docs[slot] = score, doc


@compiled
def sort_best_first(scores, docs):
    """Order a heap by score descending, then document ascending, in place (heap sort); unfilled slots, last, score 0."""
    for last in range(scores.shape[0] - 1, 0, -1):
        score, doc = scores[last], docs[last]
        scores[last], docs[last] = scores[0], docs[0]
        sift_down(scores, docs, last, score, doc)
    for slot in range(scores.shape[0]):
        if docs[slot] == EMPTY:
            scores[slot] = 0
