"""Approximate top-k from impact tiers: read the heaviest postings only, then score the most promising documents.

Two dials: what part of the query's upper bound may be left unread (or how many postings may be read), and how many
candidates are scored exactly in the forward index. Their setting for a wanted recall is found by calibration; a cap on
postings makes the cost of a query known beforehand. Score-at-a-time ranking (JASS, Lin and Trotman, ICTIR 2015) with tiers.
"""

import numpy as np

from kernels.cpu.compiled import compiled
from kernels.cpu.forward_rows import WINDOW, count_buckets
from kernels.cpu.impact_tiers import GROUP, TIERS
from kernels.cpu.score_documents import score_documents
from kernels.cpu.tier_plan import choose, contributions, stays_below
from kernels.cpu.windowed_taat import (
    FULL,
    FULL_NARROW,
    add_window,
    bin_bits,
    drop_forbidden,
    load_cells,
    prefetch_cells,
    scan,
    seed_bin,
    size_of_window,
)

NARROW_TERMS = (
    64  # of a query, up to which 8 bits are fine enough to choose candidates: half the memory to add in and clear
)


@compiled
def search(tiers, forward, terms, weights, allowed, floor, k, left_out, max_postings, candidates, work):
    """The best k of the candidates by exact score, best first: (scores float32 [k], docs int32 [k]).

    terms, weights, allowed, floor  as for rank_safe.search
    left_out, max_postings          as for tier_plan.choose
    candidates                      at least k; documents scored exactly

    A slot that no document fills holds (0, EMPTY).
    """
    num_terms = tiers.counts.shape[0] // TIERS
    prefetch_cells(tiers, terms, num_terms, forward.high_starts.shape[0] - 1, 0)
    upper, _, _ = choose(terms, weights, tiers, left_out, max_postings, work.keep, work.left)
    if stays_below(floor, terms.shape[0], upper * tiers.growth[0]):
        stored = 0
    elif terms.shape[0] <= NARROW_TERMS:
        contributions(terms, weights, tiers, work.keep, work.left, upper, FULL_NARROW, False, work.table)
        stored = choose_candidates(tiers, forward, terms, allowed, candidates, work.narrow, work)
    else:
        contributions(terms, weights, tiers, work.keep, work.left, upper, FULL, False, work.table)
        stored = choose_candidates(tiers, forward, terms, allowed, candidates, work.accumulators, work)
    buckets = count_buckets(num_terms, 8 * forward.low.itemsize)
    return score_documents(forward, buckets, terms, weights, work.docs[:stored], floor, k, work)


@compiled
def choose_candidates(tiers, forward, terms, allowed, candidates, whole, work):
    """Write about `candidates` documents with the largest partial scores into work.docs; returns how many."""
    num_docs, num_terms = forward.starts.shape[0] - 1, tiers.counts.shape[0] // TIERS
    num_windows = forward.high_starts.shape[0] - 1
    accumulators = whole[: size_of_window(num_docs)]  # a damaged file's documents still have a place in the whole
    shift = bin_bits(accumulators)
    lowest, above, stored = 0, 0, 0  # bin that still counts, candidates in it and above, candidates stored
    for window in range(num_windows):
        if window % GROUP == 0:
            load_cells(tiers, terms, num_terms, num_windows, window // GROUP, work)
        first_doc = window * WINDOW
        threshold = max((lowest << shift) - 1, 0)
        noted, read = add_window(tiers, terms, window, whole, work, threshold)
        work.counters[0] += read
        if threshold == 0:
            if allowed.shape[0] > 0:
                drop_forbidden(accumulators, allowed, first_doc)
            lowest = max(lowest, seed_bin(accumulators, candidates))
            threshold = max((lowest << shift) - 1, 0)
            noted = scan(accumulators, threshold, work.noted)
        elif noted > WINDOW:
            noted = scan(accumulators, threshold, work.noted)
        lowest, above, stored = collect(
            whole, allowed, first_doc, num_docs, noted, candidates, lowest, above, stored, work
        )
        accumulators[:] = 0
    work.bins[:] = 0
    return compact(work, stored, lowest, shift)


@compiled
def collect(accumulators, allowed, first_doc, num_docs, noted, candidates, lowest, above, stored, work):
    """Store the noted documents that count; the bins raise `lowest` so that about `candidates` stay."""
    shift = bin_bits(accumulators)
    for i in range(noted):
        local = work.noted[i]
        partial = accumulators[local]
        b = np.int64(partial) >> shift
        doc = first_doc + local
        if partial == 0 or b < lowest or doc >= num_docs or (allowed.shape[0] > 0 and not allowed[doc]):
            continue
        if stored == work.docs.shape[0]:
            stored = compact(work, stored, lowest, shift)
            if stored == work.docs.shape[0]:
                break  # so many equal partial scores that a choice among them is arbitrary: the earlier documents
        accumulators[local] = 0  # noted twice, it counts once
        work.docs[stored], work.partials[stored] = doc, partial
        stored += 1
        work.bins[b] += 1
        above += 1
        while above - work.bins[lowest] >= candidates:
            above -= work.bins[lowest]
            lowest += 1
    return lowest, above, stored


@compiled
def compact(work, stored, lowest, shift):
    """Forget the candidates below the bin; returns how many stay."""
    kept = 0
    for i in range(stored):
        if work.partials[i] >> shift >= lowest:
            work.docs[kept], work.partials[kept] = work.docs[i], work.partials[i]
            kept += 1
    return kept
