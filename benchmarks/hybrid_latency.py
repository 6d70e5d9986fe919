"""Latency of a hybrid search beside each of its arms, the same queries in turns, and where its time goes.

    python benchmarks/hybrid_latency.py --data FOLDER --system bm25+minilm --threads 2 --rounds 5 --json OUT

Every round asks each system each query once, in an order that moves on by one each time, so that what disturbs the machine
disturbs all alike. Reported are the medians over queries of each query's best round, and the ratio of hybrid to slowest arm.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time

import numpy as np

from eval.datasets import load_dataset
from retrieval import Fusion, Retriever
from retrieval.encoders.loading import split_names

WARM_UP = 20


def timed(
    retriever: Retriever, fusions: dict[str, Fusion], queries: list[str], rounds: int, k: int
) -> dict[str, np.ndarray]:
    """float64 [rounds, queries] for each system: milliseconds."""
    names = list(fusions)
    for query in queries[:WARM_UP]:
        for fusion in fusions.values():
            retriever.search(query, k, fusion=fusion)
    times = {name: np.zeros((rounds, len(queries))) for name in names}
    for round_number in range(rounds):
        for i, query in enumerate(queries):
            for turn in range(len(names)):
                name = names[(i + round_number + turn) % len(names)]
                started = time.perf_counter()
                retriever.search(query, k, fusion=fusions[name])
                times[name][round_number, i] = (time.perf_counter() - started) * 1e3
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, metavar="FOLDER")
    parser.add_argument("--split", default="test")
    parser.add_argument("--system", default="bm25+minilm")
    parser.add_argument("--index", metavar="FOLDER", help="of these arms over this data, instead of building it")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch and FAISS")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    import faiss
    import torch

    torch.set_num_threads(arguments.threads)
    faiss.omp_set_num_threads(arguments.threads)
    dataset = load_dataset(arguments.data, arguments.split)
    if arguments.index:
        retriever = Retriever.from_folder(arguments.index)
    else:
        retriever = Retriever.from_pretrained(arguments.system).index(dataset.folder)
    arms = split_names(arguments.system)
    fusions = {arm: Fusion(weights={arm: 1.0}) for arm in arms} | {arguments.system: Fusion()}
    times = timed(retriever, fusions, list(dataset.queries.values()), arguments.rounds, arguments.k)
    medians = {name: float(np.median(found.min(axis=0))) for name, found in times.items()}
    typical = {name: float(np.median(found)) for name, found in times.items()}
    slowest = max(arms, key=medians.__getitem__)
    result = {
        "system": arguments.system,
        "dataset": dataset.name,
        "threads": arguments.threads,
        "queries": len(dataset.queries),
        "median_of_best_ms": medians,
        "median_ms": typical,
        "slowest_arm": slowest,
        "ratio": medians[arguments.system] / medians[slowest],
        "ratio_of_medians": typical[arguments.system] / typical[slowest],
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
    }
    print(json.dumps(result, indent=2))
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=2)


if __name__ == "__main__":
    main()
