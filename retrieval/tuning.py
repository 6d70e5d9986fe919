"""Weights and normalisation fitted to judged queries, and kept only where they beat the best arm.

What is reported is what held-out queries gave: everything that is chosen, the best single arm too, is chosen on the other folds.
Bruch, Gai and Ingber (TOIS 2023) show that the one weight of a convex combination needs few judged queries.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from index.effort import is_number
from index.errors import WinnowError
from index.impact_search import Answer
from index.vectors import checked_count
from retrieval.candidates import Candidates, Task
from retrieval.fusion import Fusion
from retrieval.judged import Measure
from retrieval.significance import paired_gain

REPEATS = 10  # partitions into folds; what a query gives is averaged over them
INNER_FOLDS = 5  # within training queries, to see whether fitted weights beat the default


@dataclass(frozen=True, slots=True)
class Tuning:
    """What tuning found, and the fusion to use from now on."""

    fusion: Fusion
    is_adopted: bool  # False: the fusion is the best arm alone
    measure: str
    arms: dict[str, float]  # the mean of each arm alone
    best_arm: str
    fused: float  # the mean on held-out queries of what was fitted to the others
    untuned: float  # the mean of the default fusion
    gain: float  # of `fused` over the best arm
    interval: tuple[float, float]
    confidence: float
    p_value: float
    folds: int
    num_queries: int
    choices: tuple[Fusion, ...]  # of every fold of every repetition

    def __str__(self) -> str:
        names = [*self.arms, "default fusion", "tuned fusion"]
        width = max(map(len, names))
        lines = [f"{self.measure} of {self.num_queries} queries"]
        lines += [f"  {arm:{width}}  {mean:.4f}" for arm, mean in self.arms.items()]
        lines += [f"  {'default fusion':{width}}  {self.untuned:.4f}"]
        lines += [f"  {'tuned fusion':{width}}  {self.fused:.4f}  on held-out queries, {self.folds} folds x {REPEATS}"]
        for choice, count in Counter(map(str, self.choices)).most_common(3):
            lines.append(f"  chosen in {count} of {len(self.choices)} folds: {choice}")
        low, high = self.interval
        told = f"{self.gain:+.4f} over {self.best_arm}, {self.confidence:.0%} interval {low:+.4f} to {high:+.4f}, p = {self.p_value:.2g}"
        if self.is_adopted:
            return "\n".join([*lines, f"The fusion gains {told}: from now on {self.fusion}."])
        needed = f" ({self.needed} judged queries would tell a gain of this size)" if self.gain > 0 else ""
        kept = (
            f"The fusion's gain, {told}, is not above chance{needed}: from now on {self.best_arm} alone, the best arm."
        )
        return "\n".join([*lines, kept])

    @property
    def needed(self) -> float:
        """About how many queries an interval above 0 takes, were the gain and its spread what they are; infinite without a gain."""
        if self.gain <= 0 or not math.isfinite(self.interval[0]):
            return math.inf
        return math.ceil(self.num_queries * ((self.gain - self.interval[0]) / self.gain) ** 2)


def tune(
    arms: Sequence[str],
    answers: Sequence[Mapping[str, Answer]],
    gains: Sequence[Mapping[int, int]],
    *,
    judged: Sequence[Sequence[int]] | None = None,
    measure: str = "nDCG@10",
    folds: int = 5,
    confidence: float = 0.95,
    seed: int = 0,
    theoretical_minimum: Mapping[str, float] | None = None,
    depth: int = 1000,
) -> Tuning:
    """The fusion of `arms` that is best on these queries, if it is better than the best arm alone; else that arm.

    answers              of each query, by arm, as `Fusion.fuse` takes them
    gains                of each query, the relevance of judged documents by number; others count as not relevant
    judged               of each query, the relevance of all judged documents, also of those that the index lacks (None: those of
                         `gains`): the ideal ranking has them too
    measure              nDCG@k, R@k or RR@k, as trec_eval defines them
    folds                parts that the queries are cut into, ten times anew: each is measured with what the others chose
    confidence           of the interval of the gain, which must lie above 0 for the fusion to be adopted
    theoretical_minimum  by arm; without one for each arm, that normalisation is not tried
    depth                hits of each arm that are fused, now and from now on

    In each fold the other queries choose the best of all weights and normalisations; or the default, where such a choice, by
    cross-validation once more among them, does not beat it: this loses less with few queries and nothing with many. The best
    arm is the best over all queries or the one that the other folds would choose, whichever makes the gain smaller. The interval
    is Student's of the paired differences. What is adopted is fitted to all queries by the same rule.

    Raises WinnowError for fewer than two arms, fewer queries than folds, arms that an answer lacks, and judgments that no arm found.
    """
    task = checked_task(arms, answers, gains, judged, measure, depth, theoretical_minimum or {})
    check_request(len(answers), folds, confidence)
    alone, candidates = task.alone(), task.everywhere()
    check_found(candidates, measure)
    candidates, fitted, kept, choices = cross_validated(task, candidates, alone, folds, np.random.default_rng(seed))
    chosen = choices.pop()  # by all queries
    best = int(alone.values.mean(axis=1).argmax())
    baseline = max(alone.values[best], kept, key=lambda values: float(values.mean()))
    gain = paired_gain(fitted - baseline, confidence)
    is_adopted = gain.low > 0 and candidates.values[chosen].mean() > alone.values[best].mean()
    return Tuning(
        fusion=plain(candidates.fusions[chosen] if is_adopted else alone.fusions[best]),
        is_adopted=bool(is_adopted),
        measure=task.measure.name,
        arms=dict(zip(task.arms, alone.values.mean(axis=1).tolist(), strict=True)),
        best_arm=task.arms[best],
        fused=float(fitted.mean()),
        untuned=float(candidates.values[0].mean()),
        gain=gain.mean,
        interval=(gain.low, gain.high),
        confidence=confidence,
        p_value=gain.p_value,
        folds=folds,
        num_queries=len(answers),
        choices=tuple(plain(candidates.fusions[choice]) for choice in choices),
    )


def check_found(candidates: Candidates, measure: str) -> None:
    if not candidates.values.any():
        raise WinnowError(
            f"no arm ranked a relevant document where {measure} counts it, for any query; check that the judgments are of this collection."
        )


def cross_validated(
    task: Task, candidates: Candidates, alone: Candidates, folds: int, rng: np.random.Generator
) -> tuple[Candidates, np.ndarray, np.ndarray, list[int]]:
    """(the candidates, perhaps more; of each query what the fusion chosen without it gives; what the arm chosen without it gives;
    the choice of each fold, and last that of all queries)."""
    num_queries = candidates.values.shape[1]
    everyone = np.arange(num_queries)
    shuffled = [rng.permutation(num_queries) for _ in range(REPEATS)]
    held_out = [order[fold::folds] for order in shuffled for fold in range(folds)]
    seen = [*(np.setdiff1d(everyone, fold) for fold in held_out), everyone]
    coarse = [choose(candidates, queries, rng) for queries in seen]
    candidates, options = task.around(candidates, coarse)
    choices = [finer(candidates, options[choice], queries) for choice, queries in zip(coarse, seen, strict=True)]
    fitted, kept = np.zeros(num_queries), np.zeros(num_queries)
    for fold, queries, choice in zip(held_out, seen, choices, strict=False):  # all queries together hold none out
        fitted[fold] += candidates.values[choice, fold]
        kept[fold] += alone.values[alone.values[:, queries].mean(axis=1).argmax(), fold]
    return candidates, fitted / REPEATS, kept / REPEATS, choices


def finer(candidates: Candidates, options: Sequence[int], queries: np.ndarray) -> int:
    """The best of these candidates on these queries, the first where none is better."""
    return options[int(candidates.values[list(options)][:, queries].sum(axis=1).argmax())]


def choose(candidates: Candidates, queries: np.ndarray, rng: np.random.Generator) -> int:
    """The candidate that is best on these queries, or the default where such a choice does not pay on parts of them held out."""
    folds = min(INNER_FOLDS, len(queries))
    if folds < 2:
        return 0
    values = candidates.values[:, queries]
    part = rng.permutation(len(queries)) % folds
    sums = values @ np.eye(folds)[part]  # [candidates, parts]
    total = sums.sum(axis=1)
    held_out = sum(sums[best_of(total - sums[:, fold], candidates), fold] for fold in range(folds))
    return best_of(total, candidates) if held_out > total[0] else 0


def best_of(totals: np.ndarray, candidates: Candidates) -> int:
    """Where the largest total is; of those equal but for rounding, the nearest to the default."""
    is_best = totals >= totals.max() - 1e-9
    return int(np.where(is_best, candidates.from_default, np.inf).argmin())


def plain(fusion: Fusion) -> Fusion:
    """The fusion without its weights of 0."""
    return replace(fusion, weights={arm: weight for arm, weight in (fusion.weights or {}).items() if weight > 0})


def checked_task(
    arms: Sequence[str],
    answers: Sequence[Mapping[str, Answer]],
    gains: Sequence[Mapping[int, int]],
    judged: Sequence[Sequence[int]] | None,
    measure: str,
    depth: int,
    minima: Mapping[str, float],
) -> Task:
    names = tuple(sorted(set(arms)))
    if len(names) < 2:
        raise WinnowError(
            f"there is nothing to fuse with {', '.join(names) or 'no arm'} alone; tuning needs two arms or more."
        )
    every = [list(own.values()) for own in gains] if judged is None else judged
    if not len(answers) == len(gains) == len(every):
        raise WinnowError(
            f"there are answers to {len(answers)} queries and judgments of {len(gains)} and {len(every)}; give those of the same queries."
        )
    for query, found in enumerate(answers):
        if lacking := sorted(set(names) - set(found)):
            raise WinnowError(
                f"query {query} has no answer of the arm {lacking[0]!r:.60}; each needs one of every arm."
            )
    return Task(names, answers, gains, every, Measure.of(measure), checked_count("depth", depth), minima)


def check_request(num_queries: int, folds: int, confidence: float) -> None:
    if checked_count("folds", folds) < 2:
        raise WinnowError(f"folds is {folds}; at least 2 are needed, so that queries can be held out.")
    if num_queries < folds:
        raise WinnowError(
            f"there are {num_queries} judged queries, fewer than the {folds} folds; give more queries, or fewer folds (2 at least)."
        )
    if not is_number(confidence) or not 0 < confidence < 1:
        raise WinnowError(f"confidence is {confidence!r:.60}; it must lie between 0 and 1, such as 0.95.")
