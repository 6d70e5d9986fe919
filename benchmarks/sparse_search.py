"""How fast, how exact and how large is the index on a sparse collection? One JSON line a setting.

    python benchmarks/sparse_search.py --data DIR --queries splade --k 10 --targets 0.95 0.99 0.998 exact --json OUT

DIR holds a collection as `.npy` files: docs_{indptr,indices,data}, queries_{splade,if}_{indptr,indices,data} and, of the
exact float32 answer, gt_{splade,if}_{ids,scores}. One query at a time on one thread after 50 to warm up, the best of three
passes by CPU time, planning and the Python call included; recall is against the float32 answer, bit-identical counts
queries whose scores equal it too. The settings of a recall target are calibrated when the index is built, on queries made
from documents or on --calibrate-with PREFIX, never on the queries that are measured.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np

from index.effort import EXACT, Effort, Recall
from index.inverted import InvertedIndex, InvertedIndexOptions
from index.vectors import SparseQuery
from kernels.cpu.sparse import SparseRows

NUM_TERMS = 30_522
WARM_UP_QUERIES = 50
PASSES = 3
HEAVIEST = 3  # terms of a short query


def load_rows(folder: Path) -> SparseRows:
    return SparseRows(*(np.load(folder / f"docs_{x}.npy", mmap_mode="r") for x in SparseRows._fields))


def load_queries(prefix: Path) -> list[SparseQuery]:
    indptr, indices, data = (np.load(f"{prefix}_{x}.npy") for x in SparseRows._fields)
    return [
        SparseQuery(indices[a:b].astype(np.int32), data[a:b].astype(np.float32)) for a, b in itertools.pairwise(indptr)
    ]


def short(query: SparseQuery) -> SparseQuery:
    """The heaviest terms of a query, each weighing 1: what a BM25 query looks like to an index of impacts."""
    terms = np.sort(query.terms[np.argsort(-query.weights, kind="stable")[:HEAVIEST]])
    return SparseQuery(terms, np.ones(len(terms), np.float32))


def timed(
    search: Callable[[SparseQuery], tuple[np.ndarray, np.ndarray]], queries: list[SparseQuery]
) -> tuple[dict[str, float], list[tuple[np.ndarray, np.ndarray]]]:
    """Microseconds a query of the pass with the least CPU time, and the answers."""
    for query in queries[:WARM_UP_QUERIES]:
        search(query)
    best: dict[str, float] = {}
    answers: list[tuple[np.ndarray, np.ndarray]] = []
    for _ in range(PASSES):
        wall, answers = np.empty(len(queries)), []
        before = time.process_time()
        for i, query in enumerate(queries):
            started = time.perf_counter_ns()
            answers.append(search(query))
            wall[i] = (time.perf_counter_ns() - started) / 1e3
        cpu_us = (time.process_time() - before) / len(queries) * 1e6
        if not best or cpu_us < best["cpu_us"]:
            best = {
                "cpu_us": cpu_us,
                "mean_us": float(wall.mean()),
                "p50_us": float(np.median(wall)),
                "p99_us": float(np.quantile(wall, 0.99)),
            }
    return best, answers


def queries_a_second(index: InvertedIndex, queries: list[SparseQuery], k: int, effort: Effort, threads: int) -> float:
    times = []
    for _ in range(PASSES):
        started = time.perf_counter()
        index.search_batch(queries, k, threads, effort)
        times.append(time.perf_counter() - started)
    return len(queries) / min(times)


def environment() -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {
        "commit": commit,
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "numba": numba.__version__,
        "numpy": np.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--queries", choices=("splade", "if", "short"), nargs="+", default=["splade", "if"])
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--targets", nargs="+", default=["0.95", "0.99", "0.998", "exact"])
    parser.add_argument("--impacts", choices=("u8", "u16", "f32"), default="u8")
    parser.add_argument("--threads", type=int, default=2, help="of the build and of the batch (default: 2)")
    parser.add_argument(
        "--calibrate-with", type=Path, metavar="PREFIX", help="queries in PREFIX_{indptr,indices,data}.npy"
    )
    parser.add_argument("--memory-limit", help="build into a file within this much memory")
    parser.add_argument("--first", type=int, metavar="N", help="only the first N queries")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()

    rows, options = load_rows(arguments.data), InvertedIndexOptions(NUM_TERMS, arguments.impacts)
    known = None if arguments.calibrate_with is None else load_queries(arguments.calibrate_with)
    compile_everything(rows, options)
    with tempfile.TemporaryDirectory(dir=arguments.json.parent) as scratch:
        folder = Path(scratch) / "index" if arguments.memory_limit else None
        started = time.perf_counter()
        index = InvertedIndex.build(
            rows,
            options,
            threads=arguments.threads,
            folder=folder,
            memory_limit=arguments.memory_limit,
            calibrate_with=known,
        )
        build_s = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        for kind in arguments.queries:
            source = "if" if kind == "short" else kind
            queries = load_queries(arguments.data / f"queries_{source}")[: arguments.first]
            truth = truth_of(arguments.data, source) if kind != "short" else {}
            queries = list(map(short, queries)) if kind == "short" else queries
            for target in arguments.targets:
                record = {
                    "contestant": "winnow",
                    "dataset": arguments.data.name,
                    "queries": kind,
                    "k": arguments.k,
                    "target": target,
                    "impacts": arguments.impacts,
                    **measure(
                        index, queries, truth, arguments.k, EXACT if target == "exact" else Recall(float(target))
                    ),
                    "build_s": build_s,
                    "index_bytes": index.nbytes,
                    "peak_bytes": peak,
                    **environment(),
                }
                print({name: round(v, 4) if isinstance(v, float) else v for name, v in record.items()}, flush=True)
                with open(arguments.json, "a") as file:
                    file.write(json.dumps(record) + "\n")


def compile_everything(rows: SparseRows, options: InvertedIndexOptions) -> None:
    """Build and search a few documents, so that no time below includes compiling."""
    entries = rows.indptr[1_001]
    few = InvertedIndex.build(SparseRows(rows.indptr[:1_002], rows.indices[:entries], rows.data[:entries]), options)
    few.calibrate([SparseQuery(np.arange(5_000, 5_040, dtype=np.int32), np.ones(40, np.float32))])


def truth_of(folder: Path, kind: str) -> dict[str, np.ndarray]:
    files = {name: folder / f"gt_{kind}_{name}.npy" for name in ("ids", "scores")}
    return {name: np.load(file) for name, file in files.items() if file.exists()}


def measure(
    index: InvertedIndex,
    queries: list[SparseQuery],
    truth: dict[str, np.ndarray],
    k: int,
    effort: Effort,
) -> dict[str, Any]:
    """Latency, throughput and, where the exact answer is known, recall."""
    latency, answers = timed(lambda query: index.search(query.terms, query.weights, k, effort), queries)
    one = queries_a_second(index, queries, k, effort, 1)
    two = queries_a_second(index, queries, k, effort, 2)
    found: dict[str, Any] = {**latency, "qps_1t": one, "qps_2t": two}
    if "ids" in truth:
        shares = [len(np.intersect1d(docs, ids[:k])) / k for (_, docs), ids in zip(answers, truth["ids"], strict=False)]
        found["recall"] = float(np.mean(shares))
    if "scores" in truth:
        same = [np.array_equal(got, scores[:k]) for (got, _), scores in zip(answers, truth["scores"], strict=False)]
        found["bit_identical"] = float(np.mean(same))
    return found


if __name__ == "__main__":
    main()
