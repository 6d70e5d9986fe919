"""Many queries in one call, so that a thread stays out of Python between them."""

import numpy as np

from kernels.cpu import anytime, rank_safe
from kernels.cpu.compiled import compiled

search_exactly, search_approximately = rank_safe.search, anytime.search


@compiled
def search(tiers, forward, starts, terms, weights, allowed, floors, k, left_out, max_postings, candidates, work):
    """The k best documents of each query: (scores float32 [queries, k], docs int32 [queries, k]).

    starts                                      int64 [queries + 1]: query q has terms[starts[q]:starts[q + 1]]
    floors, left_out, max_postings, candidates  of each query, as for anytime.search; no candidates: exactly
    """
    num_queries = starts.shape[0] - 1
    scores, docs = np.zeros((num_queries, k), np.float32), np.zeros((num_queries, k), np.int32)
    for q in range(num_queries):
        query = slice(starts[q], starts[q + 1])
        if candidates[q] == 0:
            found = search_exactly(tiers, forward, terms[query], weights[query], allowed, floors[q], k, work)
        else:
            found = search_approximately(
                tiers, forward, terms[query], weights[query], allowed, floors[q], k,
                left_out[q], max_postings[q], candidates[q], work,
            )  # fmt: skip
        scores[q], docs[q] = found
    return scores, docs
