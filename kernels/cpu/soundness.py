"""Is an index what it should be? Every row and every posting is looked at, and the two must agree.

Nothing here trusts what it reads: a number out of range ends the check with what is wrong.
"""

import numpy as np

from kernels.cpu.compiled import compiled
from kernels.cpu.forward_rows import WINDOW
from kernels.cpu.impact_tiers import CODES, TIERS, first_cell, upper_end

(
    SOUND,
    BAD_STARTS,
    BAD_ROW,
    BAD_LEVEL,
    BAD_CELLS,
    BAD_ORDER,
    NOT_IN_ROW,
    OUTSIDE_TIER,
    ABOVE_BOUND,
    MISSING,
    BAD_COUNTS,
) = range(11)
MEANING = {
    BAD_STARTS: "rows do not follow one another",
    BAD_ROW: "a row's terms are not coded as they should be",
    BAD_LEVEL: "an impact is not a finite number above 0",
    BAD_CELLS: "inverted lists do not follow one another",
    BAD_ORDER: "an inverted list does not ascend",
    NOT_IN_ROW: "an inverted list has a document whose row lacks the term",
    OUTSIDE_TIER: "an impact lies outside its tier",
    ABOVE_BOUND: "an impact is above its bound",
    MISSING: "an inverted list lacks a document",
    BAD_COUNTS: "the lengths of lists are not what is counted",
}


@compiled
def check_rows(forward, window, buckets, num_terms, terms):
    """Check the rows of one window and write their terms, int32; returns one of the verdicts above."""
    starts, low, high, high_starts, levels = (
        forward.starts, forward.low, forward.high, forward.high_starts, forward.levels
    )  # fmt: skip
    num_docs = starts.shape[0] - 1
    first_doc, past_doc = window * WINDOW, min((window + 1) * WINDOW, num_docs)
    low_bits = 8 * low.itemsize
    first_word, past_word = high_starts[window], high_starts[window + 1]
    if first_word < 0 or past_word < first_word or past_word > high.shape[0] or starts[first_doc] < 0:
        return BAD_STARTS
    bit, past_bit, written = first_word << 6, past_word << 6, 0
    for doc in range(first_doc, past_doc):
        if (
            starts[doc + 1] < starts[doc]
            or starts[doc + 1] > low.shape[0]
            or written + starts[doc + 1] - starts[doc] > terms.shape[0]
        ):
            return BAD_STARTS
        bucket, before = 0, -1
        for entry in range(starts[doc], starts[doc + 1]):
            while bit < past_bit and not (high[bit >> 6] >> np.uint64(bit & 63)) & np.uint64(1):
                bit += 1
                bucket += 1
            bit += 1
            term = (bucket << low_bits) + np.int64(low[entry])
            if bit > past_bit or bucket >= buckets or term <= before or term >= num_terms:
                return BAD_ROW
            if not (levels[entry] > 0 and levels[entry] < np.inf):
                return BAD_LEVEL
            terms[written], before = term, term
            written += 1
        for _ in range(buckets - bucket):
            if bit >= past_bit or (high[bit >> 6] >> np.uint64(bit & 63)) & np.uint64(1):
                return BAD_ROW
            bit += 1
    while bit < past_bit:
        if past_bit - bit >= 64 or (high[bit >> 6] >> np.uint64(bit & 63)) & np.uint64(1):
            return BAD_STARTS
        bit += 1
    return SOUND


@compiled
def by_term(indptr, terms, impacts, num_terms, term_starts, docs, sorted_impacts):
    """Sort the entries of one window by term, documents ascending in each: int64 [terms + 1] starts, uint16, float32."""
    term_starts[:] = 0
    for entry in range(terms.shape[0]):
        term_starts[terms[entry] + 1] += 1
    for term in range(num_terms):
        term_starts[term + 1] += term_starts[term]
    filled = term_starts[:-1].copy()
    for row in range(indptr.shape[0] - 1):
        for entry in range(indptr[row], indptr[row + 1]):
            place = filled[terms[entry]]
            docs[place], sorted_impacts[place] = row, impacts[entry]
            filled[terms[entry]] = place + 1


@compiled
def check_lists(tiers, window, num_windows, num_terms, term_starts, docs, impacts, counts):
    """Check the inverted lists of one window against its entries by term, and add up counts[term * TIERS + tier]."""
    impact_of = np.zeros(WINDOW, np.float32)
    for term in range(num_terms):
        wanted = slice(term_starts[term], term_starts[term + 1])
        for place in range(wanted.start, wanted.stop):
            impact_of[docs[place]] = impacts[place]
        found = 0
        cell = first_cell(term, window, num_terms, num_windows)
        for tier in range(TIERS):
            first, past_last = tiers.starts[cell + tier], tiers.starts[cell + tier + 1]
            if first < 0 or past_last < first or past_last > tiers.docs.shape[0]:
                return BAD_CELLS
            high, low = tiers.edges[term * (TIERS + 1) + tier], tiers.edges[term * (TIERS + 1) + tier + 1]
            before = -1
            for posting in range(first, past_last):
                doc = np.int64(tiers.docs[posting])
                if doc <= before:
                    return BAD_ORDER
                before = doc
                impact = impact_of[doc]
                if impact <= 0:
                    return NOT_IN_ROW
                impact_of[doc] = 0
                if not low <= impact <= high:
                    return OUTSIDE_TIER
                code = (tiers.codes[posting >> 1] >> np.uint8(4 * (posting & 1))) & np.uint8(CODES - 1)
                if np.float64(impact) > upper_end(np.float64(low), np.float64(high), np.float64(code)):
                    return ABOVE_BOUND
            counts[term * TIERS + tier] += past_last - first
            found += past_last - first
        if found != wanted.stop - wanted.start:
            return MISSING
    return SOUND


@compiled
def check_groups(groups, first_cell_of_groups, past_cell):
    """SOUND if the lists of groups follow one another and ascend."""
    starts, numbers = groups.starts, groups.groups
    for cell in range(first_cell_of_groups, past_cell):
        if starts[cell] < 0 or starts[cell + 1] < starts[cell] or starts[cell + 1] > numbers.shape[0]:
            return BAD_CELLS
        for posting in range(starts[cell] + 1, starts[cell + 1]):
            if numbers[posting] <= numbers[posting - 1]:
                return BAD_ORDER
    return SOUND
