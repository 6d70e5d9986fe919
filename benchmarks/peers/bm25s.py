"""bm25s (packages bm25s, numba). Run by benchmarks/compare_sparse.py in its own environment.

Its arrays are filled with the given impacts instead of BM25's; timed is its own numba search, a query at a time. It has no
query weights: only `short` queries, whose weights are 1, get the answers of the others, so only these have a recall.
"""

import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # instead of this folder, whose bm25s.py would be imported
import numpy as np  # noqa: E402
from bm25s.numba.retrieve_utils import _retrieve_numba_functional as retrieve  # noqa: E402
from protocol import KINDS, compete, inverted_lists, load_documents, queries_of  # noqa: E402

data, out, k = Path(sys.argv[1]), Path(sys.argv[2]), 10
started = time.perf_counter()
starts, docs, impacts = inverted_lists(data)
build_s = time.perf_counter() - started
index = {"data": impacts, "indices": docs, "indptr": starts, "num_docs": len(load_documents(data)[0]) - 1}
for kind in KINDS:
    weighted = kind != "short"
    compete(
        out, data, "bm25s", kind, "every query weight 1" if weighted else "exact",
        lambda terms: retrieve([terms], index, k=k, n_threads=1)[0][0], [terms for terms, _ in queries_of(data, kind)],
        None if weighted else np.ravel, k, build_s=build_s, index_bytes=sum(a.nbytes for a in (starts, docs, impacts)),
    )  # fmt: skip
