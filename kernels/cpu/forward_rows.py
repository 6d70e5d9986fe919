"""Forward index: the impacts of one document side by side, from which its exact score is computed.

The ascending terms of a row are kept as Elias and Fano do: the low bits of each term as they are, the high parts (its
bucket) in unary, so a term costs about 10 bits where 16 would be needed. The unary code of a row has a one for each
entry and a zero at the end of each bucket; entry j, at position p, is in bucket p - j.

    terms 3, 5, 260, 517, three buckets of 256:  low 3 5 4 5   high 1 1 0 1 0 1 0
"""

from typing import NamedTuple

import numpy as np

from kernels.cpu.bits import prefetch, trailing_zeros
from kernels.cpu.compiled import compiled

SIEVE = 4_096  # low bits of a term that tell whether it may be in the query
LONGEST_PREFETCHED = 512  # entries
WINDOW = 65_536  # documents; 2**16, so that the number of a document within its window is a uint16


class ForwardRows(NamedTuple):
    """Rows of `len(starts) - 1` documents over terms in buckets of 2**(8 * low.itemsize).

    Row d owns entries starts[d]:starts[d + 1]. The unary codes of the documents of one window follow one another in
    `high` from word high_starts[window], one bit for each entry and one for each bucket.
    An impact is scales[d] * levels[entry], rounded once to float32; or, where there is `saturation`, that of a count:
    count / (count + half), with half = saturation[0] + saturation[1] * scales[d], each operation rounded to float32.
    """

    starts: np.ndarray  # int64 [documents + 1]
    low: np.ndarray  # uint8 or uint16 [entries], the term within its bucket
    high: np.ndarray  # uint64 [words]
    high_starts: np.ndarray  # int64 [windows + 1]
    levels: np.ndarray  # uint8, uint16 or float32 [entries], > 0
    scales: np.ndarray  # float32 [documents]: one step of the document, 1 where levels are weights; or its length
    saturation: np.ndarray  # float32 [2] where levels are counts, else [0]


@compiled
def count_buckets(num_terms, low_bits):
    """Buckets that hold this many terms, at least one."""
    return max((num_terms + (1 << low_bits) - 1) >> low_bits, 1)


@compiled
def encode(rows, buckets, quantised, low_bits, low, high, levels):
    """Code the rows of one window into `low`, `high` and `levels`; entries of level 0 are left out.

    rows       SparseRows
    quantised  their levels, beside rows.indices
    high       all zero before
    """
    written = 0
    bit = 0
    for row in range(rows.indptr.shape[0] - 1):
        bucket = 0
        for entry in range(rows.indptr[row], rows.indptr[row + 1]):
            level = quantised[entry]
            if level > 0:
                term = np.int64(rows.indices[entry])
                bit += (term >> low_bits) - bucket
                bucket = term >> low_bits
                high[bit >> 6] |= np.uint64(1) << np.uint64(bit & 63)
                bit += 1
                low[written] = term - (bucket << low_bits)
                levels[written] = level
                written += 1
        bit += buckets - bucket


@compiled
def first_bit(forward, doc, buckets):
    """Position in `high` of the unary code of a document's row."""
    window = doc // WINDOW
    first_doc = window * WINDOW
    entries = forward.starts[doc] - forward.starts[first_doc]
    return (forward.high_starts[window] << 6) + entries + (doc - first_doc) * buckets


@compiled
def prefetch_starts(forward, docs):
    """Ask for where some rows start, before `prefetch_rows` has to know it, and for their scales."""
    for i in range(docs.shape[0]):
        prefetch(forward.starts, np.int64(docs[i]))
        prefetch(forward.scales, np.int64(docs[i]))


@compiled
def prefetch_rows(forward, docs, buckets):
    """Ask for the memory of some rows, so that their cache misses overlap with other work.

    A damaged file may name any place, which asking does not harm.
    """
    starts, low, high, levels = forward.starts, forward.low, forward.high, forward.levels
    for i in range(docs.shape[0]):
        first = starts[docs[i]]
        length = min(max(starts[docs[i] + 1] - first, 0), LONGEST_PREFETCHED)
        bit = first_bit(forward, np.int64(docs[i]), buckets)
        prefetch(high, bit >> 6)
        prefetch(high, (bit + length + buckets) >> 6)
        for line in range(length * low.itemsize // 64 + 2):
            prefetch(low, first + line * (64 // low.itemsize))
        for line in range(length * levels.itemsize // 64 + 2):
            prefetch(levels, first + line * (64 // levels.itemsize))


@compiled
def score(forward, docs, buckets, query_weights, sieve, matches, scores):
    """Write the float32 score of each of `docs`: weight * impact summed in ascending term order (docs/format.md).

    query_weights  float32, the weight of each term, 0 outside the query; its length is a power of two, covers every bucket
    sieve          uint8 [SIEVE]: 1 at term % SIEVE for each term of the query; it stays in the nearest cache
    matches        uint64, scratch for the entries that pass the sieve, longer than any row

    An entry that passes though its term is not in the query adds 0, which changes no sum.
    """
    starts, low, high, _, levels, scales, saturation = forward
    low_bits, last_term = np.uint32(8 * low.itemsize), np.uint32(query_weights.shape[0] - 1)
    num_words = np.uint64(high.shape[0])
    for i in range(docs.shape[0]):
        scores[i] = 0
        first, count = starts[docs[i]], starts[docs[i] + 1] - starts[docs[i]]
        bit = first_bit(forward, np.int64(docs[i]), buckets)
        if first < 0 or count < 0 or count >= matches.shape[0] or first > low.shape[0] - count or bit < 0:
            continue  # a damaged file: no array may be left because of what it holds
        word_number, word_mask = np.uint64(bit >> 6), ~np.uint64(0) << np.uint64(bit & 63)
        position = -(bit & 63)  # of the word's first bit in the row's code; less the entry's number, its bucket
        row, entry, found, past_last = np.uint64(first), np.uint32(0), np.uint32(0), np.uint32(count)
        while entry < past_last and word_number < num_words:
            word = high[word_number] & word_mask
            first_bucket = np.uint32(position) - entry
            while word != 0 and entry < past_last:
                bucket = np.uint32(first_bucket + np.uint32(trailing_zeros(word)))
                term = np.uint32((bucket << low_bits) + low[row + entry])
                matches[found] = (np.uint64(term) << np.uint64(32)) | np.uint64(entry)
                found = np.uint32(found + sieve[term & np.uint32(SIEVE - 1)])
                word &= word - np.uint64(1)
                entry = np.uint32(entry + np.uint32(1))
                first_bucket = np.uint32(first_bucket - np.uint32(1))
            word_number, word_mask, position = word_number + np.uint64(1), ~np.uint64(0), position + 64
        total, scale = np.float32(0), scales[docs[i]]
        if saturation.shape[0] == 0:
            for match in range(found):
                term, entry = np.uint32(matches[match] >> np.uint64(32)), np.uint32(matches[match])
                total += query_weights[term & last_term] * (scale * np.float32(levels[row + entry]))
        else:
            half = saturation[0] + saturation[1] * scale
            for match in range(found):
                term, entry = np.uint32(matches[match] >> np.uint64(32)), np.uint32(matches[match])
                total += query_weights[term & last_term] * saturated(np.float32(levels[row + entry]), half)
        scores[i] = total


@compiled
def saturated(count, half):
    """count / (count + half) in float32; a count of a sound file is at least 1, that of a damaged one must not divide by 0."""
    return count / max(count + half, np.float32(1))


@compiled
def weigh(indptr, levels, scales, saturation, impacts):
    """Write the float32 impacts that the levels of some rows stand for; scales: of each row. A level of 0 stays 0."""
    for row in range(scales.shape[0]):
        entries = range(np.uint64(indptr[row]), np.uint64(indptr[row + 1]))
        if saturation.shape[0] == 0:
            for entry in entries:
                impacts[entry] = scales[row] * np.float32(levels[entry])
        else:
            half = saturation[0] + saturation[1] * scales[row]
            for entry in entries:
                impacts[entry] = saturated(np.float32(levels[entry]), half)


@compiled
def decode(forward, docs, num_terms, indptr, terms, levels):
    """Write terms (int32) and levels (float32) of the rows of `docs`, ascending, row i in indptr[i]:indptr[i + 1].

    What a damaged file does not hold stays as it was.
    """
    starts, low, high = forward.starts, forward.low, forward.high
    low_bits = 8 * low.itemsize
    buckets = count_buckets(num_terms, low_bits)
    for i in range(docs.shape[0]):
        first, written, count = starts[docs[i]], indptr[i], indptr[i + 1] - indptr[i]
        bit = first_bit(forward, np.int64(docs[i]), buckets)
        if first < 0 or first > low.shape[0] - count or bit < 0:
            continue  # a damaged file: no array may be left because of what it holds
        word_number, word_mask = bit >> 6, ~np.uint64(0) << np.uint64(bit & 63)
        position = -(bit & 63)  # of the word's first bit in the row's code
        entry = 0
        while entry < count and word_number < high.shape[0]:
            word = high[word_number] & word_mask
            while word != 0 and entry < count:
                bucket = position + np.int64(trailing_zeros(word)) - entry
                terms[written + entry] = min((bucket << low_bits) + np.int64(low[first + entry]), num_terms - 1)
                levels[written + entry] = forward.levels[first + entry]
                word &= word - np.uint64(1)
                entry += 1
            word_number, word_mask, position = word_number + 1, ~np.uint64(0), position + 64
