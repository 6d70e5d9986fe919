"""The one layout of sparse rows that every kernel reads: compressed sparse rows (CSR), packed end to end.

A NamedTuple of arrays passes straight into a numba kernel, so signatures stay short.
"""

from typing import NamedTuple

import numpy as np


class SparseRows(NamedTuple):
    """Row r owns indices[indptr[r]:indptr[r + 1]] and the data beside them; indices ascend within a row."""

    indptr: np.ndarray  # int64 [rows + 1]
    indices: np.ndarray  # int32 [entries]
    data: np.ndarray  # float32 [entries]
