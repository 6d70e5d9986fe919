"""What does each way of finding dense candidates reach, take and cost? recall@10, bytes a vector, latency, training.

    python benchmarks/dense_index.py --docs DOCS.npy --queries QUERIES.npy [--factory WORDS ...] [--json FILE]

Methods are chosen by documents that are held out of the index and asked as queries (`held_out`); what the real queries then
reach is reported beside it (`queries`). Recall is the share of the 10 nearest by exact scores. One query at a time on one
thread, the best of three passes by CPU time. Prints a table in Markdown and, with --json, appends a line for each method.
"""

from __future__ import annotations

import argparse
import gc
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from protocol import record, timed

from index import DenseIndex, DenseIndexOptions, DenseSearch
from index.dense.codes import Codes
from index.dense.search import rescored_of

SEED, K = 7, 10
FACTORIES = (
    "Flat", "SQfp16", "SQ8", "SQ6", "SQ4", "RR,SQ4", "RaBitQ4", "RR,RaBitQ", "RR,RaBitQ2", "RR,RaBitQ4", "RR,RaBitQfs", "RR,RaBitQfs2",
    "RR,RaBitQfs4", "PQ{2}x4fs", "PQ{3}x4fs", "PQ{4}x4fs", "PQ{6}x4fs", "PQ{8}x4fs", "PQ{12}x4fs", "PQ{4}", "PQ{8}", "PQ{12}", "PQ{16}",
    "PQ{24}", "PQ{32}", "PQ{48}", "OPQ{8},PQ{8}", "PCAR{3},SQ8", "HNSW32", "HNSW32,SQ8", "IVF256,SQ8", "IVF256,PQ{4}x4fs", "IVF256,PQ{8}",
    "RR,IVF256,RaBitQ4",
)  # fmt: skip
RESCORED = (1, 2, 4, 10, 20, 50)


def split(docs: np.ndarray, held_out: int) -> tuple[np.ndarray, np.ndarray]:
    """(documents to index, documents that are asked as queries)"""
    chosen = np.random.default_rng(SEED).choice(len(docs), held_out, replace=False)
    rest = np.ones(len(docs), bool)
    rest[chosen] = False
    return docs[rest], docs[chosen]


def recall(answers: list[Any], exact: list[Any]) -> float:
    """Mean share of the exact answers that was found."""
    return float(np.mean([np.isin(docs, found).mean() for (_, found), (_, docs) in zip(answers, exact, strict=True)]))


def measure(
    words: str, docs: np.ndarray, queries: dict[str, np.ndarray], exact: dict[str, list[Any]], rescored: list[float]
) -> dict[str, Any]:
    """One method: built once, searched with its defaults and with each number of candidates."""
    index = DenseIndex.build(docs, DenseIndexOptions(docs.shape[1], factory=words), progress=False)
    found: dict[str, Any] = {
        "factory": words,
        "documents": len(docs),
        "dimension": docs.shape[1],
        "bytes": index.codes.factory.code_bytes if index.codes else 4 * docs.shape[1],
        "shared_bytes": index.codes.factory.shared_bytes if index.codes else 0,
        "file_bytes": index.codes.stored().bytes if index.codes else 0,
        "training_seconds": index.training_seconds or 0.0,
        "rescored": rescored_of(index.codes) if isinstance(index.codes, Codes) else 1,
    }
    for kind, asked in queries.items():
        latency, answers = timed(lambda query: index.search(query, K), list(asked))
        found[kind] = {"recall": recall(answers, exact[kind]), "cpu_us": latency["cpu_us"], "p50_us": latency["p50_us"]}
        found[kind]["by_rescored"] = {
            f"{times:g}": recall(index.search_batch(asked, K, parameters=DenseSearch(rescored=times)), exact[kind])
            for times in (rescored if index.codes else [])
        }
    return found


def table(measured: list[dict[str, Any]]) -> str:
    """In Markdown, the smallest first."""
    lines = [
        "| method | bytes a vector | KB for all | recall@10, held-out documents | recall@10, queries | CPU µs a query | rescored | training s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in sorted(measured, key=lambda one: one["bytes"]):
        held_out, queries = one["held_out"], one["queries"]
        lines.append(
            f"| `{one['factory']}` | {one['bytes']} | {one['shared_bytes'] / 1000:.0f} | {held_out['recall']:.3f} | {queries['recall']:.3f} | "
            f"{queries['cpu_us']:.0f} | {one['rescored']:g} k | {one['training_seconds']:.1f} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, required=True)
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--factory", nargs="+", default=FACTORIES, help="FAISS's words; {n} stands for dimension / n")
    parser.add_argument("--held-out", type=int, default=500)
    parser.add_argument("--most-queries", type=int, default=500)
    parser.add_argument("--rescored", type=float, nargs="+", default=RESCORED)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args(arguments)
    docs, held_out = split(np.load(given.docs, mmap_mode="r"), given.held_out)
    queries = {"held_out": held_out, "queries": np.load(given.queries)[: given.most_queries]}
    exactly = DenseIndex.build(docs, DenseIndexOptions(docs.shape[1]), progress=False)
    exact = {kind: exactly.search_batch(asked, K) for kind, asked in queries.items()}
    facts = {
        "data": given.docs.stem,
        "machine": platform.processor() or platform.machine(),
        "commit": commit(),
        "seed": SEED,
    }
    measured = []
    for words in given.factory:
        for divisor in range(1, 65):
            words = words.replace(f"{{{divisor}}}", str(docs.shape[1] // divisor))
        measured.append({**facts, **measure(words, docs, queries, exact, list(given.rescored))})
        if given.json:
            record(given.json, measured[-1])
        gc.collect()
    print(table(measured))
    if given.markdown:
        given.markdown.write_text(table(measured) + "\n")


def commit() -> str:
    """Of the checkout; empty where there is none."""
    asked = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
    )
    return asked.stdout.strip()


if __name__ == "__main__":
    main()
