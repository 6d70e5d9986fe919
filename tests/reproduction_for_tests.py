"""A few results of cells, made by hand."""


def result(system="bm25", dataset="scifact", split="test", **changed):
    """One as an evaluation writes it; a keyword replaces a part of it."""
    return {
        "dataset": dataset,
        "split": split,
        "system": system,
        "queries": 300,
        "measures": {"nDCG@10": 0.6777, "R@100": 0.92, "R@1000": None},
        "efficiency": {
            "documents": 5183, "index_bytes": 4_900_000, "build_seconds": 2.84, "peak_bytes": None,
            "encode_documents_per_second": 2012.0, "encode_ms": None, "query_ms": {"mean": 0.4, "p50": 0.34, "p99": 0.53},
        },
        "counts": {"queries_without_results": 2},
        "problems": [],
        "command": f"python -m eval.beir --data {dataset} --system {system}",
        "commit": "abc1234",
        "machine": "2 cores",
        "date": "2026-11-26",
        **changed,
    }  # fmt: skip
