"""One search over all arms of a retriever: side by side, to one depth and one deadline, then fused."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial as bound
from typing import Any, NamedTuple

import numpy as np

from index.errors import WinnowError
from index.impact_search import Answer
from index.vectors import checked_count
from retrieval.arm_search import ArmSearch, Trying
from retrieval.fusion import Fused, Fusion
from retrieval.queries import Query, by_arm
from retrieval.side_by_side import checked_deadline, side_by_side

LEAST_DEADLINE = 1e-6  # seconds: what is left when there is nothing left
QUERIES_TOGETHER = 256  # of a batch: what all arms found for them is in memory

Arms = Mapping[str, ArmSearch]


class Found(NamedTuple):
    """The best documents of a search, and the arms that it did without."""

    scores: np.ndarray
    docs: np.ndarray  # int32
    missing: Mapping[str, str] = {}


def checked_fusion(fusion: object) -> Fusion:
    """`fusion`; WinnowError unless it is one."""
    if not isinstance(fusion, Fusion):
        raise WinnowError(
            f'fusion is {fusion!r:.60}; give a Fusion, as in Fusion("rrf", weights={{"bm25": 1, "minilm": 2}}).'
        )
    return fusion


class Hybrid(NamedTuple):
    """Arms and how they are fused. Of one arm alone nothing is fused: its scores are the scores."""

    arms: Arms
    fusion: Fusion

    @classmethod
    def of(cls, arms: Arms, fusion: Fusion) -> Hybrid:
        """Of those arms that the fusion gives a weight. Raises WinnowError for weights of other arms."""
        weights = checked_fusion(fusion).weights_of(list(arms))
        return cls({name: arm for name, arm in arms.items() if name in weights}, fusion)

    def search(self, query: Query, k: int, trying: Trying, deadline: float | None, partial: bool) -> Found:
        """The best k documents, each arm asked for `fusion.depth` of them, or for k where that is more."""
        k, deadline = checked_count("k", k), checked_deadline(deadline)
        asked = by_arm(query, list(self.arms))
        if len(self.arms) == 1 and deadline is None:
            ((name, arm),) = self.arms.items()
            return Found(*arm.search(asked[name], k, trying))
        depth = self.depth(k)
        works = {name: bound(arm.search, asked[name], depth, trying) for name, arm in self.arms.items()}
        answers, missing = side_by_side(works, deadline, partial)
        return Found(*self.best(answers, k), missing)

    def search_batch(
        self,
        queries: Sequence[Query],
        k: int,
        threads: int,
        trying: Trying,
        deadline: float | None = None,
        partial: bool = False,
    ) -> Iterator[Found]:
        """`search` for each query in order, some queries at a time, each arm on several threads.

        deadline  for all queries together; without one, and without `partial`, one arm is searched after another
        """
        k, deadline, started = checked_count("k", k), checked_deadline(deadline), time.perf_counter()
        for first in range(0, len(queries), QUERIES_TOGETHER):
            some = [by_arm(query, list(self.arms)) for query in queries[first : first + QUERIES_TOGETHER]]
            works = self.batches(some, self.depth(k), threads, trying)
            if deadline is None and not partial:
                found, missing = {name: work() for name, work in works.items()}, dict[str, str]()
            else:
                left = None if deadline is None else max(deadline - (time.perf_counter() - started), LEAST_DEADLINE)
                found, missing = side_by_side(works, left, partial)
            yield from (Found(*self.best(answers, k), missing) for answers in by_query(found))

    def batches(
        self, queries: Sequence[Mapping[str, Any]], depth: int, threads: int, trying: Trying
    ) -> dict[str, Callable[[], list[Answer]]]:
        """For each arm the search for all queries."""
        return {
            name: bound(arm.search_batch, [query[name] for query in queries], depth, threads, trying)
            for name, arm in self.arms.items()
        }

    def best(self, answers: Mapping[str, Answer], k: int) -> Answer:
        """The best k documents of what the arms found."""
        if len(self.arms) == 1:
            ((scores, docs),) = answers.values()
            return scores[:k], docs[:k]
        fused = self.fused(answers, k)
        return fused.scores, fused.docs

    def fused(self, answers: Mapping[str, Answer], k: int) -> Fused:
        return self.fusion.fuse(answers, k, self.least)

    @property
    def least(self) -> dict[str, float]:
        """What no score of an arm is below, where that is known."""
        return {name: arm.least for name, arm in self.arms.items() if arm.least is not None}

    def depth(self, k: int) -> int:
        """How many documents each arm is asked for."""
        return k if len(self.arms) == 1 else self.fusion.depth_for(k)


def by_query(found: Mapping[str, Sequence[Answer]]) -> Iterator[dict[str, Answer]]:
    """What all arms found for one query after another."""
    for answers in zip(*found.values(), strict=True):
        yield dict(zip(found, answers, strict=True))
