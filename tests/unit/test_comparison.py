"""Systems beside their parts, runs beside a baseline: the same queries, two tests, corrections."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.comparison import compare_runs, compare_with_parts
from eval.measures import measure_queries, measure_run
from eval.significance import CORRECTIONS, bootstrap_interval, randomisation_test


def test_comparisons_are_of_the_same_queries_missing_ones_counting_0():
    qrels = {"1": {"a": 1}, "2": {"a": 1}, "3": {"a": 1}}
    arm = {"1": {"a": 1.0}}
    runs = {"arm": arm, "arm+other": {"1": {"b": 2.0, "a": 1.0}, "2": {"a": 1.0}}}
    values = {name: measure_queries(qrels, run, ["RR@10"])["RR@10"] for name, run in runs.items()}
    (comparison,) = compare_with_parts(values, {"arm": (), "arm+other": ("arm", "other")})
    assert comparison.gain.mean == pytest.approx((-0.5 + 1 + 0) / 3)
    assert comparison.queries == (1, 1, 1)
    assert measure_queries(qrels, arm, ["RR@10"]) == {"RR@10": {"1": 1.0, "2": 0.0, "3": 0.0}}
    assert measure_run(qrels, arm, ["RR@10"]) == {"RR@10": pytest.approx(1 / 3)}


def exact(differences):
    """Fisher's p value by all signs, in plain Python."""
    observed = abs(sum(differences))
    sums = [abs(sum(sign * one for sign, one in zip(signs, differences, strict=True)))
            for signs in product((-1, 1), repeat=len(differences))]  # fmt: skip
    return sum(one >= observed - 1e-9 for one in sums) / len(sums)


@settings(max_examples=30)
@given(st.lists(st.integers(-4, 4).map(lambda n: n / 8), min_size=2, max_size=8))
def test_randomisation_of_few_queries_counts_all_signs(differences):
    assert randomisation_test(np.array(differences)) == pytest.approx(exact(differences))


def test_randomisation_by_hand():
    assert randomisation_test(np.array([1.0, 2.0])) == 2 / 4  # of -3, -1, 1, 3 two are as far from 0 as 3
    assert randomisation_test(np.full(10, 0.1)) == 2 / 1024
    assert randomisation_test(np.append(np.full(10, 0.1), np.zeros(90))) == 2 / 1024  # signs of zeros are not drawn
    assert randomisation_test(np.array([0.5])) == 1
    assert randomisation_test(np.array([0.5, 0.0])) == 1
    assert randomisation_test(np.zeros(9)) == 1
    assert randomisation_test(np.array([0.2, 0.0, 0.1, 0.0])) == randomisation_test(np.array([0.1, 0.2]))


def test_randomisation_of_many_queries_is_near_the_t_test_and_the_same_each_time():
    from scipy.stats import ttest_1samp

    differences = np.random.default_rng(1).normal(0.03, 0.2, 200)
    p = randomisation_test(differences)
    assert p == pytest.approx(ttest_1samp(differences, 0).pvalue, abs=0.005)
    assert p == randomisation_test(differences)
    assert randomisation_test(np.full(40, 0.1)) == pytest.approx(2 / 100_001)  # never 0


def test_the_bootstrap_interval_is_near_students():
    from scipy.stats import ttest_1samp

    differences = np.random.default_rng(1).normal(0.03, 0.2, 200)
    student = ttest_1samp(differences, 0).confidence_interval(0.95)
    found = bootstrap_interval(differences, 0.95)
    assert found == pytest.approx((student.low, student.high), abs=0.003)
    assert found == bootstrap_interval(differences, 0.95)
    assert bootstrap_interval(np.full(5, 0.25), 0.95) == (0.25, 0.25)
    assert bootstrap_interval(np.array([0.1]), 0.95) == (-math.inf, math.inf)


def test_corrections_by_hand():
    p_values = [0.01, 0.04, 0.03]
    expected = {
        "holm": [3 * 0.01, 2 * 0.03, 2 * 0.03],
        "bonferroni": [3 * 0.01, 3 * 0.04, 3 * 0.03],
        "benjamini-hochberg": [3 * 0.01 / 1, 3 * 0.04 / 3, 3 * 0.04 / 3],  # 3 * 0.03 / 2 is more than its successor
        "none": p_values,
    }
    for name, correct in CORRECTIONS.items():
        assert correct(p_values) == pytest.approx(expected[name])
        assert correct([]) == []
        assert correct([0.7, 0.9]) == pytest.approx(
            {"holm": [1, 1], "bonferroni": [1, 1], "benjamini-hochberg": [0.9, 0.9], "none": [0.7, 0.9]}[name]
        )


@settings(max_examples=10)
@given(st.integers(0, 2**32), st.integers(2, 20))
def test_runs_beside_a_baseline_are_tested_as_scipy_tests_them(seed, num_queries):
    from scipy.stats import ttest_rel

    drawn = np.random.default_rng(seed).integers(0, 5, (3, num_queries)) / 4
    values = {
        run: {"P@5": {f"q{i}": float(value) for i, value in enumerate(row)}}
        for run, row in zip("xyz", drawn, strict=True)
    }
    found = compare_runs(values, "y", ["P@5"], "bonferroni")
    assert [(one.measure, one.run, one.baseline) for one in found] == [("P@5", "x", "y"), ("P@5", "z", "y")]
    for one, row in zip(found, drawn[[0, 2]], strict=True):
        differences = row - drawn[1]
        assert list(one.differences.values()) == differences.tolist()
        assert one.queries == ((differences > 0).sum(), (differences == 0).sum(), (differences < 0).sum())
        if np.ptp(differences) > 0:
            theirs = ttest_rel(row, drawn[1])
            assert one.gain.p_value == pytest.approx(theirs.pvalue)
            interval = theirs.confidence_interval(0.95)
            assert (one.gain.low, one.gain.high) == pytest.approx((interval.low, interval.high))
        assert one.p_corrected == pytest.approx(min(1, 2 * one.gain.p_value))
        assert one.p_randomisation == randomisation_test(differences)
        assert one.p_randomisation_corrected == min(1, 2 * one.p_randomisation)


def test_differences_that_are_rounding_are_none():
    values = {"a": {"AP": {"1": 0.3, "2": 0.5}}, "b": {"AP": {"1": 0.1 + 0.2, "2": 0.5}}}
    (one,) = compare_runs(values, "a", ["AP"])
    assert (one.queries, one.gain.mean, one.gain.p_value, one.p_randomisation) == ((0, 2, 0), 0, 1, 1)
