"""What many weight vectors are worth: measures of the ranking that each gives, for every query, without sorting.

A document's fused score is the sum, arm after arm, of weight times value in float64, the order that `retrieval.fusion` adds in;
higher first, then lower document number. A measure needs the ranks of the few relevant documents alone, and a rank is one plus
the number of documents before it: a count over the query's documents, which stops once it leaves the cutoff.

The gain of a document is its relevance, linear, and log2(rank + 1) discounts it, as trec_eval has nDCG (Järvelin and
Kekäläinen, TOIS 2002).
"""

import numpy as np

from kernels.cpu.compiled import compiled

UNRANKED = -np.inf  # the fused score of what is not ranked
BLOCK = 512  # documents counted before asking whether the rank is still within the cutoff


@compiled
def ranked_gain(weights, values, is_hit, starts, relevant, gains, relevant_starts, discounts, takes_best):
    """float64 [weight vectors, queries]: the discounted gains of the relevant documents, added up or the largest alone.

    weights          float64 [weight vectors, arms]
    values           float64 [arms, all documents of all queries], each query's documents by ascending number
    is_hit           uint8 [arms, all documents]: whether the arm returned the document; one that no arm with a weight above 0
                     returned is not ranked
    starts           int64 [queries + 1]: where a query's documents start
    relevant         int64: where the relevant documents of each query stand among its own
    gains            float64: of each of these
    relevant_starts  int64 [queries + 1]: where a query's relevant documents start
    discounts        float64 [cutoff]: what a gain is multiplied by at each rank
    takes_best       the largest instead of the sum
    """
    num_vectors, num_queries, cutoff = weights.shape[0], starts.shape[0] - 1, discounts.shape[0]
    totals = np.zeros((num_vectors, num_queries))
    most = 0
    for query in range(num_queries):
        most = max(most, starts[query + 1] - starts[query])
    room = np.empty(most)
    for query in range(num_queries):
        first, num_docs = starts[query], starts[query + 1] - starts[query]
        fused = room[:num_docs]
        if relevant_starts[query] == relevant_starts[query + 1]:
            continue
        for vector in range(num_vectors):
            add_up(fused, weights[vector], values, first)
            leave_out(fused, weights[vector], is_hit, first)
            total = 0.0
            for i in range(relevant_starts[query], relevant_starts[query + 1]):
                if fused[relevant[i]] == UNRANKED:
                    continue
                before = count_before(fused, relevant[i], cutoff)
                if before < cutoff:
                    gain = gains[i] * discounts[before]
                    total = max(total, gain) if takes_best else total + gain
            totals[vector, query] = total
    return totals


@compiled
def add_up(fused, weights, values, first):
    """The fused score of each document of a query, in place."""
    for doc in range(fused.shape[0]):
        fused[doc] = weights[0] * values[0, first + doc]
    for arm in range(1, weights.shape[0]):
        weight, own = weights[arm], values[arm]
        for doc in range(fused.shape[0]):
            fused[doc] += weight * own[first + doc]


@compiled
def leave_out(fused, weights, is_hit, first):
    """Mark the documents that only arms of weight 0 returned, in place."""
    if weights.min() > 0:
        return
    for doc in range(fused.shape[0]):
        is_ranked = False
        for arm in range(weights.shape[0]):
            is_ranked |= weights[arm] > 0 and is_hit[arm, first + doc] > 0
        if not is_ranked:
            fused[doc] = UNRANKED


@compiled
def count_before(fused, doc, cutoff):
    """How many documents rank before `doc`; at least `cutoff` where there are that many."""
    score, before = fused[doc], 0
    for start in range(0, doc, BLOCK):
        for other in range(start, min(start + BLOCK, doc)):
            before += fused[other] >= score
        if before >= cutoff:
            return before
    for start in range(doc + 1, fused.shape[0], BLOCK):
        for other in range(start, min(start + BLOCK, fused.shape[0])):
            before += fused[other] > score
        if before >= cutoff:
            return before
    return before
