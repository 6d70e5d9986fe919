"""A bounded min-heap over parallel arrays: the k best (score, doc) seen so far.

Total order everywhere in this project: higher score first, then lower document number.
The heap's root is its worst entry, so `scores[0]` is the threshold a newcomer must beat.
"""

from kernels.cpu.compiled import compiled

EMPTY = -1  # document number of an unfilled slot; its score is 0, which no hit has


@compiled
def is_worse(score_a, doc_a, score_b, doc_b):
    """True when entry a ranks below entry b."""
    return score_a < score_b or (score_a == score_b and doc_a > doc_b)


@compiled
def replace_worst(scores, docs, score, doc):
    """Put (score, doc) in place of the root and restore the heap, in place.

    scores: float32 [k], docs: int32 [k]. The caller has checked that the newcomer beats the root.
    """
    k = scores.shape[0]
    slot = 0
    while True:
        child = 2 * slot + 1
        if child >= k:
            break
        if child + 1 < k and is_worse(scores[child + 1], docs[child + 1], scores[child], docs[child]):
            child += 1
        if not is_worse(scores[child], docs[child], score, doc):
            break
        scores[slot], docs[slot] = scores[child], docs[child]
        slot = child
    scores[slot], docs[slot] = score, doc
