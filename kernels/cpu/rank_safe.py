"""Exact top-k from impact tiers: the same scores and order as scoring every document, to the last bit.

A document's partial score, in whole numbers that are never too small, plus the bound of all that is left unread, is not
below its score. So a document whose partial score stays under `threshold of the k best - left out` cannot enter;
every other one is scored in the forward index. If the threshold does not even exceed what is left out, a document never
seen could enter, and the query is read in full.
"""

import numpy as np

from kernels.cpu.compiled import compiled
from kernels.cpu.forward_rows import WINDOW
from kernels.cpu.impact_tiers import GROUP
from kernels.cpu.score_documents import TOUCH_AHEAD, clear_query, score_batch, set_query
from kernels.cpu.tier_plan import choose, contributions
from kernels.cpu.top_k import EMPTY, sort_best_first
from kernels.cpu.windowed_taat import (
    BIN_BITS,
    FULL,
    add_window,
    bin_reached,
    drop_forbidden,
    load_cells,
    scan,
    seed_bin,
    size_of_window,
)

LEFT_OUT = 0.025  # of a query's upper bound; more saves postings and costs scored documents
SEED_SCORED = 22  # documents beyond k that are scored for a first threshold
NO_LIMIT = np.int64(2**62)


@compiled
def search(tiers, forward, terms, weights, allowed, k, work):
    """The k best documents by score, best first: (scores float32 [k], docs int32 [k]).

    terms    int32, ascending; weights  float32, > 0
    allowed  bool [documents], or empty: all are allowed
    A slot that no document fills holds (0, EMPTY).
    """
    best_scores, best_docs = np.zeros(k, np.float32), np.full(k, EMPTY, np.int32)
    set_query(terms, weights, work)
    for left_out in (LEFT_OUT, 0.0):
        best_scores[:], best_docs[:] = 0, EMPTY
        if search_windows(tiers, forward, terms, weights, allowed, left_out, best_scores, best_docs, work):
            break
        work.counters[2] += 1
    clear_query(terms, work)
    sort_best_first(best_scores, best_docs)
    return best_scores, best_docs


@compiled
def search_windows(tiers, forward, terms, weights, allowed, left_out, best_scores, best_docs, work):
    """Fill the heap; False if more was left out than the threshold bears out."""
    num_docs, num_terms = forward.starts.shape[0] - 1, forward.steps.shape[0]
    num_windows = forward.high_starts.shape[0] - 1
    upper, left, _ = choose(terms, weights, tiers, left_out, NO_LIMIT, work.keep)
    unit = contributions(terms, weights, tiers, work.keep, upper, True, work.table)
    # a float32 sum may lie this much above the sum of the numbers: relative, and absolute where numbers are denormal
    margin = 1.0 - (terms.shape[0] + 4) * 2.0**-23
    bound = left + terms.shape[0] * 2.0**-147
    accumulators = work.accumulators[: size_of_window(num_docs)]
    wanted = best_scores.shape[0] + SEED_SCORED
    threshold = 0
    for window in range(num_windows):
        if window % GROUP == 0:
            load_cells(tiers, terms, num_terms, num_windows, window // GROUP, work)
        first_doc = window * WINDOW
        noted, read = add_window(tiers, terms, window, work, threshold)
        work.counters[0] += read
        if threshold == 0:
            if allowed.shape[0] > 0:
                drop_forbidden(accumulators, allowed, first_doc)
            noted = note_best(accumulators, wanted, work)
            score_noted(forward, allowed, first_doc, noted, 0, bound, unit, margin, best_scores, best_docs, work)
            threshold = certain_threshold(best_scores[0], bound, unit, margin)
            if threshold < 0 and left > 0:
                accumulators[:] = 0
                return False
            threshold = max(threshold, 0)
            noted = scan(accumulators, threshold, work.noted)
        elif noted >= work.noted.shape[0]:
            noted = scan(accumulators, threshold, work.noted)
        threshold = score_noted(
            forward, allowed, first_doc, noted, threshold, bound, unit, margin, best_scores, best_docs, work
        )
        accumulators[:] = 0
    return True


@compiled
def certain_threshold(score_to_reach, bound, unit, margin):
    """The largest partial score with which no document can reach the score; below 0 if an unseen document can."""
    if not np.isfinite(score_to_reach):
        return np.int64(-1)  # scores beyond float32 are all equal, so nothing can be told apart before they are known
    reach = (np.float64(score_to_reach) * margin - bound) / unit
    return min(np.int64(np.ceil(min(reach, 1e6))) - 1, FULL)


@compiled
def note_best(accumulators, wanted, work):
    """Note about `wanted` documents with the largest partial scores, all above 0."""
    lowest = seed_bin(accumulators, wanted)
    noted = scan(accumulators, max((lowest << BIN_BITS) - 1, 0), work.noted)
    if noted > 2 * wanted:
        for i in range(noted):
            work.bins[accumulators[work.noted[i]] >> BIN_BITS] += 1
        lowest = bin_reached(work.bins, wanted)
        work.bins[:] = 0
        kept = 0
        for i in range(noted):
            if accumulators[work.noted[i]] >> BIN_BITS >= lowest and kept < 4 * wanted:
                work.noted[kept] = work.noted[i]
                kept += 1
        noted = kept
    return noted


@compiled
def score_noted(forward, allowed, first_doc, noted, threshold, bound, unit, margin, best_scores, best_docs, work):
    """Score the documents noted in a window that can still enter, once each; returns the threshold, raised."""
    num_docs = forward.starts.shape[0] - 1
    position = 0
    while position < noted:
        count = 0
        while position < noted and count < TOUCH_AHEAD:
            local = work.noted[position]
            position += 1
            doc = first_doc + local
            if work.accumulators[local] > threshold and doc < num_docs:
                work.accumulators[local] = 0  # noted twice, it counts once
                if allowed.shape[0] == 0 or allowed[doc]:
                    work.docs[count] = doc
                    count += 1
        score_batch(forward, work.docs[:count], best_scores, best_docs, work)
        if best_scores[0] > 0:
            threshold = max(threshold, certain_threshold(best_scores[0], bound, unit, margin))
    return threshold
