"""How a weight becomes a stored impact: whole steps up to the largest weight of its term (docs/format.md)."""

import numpy as np

from kernels.cpu.compiled import compiled


@compiled
def largest_weights(rows, largest):
    """Raise largest[term], float32, to the largest weight of the term in the rows, in place."""
    for entry in range(rows.indices.shape[0]):
        term = rows.indices[entry]
        largest[term] = max(largest[term], rows.data[entry])


@compiled
def quantise(rows, steps, levels, quantised, impacts):
    """Write each weight in whole steps of its term, rounded half up and held within 1..levels, into `quantised`, and what it then
    stands for, float32, into `impacts`.

    The quotient is taken in float64, so the plain-Python definition in docs/format.md gives the same number.
    A weight of 0 stays 0: it has no posting.
    """
    for entry in range(np.uint64(rows.indices.shape[0])):
        weight, step = np.float64(rows.data[entry]), steps[rows.indices[entry]]
        level = 0.0
        if weight > 0:
            level = min(max(np.floor(weight / np.float64(step) + 0.5), 1.0), np.float64(levels))
        quantised[entry] = level
        impacts[entry] = step * np.float32(level)
