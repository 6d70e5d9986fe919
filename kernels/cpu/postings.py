"""From document vectors to inverted lists: largest weight of each term, quantised impacts, inversion.

A list is cut into windows of WINDOW documents and laid out term by term, window by window, so that a posting needs
16 bits for its document and a query term's postings of one window lie side by side.
"""

from typing import NamedTuple

import numpy as np

from kernels.cpu.compiled import compiled

WINDOW = 65_536  # documents; 2**16, so that the number of a document within its window is a uint16


class Postings(NamedTuple):
    """Inverted lists of `len(steps)` terms.

    The postings of term t in window w are starts[t * windows + w] up to starts[t * windows + w + 1], ascending by
    document. The impact of posting p is steps[t] * impacts[p], rounded once to float32.
    """

    starts: np.ndarray  # int64 [terms * windows + 1]
    docs: np.ndarray  # uint16 [postings], the document's number within its window
    impacts: np.ndarray  # uint8, uint16 or float32 [postings], all > 0
    steps: np.ndarray  # float32 [terms]; 1 where impacts are float32


@compiled
def largest_weights(rows, num_terms):
    """float32 [num_terms]: the largest weight of each term in any row, 0 for a term that never occurs."""
    largest = np.zeros(num_terms, np.float32)
    for entry in range(rows.indices.shape[0]):
        term = rows.indices[entry]
        largest[term] = max(largest[term], rows.data[entry])
    return largest


@compiled
def quantise(rows, steps, levels):
    """int32 [entries]: each weight in whole steps of its term, rounded half up and held within 1..levels.

    The quotient is taken in float64, so the plain-Python definition in docs/format.md gives the same number.
    A weight of 0 stays 0: it has no posting.
    """
    quantised = np.zeros(rows.data.shape[0], np.int32)
    for entry in range(rows.data.shape[0]):
        weight = np.float64(rows.data[entry])
        if weight > 0:
            level = np.floor(weight / np.float64(steps[rows.indices[entry]]) + 0.5)
            quantised[entry] = min(max(level, 1.0), np.float64(levels))
    return quantised


@compiled
def invert(rows, impacts, num_terms, num_windows, docs, sorted_impacts):
    """Counting sort of the entries by (term, window), stable in documents, into `docs` and `sorted_impacts`.

    Entries with an impact of 0 are left out; the outputs have room for exactly the others.
    Returns starts, int64 [num_terms * num_windows + 1].
    """
    starts = np.zeros(num_terms * num_windows + 1, np.int64)
    num_rows = rows.indptr.shape[0] - 1
    for row in range(num_rows):
        window = row // WINDOW
        for entry in range(rows.indptr[row], rows.indptr[row + 1]):
            if impacts[entry] > 0:
                starts[np.int64(rows.indices[entry]) * num_windows + window + 1] += 1
    for list_number in range(starts.shape[0] - 1):
        starts[list_number + 1] += starts[list_number]
    filled = starts[:-1].copy()
    for row in range(num_rows):
        window = row // WINDOW
        for entry in range(rows.indptr[row], rows.indptr[row + 1]):
            if impacts[entry] > 0:
                list_number = np.int64(rows.indices[entry]) * num_windows + window
                slot = filled[list_number]
                filled[list_number] = slot + 1
                docs[slot] = row - window * WINDOW
                sorted_impacts[slot] = impacts[entry]
    return starts
