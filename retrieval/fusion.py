"""How the answers of several arms become one ranking.

Papers: reciprocal rank fusion by Cormack, Clarke and Büttcher (SIGIR 2009); CombSUM and CombMNZ by Fox and Shaw (TREC-2, 1993);
the convex combination as Bruch, Gai and Ingber study it (TOIS 2023). One total order, as everywhere: fused score descending, then
document number ascending. Sums are float64 and go over the arms in the order of their names, so the order in which arms
answered changes no bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from index.effort import is_number
from index.errors import IndexFormatError, WinnowError
from index.impact_search import Answer
from index.vectors import checked_count
from retrieval.normalisation import Normalisation, Normalised, normalised
from retrieval.query_weights import confidence

MOST_WEIGHT = 1e100  # so that no sum overflows
Method = Literal["convex", "rrf", "combsum", "combmnz"]


class ArmPart(NamedTuple):
    """What one arm gave to one document's fused score."""

    arm: str
    rank: int | None  # from 1; None where the arm did not return the document
    score: float | None  # the arm's own; None likewise
    normalised: float  # as it entered the sum: comparable between arms; of rrf 1 / (k + rank)
    weight: float  # of the arm, for this query
    share: float  # of the fused score; the sizes of all arms' shares add up to 1, or are 0 where all parts are


class Fused(NamedTuple):
    """A fused ranking, with what explains it."""

    scores: np.ndarray  # float64 [hits], best first
    docs: np.ndarray  # int32 [hits]
    arms: tuple[str, ...]  # those fused, by name
    weights: tuple[float, ...]  # of each, for this query
    answers: tuple[Answer, ...]  # of each, as far as it counted
    values: tuple[Normalised, ...]  # of each

    def parts(self, doc: int) -> list[ArmPart]:
        """What each arm gave to a document, whether or not it is among the hits."""
        found = [np.flatnonzero(docs == doc) for _, docs in self.answers]
        given = [
            (float(values.scores[at[0]]) if len(at) else values.missing)
            for at, values in zip(found, self.values, strict=True)
        ]
        total = sum(abs(weight * value) for weight, value in zip(self.weights, given, strict=True))
        return [
            ArmPart(
                arm,
                int(at[0]) + 1 if len(at) else None,
                float(scores[at[0]]) if len(at) else None,
                value,
                weight,
                weight * value / total if total else 0.0,
            )
            for arm, at, (scores, _), value, weight in zip(
                self.arms, found, self.answers, given, self.weights, strict=True
            )
        ]


@dataclass(frozen=True, slots=True)
class Fusion:
    """How arms are fused.

    method         convex: the weighted mean of normalised scores; combsum: their weighted sum; combmnz: that times the number of arms
                   that returned the document (a sum below 0 stays as it is); rrf: the weighted sum of 1 / (k + rank), rank from 1
    normalisation  of the scores of each arm's list (see `retrieval.normalisation`); rrf has no use for it
    weights        by name of arm; an arm that they do not name, or give 0, is not searched. None: equal ones. For convex they are
                   scaled to a sum of 1
    per_query      multiply the weights, for each query, by how clearly each arm's best hits stand out (`retrieval.query_weights`)
    k              of rrf
    depth          how many hits of each arm are fused; where more hits are asked for, as many as these

    Raises WinnowError for anything else, and for weights that are negative, not finite, or all 0.

    >>> a = np.array([9, 5, 1], np.float32), np.array([7, 3, 8], np.int32)
    >>> b = np.array([0.9, 0.4], np.float32), np.array([3, 7], np.int32)
    >>> fused = Fusion().fuse({"a": a, "b": b}, k=2)
    >>> fused.docs.tolist(), fused.scores.tolist()  # 3: 1/2 x (5 - 1) / (9 - 1) + 1/2 x 1
    ([3, 7], [0.75, 0.5])
    """

    method: Method = "convex"
    normalisation: Normalisation = "min-max"
    weights: Mapping[str, float] | None = None
    per_query: bool = False
    k: float = 60
    depth: int = 1000

    def __post_init__(self) -> None:
        for name, known in (("method", get_args(Method)), ("normalisation", get_args(Normalisation))):
            if getattr(self, name) not in known:
                raise WinnowError(f"{name} is {getattr(self, name)!r:.60}; it must be one of {', '.join(known)}.")
        if not isinstance(self.per_query, bool):
            raise WinnowError(f"per_query is {self.per_query!r:.60}; it must be True or False.")
        if not is_number(self.k) or not 0 <= self.k < float("inf"):
            raise WinnowError(f"k of rrf is {self.k!r:.60}; it must be a number of at least 0, such as 60.")
        object.__setattr__(self, "depth", checked_count("depth", self.depth))
        if self.weights is not None:
            object.__setattr__(self, "weights", checked_weights(self.weights))

    def weights_of(self, arms: Sequence[str]) -> dict[str, float]:
        """The weight of each arm that is searched, by name in ascending order; with convex they add up to 1.

        arms  the names of all there are

        Raises WinnowError for weights of arms that there are not, and where no arm is left to search.
        """
        given = dict.fromkeys(arms, 1.0) if self.weights is None else self.weights
        if unknown := sorted(set(given) - set(arms)):
            raise WinnowError(
                f"weights names the arm {unknown[0]!r:.60}, which there is not; the arms are {', '.join(sorted(arms))}."
            )
        return self._scaled({arm: given[arm] for arm in sorted(given) if given[arm] > 0})

    def depth_for(self, k: int) -> int:
        """How many hits of each arm to ask for where k fused ones are wanted."""
        return max(self.depth, k)

    def fuse(
        self, answers: Mapping[str, Answer], k: int = 10, theoretical_minimum: Mapping[str, float] | None = None
    ) -> Fused:
        """The best k of all documents that an arm returned; fewer where there are fewer.

        answers              by name of arm, each best first, every document once; an arm of weight 0 may be there or not. An arm that
                             failed is left out: the weights of the others then count alone. Without hits an arm keeps its weight
        theoretical_minimum  by name of arm, for normalisation="theoretical-min": 0 for sparse arms, -1 for cosine

        Raises WinnowError for scores that are not finite or do not descend, a document twice in an answer, and where no arm with
        a weight has answered.
        """
        k, depth = checked_count("k", k), self.depth_for(k)
        weights = self._of_answered(answers)
        arms = tuple(weights)
        cut = tuple(checked_answer(arm, *answers[arm], depth) for arm in arms)
        least = theoretical_minimum or {}
        values = tuple(self.values(scores, least.get(arm)) for arm, (scores, _) in zip(arms, cut, strict=True))
        if self.per_query:
            weights = per_query(weights, [scores for scores, _ in cut])
        docs, groups = united([docs for _, docs in cut])
        check_each_once(arms, groups)
        fused = self._sums(
            list(weights.values()), [spread(v, g, len(docs)) for v, g in zip(values, groups, strict=True)]
        )
        if self.method == "combmnz":
            fused = np.where(fused > 0, fused * np.bincount(np.concatenate(groups), minlength=len(docs)), fused)
        best = best_first(fused, k)
        return Fused(fused[best], docs[best], arms, tuple(weights.values()), cut, values)

    def values(self, scores: np.ndarray, theoretical_minimum: float | None) -> Normalised:
        """What the hits of an arm are worth before the weight of the arm."""
        if self.method == "rrf":
            return Normalised(1.0 / (self.k + np.arange(1, len(scores) + 1)), 0.0)
        return normalised(scores, self.normalisation, theoretical_minimum)

    def _of_answered(self, answers: Mapping[str, Answer]) -> dict[str, float]:
        given = dict.fromkeys(answers, 1.0) if self.weights is None else self.weights
        weights = {arm: given[arm] for arm in sorted(answers) if given.get(arm, 0) > 0}
        if not weights:
            raise WinnowError(
                f"none of the arms that answered ({', '.join(sorted(answers)) or 'none'}) has a weight; give one a weight above 0."
            )
        return self._scaled(weights)

    def _scaled(self, weights: dict[str, float]) -> dict[str, float]:
        if self.method != "convex":
            return weights
        largest = max(weights.values())  # first, so that no sum overflows
        total = sum(weight / largest for weight in weights.values())
        return {arm: weight / largest / total for arm, weight in weights.items()}

    def _sums(self, weights: Sequence[float], columns: Sequence[np.ndarray]) -> np.ndarray:
        fused = weights[0] * columns[0]
        for weight, column in zip(weights[1:], columns[1:], strict=True):
            fused += weight * column
        return fused

    def as_json(self) -> dict[str, Any]:
        """For storage; `of_json` reads it."""
        return asdict(self)

    @classmethod
    def of_json(cls, written: Any) -> Fusion:
        """Raises IndexFormatError for what `as_json` cannot have written."""
        known = {field.name for field in fields(cls)}
        if not isinstance(written, dict) or set(written) != known:
            raise IndexFormatError(
                f"the stored fusion is {written!r:.100}; it must have exactly {', '.join(sorted(known))}; restore it from a copy."
            )
        try:
            return cls(**written)
        except (WinnowError, TypeError) as error:
            raise IndexFormatError(f"the stored fusion cannot be used ({error}); restore it from a copy.") from error

    def __str__(self) -> str:
        how = f"rrf with k={self.k:g}" if self.method == "rrf" else f"{self.method}, {self.normalisation}"
        shown = "equal weights"
        if self.weights is not None:
            shown = ", ".join(f"{arm} {weight:.3g}" for arm, weight in self.weights.items())
        return f"{how}, {shown}{', adapted to each query' if self.per_query else ''}"


def checked_weights(weights: Any) -> dict[str, float]:
    """The weights as floats. Raises WinnowError unless they map names to finite numbers of at least 0, one above 0."""
    if not isinstance(weights, Mapping) or not all(isinstance(arm, str) for arm in weights):
        raise WinnowError(f"weights is {weights!r:.60}; it must map names of arms to numbers.")
    for arm, weight in weights.items():
        if not is_number(weight) or not 0 <= weight <= MOST_WEIGHT:
            raise WinnowError(
                f"the weight of the arm {arm!r:.60} is {weight!r:.60}; it must be a number of at least 0 (at most {MOST_WEIGHT:g})."
            )
    if not any(weight > 0 for weight in weights.values()):
        raise WinnowError(f"weights is {dict(weights)!r:.100}; at least one must be above 0.")
    return {arm: float(weight) for arm, weight in weights.items()}


def checked_answer(arm: str, scores: np.ndarray, docs: np.ndarray, depth: int) -> Answer:
    """The first `depth` hits. Raises WinnowError unless every score is finite and none is above the one before it."""
    if scores.ndim != 1 or scores.shape != docs.shape:
        raise WinnowError(
            f"the arm {arm!r:.60} returned scores of shape {scores.shape} and documents of shape {docs.shape}; it must return one "
            "score a document."
        )
    scores, docs = scores[:depth], docs[:depth]
    # false also for nan; what is left unseen then is an infinity at one of the ends
    if not np.all(scores[1:] <= scores[:-1]) or (len(scores) and not np.isfinite(scores[[0, -1]]).all()):
        bad = np.flatnonzero(~np.isfinite(scores))
        if len(bad):
            raise WinnowError(
                f"the arm {arm!r:.60} scored document {docs[bad[0]]} {scores[bad[0]]}; scores must be finite numbers."
            )
        raise WinnowError(f"the arm {arm!r:.60} returned hits out of order; it must return the best first.")
    return scores, docs


def check_each_once(arms: Sequence[str], groups: Sequence[np.ndarray]) -> None:
    """Raises WinnowError where an arm has returned a document twice; `groups` as from `united`."""
    for arm, group in zip(arms, groups, strict=True):
        if len(group) and np.bincount(group).max() > 1:
            raise WinnowError(f"the arm {arm!r:.60} returned a document twice; it must return each once.")


def per_query(weights: Mapping[str, float], scores: Sequence[np.ndarray]) -> dict[str, float]:
    """The weights times the confidence of each arm's list, their sum unchanged; as given where no list tells anything."""
    adapted = [weight * confidence(own) for weight, own in zip(weights.values(), scores, strict=True)]
    total = sum(adapted)
    if not total > 0:
        return dict(weights)
    scale = sum(weights.values()) / total
    return {arm: weight * scale for arm, weight in zip(weights, adapted, strict=True)}


def united(lists: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """(all documents, each once, int32 ascending; for each list int64 where each of its documents stands among these)."""
    docs = np.concatenate(lists).astype(np.int64)
    packed = (docs << 32) | np.arange(len(docs))  # document and position in one number: one sort of numbers, no argsort
    packed.sort()
    docs, positions = packed >> 32, packed & 0xFFFFFFFF
    is_first = np.ones(len(docs), bool)
    np.not_equal(docs[1:], docs[:-1], out=is_first[1:])
    group = np.empty(len(docs), np.int64)
    group[positions] = np.cumsum(is_first) - 1
    return docs[is_first].astype(np.int32), np.split(group, np.cumsum([len(own) for own in lists])[:-1])


def spread(values: Normalised, group: np.ndarray, num_docs: int) -> np.ndarray:
    """float64 [num_docs]: the value of each document that the list holds, `missing` of the others."""
    column = np.full(num_docs, values.missing)
    column[group] = values.scores
    return column


def best_first(fused: np.ndarray, k: int) -> np.ndarray:
    """Where the k best stand, best first; among equals the first stands first."""
    if k < len(fused):
        candidates = np.flatnonzero(fused >= np.partition(fused, len(fused) - k)[len(fused) - k])
    else:
        candidates = np.arange(len(fused))
    return candidates[np.argsort(-fused[candidates], kind="stable")[:k]]
