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
KINDS = ("splade", "if", "short")
NUM_TERMS = 30_522  # BERT's vocabulary
WARM_UP_QUERIES = 50
PASSES = 3
HEAVIEST = 3  # terms of a short query
Query = tuple[np.ndarray, np.ndarray]  # terms int32, weights float32


def load_documents(folder: Path) -> list[np.ndarray]:
    """indptr int64, indices uint16 and data float32, mapped."""
    return [np.load(folder / f"docs_{array}.npy", mmap_mode="r") for array in ARRAYS]


def load_queries(prefix: Path) -> list[Query]:
    """The queries in PREFIX_{indptr,indices,data}.npy."""
    indptr, indices, data = (np.load(f"{prefix}_{array}.npy") for array in ARRAYS)
    return [(indices[a:b].astype(np.int32), data[a:b].astype(np.float32)) for a, b in itertools.pairwise(indptr)]


def save_queries(prefix: Path, queries: Sequence[Query]) -> None:
    """What `load_queries` reads."""
    lengths = [len(terms) for terms, _ in queries]
    np.save(f"{prefix}_indptr.npy", np.array([0, *itertools.accumulate(lengths)], np.int64))
    np.save(f"{prefix}_indices.npy", np.concatenate([terms for terms, _ in queries]).astype(np.uint16))
    np.save(f"{prefix}_data.npy", np.concatenate([weights for _, weights in queries]).astype(np.float32))


def queries_of(folder: Path, kind: str) -> list[Query]:
    """The queries of a kind; `short` ones are the heaviest terms of the inference-free ones, each weighing 1."""
    queries = load_queries(folder / f"queries_{'if' if kind == 'short' else kind}")
    return [short(*query) for query in queries] if kind == "short" else queries


def short(terms: np.ndarray, weights: np.ndarray) -> Query:
    """What a BM25 query looks like to an index of impacts."""
    heaviest = np.sort(terms[np.argsort(-weights, kind="stable")[:HEAVIEST]])
    return heaviest, np.ones(len(heaviest), np.float32)


def inverted_lists(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For peers that take lists: (where each term's list starts, its documents int32 ascending, their impacts)."""
    indptr, indices, data = (np.asarray(array) for array in load_documents(folder))
    order = np.argsort(indices, kind="stable")
    docs = np.repeat(np.arange(len(indptr) - 1, dtype=np.int32), np.diff(indptr))[order]
    return np.concatenate([[0], np.bincount(indices, minlength=NUM_TERMS).cumsum()]), docs, data[order]


def in_255_steps(weights: np.ndarray, largest: float) -> np.ndarray:
    """For peers that take whole numbers: 1 to 255, uint32."""
    return np.clip(np.round(weights * (255 / largest)), 1, 255).astype(np.uint32)


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
    """Mean share of the exact top k among the answers to the first queries; empty where no exact answer is known.

    Where fewer than k documents match a query, the share is of those; a query that none matches does not count.
    """
    file = folder / f"gt_{kind}_ids.npy"
    if not file.exists():
        return {}
    exact = [ids[:k][ids[:k] >= 0] for ids in np.load(file)]
    shares = [len(np.intersect1d(a, ids)) / len(ids) for a, ids in zip(answers, exact, strict=False) if len(ids)]
    return {"recall": float(np.mean(shares))}


def compete(
    out: Path,
    data: Path,
    contestant: str,
    kind: str,
    target: str,
    search: Callable[[Any], Any],
    queries: Sequence[Any],
    docs_of: Callable[[Any], Sequence[int]] | None,
    k: int,
    **facts: Any,
) -> None:
    """Time one setting of a peer on the first queries of a kind, given in the peer's own form, and append its line.

    docs_of  the documents of what `search` returned; None for a peer that computes other scores, which has no recall
    """
    latency, answers = timed(search, queries)
    found = recall(data, kind, [docs_of(answer) for answer in answers], k) if docs_of else {}
    record(
        out, {**setting(data, contestant, kind, target, k), "queries_timed": len(queries), **latency, **found, **facts}
    )


def setting(data: Path, contestant: str, kind: str, target: str, k: int) -> dict[str, Any]:
    """How every record begins."""
    num_docs = len(np.load(data / "docs_indptr.npy", mmap_mode="r")) - 1
    names = {"contestant": contestant, "dataset": data.name, "documents": num_docs}
    return {**names, "queries": kind, "k": k, "target": target}


def record(file: Path, entry: dict[str, Any]) -> None:
    """Append one JSON line and print it."""
    print({name: round(value, 4) if isinstance(value, float) else value for name, value in entry.items()}, flush=True)
    with open(file, "a") as lines:
        lines.write(json.dumps(entry) + "\n")
