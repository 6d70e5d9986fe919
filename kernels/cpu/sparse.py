"""The one layout of sparse rows that every kernel reads: compressed sparse rows (CSR), packed end to end.

A NamedTuple of arrays passes straight into a numba kernel, so signatures stay short.
"""

from typing import NamedTuple

import numpy as np

from kernels.cpu.compiled import compiled


class SparseRows(NamedTuple):
    """Row r owns indices[indptr[r]:indptr[r + 1]] and the data beside them; indices ascend within a row."""

    indptr: np.ndarray  # int64 [rows + 1]
    indices: np.ndarray  # int32 [entries]
    data: np.ndarray  # float32 [entries]


@compiled
def unsound_entry(rows, num_terms):
    """The first entry whose term is out of range or does not ascend in its row, or whose weight is not finite and >= 0; else -1."""
    for row in range(rows.indptr.shape[0] - 1):
        before = -1
        for entry in range(rows.indptr[row], rows.indptr[row + 1]):
            term, weight = rows.indices[entry], rows.data[entry]
            if term <= before or term >= num_terms or not (weight >= 0 and weight < np.inf):
                return entry
            before = term
    return -1


@compiled
def count_postings(rows, lengths):
    """Write how many entries of each row are above 0."""
    for row in range(lengths.shape[0]):
        count = 0
        for entry in range(np.uint64(rows.indptr[row]), np.uint64(rows.indptr[row + 1])):
            count += rows.data[entry] > 0
        lengths[row] = count
