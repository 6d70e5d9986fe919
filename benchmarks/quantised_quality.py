"""How much ranking quality do 8 and 16 bits an impact cost? nDCG@10 of real vectors, one JSON line a split and kind of impacts.

    python benchmarks/quantised_quality.py --vectors DIR --data BEIR_FOLDER --splits dl19 dl20 --json OUT

DIR is what benchmarks/real_vectors.py wrote for BEIR_FOLDER; its texts are not encoded again. Search is exact.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from protocol import NUM_TERMS, load_documents, load_queries, record
from sparse_search import environment

from eval.datasets import load_dataset
from eval.measures import measure_run
from index.inverted import InvertedIndex
from index.options import InvertedIndexOptions
from kernels.cpu.sparse import SparseRows
from retrieval.beir_folder import one_of, read_queries
from retrieval.corpus import read_corpus

DEPTH = 100
MEASURES = ["nDCG@10", "R@100"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=Path, required=True, metavar="DIR")
    parser.add_argument("--data", type=Path, required=True, metavar="BEIR_FOLDER")
    parser.add_argument("--splits", nargs="+", default=["test"])
    parser.add_argument("--threads", type=int, default=2, help="of the build (default: 2)")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()

    rows = SparseRows(*load_documents(arguments.vectors))
    doc_ids = [document.doc_id for document in read_corpus(arguments.data)]
    query_ids = read_queries(one_of(arguments.data, "queries.jsonl"))
    queries = dict(zip(query_ids, load_queries(arguments.vectors / "queries_if"), strict=True))
    for impacts in ("f32", "u16", "u8"):
        index = InvertedIndex.build(rows, InvertedIndexOptions(NUM_TERMS, impacts), threads=arguments.threads)
        for split in arguments.splits:
            dataset = load_dataset(arguments.data, split)
            run = {}
            for query in dataset.queries:
                scores, docs = index.search(*queries[query], DEPTH)
                run[query] = {doc_ids[doc]: score for doc, score in zip(docs.tolist(), scores.tolist(), strict=True)}
            record(
                arguments.json,
                {
                    "dataset": dataset.name,
                    "split": split,
                    "queries": len(run),
                    "impacts": impacts,
                    **measure_run(dataset.qrels, run, MEASURES),
                    "index_bytes": index.nbytes,
                    **environment(),
                },
            )


if __name__ == "__main__":
    main()
