"""Measures of a run, by ir_measures and the trec_eval code beneath it.

Their conventions are those of `trec_eval -c`, and tested against pytrec_eval:

- Every judged query counts. One without results scores 0, and so does one without a relevant document. Queries of the run that
  nobody judged do not count. `Coverage` says how many there are of each.
- Documents rank by score alone, the highest first; equal scores by document id, descending (by code points, so "b" before "a",
  "9" before "10"). Scores are kept as 32-bit floats: 16777217 and 16777216 are equal. NaN has no place in this order and is refused.
- A document is relevant from a relevance of 1 on, unless the name says otherwise, as P(rel=2)@10 does. The gain of nDCG is the
  relevance itself (linear), discounted by log2(rank + 1); documents that are not judged gain nothing.
- No document is removed because its id is that of the query, unless `without_self` is asked to.

Two measures are ours, each of one that trec_eval computes, so that ties are broken alike in all of them. RR@k (MRR@k) is RR where it
is at least 1 / k, else 0, as `trec_eval -M k` has it; ir_measures would give it to MS MARCO's script, which breaks ties the other
way. AllGold@k is 1 for a query all of whose relevant documents are among the first k, else 0: R@k is 1. Its mean is over the queries
that have a relevant document. It is for questions that one document does not answer, as in HotpotQA (Yang et al., EMNLP 2018) and
MSRS, multi-source retrieval and synthesis (Phanse et al., COLM 2025), which have no such measure; of a query with one relevant document it is Success@k.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from index.errors import WinnowError

DEFAULT_MEASURES = ("nDCG@10", "R@100", "R@1000", "MRR@10", "MAP", "P@10")  # the first one is tuned and compared by
ALL_GOLD = re.compile(r"AllGold(?=(\(.*\))?@)")
Run = Mapping[str, Mapping[str, float]]  # query id -> document id -> score
Qrels = Mapping[str, Mapping[str, int]]  # query id -> document id -> relevance


class Measure(NamedTuple):
    """A measure by the name that it was asked by."""

    name: str
    computed: Any  # the measure of ir_measures that is computed
    value_of: Callable[[float], float]  # the measure's value from the computed one
    least_relevance: int | None = None  # queries without a document of this relevance are left out of the mean


class Coverage(NamedTuple):
    """Which queries are on one side alone."""

    num_judged: int
    without_results: list[str]  # judged queries for which the run has no document
    without_judgments: list[str]  # queries of the run that nobody judged

    @classmethod
    def of(cls, qrels: Qrels, run: Run) -> Coverage:
        return cls(
            len(qrels), [query for query in qrels if not run.get(query)], [query for query in run if query not in qrels]
        )

    def problems(self, name: str) -> list[str]:
        """A sentence on each kind of such queries."""
        told = []
        if some := self.without_results:
            told.append(
                f"{len(some)} of {self.num_judged} judged queries {has(some)} no results in {name} ({some[0]!r:.60} first); "
                f"{'they count' if len(some) > 1 else 'it counts'} 0."
            )
        if some := self.without_judgments:
            told.append(
                f"{len(some)} {'queries' if len(some) > 1 else 'query'} of {name} {has(some)} no judgments "
                f"({some[0]!r:.60} first); {'they do' if len(some) > 1 else 'it does'} not count."
            )
        return told


def has(some: Sequence[str]) -> str:
    return "have" if len(some) > 1 else "has"


def measure_run(qrels: Qrels, run: Run, measures: Sequence[str] = DEFAULT_MEASURES) -> dict[str, float]:
    """The mean of each measure, under the name it was asked by. Raises WinnowError as `measure_queries` does."""
    return means(measure_queries(qrels, run, measures))


def measure_queries(qrels: Qrels, run: Run, measures: Sequence[str] = DEFAULT_MEASURES) -> dict[str, dict[str, float]]:
    """Each measure of every judged query that it is defined for, in the order of the judgments, all from one pass over the run.

    Raises WinnowError for an unknown measure and for a score that is NaN.
    """
    parsed = [parse_measure(name) for name in measures]
    check_scores(run)
    import ir_measures

    computed: dict[Any, dict[str, float]] = {measure.computed: {} for measure in parsed}
    given = {query: dict(judged) for query, judged in qrels.items()}, {query: dict(own) for query, own in run.items()}
    try:
        for metric in ir_measures.iter_calc(list(computed), *given):
            computed[metric.measure][metric.query_id] = metric.value
    except Exception as error:  # ir_measures passes on whatever its providers raise
        raise WinnowError(
            f"ir_measures cannot compute {', '.join(measures)} of this run ({error!s:.80}); some of its measures take ids that are "
            "numbers alone: leave these out."
        ) from error
    return {
        measure.name: {
            query: measure.value_of(computed[measure.computed].get(query, measure.computed.DEFAULT))
            for query in counted(qrels, measure.least_relevance)
        }
        for measure in parsed
    }


def means(values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean of each measure over its queries (the sum, of those that count something); 0 where there are none.

    values  measure -> query -> value, of `measure_queries`
    """
    found = {}
    for name, by_query in values.items():
        aggregator = parse_measure(name).computed.aggregator()
        for value in by_query.values():
            aggregator.add(value)
        found[name] = float(aggregator.result()) if by_query else 0.0
    return found


def counted(qrels: Qrels, least_relevance: int | None) -> Iterable[str]:
    """The queries over which a measure is averaged."""
    if least_relevance is None:
        return qrels
    return [query for query, judged in qrels.items() if max(judged.values(), default=0) >= least_relevance]


def without_self(run: Run) -> tuple[dict[str, dict[str, float]], int]:
    """The run without documents that have the id of their query, and how many these were.

    BEIR removes them where queries are documents of the collection (ArguAna, Quora and others); where ids are numbers that mean
    something else on either side, it would remove results by chance.
    """
    left = {query: {doc: score for doc, score in own.items() if doc != query} for query, own in run.items()}
    return left, sum(map(len, run.values())) - sum(map(len, left.values()))


def check_scores(run: Run) -> None:
    """Raise WinnowError for a score that is NaN."""
    for query, own in run.items():
        if np.isnan(np.fromiter(own.values(), np.float64, len(own))).any():
            document = next(document for document, score in own.items() if score != score)
            raise WinnowError(
                f"document {document!r:.60} has the score NaN for query {query!r:.60}; a run can only be ordered by numbers."
            )


def parse_measures(names: Sequence[str]) -> dict[str, Measure]:
    """name -> measure. Raises WinnowError for a name that ir_measures does not know or cannot compute."""
    return {name: parse_measure(name) for name in names}


@cache
def parse_measure(name: str) -> Measure:
    """Raises WinnowError for a name that ir_measures does not know or cannot compute."""
    try:
        import ir_measures
    except ImportError as error:
        raise WinnowError("measures need the package ir-measures; run `pip install 'winnow-ir[eval]'`.") from error
    try:
        parsed = as_measure(name, ir_measures.parse_measure(ALL_GOLD.sub("R", name)))
        ir_measures.calc_aggregate([parsed.computed], {"1": {"2": 1}}, {"1": {"2": 1.0}})  # some take numbers alone
    except Exception as error:  # ir_measures passes on whatever its parser and providers raise
        raise WinnowError(
            f"{name!r:.60} is not a measure that can be computed here; give names such as nDCG@10, R@100, MRR@10, AP, AllGold@10."
        ) from error
    return parsed


def as_measure(name: str, parsed: Any) -> Measure:
    """What to compute for a measure as ir_measures reads it. Raises ValueError for a cutoff below 1."""
    cutoff = parsed.params.get("cutoff")
    if cutoff is not None and cutoff < 1:  # the code beneath would end the process
        raise ValueError("cutoff below 1")
    if ALL_GOLD.match(name):
        return Measure(name, parsed, lambda recall: float(recall == 1), parsed["rel"])
    if parsed.NAME == "RR" and cutoff is not None:
        whole = type(parsed)(**{option: value for option, value in parsed.params.items() if option != "cutoff"})
        return Measure(name, whole, lambda reciprocal: reciprocal if reciprocal >= 1 / cutoff else 0.0)
    return Measure(name, parsed, float)


def population(qrels: Qrels, name: str) -> str | None:
    """A sentence on the queries that a measure is averaged over, if it is not over all."""
    least = parse_measure(name).least_relevance
    if least is None:
        return None
    relevant = [sum(relevance >= least for relevance in judged.values()) for judged in qrels.values()]
    one, several = sum(count > 0 for count in relevant), sum(count > 1 for count in relevant)
    return f"{name} is over the {one} of {len(qrels)} queries with a relevant document; with two or more: {several}."
