"""How fast, how exact and how large is the index on a sparse collection? One JSON line a setting.

    python benchmarks/sparse_search.py --data DIR --queries splade --k 10 --targets 0.95 0.99 0.998 exact --json OUT

DIR is a collection as benchmarks/protocol.py says, which also says how time is taken. Recall is against the float32 answer;
`bit_identical` is the share of queries whose scores equal it to the last bit. The settings of a recall target are calibrated
when the index is built, on queries made from documents or on --calibrate-with PREFIX, never on the queries that are measured.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
from protocol import KINDS, NUM_TERMS, load_documents, load_queries, queries_of, recall, record, setting, timed

from index.effort import EXACT, Effort, Recall
from index.inverted import InvertedIndex
from index.options import SECOND_TIER_WORTH_IT, InvertedIndexOptions
from index.vectors import SparseQuery
from kernels.cpu.sparse import SparseRows

PASSES = 3


class PeakMemory(threading.Thread):
    """The most anonymous memory this process held, looked at every 20 ms; mapped files do not count."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_bytes, self.stopped = 0, threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(0.02):
            self.look()

    def look(self) -> None:
        status = Path("/proc/self/status").read_text()
        self.peak_bytes = max(self.peak_bytes, 1024 * int(status.split("RssAnon:")[1].split()[0]))

    def __enter__(self) -> PeakMemory:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stopped.set()
        self.join()
        self.look()  # what lasts less than 20 ms is seen once


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
    parser.add_argument("--queries", choices=KINDS, nargs="+", default=["splade", "if"])
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

    rows, options = SparseRows(*load_documents(arguments.data)), InvertedIndexOptions(NUM_TERMS, arguments.impacts)
    known = arguments.calibrate_with and [SparseQuery(*query) for query in load_queries(arguments.calibrate_with)]
    compile_everything(rows, options)
    with tempfile.TemporaryDirectory(dir=arguments.json.parent) as scratch:
        folder = Path(scratch) / "index" if arguments.memory_limit else None
        with PeakMemory() as memory:
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
        for kind in arguments.queries:
            queries = [SparseQuery(*query) for query in queries_of(arguments.data, kind)[: arguments.first]]
            for target in arguments.targets:
                effort = EXACT if target == "exact" else Recall(float(target))
                record(
                    arguments.json,
                    {
                        **setting(arguments.data, "winnow", kind, target, arguments.k),
                        "impacts": arguments.impacts,
                        "queries_timed": len(queries),
                        **measure(index, queries, arguments.data, kind, arguments.k, effort),
                        "build_s": build_s,
                        "index_bytes": index.nbytes,
                        "peak_anonymous_bytes": memory.peak_bytes,
                        **environment(),
                    },
                )


def compile_everything(rows: SparseRows, options: InvertedIndexOptions) -> None:
    """Build and search a few documents as many will be, so that no time below includes compiling."""
    options = replace(options, second_tier=len(rows.indptr) - 1 >= SECOND_TIER_WORTH_IT)
    indptr = rows.indptr[:1_002]
    few = InvertedIndex.build(SparseRows(indptr, rows.indices[: indptr[-1]], rows.data[: indptr[-1]]), options)
    few.calibrate([SparseQuery(np.arange(5_000, 5_040, dtype=np.int32), np.ones(40, np.float32))])


def measure(
    index: InvertedIndex, queries: list[SparseQuery], data: Path, kind: str, k: int, effort: Effort
) -> dict[str, Any]:
    """Latency, throughput and, where the exact answer is known, recall."""
    latency, answers = timed(lambda query: index.search(query.terms, query.weights, k, effort), queries)
    one = queries_a_second(index, queries, k, effort, 1)
    two = queries_a_second(index, queries, k, effort, 2)
    found: dict[str, Any] = {**latency, "qps_1t": one, "qps_2t": two}
    found |= recall(data, kind, [docs for _, docs in answers], k)
    exact = data / f"gt_{kind}_scores.npy"
    if exact.exists():
        rows = (row[:k][row[:k] > 0] for row in np.load(exact))
        same = [np.array_equal(got, row) for (got, _), row in zip(answers, rows, strict=False)]
        found["bit_identical"] = float(np.mean(same))
    return found


if __name__ == "__main__":
    main()
