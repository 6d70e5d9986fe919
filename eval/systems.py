"""What is evaluated: a system is built over a corpus once, answers every query, and is timed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from eval.datasets import Dataset
from eval.latency import Latency, measure_latency
from eval.measures import Run
from index.options import WeightImpacts
from retrieval import Retriever
from retrieval.opened import IndexStatistics

LATENCY_K = 10


class Outcome(NamedTuple):
    """All that one system gave on one data set."""

    system: str
    run: Run
    latency: Latency  # of `Retriever.search(query, k=10)`: encoding, search and stored fields, one thread
    indexed: IndexStatistics
    build_seconds: float  # reading, encoding and inverting the corpus


def evaluate_system(
    system: str,
    dataset: Dataset,
    depth: int,
    *,
    impacts: WeightImpacts | None = None,
    options: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Outcome:
    """Index the corpus with the model called `system`, then rank `depth` documents for each query."""
    retriever = Retriever.from_pretrained(system, impacts=impacts, **(options or {}))
    started = time.perf_counter()
    retriever.index(dataset.folder, progress=progress)
    build_seconds = time.perf_counter() - started
    texts = list(dataset.queries.values())
    ranked = retriever.search_batch(texts, k=depth, stored=False)
    run = {query: {hit.doc_id: hit.score for hit in hits} for query, hits in zip(dataset.queries, ranked, strict=True)}
    latency = measure_latency(lambda text: retriever.search(text, k=LATENCY_K), texts)
    return Outcome(system, run, latency, retriever.statistics(), build_seconds)
