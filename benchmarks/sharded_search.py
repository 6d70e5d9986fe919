"""What do shards cost and gain? Milliseconds of a query and queries a second against the number of shards, locally and on Ray.

    python benchmarks/sharded_search.py --documents 200000 --shards 1 2 4 --json OUT

The collection is made: documents of words drawn by Zipf's law, indexed with bm25 in as many segments as the most shards. One query at a
time, then --clients threads that each send one query after another. The first pass over the queries learns how many documents hold their
terms and is left out. Every hit is compared with the one index's, scores and all. `overhead_ms` is against one index in one process;
`floor_ms` is a call of all actors that does nothing. Ray runs on this machine unless an --address is given.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from protocol import record
from sparse_search import environment

from retrieval import Retriever
from retrieval.hits import Hits
from retrieval.sharded import ShardedRetriever

WORDS = 50_000
WORDS_A_DOCUMENT, WORDS_A_QUERY = 50, 5
PASSES = 3
Search = Callable[[str], Hits]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--engines", nargs="+", choices=("local", "ray"), default=["local", "ray"])
    parser.add_argument("--replicas", type=int, default=1, help="of each shard on Ray (default: 1)")
    parser.add_argument("--clients", type=int, default=8, help="threads that ask (default: 8)")
    parser.add_argument("--address", help="of a running Ray cluster")
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="lines are appended")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run(arguments, Path(scratch) / "index")


def run(arguments: argparse.Namespace, folder: Path) -> None:
    rng = np.random.default_rng(0)
    build(folder, arguments.documents, max(arguments.shards), rng)
    queries = [" ".join(words(rng, WORDS_A_QUERY)) for _ in range(arguments.queries)]
    whole = Retriever.from_folder(folder)
    expected = [whole.search(query, arguments.k) for query in queries]
    alone = measured(lambda query: whole.search(query, arguments.k), queries, arguments.clients)
    common = {"documents": arguments.documents, "queries": len(queries), "k": arguments.k, **environment()}
    record(arguments.json, {"kind": "one index", **alone, **common})
    for engine, shards in itertools.product(arguments.engines, arguments.shards):
        how = {"address": arguments.address, "replicas": arguments.replicas} if engine == "ray" else {}
        with ShardedRetriever.from_folders(folder, shards=shards, engine=engine, **how) as sharded:
            same = [sharded.search(query, arguments.k) == hits for query, hits in zip(queries, expected, strict=True)]
            found = measured(lambda query, own=sharded: own.search(query, arguments.k), queries, arguments.clients)
            found |= {
                "overhead_ms": found["mean_ms"] - alone["mean_ms"],
                "floor_ms": floor_ms(sharded),
                "equal": sum(same),
            }
        replicas = how.get("replicas", 1)
        record(arguments.json, {"kind": engine, "shards": shards, "replicas": replicas, **found, **common})


def words(rng: np.random.Generator, count: int) -> list[str]:
    """By Zipf's law."""
    return [f"w{number}" for number in np.minimum(rng.zipf(1.3, count), WORDS)]


def build(folder: Path, documents: int, segments: int, rng: np.random.Generator) -> None:
    """An index with so many segments of like size."""
    retriever = Retriever.from_pretrained("bm25")
    for part in np.array_split(np.arange(documents), segments):
        retriever.add(({"_id": str(i), "text": " ".join(words(rng, WORDS_A_DOCUMENT))} for i in part), progress=False)
        retriever.commit(progress=False, merge=False)
    retriever.save_pretrained(folder, progress=False)


def measured(search: Search, queries: Sequence[str], clients: int) -> dict[str, Any]:
    """Latency of one query at a time, and queries a second of several clients; the best of some passes."""
    for query in queries:
        search(query)
    passes = [list(each_ms(search, queries)) for _ in range(PASSES)]
    best = min(passes, key=sum)
    with ThreadPoolExecutor(clients) as pool:
        rates = []
        for _ in range(PASSES):
            started = time.perf_counter()
            list(pool.map(search, queries))
            rates.append(len(queries) / (time.perf_counter() - started))
    quantiles = {"p50_ms": statistics.median(best), "p99_ms": float(np.quantile(best, 0.99))}
    return {"mean_ms": statistics.mean(best), **quantiles, "queries_a_second": max(rates), "clients": clients}


def each_ms(search: Search, queries: Sequence[str]) -> Iterator[float]:
    for query in queries:
        started = time.perf_counter()
        search(query)
        yield (time.perf_counter() - started) * 1e3


def floor_ms(sharded: ShardedRetriever, calls: int = 100) -> float:
    """The median of asking every shard for what it knows by heart."""
    from retrieval.sharded.shards import Asked

    shards, taken = sharded._shards, []
    for _ in range(calls):
        started = time.perf_counter()
        shards.ask({number: Asked("describe") for number in range(len(shards))}, None)
        taken.append((time.perf_counter() - started) * 1e3)
    return statistics.median(taken)


if __name__ == "__main__":
    main()
