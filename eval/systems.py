"""What is evaluated: each arm is built over a corpus once; systems of one arm or several answer every query, and are timed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from eval.datasets import Dataset
from eval.latency import Latency, measure_latency, timed
from eval.measures import Run
from eval.reranking import Reranking
from index.errors import WinnowError
from index.options import WeightImpacts
from retrieval import Retriever
from retrieval.encoders.loading import WITHOUT_OPTIONS, split_names
from retrieval.fusion import Fusion
from retrieval.hits import Hits
from retrieval.opened import IndexStatistics
from retrieval.progress import progress as counted
from retrieval.tuning import Tuning

LATENCY_K = 10
RERANKED_WARM_UP = 2  # queries: a large model takes seconds for one
FOLDS = 5  # of judged queries, where the same queries tune and test


class Built(NamedTuple):
    """A retriever over the corpus."""

    retriever: Retriever
    seconds: float  # reading, encoding and inverting the corpus

    @classmethod
    def of(
        cls, model: str, dataset: Dataset, impacts: WeightImpacts | None, options: Mapping[str, Any], progress: bool
    ) -> Built:
        retriever = Retriever.from_pretrained(model, impacts=impacts, **options)
        started = time.perf_counter()
        retriever.index(dataset.folder, progress=progress)
        return cls(retriever, time.perf_counter() - started)


class Outcome(NamedTuple):
    """All that one system gave on one data set."""

    system: str
    run: Run
    latency: (
        Latency  # of `Retriever.search(query, k=10)`: encoding, search, fusion, stored fields, and all of the reranking
    )
    indexed: IndexStatistics
    build_seconds: float
    parts: tuple[str, ...] = ()  # the systems that it is made of: its arms, where there are several, or its first stage
    tuning: Tuning | None = None


def arms_of(systems: Iterable[str]) -> list[str]:
    """The models of all systems, each once."""
    return list(dict.fromkeys(model for system in systems for model in split_names(system)))


def options_of(model: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of one model: what is said of all that have options, then what is said of it by name."""
    own = options.get(model, {})
    of_all = (
        {}
        if model in WITHOUT_OPTIONS
        else {name: value for name, value in options.items() if not isinstance(value, Mapping)}
    )
    return {**of_all, **own}


def built_together(system: str, built: Mapping[str, Built]) -> Built:
    """The arms of a system as one retriever."""
    own = [built[model] for model in split_names(system)]
    if len(own) == 1:
        return own[0]
    return Built(Retriever.joined(*(one.retriever for one in own)), sum(one.seconds for one in own))


def measured(
    name: str,
    built: Built,
    dataset: Dataset,
    depth: int,
    *,
    fusion: Fusion | None = None,
    parts: Sequence[str] = (),
    tuning: Tuning | None = None,
) -> Outcome:
    """The ranking of `depth` documents for each query, and how long a search takes."""
    retriever, seconds = built
    run, texts = ranked(retriever, dataset, depth, fusion), list(dataset.queries.values())
    latency = measure_latency(lambda text: retriever.search(text, k=LATENCY_K, fusion=fusion), texts)
    return Outcome(name, run, latency, retriever.statistics(), seconds, tuple(parts), tuning)


def reranked(
    reranking: Reranking,
    first: Outcome,
    built: Built,
    dataset: Dataset,
    depth: int,
    fusion: Fusion | None,
    progress: bool,
) -> Outcome:
    """The documents of a first stage in the order of a reranker. Each query is reranked once, so that the run and the latency are of the
    same searches.

    depth  documents in the run, at most those that are reranked
    """
    name = f"{reranking.written}{first.system.removeprefix(reranking.first)}"  # how arms are fused follows both alike
    k = min(depth, reranking.depth)

    def search(text: str) -> Hits:
        return built.retriever.search(
            text, k=k, fusion=fusion, rerank=reranking.reranker, depth=reranking.depth, stored=False
        )

    texts = list(dataset.queries.values())
    latency, found = timed(
        search,
        texts,
        RERANKED_WARM_UP,
        lambda given: counted(given, total=len(given), doing="reranking", unit="queries", shown=progress),
    )
    run = {query: {hit.doc_id: hit.score for hit in hits} for query, hits in zip(dataset.queries, found, strict=True)}
    return Outcome(name, run, latency, built.retriever.statistics(), built.seconds, (first.system,))


def ranked(retriever: Retriever, dataset: Dataset, depth: int, fusion: Fusion | None) -> dict[str, dict[str, float]]:
    """The best `depth` documents of each query, with their scores."""
    found = retriever.search_batch(dataset.queries.values(), k=depth, fusion=fusion, stored=False)
    return {query: {hit.doc_id: hit.score for hit in hits} for query, hits in zip(dataset.queries, found, strict=True)}


def tuned_on(built: Built, judged: Dataset, depth: int, measure: str, progress: bool) -> Tuning:
    """How the queries of another split want the arms fused; the retriever stays as it is."""
    retriever = built.retriever
    before, retriever.fusion = retriever.fusion, Fusion(depth=depth)
    try:
        return retriever.tune(judged.queries, judged.qrels, measure=measure, progress=progress)
    finally:
        retriever.fusion = before


def cross_validated(built: Built, dataset: Dataset, depth: int, measure: str, progress: bool) -> Run:
    """A run in which each query is answered as the queries of the other folds want it, so that none tunes what it tests."""
    queries = list(dataset.queries)
    if len(queries) < 2 * FOLDS:
        raise WinnowError(
            f"{dataset.name} has {len(queries)} judged queries, too few for {FOLDS} folds; tune on another split."
        )
    run: dict[str, dict[str, float]] = {}
    for fold in range(FOLDS):
        others = [query for number, query in enumerate(queries) if number % FOLDS != fold]
        fusion = tuned_on(built, dataset.of_queries(others), depth, measure, progress).fusion
        run |= ranked(built.retriever, dataset.of_queries(queries[fold::FOLDS]), depth, fusion)
    return {query: run[query] for query in queries}
