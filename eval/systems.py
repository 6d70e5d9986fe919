"""What is evaluated: each arm is built over a corpus once; systems of one arm or several answer every query, and are timed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from eval.datasets import Dataset
from eval.latency import QueryTimes, measure_latency, timed
from eval.measures import Run, without_self
from eval.memory import peak_bytes, reset_peak
from index.documents import Document
from index.errors import WinnowError
from index.files import make_folders, remove_tree
from index.placing import replace_file
from retrieval import Retriever
from retrieval.encoders.protocol import Encoder
from retrieval.fusion import Fusion
from retrieval.hits import Hits
from retrieval.progress import progress as counted
from retrieval.rerankers.protocol import Reranker
from retrieval.tuning import Tuning

RERANKED_WARM_UP = 2  # queries: a large model takes seconds for one
FOLDS = 5  # of judged queries, where the same queries tune and test


class Costs(NamedTuple):
    """What building took."""

    build_seconds: float  # reading, encoding and inverting the corpus
    encode_seconds: float  # of these, text to vectors
    peak_bytes: int  # of the process meanwhile

    def and_of(self, other: Costs) -> Costs:
        """Of two arms built one after the other."""
        return Costs(
            self.build_seconds + other.build_seconds,
            self.encode_seconds + other.encode_seconds,
            max(self.peak_bytes, other.peak_bytes),
        )


class Built(NamedTuple):
    """A retriever over the corpus."""

    retriever: Retriever
    costs: Costs | None  # None of a saved one, which was built elsewhere


class TimedEncoder:
    """An encoder that notes how long documents take it."""

    def __init__(self, encoder: Encoder):
        self.encoder = encoder
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)

    def encode_documents(self, documents: Iterable[Document]) -> Any:
        started = time.perf_counter()
        try:
            return self.encoder.encode_documents(documents)
        finally:
            self.seconds += time.perf_counter() - started


def build(encoder: Encoder, corpus: Path, folder: Path | None, progress: bool) -> Built:
    """An arm over a corpus, in memory, or in a folder, where one that was built before is opened again."""
    if folder is not None and (noted := costs_file(folder)).is_file():
        return Built(Retriever.from_folder(folder), Costs(**json.loads(noted.read_text(encoding="utf-8"))))
    timed_encoder = TimedEncoder(encoder)
    retriever = Retriever(timed_encoder)
    if folder is not None:
        if folder.exists():
            remove_tree(folder)  # half of one
        make_folders(folder.parent)
        retriever.save_pretrained(folder, progress=False)
    reset_peak()
    started = time.perf_counter()
    retriever.index(corpus, progress=progress)
    costs = Costs(time.perf_counter() - started, timed_encoder.seconds, peak_bytes())
    if folder is not None:
        replace_file(costs_file(folder), json.dumps(costs._asdict()).encode())
    return Built(retriever, costs)


def costs_file(folder: Path) -> Path:
    """Beside a folder; it is there once the folder is whole."""
    return folder.with_name(f"{folder.name}.costs")


def opened(folder: str) -> Built:
    """A retriever that somebody saved, as it is. Raises IndexFormatError."""
    return Built(Retriever.from_folder(folder), None)


def together(parts: Sequence[Built]) -> Built:
    """Arms over one corpus as one retriever."""
    if len(parts) == 1:
        return parts[0]
    costs = parts[0].costs
    for part in parts[1:]:
        costs = None if costs is None or part.costs is None else costs.and_of(part.costs)
    return Built(Retriever.joined(*(part.retriever for part in parts)), costs)


class Answers(NamedTuple):
    """What a system gave for the queries of a data set."""

    run: Run
    times: QueryTimes
    num_self: int  # documents that were taken out of the run because they are the query


def answers(retriever: Retriever, dataset: Dataset, depth: int, fusion: Fusion | None) -> Answers:
    """The ranking of `depth` documents for each query, not reranked, and how long a search takes."""
    run, num_self = ranked(retriever, dataset, depth, fusion)
    return Answers(run, measure_latency(retriever, list(dataset.queries.values()), fusion), num_self)


def reranked_answers(
    retriever: Retriever,
    reranker: Reranker,
    depth: int,
    dataset: Dataset,
    most: int,
    fusion: Fusion | None,
    progress: bool,
) -> Answers:
    """The best `depth` documents of the first stage in the order of a reranker. Each query is reranked once, so that the run and the
    latency are of the same searches.

    most  documents in the run, at most those that are reranked
    """
    texts, k = list(dataset.queries.values()), min(asked_for(dataset, most), depth)

    def search(text: str) -> Hits:
        return retriever.search(text, k=k, fusion=fusion, rerank=reranker, depth=depth, stored=False)

    def shown(given: Sequence[str]) -> Iterable[str]:
        return counted(given, total=len(given), doing="reranking", unit="queries", shown=progress)

    latency, found = timed(search, texts, RERANKED_WARM_UP, shown)
    run, num_self = as_run(dataset, found, most)
    return Answers(run, QueryTimes(latency), num_self)


def ranked(retriever: Retriever, dataset: Dataset, depth: int, fusion: Fusion | None) -> tuple[Run, int]:
    """The best `depth` documents of each query, with their scores; and how many were taken out because they are the query."""
    found = retriever.search_batch(
        dataset.queries.values(), k=asked_for(dataset, depth), fusion=fusion, rerank=False, stored=False
    )
    return as_run(dataset, found, depth)


def as_run(dataset: Dataset, found: Iterable[Hits], depth: int) -> tuple[Run, int]:
    """Hits by the ids of queries, as `without_queries` has them."""
    run = {query: {hit.doc_id: hit.score for hit in hits} for query, hits in zip(dataset.queries, found, strict=True)}
    return without_queries(dataset, run, depth)


def without_queries(dataset: Dataset, run: Run, depth: int) -> tuple[Run, int]:
    """The best `depth` documents, without those that are the query itself if the data set wants that; and how many these were."""
    if not dataset.removes_self:
        return run, 0
    left, num_self = without_self(run)
    return {query: dict(islice(documents.items(), depth)) for query, documents in left.items()}, num_self


def asked_for(dataset: Dataset, depth: int) -> int:
    """How many documents to find, so that `depth` are left."""
    return depth + 1 if dataset.removes_self else depth


def tuned_on(retriever: Retriever, judged: Dataset, depth: int, measure: str, progress: bool) -> Tuning:
    """How the queries of another split want the arms fused; the retriever stays as it is."""
    before, retriever.fusion = retriever.fusion, Fusion(depth=depth)
    try:
        return retriever.tune(judged.queries, judged.qrels, measure=measure, progress=progress)
    finally:
        retriever.fusion = before


def cross_validated(
    retriever: Retriever, dataset: Dataset, depth: int, measure: str, progress: bool
) -> tuple[Run, int]:
    """A run in which each query is answered as the queries of the other folds want it, so that none tunes what it tests."""
    queries = list(dataset.queries)
    if len(queries) < 2 * FOLDS:
        raise WinnowError(
            f"{dataset.name} has {len(queries)} judged queries, too few for {FOLDS} folds; tune on another split."
        )
    run: dict[str, Mapping[str, float]] = {}
    num_self = 0
    for fold in range(FOLDS):
        others = [query for number, query in enumerate(queries) if number % FOLDS != fold]
        fusion = tuned_on(retriever, dataset.of_queries(others), depth, measure, progress).fusion
        found, removed = ranked(retriever, dataset.of_queries(queries[fold::FOLDS]), depth, fusion)
        run |= found
        num_self += removed
    return {query: run[query] for query in queries}, num_self
