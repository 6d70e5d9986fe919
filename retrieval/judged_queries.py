"""What the arms of a retriever find for judged queries, by which their fusion is tuned."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

from index.errors import WinnowError
from index.impact_search import Answer
from index.snapshot import Snapshot
from retrieval.arm_search import Trying
from retrieval.hybrid import QUERIES_TOGETHER, Hybrid, by_query
from retrieval.progress import progress as counted
from retrieval.queries import by_arm, checked_text
from retrieval.tuning import Tuning, tune

Queries = Mapping[str, str]
Qrels = Mapping[str, Mapping[str, int]]


def tuned(
    hybrid: Hybrid, snapshot: Snapshot, queries: Queries, qrels: Qrels, measure: str, folds: int, progress: bool
) -> Tuning:
    """`retrieval.tuning.tune` of what the arms find for those queries that have judgments. Raises WinnowError as it does."""
    judged = checked_judged(queries, qrels)
    texts = [by_arm(checked_text(f"the query {query!r:.60}", queries[query]), list(hybrid.arms)) for query in judged]
    depth, threads = hybrid.fusion.depth, os.cpu_count() or 1
    found = (
        answer
        for first in range(0, len(texts), QUERIES_TOGETHER)
        for answer in answers_to(hybrid, texts[first : first + QUERIES_TOGETHER], depth, threads)
    )
    answers = list(counted(found, total=len(texts), doing="searching", unit="queries", shown=progress))
    number_of = snapshot.find(sorted({doc_id for query in judged for doc_id in qrels[query]}))
    gains = [
        {number_of[doc_id]: relevance for doc_id, relevance in qrels[query].items() if doc_id in number_of}
        for query in judged
    ]
    return tune(
        list(hybrid.arms),
        answers,
        gains,
        judged=[list(qrels[query].values()) for query in judged],
        measure=measure,
        folds=folds,
        theoretical_minimum=hybrid.least,
        depth=depth,
    )


def answers_to(
    hybrid: Hybrid, queries: Sequence[Mapping[str, str]], depth: int, threads: int
) -> Iterator[dict[str, Answer]]:
    """What each arm finds, query by query."""
    return by_query({name: work() for name, work in hybrid.batches(queries, depth, threads, Trying()).items()})


def checked_judged(queries: Queries, qrels: Qrels) -> list[str]:
    """The ids of the queries that have judgments, in their order. Raises WinnowError for what is no queries or no judgments."""
    for name, given in (("queries", queries), ("qrels", qrels)):
        if not isinstance(given, Mapping):
            raise WinnowError(
                f"{name} is {type(given).__name__} {given!r:.60}; it must be a mapping by the ids of queries."
            )
    for query, judgments in qrels.items():
        is_sound = isinstance(judgments, Mapping) and all(
            isinstance(relevance, int) and not isinstance(relevance, bool) for relevance in judgments.values()
        )
        if not is_sound:
            raise WinnowError(
                f"the judgments of query {query!r:.60} are {judgments!r:.60}; they must map document ids to whole numbers."
            )
    judged = [query for query in queries if qrels.get(query)]
    if not judged:
        raise WinnowError(
            f"none of the {len(queries):,} queries has judgments among the {len(qrels):,} that are judged; the ids must be the same."
        )
    return judged
