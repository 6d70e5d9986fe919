"""Approximate top-k by clusters: promising groups, their sketches, exact scores; then the clusters of the best found so far.

Documents like the best so far are likely to be good (the cluster hypothesis), so the second round finds what the postings that
were read did not tell. Ideas of anytime ranking on clustered indexes (Mackenzie, Petri and Moffat, SIGIR 2021) and of proximity
graphs; whatever is returned has its exact score (docs/format.md).
"""

from typing import NamedTuple

import numpy as np

from kernels.cpu.cluster_groups import GROUP, GROUP_TIERS, first_places
from kernels.cpu.compiled import compiled
from kernels.cpu.forward_rows import SIEVE, count_buckets, prefetch_rows, prefetch_starts, score
from kernels.cpu.group_plan import choose_lists, load_runs
from kernels.cpu.group_taat import find_groups
from kernels.cpu.sketch_scores import (
    choose_best,
    fetch,
    mark,
    near_leaders,
    score_groups,
    score_spans,
    set_table,
    unmark,
)
from kernels.cpu.top_k import new_heap, offer, sort_best_first

BATCH = 16  # rows asked for at a time


class ClusterWorkspace(NamedTuple):
    """Scratch arrays of one thread. Accumulators, tables and bits are zero before and after every search."""

    accumulators: np.ndarray  # uint8 [GROUP_WINDOW]
    bins: np.ndarray  # int32 [SCORE_BINS]
    noted: np.ndarray  # uint16 [GROUP_WINDOW + 1]
    lists: np.ndarray  # int64 [query terms * GROUP_TIERS]
    adds: np.ndarray  # uint8, beside it
    begins: np.ndarray  # int64 [windows * query terms * GROUP_TIERS]
    ends: np.ndarray  # int64, beside it
    table: np.ndarray  # uint8, one for each number a term of a sketch can have; a power of two
    found_groups: np.ndarray  # int32, longer than twice the groups wanted
    partials: np.ndarray  # uint8, beside it
    found: np.ndarray  # int32 [positions whose sketches are scored]
    scores: np.ndarray  # int32, beside it
    seen: np.ndarray  # uint8, a bit for each document
    chosen: np.ndarray  # int32 [rows scored], positions
    docs: np.ndarray  # int32, beside it
    row_scores: np.ndarray  # float32, beside it
    query_weights: np.ndarray  # float32, one for each term of every bucket
    sieve: np.ndarray  # uint8 [SIEVE]
    spans: np.ndarray  # int64 [4 * leaders]
    matches: np.ndarray  # uint64 [terms + 2]
    counters: np.ndarray  # int64 [3]: postings read, sketches scored, rows scored


@compiled
def search(tier, records, forward, terms, weights, floor, k, max_postings, wanted, rows, leaders, expanded, work):
    """The best k documents found that score at least `floor`, best first: (scores float32 [k], docs int32 [k]).

    tier, records           ClusterGroups, and the views of its records
    terms, weights          the query, terms ascending
    max_postings, wanted    postings of groups to read, about; groups to keep of them
    rows                    documents of these groups to score exactly
    leaders, expanded       of how many of the best the clusters are looked at; documents of these to score exactly

    A slot that no document fills holds (0, EMPTY).
    """
    best_scores, best_docs = new_heap(k, floor)
    num_docs, num_terms = tier.nearest.shape[0], tier.steps.shape[0]
    buckets = count_buckets(num_terms, 8 * forward.low.itemsize)
    num_groups = (num_docs + GROUP - 1) // GROUP
    num_windows = (tier.starts.shape[0] - 1) // (num_terms * GROUP_TIERS)
    num_lists, read = choose_lists(terms, weights, tier.means, tier.counts, max_postings, work.lists, work.adds)
    load_runs(tier.starts, tier.groups.shape[0], work.lists, num_lists, num_windows, work.begins, work.ends)
    num_found_groups = find_groups(
        tier.groups, num_groups, num_windows, work.begins, work.ends, num_lists, work.adds, wanted, work.accumulators,
        work.bins, work.noted, work.found_groups, work.partials,
    )  # fmt: skip
    fetch(work.table, num_terms)
    set_table(terms, weights, tier.steps, work.table)
    num_found = score_groups(
        work.found_groups, num_found_groups, num_docs, records, work.table, work.found, work.scores
    )
    work.counters[0] += read
    work.counters[1] += num_found
    for i in range(terms.shape[0]):
        work.query_weights[np.int64(terms[i])], work.sieve[np.int64(terms[i]) & (SIEVE - 1)] = weights[i], 1
    num_rows = choose_best(work.found, work.scores, num_found, rows, work.bins, work.chosen, 0)
    score_rows(forward, buckets, records, num_docs, 0, num_rows, best_scores, best_docs, work)
    if leaders > 0 and num_rows > 0:
        best = best_rows(work.row_scores, work.chosen, num_rows, leaders)
        mark(work.seen, work.chosen, num_rows)
        num_spans = near_leaders(best, num_docs, tier.nearest, tier.second, tier.cluster_starts, work.spans)
        num_found = score_spans(work.spans, num_spans, records, work.table, work.seen, work.found, work.scores)
        unmark(work.seen, work.chosen, num_rows)
        work.counters[1] += num_found
        first = num_rows
        num_rows = choose_best(work.found, work.scores, num_found, expanded, work.bins, work.chosen, first)
        score_rows(forward, buckets, records, num_docs, first, num_rows, best_scores, best_docs, work)
    work.counters[2] += num_rows
    for i in range(terms.shape[0]):
        term = np.int64(terms[i])
        work.table[term], work.query_weights[term], work.sieve[term & (SIEVE - 1)] = 0, 0, 0
    sort_best_first(best_scores, best_docs)
    return best_scores, best_docs


@compiled
def score_rows(forward, buckets, records, num_docs, first, past_last, best_scores, best_docs, work):
    """Score the rows at the positions chosen[first:past_last] and offer them to the heap; the next batch is fetched meanwhile."""
    chosen, docs, doc_at, term_bytes = work.chosen, work.docs, records.docs, records.terms.itemsize
    last_doc = np.int32(num_docs - 1)
    for i in range(first, past_last):
        _, _, place = first_places(np.int64(chosen[i]), term_bytes)
        docs[i] = min(max(doc_at[place], np.int32(0)), last_doc)  # a damaged file may hold any number
    prefetch_starts(forward, docs[first:past_last])
    prefetch_rows(forward, docs[first : min(first + BATCH, past_last)], buckets)
    for begin in range(first, past_last, BATCH):
        end = min(begin + BATCH, past_last)
        prefetch_rows(forward, docs[end : min(end + BATCH, past_last)], buckets)
        score(
            forward, docs[begin:end], buckets, work.query_weights, work.sieve, work.matches, work.row_scores[begin:end]
        )  # fmt: skip
    for i in range(first, past_last):
        offer(best_scores, best_docs, work.row_scores[i], docs[i])


@compiled
def best_rows(row_scores, positions, count, wanted):
    """int32: the positions of the `wanted` highest scores, earlier ones first where scores are equal."""
    best, best_scores, kept = np.empty(wanted, np.int32), np.empty(wanted, np.float32), 0
    for i in range(count):
        if kept < wanted:
            slot = kept
            kept += 1
        elif row_scores[i] > best_scores[wanted - 1]:
            slot = wanted - 1
        else:
            continue
        while slot > 0 and best_scores[slot - 1] < row_scores[i]:
            best[slot], best_scores[slot] = best[slot - 1], best_scores[slot - 1]
            slot -= 1
        best[slot], best_scores[slot] = positions[i], row_scores[i]
    return best[:kept]
