"""Exact top-k from impact tiers: the same scores and order as scoring every document, to the last bit.

A document's partial score, in whole numbers that are never too small, plus the bound of all that is left unread, is not
below its score. So a document whose partial score stays under `threshold of the k best - left out` cannot enter;
every other one is scored in the forward index. If the threshold does not even exceed what is left out, a document never
seen could enter, and the query is read in full.
"""

import numpy as np

from kernels.cpu.compiled import compiled
from kernels.cpu.forward_rows import WINDOW, count_buckets, prefetch_rows, prefetch_starts
from kernels.cpu.impact_tiers import GROUP, TIERS
from kernels.cpu.score_documents import AHEAD, clear_query, score_batch, set_query
from kernels.cpu.tier_plan import choose, contributions, rounding_of, stays_below
from kernels.cpu.top_k import new_heap, sort_best_first
from kernels.cpu.windowed_taat import (
    FULL,
    add_window,
    bin_bits,
    bin_reached,
    drop_forbidden,
    load_cells,
    prefetch_cells,
    scan,
    seed_bin,
    size_of_window,
)

LEFT_OUT, LEFT_OUT_LARGE = 0.03, 0.04  # of a query's upper bound; more saves postings and costs scored documents
LARGE = 64  # windows: there are more postings to save, but not more documents to score
SEED_SCORED = 10  # documents beyond k that are scored for a first threshold
NO_LIMIT = np.int64(2**62)


@compiled
def search(tiers, forward, terms, weights, allowed, floor, k, work):
    """The k best documents by score of those that score at least `floor`, best first: (scores float32 [k], docs int32 [k]).

    terms    int32, ascending; weights  float32, > 0
    allowed  bool [documents], or empty: all are allowed
    floor    float32, >= 0; it serves as a threshold from the beginning
    A slot that no document fills holds (0, EMPTY).
    """
    set_query(terms, weights, work)
    is_large = forward.high_starts.shape[0] - 1 >= LARGE
    for left_out in (LEFT_OUT_LARGE if is_large else LEFT_OUT, 0.0):
        best_scores, best_docs = new_heap(k, floor)
        if search_windows(tiers, forward, terms, weights, allowed, left_out, best_scores, best_docs, work):
            break
        work.counters[2] += 1
    clear_query(terms, work)
    sort_best_first(best_scores, best_docs)
    return best_scores, best_docs


@compiled
def search_windows(tiers, forward, terms, weights, allowed, left_out, best_scores, best_docs, work):
    """Fill the heap; False if more was left out than the threshold bears out.

    The rows of the documents noted in a window are scored only after the next one was added: their memory was asked for and
    is there by then.
    """
    num_docs, num_terms = forward.starts.shape[0] - 1, tiers.counts.shape[0] // TIERS
    num_windows, buckets = forward.high_starts.shape[0] - 1, count_buckets(num_terms, 8 * forward.low.itemsize)
    prefetch_cells(tiers, terms, num_terms, num_windows, 0)
    upper, left, _ = choose(terms, weights, tiers, left_out, NO_LIMIT, work.keep, work.left)
    growth = tiers.growth[0]
    if stays_below(best_scores[0], terms.shape[0], upper * growth):
        return True
    unit = growth * contributions(terms, weights, tiers, work.keep, work.left, upper, FULL, True, work.table)
    relative, absolute = rounding_of(terms.shape[0])
    margin, bound = 1.0 - relative, left * growth + absolute
    whole = work.accumulators  # where a damaged file's documents still have a place
    accumulators = whole[: size_of_window(num_docs)]
    wanted = best_scores.shape[0] + SEED_SCORED
    # of a floor; a heap that is neither filled nor given one bears out no threshold
    threshold = max(certain_threshold(best_scores[0], bound, unit, margin), 0) if best_scores[0] > 0 else 0
    pending = 0  # documents noted in the window before
    for window in range(num_windows):
        if window % GROUP == 0:
            load_cells(tiers, terms, num_terms, num_windows, window // GROUP, work)
        first_doc = window * WINDOW
        noted, read = add_window(tiers, terms, window, whole, work, threshold)
        work.counters[0] += read
        threshold = score_pending(
            forward, buckets, pending, threshold, bound, unit, margin, best_scores, best_docs, work
        )
        if threshold == 0:
            if allowed.shape[0] > 0:
                drop_forbidden(accumulators, allowed, first_doc)
            noted = note_best(accumulators, wanted, work)
            seeds = collect(forward, whole, allowed, first_doc, noted, 0, work)
            prefetch_rows(forward, work.docs[:seeds], buckets)
            score_pending(forward, buckets, seeds, 0, bound, unit, margin, best_scores, best_docs, work)
            threshold = certain_threshold(best_scores[0], bound, unit, margin)
            if threshold < 0 and left > 0:
                accumulators[:] = 0
                return False
            threshold = max(threshold, 0)
            noted = scan(accumulators, threshold, work.noted)
        elif noted > WINDOW:
            noted = scan(accumulators, threshold, work.noted)
        pending = collect(forward, whole, allowed, first_doc, noted, threshold, work)
        accumulators[:] = 0
        prefetch_rows(forward, work.docs[: min(pending, 4 * AHEAD)], buckets)
    score_pending(forward, buckets, pending, threshold, bound, unit, margin, best_scores, best_docs, work)
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
    shift = bin_bits(accumulators)
    lowest = seed_bin(accumulators, wanted)
    noted = scan(accumulators, max((lowest << shift) - 1, 0), work.noted)
    if noted > 2 * wanted:
        for i in range(noted):
            work.bins[accumulators[work.noted[i]] >> shift] += 1
        lowest = bin_reached(work.bins, wanted)
        work.bins[:] = 0
        kept = 0
        for i in range(noted):
            if accumulators[work.noted[i]] >> shift >= lowest and kept < 4 * wanted:
                work.noted[kept] = work.noted[i]
                kept += 1
        noted = kept
    return noted


@compiled
def collect(forward, accumulators, allowed, first_doc, noted, threshold, work):
    """Store the documents noted in a window that can still enter, once each, and ask where their rows start."""
    num_docs = forward.starts.shape[0] - 1
    stored = 0
    for i in range(noted):
        local = work.noted[i]
        doc = first_doc + local
        if accumulators[local] > threshold and doc < num_docs and (allowed.shape[0] == 0 or allowed[doc]):
            work.docs[stored], work.partials[stored] = doc, accumulators[local]
            accumulators[local] = 0  # noted twice, it counts once
            stored += 1
    prefetch_starts(forward, work.docs[:stored])
    return stored


@compiled
def score_pending(forward, buckets, pending, threshold, bound, unit, margin, best_scores, best_docs, work):
    """Score the documents collected that can still enter; returns the threshold, raised."""
    position = 0
    while position < pending:
        count = 0
        while position < pending and count < AHEAD:
            if work.partials[position] > threshold:
                work.batch[count] = work.docs[position]
                count += 1
            position += 1
        score_batch(forward, work.batch[:count], buckets, best_scores, best_docs, work)
        if best_scores[0] > 0:
            threshold = max(threshold, certain_threshold(best_scores[0], bound, unit, margin))
    return threshold
