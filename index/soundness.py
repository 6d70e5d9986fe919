"""Every structural invariant of an inverted index, checked against its own numbers (`winnow verify --full`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from index.building import count_windows
from index.second_tier import SecondTier
from index.second_tier_building import count_group_windows
from index.stored_documents import impacts_of, stored_rows
from kernels.cpu import soundness
from kernels.cpu.cluster_groups import GROUP, GROUP_WINDOW, record_bytes
from kernels.cpu.forward_rows import WINDOW, count_buckets
from kernels.cpu.impact_tiers import TIERS
from kernels.cpu.soundness import BAD_COUNTS, MEANING, SOUND

if TYPE_CHECKING:
    from index.inverted import InvertedIndex


def damage_of(index: InvertedIndex) -> str | None:
    """What is wrong with an index as it was built (not a view of it); None if nothing is."""
    tiers, forward, num_terms = index.tiers, index.forward, index.options.num_terms
    num_windows = count_windows(index.num_docs)
    buckets = int(count_buckets(num_terms, 8 * forward.low.itemsize))
    counts, term_starts = np.zeros(num_terms * TIERS, np.int64), np.zeros(num_terms + 1, np.int64)
    if forward.starts[0] != 0 or forward.starts[-1] != len(forward.low) or len(tiers.docs) != len(forward.low):
        return "the rows do not span all entries"
    if tiers.starts[0] != 0 or tiers.starts[-1] != len(tiers.docs) or forward.high_starts[0] != 0:
        return "the inverted lists do not span all postings"
    if forward.high_starts[-1] != len(forward.high) or not np.all(np.isfinite(forward.scales)):
        return "the rows' codes do not span all words, or a scale is no number"
    for window in range(num_windows):
        first, past_last = window * WINDOW, min((window + 1) * WINDOW, index.num_docs)
        indptr = forward.starts[first : past_last + 1] - forward.starts[first]
        if indptr[-1] < 0 or indptr[-1] > len(forward.low):
            return f"window {window}: {MEANING[soundness.BAD_STARTS]}"
        terms = np.empty(indptr[-1], np.int32)
        verdict = soundness.check_rows(forward, window, buckets, num_terms, terms)
        if verdict == SOUND:
            window_docs = np.arange(first, past_last, dtype=np.int32)
            impacts = impacts_of(forward, stored_rows(forward, num_terms, window_docs), window_docs)
            docs, sorted_impacts = np.empty(len(terms), np.uint16), np.empty(len(terms), np.float32)
            soundness.by_term(indptr, terms, impacts, num_terms, term_starts, docs, sorted_impacts)
            verdict = soundness.check_lists(
                tiers, window, num_windows, num_terms, term_starts, docs, sorted_impacts, counts
            )
        if verdict != SOUND:
            return f"documents {first:,} to {past_last - 1:,}: {MEANING[verdict]}"
    if not np.array_equal(counts, tiers.counts):
        return MEANING[BAD_COUNTS]
    return None if index.second_tier is None else damage_of_second_tier(index.second_tier)


def damage_of_second_tier(tier: SecondTier) -> str | None:
    """What is wrong with the clusters and their lists; None if nothing is."""
    groups, num_docs = tier.groups, tier.num_docs
    num_clusters, num_windows = len(groups.cluster_starts) - 2, count_group_windows(num_docs)
    starts = groups.cluster_starts
    if starts[0] != 0 or starts[-1] != num_docs or np.any(np.diff(starts) < 0):
        return "the second tier's clusters do not follow one another"
    for clusters in (groups.nearest, groups.second):
        if np.any(clusters < 0) or np.any(clusters > num_clusters):
            return "the second tier names a cluster that is not there"
    if not np.array_equal(np.repeat(np.arange(num_clusters + 1), np.diff(starts)), groups.nearest):
        return "the second tier's documents are not in the order of their clusters"
    if not np.array_equal(np.sort(docs_by_position(tier)), np.arange(num_docs)):
        return "the second tier does not hold each document once"
    if groups.starts[0] != 0 or groups.starts[-1] != len(groups.groups):
        return "the second tier's lists do not span all postings"
    verdict = soundness.check_groups(groups, 0, len(groups.starts) - 1)
    if verdict != SOUND:
        return f"the second tier: {MEANING[verdict]}"
    shape = len(groups.counts), num_windows
    if num_windows:
        in_last = -(-num_docs // GROUP) - (num_windows - 1) * GROUP_WINDOW
        first, past_last = groups.starts[:-1].reshape(shape)[:, -1], groups.starts[1:].reshape(shape)[:, -1]
        if np.any(groups.groups[past_last[past_last > first] - 1] >= in_last):
            return "the second tier: a list names a group that is not there"
    lengths = np.diff(groups.starts).reshape(shape).sum(1)
    return None if np.array_equal(lengths, groups.counts) else f"the second tier: {MEANING[BAD_COUNTS]}"


def docs_by_position(tier: SecondTier) -> np.ndarray:
    """int32 [documents]: the number of the document at each position."""
    term_bytes = tier.records.terms.itemsize
    positions = np.arange(tier.num_docs)
    words_of_group = record_bytes(term_bytes) // 4
    docs: np.ndarray = tier.records.docs[
        positions // GROUP * words_of_group + words_of_group - GROUP + positions % GROUP
    ]
    return docs
