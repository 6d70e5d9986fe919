"""How a weight becomes a stored level: whole steps up to the largest weight of its document (docs/format.md).

A step, and the length of a document whose levels are counts, depend on that document alone, so an index can be merged from
others without storing anything anew.
"""

import numpy as np

from kernels.cpu.compiled import compiled

SMALLEST_STEP = np.finfo(np.float32).tiny  # keeps the step of a denormal weight above 0
LARGEST_COUNT = 2.0**24  # up to which float32 tells whole numbers apart


@compiled
def choose_steps(rows, levels, steps):
    """Write the step of each row, float32: its largest weight is so many levels."""
    for row in range(steps.shape[0]):
        largest = np.float32(0)
        for entry in range(np.uint64(rows.indptr[row]), np.uint64(rows.indptr[row + 1])):
            largest = max(largest, rows.data[entry])
        steps[row] = max(largest / np.float32(levels), SMALLEST_STEP)


@compiled
def sum_counts(rows, lengths):
    """Write the sum of each row, rounded to float32; returns the largest count."""
    largest = np.float32(0)
    for row in range(lengths.shape[0]):
        length = 0.0
        for entry in range(np.uint64(rows.indptr[row]), np.uint64(rows.indptr[row + 1])):
            largest = max(largest, rows.data[entry])
            length += rows.data[entry]
        lengths[row] = length
    return largest


@compiled
def unsound_count(rows):
    """The first entry that is no whole number, or one too large for float32 to hold exactly; else -1."""
    for entry in range(rows.data.shape[0]):
        if rows.data[entry] != np.floor(rows.data[entry]) or rows.data[entry] > LARGEST_COUNT:
            return entry
    return -1


@compiled
def quantise(rows, steps, levels, quantised):
    """Write each weight in whole steps of its row, rounded half up and held within 1..levels.

    The quotient is taken in float64, so the plain-Python definition in docs/format.md gives the same number.
    A weight of 0 stays 0: it has no posting.
    """
    for row in range(steps.shape[0]):
        step = np.float64(steps[row])
        for entry in range(np.uint64(rows.indptr[row]), np.uint64(rows.indptr[row + 1])):
            weight, level = np.float64(rows.data[entry]), 0.0
            if weight > 0:
                level = min(max(np.floor(weight / step + 0.5), 1.0), np.float64(levels))
            quantised[entry] = level


@compiled
def largest_impacts(terms, impacts, largest):
    """Raise largest[term] to the largest impact of the term, in place; both as the int32 patterns of float32 numbers."""
    for entry in range(np.uint64(terms.shape[0])):
        term = np.uint64(terms[entry])
        largest[term] = max(largest[term], impacts[entry])
