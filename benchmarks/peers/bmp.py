"""Block-max pruning (package bmp). Run by benchmarks/compare_sparse.py in its own environment.

Impacts in 255 steps of one scale for all, documents in the order given: its authors reorder them first, which makes its blocks'
bounds tighter. A query is a dict of strings, which is part of its time.
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # instead of this folder, whose bmp.py would be imported
import bmp  # noqa: E402
from protocol import KINDS, NUM_TERMS, compete, in_255_steps, inverted_lists, load_documents, queries_of  # noqa: E402

data, out, k = Path(sys.argv[1]), Path(sys.argv[2]), 10
BLOCK = 16  # documents
DIALS = [(1.0, 1.0), (0.95, 1.0), (0.85, 1.0), (0.75, 0.8)]  # alpha (share of the bound), beta (share of query terms)
QUERIES = {
    "splade": 200,
    "if": 500,
    "short": 1_000,
}  # the first ones: it takes milliseconds a query at a million documents

with tempfile.TemporaryDirectory(dir=out.parent) as folder:
    started = time.perf_counter()
    indexer = bmp.InvertedIndexer(f"{folder}/index", BLOCK, False)
    indptr, indices, weights = load_documents(data)
    largest = float(weights.max())
    for doc in range(len(indptr) - 1):
        row = slice(indptr[doc], indptr[doc + 1])
        indexer.add_document(
            str(doc), list(zip(indices[row].tolist(), in_255_steps(weights[row], largest).tolist(), strict=True))
        )
    starts, docs, impacts = inverted_lists(data)
    for term in range(NUM_TERMS):
        row = slice(starts[term], starts[term + 1])
        indexer.add_term(
            str(term), list(zip(docs[row].tolist(), in_255_steps(impacts[row], largest).tolist(), strict=True))
        )
    indexer.finish()
    build_s = time.perf_counter() - started
    del docs, impacts
    searcher = bmp.Searcher(f"{folder}/index")
    size = Path(folder, "index").stat().st_size
    for kind in KINDS:
        queries = [
            {str(term): float(weight) for term, weight in zip(*query, strict=True)}
            for query in queries_of(data, kind)[: QUERIES[kind]]
        ]
        for alpha, beta in DIALS:
            compete(
                out, data, "bmp", kind, f"alpha {alpha}, beta {beta}",
                lambda q, a=alpha, b=beta: searcher.search(q, k, a, b)[0], queries,
                lambda names: [int(name) for name in names], k, build_s=build_s, index_bytes=size,
            )  # fmt: skip
