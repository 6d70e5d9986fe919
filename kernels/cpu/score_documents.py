"""Exact scores of given documents from the forward index, the best k kept."""

import numpy as np

from kernels.cpu.compiled import compiled
from kernels.cpu.forward_rows import SIEVE, prefetch_rows, prefetch_starts, score
from kernels.cpu.top_k import new_heap, offer, sort_best_first

AHEAD = 16  # rows asked for while as many are scored


@compiled
def score_documents(forward, buckets, terms, weights, docs, floor, k, work):
    """The best k of `docs` (int32, each once, any order) that score at least `floor`, best first: (scores float32 [k], docs
    int32 [k])."""
    best_scores, best_docs = new_heap(k, floor)
    set_query(terms, weights, work)
    prefetch_starts(forward, docs[: 2 * AHEAD])
    prefetch_rows(forward, docs[:AHEAD], buckets)
    for first in range(0, docs.shape[0], AHEAD):
        prefetch_starts(forward, docs[first + 2 * AHEAD : first + 3 * AHEAD])
        prefetch_rows(forward, docs[first + AHEAD : first + 2 * AHEAD], buckets)
        score_batch(forward, docs[first : first + AHEAD], buckets, best_scores, best_docs, work)
    clear_query(terms, work)
    sort_best_first(best_scores, best_docs)
    return best_scores, best_docs


@compiled
def score_batch(forward, docs, buckets, best_scores, best_docs, work):
    """Offer at most AHEAD documents to the heap of the best."""
    work.counters[1] += docs.shape[0]
    scores = work.scores[: docs.shape[0]]
    score(forward, docs, buckets, work.query_weights, work.sieve, work.matches, scores)
    for i in range(docs.shape[0]):
        offer(best_scores, best_docs, scores[i], docs[i])


@compiled
def score_table(forward, buckets, starts, terms, weights, docs, work, scores):
    """Write the score of each of `docs` (int32) for each query, whose terms are terms[starts[q]:starts[q + 1]]: scores is float32
    [queries, docs]."""
    for query in range(scores.shape[0]):
        own = slice(starts[query], starts[query + 1])
        set_query(terms[own], weights[own], work)
        score(forward, docs, buckets, work.query_weights, work.sieve, work.matches, scores[query])
        clear_query(terms[own], work)


@compiled
def set_query(terms, weights, work):
    """Spread the query over the tables that `forward_rows.score` reads."""
    for i in range(terms.shape[0]):
        term = np.int64(terms[i])
        work.query_weights[term] = weights[i]
        work.sieve[term & (SIEVE - 1)] = 1


@compiled
def clear_query(terms, work):
    """Undo `set_query`."""
    for i in range(terms.shape[0]):
        term = np.int64(terms[i])
        work.query_weights[term] = 0
        work.sieve[term & (SIEVE - 1)] = 0


@compiled
def is_plain_query(terms, weights, num_terms):
    """True when terms ascend within the vocabulary and every weight is finite and above 0: nothing is left to check."""
    if terms.shape[0] != weights.shape[0]:
        return False
    before = -1
    for i in range(terms.shape[0]):
        if terms[i] <= before or terms[i] >= num_terms or not (weights[i] > 0 and weights[i] < np.inf):
            return False
        before = terms[i]
    return True
