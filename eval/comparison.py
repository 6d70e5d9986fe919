"""Is one system better than another, or is it chance? Paired over queries: parts beside their whole, runs beside a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from eval.significance import CORRECTIONS, bootstrap_interval, holm, randomisation_test
from retrieval.significance import ROUNDING, PairedGain, paired_gain

if TYPE_CHECKING:
    pass

CONFIDENCE = 0.95
ByQuery = Mapping[str, float]  # query id -> value of a measure


class Comparison(NamedTuple):
    """A system beside another one, on the same queries."""

    system: str
    other: str
    gain: PairedGain
    p_holm: float  # the p value after Holm's correction for all comparisons of the report
    queries: tuple[int, int, int]  # on which it is better, equal, worse


class RunComparison(NamedTuple):
    """A run beside the baseline by one measure, on the same queries."""

    measure: str
    run: str
    baseline: str
    gain: PairedGain  # the mean difference, Student's interval, the p value of the paired t-test
    bootstrap: tuple[float, float]  # the interval by resampling queries
    p_randomisation: float  # Fisher's
    p_corrected: float  # of the t-test, for all runs that are compared by this measure
    p_randomisation_corrected: float
    queries: tuple[int, int, int]  # on which it is better, equal, worse
    differences: dict[str, float]  # by query, as the judgments have them


def compare_runs(
    values: Mapping[str, Mapping[str, ByQuery]], baseline: str, measures: Sequence[str], correction: str = "holm"
) -> list[RunComparison]:
    """Every other run beside the baseline, by each measure. The tests of one measure are corrected together, each kind of test by
    itself: who looks at several measures decides before which of them counts.

    values      run -> measure -> query -> value, of `eval.measures.measure_queries` on the same judgments
    correction  a name of `eval.significance.CORRECTIONS`
    """
    compared = []
    for measure in measures:
        before = values[baseline][measure]
        found = [beside(measure, run, baseline, own[measure], before) for run, own in values.items() if run != baseline]
        of_t = CORRECTIONS[correction]([one.gain.p_value for one in found])
        of_randomisation = CORRECTIONS[correction]([one.p_randomisation for one in found])
        compared += [
            one._replace(p_corrected=p, p_randomisation_corrected=q)
            for one, p, q in zip(found, of_t, of_randomisation, strict=True)
        ]
    return compared


def beside(measure: str, run: str, baseline: str, values: ByQuery, before: ByQuery) -> RunComparison:
    """One comparison, its p values not yet corrected."""
    differences = paired(values, before)
    gain, p = paired_gain(differences, CONFIDENCE), randomisation_test(differences)
    by_query = dict(zip(before, differences.tolist(), strict=True))
    interval = bootstrap_interval(differences, CONFIDENCE)
    return RunComparison(
        measure, run, baseline, gain, interval, p, gain.p_value, p, better_equal_worse(differences), by_query
    )


def compare_with_parts(values: Mapping[str, ByQuery], parts: Mapping[str, Sequence[str]]) -> list[Comparison]:
    """Every system beside each of its parts that was measured too, arms or a first stage, by the paired t-test.

    values  of a measure, by system
    parts   of systems, by name
    """
    pairs = [(system, part) for system in values for part in parts[system] if part in values]
    differences = [paired(values[system], values[part]) for system, part in pairs]
    gains = [paired_gain(own, CONFIDENCE) for own in differences]
    adjusted = holm([gain.p_value for gain in gains])
    return [
        Comparison(system, part, gain, p, better_equal_worse(own))
        for (system, part), gain, p, own in zip(pairs, gains, adjusted, differences, strict=True)
    ]


def paired(values: ByQuery, before: ByQuery) -> np.ndarray:
    """float64 [queries], in the order of `before`: what each query gained; 0 where rounding is all of it."""
    differences = np.array([values[query] - before[query] for query in before])
    return np.where(np.abs(differences) < ROUNDING, 0.0, differences)


def better_equal_worse(differences: np.ndarray) -> tuple[int, int, int]:
    better, worse = int(np.count_nonzero(differences > 0)), int(np.count_nonzero(differences < 0))
    return better, len(differences) - better - worse, worse
