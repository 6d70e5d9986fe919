"""Which fusions tuning chooses among, and what each is worth on every query."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from typing import NamedTuple

import numpy as np

from index.impact_search import Answer
from retrieval.fusion import Fusion
from retrieval.judged import Measure, chunks_of

# steps of 1 on the simplex of weights, a multiple of the number of arms so that equal weights are among them: 41 vectors of
# two arms, 190 of three, 165 of four; more arms are left at steps of one over their number, and refined
STEPS = {1: 1, 2: 40, 3: 18, 4: 8}
REFINED_ABOVE = 3  # arms
FAMILIES = (
    Fusion(),
    Fusion(normalisation="z-score"),
    Fusion(normalisation="theoretical-min"),
    Fusion(normalisation="distribution"),
    *(Fusion("rrf", k=k) for k in (5, 20, 60, 100)),
)


class Candidates(NamedTuple):
    """Fusions and their values; the first is the default, equal weights under min-max."""

    fusions: list[Fusion]
    values: np.ndarray  # float64 [fusions, queries]
    from_default: np.ndarray  # float64 [fusions]: how far a fusion is from the default; decides between equal values

    def joined(self, other: Candidates) -> Candidates:
        return Candidates(
            self.fusions + other.fusions,
            np.concatenate([self.values, other.values]),
            np.concatenate([self.from_default, other.from_default]),
        )


class Task(NamedTuple):
    """What fusions are measured on."""

    arms: tuple[str, ...]  # ascending
    answers: Sequence[Mapping[str, Answer]]
    gains: Sequence[Mapping[int, int]]
    ideals: Sequence[Sequence[int]]
    measure: Measure
    depth: int
    minima: Mapping[str, float]  # of the arms that have a least score

    @property
    def families(self) -> list[Fusion]:
        is_known = all(np.isfinite(self.minima.get(arm, np.inf)) for arm in self.arms)
        return [
            replace(family, depth=self.depth)
            for family in FAMILIES
            if is_known or family.normalisation != "theoretical-min"
        ]

    def measured(self, points: Sequence[tuple[int, tuple[float, ...]]]) -> Candidates:
        """Candidates of the given families, by number, and weights, in ascending order of family."""
        families, equal = self.families, 1 / len(self.arms)
        fusions = [replace(families[of], weights=dict(zip(self.arms, own, strict=True))) for of, own in points]
        distance = [of * 1e-3 + sum(abs(weight - equal) for weight in own) for of, own in points]
        minima = [self.minima.get(arm) for arm in self.arms]
        own_of = [
            np.array([self._row(fusion) for fusion, (of, _) in zip(fusions, points, strict=True) if of == number])
            for number in range(len(families))
        ]
        values = [
            np.concatenate(
                [some.values(family, minima, own) for family, own in zip(families, own_of, strict=True) if len(own)]
            )
            for some in chunks_of(self.answers, self.gains, self.ideals, self.arms, self.depth, self.measure)
        ]
        return Candidates(fusions, np.concatenate(values, axis=1), np.array(distance))

    def around(self, candidates: Candidates, chosen: Sequence[int]) -> tuple[Candidates, dict[int, list[int]]]:
        """(`candidates` and more, for each of the chosen those to decide between): with four arms and more, where the simplex was
        searched in coarse steps, itself and what half a step from one arm to another makes of it; with fewer, itself alone.
        """
        options = {choice: [choice] for choice in sorted(set(chosen))}
        if len(self.arms) <= REFINED_ABOVE:
            return candidates, options
        families, points = [replace(family, weights=None) for family in self.families], []
        for choice in options:
            fusion = candidates.fusions[choice]
            own, of = [(fusion.weights or {})[arm] for arm in self.arms], families.index(replace(fusion, weights=None))
            points += [(of, choice, moved) for moved in half_steps(own)] if choice else []  # the default stays as it is
        points.sort()  # by family, as `measured` wants it
        for number, (_, choice, _) in enumerate(points, start=len(candidates.fusions)):
            options[choice].append(number)
        if not points:
            return candidates, options
        return candidates.joined(self.measured([(of, own) for of, _, own in points])), options

    def _row(self, fusion: Fusion) -> list[float]:
        """The weights as `fuse` uses them."""
        scaled = fusion.weights_of(self.arms)
        return [scaled.get(arm, 0.0) for arm in self.arms]

    def alone(self) -> Candidates:
        """Each arm by itself, in their order."""
        return self.measured([(0, tuple(float(arm == other) for other in self.arms)) for arm in self.arms])

    def everywhere(self) -> Candidates:
        """Every family with weights all over the simplex."""
        grid = list(simplex(len(self.arms), steps_of(len(self.arms))))
        equal = (1 / len(self.arms),) * len(self.arms)
        grid = [equal, *(own for own in grid if not np.allclose(own, equal))]
        return self.measured([(of, own) for of in range(len(self.families)) for own in grid])


def half_steps(weights: Sequence[float]) -> Iterator[tuple[float, ...]]:
    """The weights with half a step of the grid moved from one arm to another, where it has as much."""
    size = 0.5 / steps_of(len(weights))
    for giver, taker in permutations(range(len(weights)), 2):
        if weights[giver] >= size - 1e-12:
            moved = list(weights)
            moved[giver], moved[taker] = max(moved[giver] - size, 0.0), moved[taker] + size
            yield tuple(moved)


def steps_of(num_arms: int) -> int:
    return STEPS.get(num_arms, num_arms)


def simplex(num_arms: int, steps: int) -> Iterator[tuple[float, ...]]:
    """All vectors of multiples of 1 / steps that add up to 1."""

    def whole(arms: int, left: int) -> Iterator[tuple[int, ...]]:
        if arms == 1:
            yield (left,)
            return
        for first in range(left + 1):
            yield from ((first, *rest) for rest in whole(arms - 1, left - first))

    return (tuple(count / steps for count in counts) for counts in whole(num_arms, steps))
