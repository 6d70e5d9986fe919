"""VSAG's SINDI (package pyvsag): exact, and pruned with rescoring. Run by benchmarks/compare_sparse.py in its own environment."""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyvsag

sys.path[0] = str(Path(__file__).parents[1])
from protocol import KINDS, NUM_TERMS, compete, load_documents, queries_of  # noqa: E402

data, out, k = Path(sys.argv[1]), Path(sys.argv[2]), 10
indptr, indices, weights = (np.asarray(array) for array in load_documents(data))
num_docs = len(indptr) - 1
pyvsag.set_logger_off()
for quantised, doc_prune in ((False, 0.0), (True, 0.4)):
    options = {
        "use_reorder": doc_prune > 0, "doc_prune_ratio": doc_prune, "window_size": 50_000, "term_id_limit": NUM_TERMS,
        "use_quantization": quantised, "avg_doc_term_length": len(indices) // num_docs,
    }  # fmt: skip
    index = pyvsag.Index(
        "sindi", json.dumps({"dtype": "sparse", "dim": 1024, "metric_type": "ip", "index_param": options})
    )
    started = time.perf_counter()
    index.build(indptr.astype(np.uint32), indices.astype(np.uint32), weights, np.arange(num_docs))
    build_s = time.perf_counter() - started
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        index.save(f"{folder}/index")
        size = Path(folder, "index").stat().st_size
    for kind in KINDS:
        queries = [
            (np.array([0, len(terms)], np.uint32), terms.astype(np.uint32), w) for terms, w in queries_of(data, kind)
        ]
        for query_prune in (0.0, 0.3, 0.5) if doc_prune else (0.0,):
            dials = {
                "query_prune_ratio": query_prune,
                "n_candidate": 100 if doc_prune else 0,
                "use_term_lists_heap_insert": True,
            }
            target = f"doc prune {doc_prune}, query prune {query_prune}" if doc_prune else "exact"
            parameters = json.dumps({"sindi": dials})
            compete(
                out, data, "sindi", kind, target, lambda q, p=parameters: index.knn_search(*q, k, p)[0], queries, np.ravel, k,  # noqa: B023
                build_s=build_s, index_bytes=size,
            )  # fmt: skip
