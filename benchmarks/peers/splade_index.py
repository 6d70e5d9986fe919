"""splade-index (packages splade-index, numba, scipy). Run by benchmarks/compare_sparse.py in its own environment.

Its arrays are filled with the given impacts instead of a model's; timed is its own numba search, a query at a time.
"""

import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # instead of this folder, whose splade_index.py would be imported
import numpy as np  # noqa: E402
from protocol import KINDS, compete, inverted_lists, load_documents, queries_of  # noqa: E402
from splade_index.numba.retrieve_utils import _retrieve_numba_functional as retrieve  # noqa: E402

data, out, k = Path(sys.argv[1]), Path(sys.argv[2]), 10
started = time.perf_counter()
starts, docs, impacts = inverted_lists(data)
starts = starts.astype(np.int32)
build_s = time.perf_counter() - started
index = {"data": impacts, "indices": docs, "indptr": starts, "num_docs": len(load_documents(data)[0]) - 1}
for kind in KINDS:
    compete(
        out, data, "splade_index", kind, "exact", lambda q: retrieve([q[0]], [q[1]], index, k=k, n_threads=1)[0][0],
        queries_of(data, kind), np.ravel, k, build_s=build_s, index_bytes=sum(a.nbytes for a in (starts, docs, impacts)),
    )  # fmt: skip
