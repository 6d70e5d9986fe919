"""Measures of fused rankings, for many weight vectors at once: answers and judgments as `kernels.cpu.ranked_gain` reads them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from index.errors import WinnowError
from index.impact_search import Answer
from kernels.cpu.ranked_gain import ranked_gain
from retrieval.fusion import Fusion, check_each_once, checked_answer, spread, united

QUERIES = 256  # whose values are in memory together


class Measure(NamedTuple):
    """nDCG@k, R@k or RR@k, as trec_eval has them: nDCG with linear gain, the others with relevance from 1."""

    name: str
    kind: str
    cutoff: int

    @classmethod
    def of(cls, name: object) -> Measure:
        """Raises WinnowError for any other name."""
        parts = re.fullmatch(r"(nDCG|R|RR|MRR)@([1-9][0-9]{0,5})", name) if isinstance(name, str) else None
        if parts is None:
            raise WinnowError(
                f"measure is {name!r:.60}; weights can be tuned for nDCG@k, R@k and RR@k, such as nDCG@10."
            )
        return cls(str(name), parts[1].replace("MRR", "RR"), int(parts[2]))

    @property
    def discounts(self) -> np.ndarray:
        """float64 [cutoff]: what a gain counts at each rank."""
        ranks = np.arange(1, self.cutoff + 1)
        if self.kind == "nDCG":
            return 1 / np.log2(ranks + 1)
        return 1 / ranks if self.kind == "RR" else np.ones(self.cutoff)

    def gain(self, relevance: int) -> float:
        return float(max(relevance, 0)) if self.kind == "nDCG" else float(relevance >= 1)

    def ideal(self, relevances: Sequence[int]) -> float:
        """What the best ranking of all judged documents of a query reaches; 0 where none is relevant."""
        gains = np.sort([self.gain(relevance) for relevance in relevances])[::-1]
        if self.kind == "nDCG":
            best = gains[: self.cutoff]
            return float(best @ self.discounts[: len(best)]) if len(best) else 0.0
        return float(gains.sum()) if self.kind == "R" else float(gains.sum() > 0)


class Judged(NamedTuple):
    """Some queries: the hits of each arm, and which of them are relevant."""

    answers: list[list[Answer]]  # of each query, by arm
    groups: list[list[np.ndarray]]  # where each hit stands among the query's documents
    is_hit: np.ndarray  # uint8 [arms, all documents]
    starts: np.ndarray  # int64 [queries + 1]
    relevant: np.ndarray  # int64: among the query's documents
    gains: np.ndarray  # float64
    relevant_starts: np.ndarray  # int64 [queries + 1]
    ideals: np.ndarray  # float64 [queries]: 1 where nothing is relevant
    measure: Measure

    def values(self, fusion: Fusion, minima: Sequence[float | None], weights: np.ndarray) -> np.ndarray:
        """float64 [weight vectors, queries]: the measure of the fusion with each vector in place of its own weights."""
        columns = np.zeros(self.is_hit.shape)
        for query, (answers, groups) in enumerate(zip(self.answers, self.groups, strict=True)):
            first, last = self.starts[query], self.starts[query + 1]
            for arm, ((scores, _), group) in enumerate(zip(answers, groups, strict=True)):
                columns[arm, first:last] = spread(fusion.values(scores, minima[arm]), group, last - first)
        own = (self.relevant, self.gains, self.relevant_starts)
        takes_best = self.measure.kind == "RR"
        found = ranked_gain(weights, columns, self.is_hit, self.starts, *own, self.measure.discounts, takes_best)
        values: np.ndarray = found / self.ideals
        return values

    @classmethod
    def of(
        cls,
        answers: Sequence[Mapping[str, Answer]],
        gains: Sequence[Mapping[int, int]],
        ideals: Sequence[Sequence[int]],
        arms: Sequence[str],
        depth: int,
        measure: Measure,
    ) -> Judged:
        cut = [[checked_answer(arm, *found[arm], depth) for arm in arms] for found in answers]
        unions = [united([docs for _, docs in own]) for own in cut]
        starts = np.cumsum([0, *(len(docs) for docs, _ in unions)])
        is_hit = np.zeros((len(arms), starts[-1]), np.uint8)
        relevant: list[int] = []
        values: list[float] = []
        relevant_starts = [0]
        for first, (docs, groups), judged in zip(starts[:-1].tolist(), unions, gains, strict=True):
            check_each_once(arms, groups)
            for arm, group in enumerate(groups):
                is_hit[arm, first + group] = 1
            own = {doc: gain for doc, relevance in judged.items() if (gain := measure.gain(relevance)) > 0}
            asked = np.array(sorted(own), np.int64)
            at = np.searchsorted(docs, asked)
            found = (at < len(docs)) & (docs[np.minimum(at, len(docs) - 1)] == asked) if len(docs) else at < 0
            relevant += at[found].tolist()
            values += [own[doc] for doc in asked[found].tolist()]
            relevant_starts.append(len(relevant))
        best = np.array([measure.ideal(relevances) for relevances in ideals])
        return cls(
            cut, [groups for _, groups in unions], is_hit, starts, np.array(relevant, np.int64), np.array(values, np.float64),
            np.array(relevant_starts), np.where(best > 0, best, 1.0), measure,
        )  # fmt: skip


def chunks_of(
    answers: Sequence[Mapping[str, Answer]],
    gains: Sequence[Mapping[int, int]],
    ideals: Sequence[Sequence[int]],
    arms: Sequence[str],
    depth: int,
    measure: Measure,
) -> Iterator[Judged]:
    """The queries, some at a time: memory does not grow with their number."""
    for first in range(0, len(answers), QUERIES):
        some = slice(first, first + QUERIES)
        yield Judged.of(answers[some], gains[some], ideals[some], arms, depth, measure)
