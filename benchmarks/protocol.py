"""What every contestant of the sparse search benchmark shares: the files, the timing, the record. Needs only numpy.

A collection is a folder of `.npy` files: docs_{indptr,indices,data}, queries_{splade,if}_{indptr,indices,data} and, of the
exact float32 answer, gt_{splade,if}_{ids,scores}. One query at a time on one thread, in the contestant's own form, after 50 to
warm up; the best of three passes by CPU time, the call from Python included.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ARRAYS = ("indptr", "indices", "data")
WARM_UP_QUERIES = 50
PASSES = 3
HEAVIEST = 3  # terms of a short query


def load_documents(folder: Path) -> list[np.ndarray]:
    """indptr int64, indices uint16 and data float32, mapped."""
    return [np.load(folder / f"docs_{array}.npy", mmap_mode="r") for array in ARRAYS]


def load_queries(prefix: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """(terms int32, weights float32) of each query in PREFIX_{indptr,indices,data}.npy."""
    indptr, indices, data = (np.load(f"{prefix}_{array}.npy") for array in ARRAYS)
    return [(indices[a:b].astype(np.int32), data[a:b].astype(np.float32)) for a, b in itertools.pairwise(indptr)]


def queries_of(folder: Path, kind: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """The queries of a kind; `short` ones are the heaviest terms of the inference-free ones, each weighing 1."""
    queries = load_queries(folder / f"queries_{'if' if kind == 'short' else kind}")
    return [short(*query) for query in queries] if kind == "short" else queries


def short(terms: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a BM25 query looks like to an index of impacts."""
    heaviest = np.sort(terms[np.argsort(-weights, kind="stable")[:HEAVIEST]])
    return heaviest, np.ones(len(heaviest), np.float32)


def timed(search: Callable[[Any], Any], queries: Sequence[Any]) -> tuple[dict[str, float], list[Any]]:
    """Microseconds a query of the pass with the least CPU time, and the answers."""
    for query in queries[:WARM_UP_QUERIES]:
        search(query)
    best: dict[str, float] = {}
    answers: list[Any] = []
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


def recall(folder: Path, kind: str, answers: Sequence[Sequence[int]], k: int) -> dict[str, float]:
    """Mean share of the exact top k among the answers, where the exact answer is known."""
    file = folder / f"gt_{kind}_ids.npy"
    if not file.exists():
        return {}
    shares = [len(np.intersect1d(got, ids[:k])) / k for got, ids in zip(answers, np.load(file), strict=False)]
    return {"recall": float(np.mean(shares))}


def record(file: Path, entry: dict[str, Any]) -> None:
    """Append one JSON line and print it."""
    print({name: round(value, 4) if isinstance(value, float) else value for name, value in entry.items()}, flush=True)
    with open(file, "a") as lines:
        lines.write(json.dumps(entry) + "\n")
