"""Exhaustive top-k by term-at-a-time scoring, one window of documents after another.

The scores of one window lie in an array that fits the processor's cache; each query term in turn adds its impacts
to it, then one scan keeps the best. The same memory idea as SINDI (arXiv:2509.08395); nothing is pruned here.

A score is the float32 sum of its terms' contributions in ascending term order, whatever the windows: a term adds to a
document at most once, and terms come in that order (docs/format.md).
"""

import numpy as np

from kernels.cpu.compiled import compiled
from kernels.cpu.postings import WINDOW
from kernels.cpu.top_k import EMPTY, replace_worst


@compiled
def search(postings, terms, weights, num_docs, k):
    """The k best documents by dot product, in heap order.

    postings  Postings
    terms     int32 [query terms], ascending, each within the vocabulary
    weights   float32 [query terms], all > 0
    k         1..num_docs

    Returns (scores float32 [k], docs int32 [k]); a slot that no document fills holds (0, EMPTY).
    """
    best_scores = np.zeros(k, np.float32)
    best_docs = np.full(k, EMPTY, np.int32)
    window_scores = np.empty(min(WINDOW, num_docs), np.float32)
    num_windows = (num_docs + WINDOW - 1) // WINDOW
    for window in range(num_windows):
        first_doc = window * WINDOW
        scores = window_scores[: min(WINDOW, num_docs - first_doc)]
        scores[:] = 0
        for i in range(terms.shape[0]):
            term = np.int64(terms[i])
            add_term(postings, term, term * num_windows + window, weights[i], scores)
        for doc in range(scores.shape[0]):
            # documents come in ascending order, so an equal score never displaces an earlier one
            if scores[doc] > best_scores[0]:
                replace_worst(best_scores, best_docs, scores[doc], np.int32(first_doc + doc))
    return best_scores, best_docs


@compiled
def add_term(postings, term, list_number, weight, scores):
    """Add weight * impact to the score of every document in one inverted list, in place."""
    step = postings.steps[term]
    # a damaged file may hold any number here: neither bound may leave the arrays
    first = max(postings.starts[list_number], 0)
    past_last = min(postings.starts[list_number + 1], postings.docs.shape[0])
    for posting in range(first, past_last):
        doc = postings.docs[posting]
        if doc < scores.shape[0]:
            scores[doc] += weight * (step * np.float32(postings.impacts[posting]))
