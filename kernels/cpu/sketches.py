"""Sketches: the few heaviest terms of each document with 8-bit impacts, all side by side at a fixed width.

A sketch tells nearly what a document scores in a third of the row's bytes, and where it lies needs no pointer. Sketches choose
documents; their scores come from the forward index.
"""

import numpy as np

from kernels.cpu.compiled import compiled

SKETCH = 20  # terms of a sketch


@compiled
def level(weight, step):
    """A weight in whole steps, 1..255, to the nearest."""
    return np.int64(min(np.float32(255), max(np.float32(1), np.rint(weight / step))))


@compiled
def insert(term, weight, count, terms, weights):
    """Put a pair into the heaviest so far, heaviest first, earlier pairs before equal ones; returns how many there are now."""
    width = weights.shape[0]
    if count < width:
        slot = count
        count += 1
    elif weight > weights[width - 1]:
        slot = width - 1
    else:
        return count
    while slot > 0 and weights[slot - 1] < weight:
        weights[slot], terms[slot] = weights[slot - 1], terms[slot - 1]
        slot -= 1
    weights[slot], terms[slot] = weight, term
    return count


@compiled
def make_sketches(rows, steps, sketch_terms, sketch_impacts):
    """Write the sketches of the rows, heaviest term first; an unused place keeps impact 0.

    rows            SparseRows
    steps           float32 [terms], a 255th of the largest impact of each
    sketch_terms    uint16 or uint32 [rows * SKETCH], zero before
    sketch_impacts  uint8 beside it, zero before
    """
    terms, weights = np.empty(SKETCH, np.int32), np.empty(SKETCH, np.float32)
    for row in range(rows.indptr.shape[0] - 1):
        count = 0
        for entry in range(rows.indptr[row], rows.indptr[row + 1]):
            if rows.data[entry] > 0:
                count = insert(rows.indices[entry], rows.data[entry], count, terms, weights)
        for i in range(count):
            sketch_terms[row * SKETCH + i] = terms[i]
            sketch_impacts[row * SKETCH + i] = level(weights[i], steps[terms[i]])
