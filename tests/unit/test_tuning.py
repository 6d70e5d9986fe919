"""Tuning: measures as trec_eval has them, choice by cross-validation, the guard, and what cannot be tuned."""

import math
from dataclasses import replace

import numpy as np
import pytest

from index.errors import WinnowError
from retrieval.candidates import FAMILIES, Candidates, Task, simplex
from retrieval.fusion import Fusion
from retrieval.judged import Judged, Measure
from retrieval.significance import critical, paired_gain, two_sided
from retrieval.tuning import best_of, choose, tune

MINIMA = {"a": 0.0, "b": 0.0, "c": -1.0, "d": 0.0}
NUM_DOCS = 60


def answer(rng, quality, relevant, depth=40):
    """A ranking of `depth` of the documents: noise, and `quality` more for the relevant ones; few distinct scores, so ties."""
    scores = rng.integers(0, 8, NUM_DOCS).astype(np.float32)
    scores[list(relevant)] += quality
    order = np.lexsort((np.arange(NUM_DOCS), -scores))[:depth]
    return scores[order] / 8, order.astype(np.int32)


def collection(num_queries, qualities, seed=0, depth=40):
    """(answers, gains): each query has three relevant documents."""
    rng = np.random.default_rng(seed)
    answers, gains = [], []
    for _ in range(num_queries):
        relevant = dict(zip(rng.choice(NUM_DOCS, 3, replace=False).tolist(), (1, 2, 3), strict=True))
        gains.append(relevant)
        answers.append({arm: answer(rng, quality, relevant, depth) for arm, quality in qualities.items()})
    return answers, gains


@pytest.mark.parametrize("name", ["nDCG@10", "nDCG@3", "R@5", "R@100", "RR@10"])
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_measures_equal_those_of_trec_eval_over_what_fuse_ranks(name, family):
    import ir_measures

    answers, gains = collection(30, {"a": 3, "b": 4, "c": 2}, depth=25)
    gains = [{**own, 59: -1, 58: 0, 1000: 2} for own in gains]  # judged below 0, judged 0, and not in the index
    weights = [(0.2, 0.3, 0.5), (0.0, 1.0, 0.0), (0.5, 0.5, 0.0)]
    task = Task(("a", "b", "c"), answers, gains, [list(own.values()) for own in gains], Measure.of(name), 1000, MINIMA)
    found = task.measured([(task.families.index(family), own) for own in weights])
    for fusion, values in zip(found.fusions, found.values, strict=True):
        ranked = [fusion.fuse(own, 1000, MINIMA).docs.tolist() for own in answers]
        run = {str(q): {str(doc): -float(rank) for rank, doc in enumerate(docs)} for q, docs in enumerate(ranked)}
        qrels = {str(q): {str(doc): gain for doc, gain in own.items()} for q, own in enumerate(gains)}
        expected = {
            metric.query_id: metric.value
            for metric in ir_measures.iter_calc([ir_measures.parse_measure(name)], qrels, run)
        }
        assert values == pytest.approx([expected[str(q)] for q in range(30)], abs=1e-12)


def test_queries_are_measured_in_pieces():
    answers, gains = collection(600, {"a": 3, "b": 2}, depth=5)
    every = [list(own.values()) for own in gains]
    task = Task(("a", "b"), answers, gains, every, Measure.of("nDCG@10"), 1000, MINIMA)
    whole = Judged.of(answers, gains, every, ("a", "b"), 1000, Measure.of("nDCG@10"))
    expected = whole.values(Fusion(), [None, None], np.array([[0.5, 0.5]]))
    assert task.measured([(0, (0.5, 0.5))]).values.tolist() == expected.tolist()


def test_judged_documents_that_the_index_lacks_count_towards_the_ideal():
    one = (np.array([1.0], np.float32), np.array([4], np.int32))
    answers, gains = [{"a": one, "b": one}] * 5, [{4: 1}] * 5
    assert tune(["a", "b"], answers, gains).untuned == 1
    assert tune(["a", "b"], answers, gains, judged=[[1, 1]] * 5).untuned == pytest.approx(1 / (1 + 1 / math.log2(3)))


def test_arms_that_complete_each_other_are_fused():
    answers, gains = collection(120, {"a": 4, "b": 4})
    tuning = tune(["b", "a"], answers, gains, theoretical_minimum=MINIMA)
    assert tuning.is_adopted
    assert tuning.interval[0] > 0
    assert tuning.p_value < 0.05
    assert tuning.fused == pytest.approx(tuning.arms[tuning.best_arm] + tuning.gain)
    assert list(tuning.arms) == ["a", "b"]
    assert 0.3 < tuning.fusion.weights["a"] / sum(tuning.fusion.weights.values()) < 0.7
    assert "from now on" in str(tuning).splitlines()[-1]
    assert len(tuning.choices) == 50


@pytest.mark.parametrize("seed", range(5))
def test_an_arm_of_noise_never_makes_it_worse_than_the_best_arm(seed):
    answers, gains = collection(60, {"a": 6, "b": 0}, seed)
    tuning = tune(["a", "b"], answers, gains, theoretical_minimum=MINIMA)
    assert tuning.best_arm == "a"
    assert tuning.untuned < tuning.arms["a"] - 0.02  # the default does lose to it
    unseen, judged = collection(500, {"a": 6, "b": 0}, seed + 100)
    task = Task(("a", "b"), unseen, judged, [list(own.values()) for own in judged], Measure.of("nDCG@10"), 1000, MINIMA)
    alone = task.alone().values[0].mean()
    values = Judged.of(unseen, judged, task.ideals, ("a", "b"), 1000, task.measure)
    weights = tuning.fusion.weights
    row = np.array([[weights.get("a", 0), weights.get("b", 0)]])
    assert values.values(tuning.fusion, [0.0, 0.0], row).mean() > alone - 0.01


def test_where_the_gain_is_not_above_chance_the_best_arm_is_kept():
    answers, gains = collection(40, {"a": 3, "b": 0})
    tuning = tune(["a", "b"], answers, gains, theoretical_minimum=MINIMA)
    assert not tuning.is_adopted
    assert tuning.fusion == Fusion(weights={"a": 1.0})
    assert tuning.interval[0] <= 0
    assert "is not above chance" in str(tuning)
    assert str(tuning).endswith(": from now on a alone, the best arm.")


def test_it_says_how_many_queries_would_tell():
    answers, gains = collection(40, {"a": 3, "b": 0})
    tuning = replace(tune(["a", "b"], answers, gains), gain=0.02, interval=(-0.02, 0.06), is_adopted=False)
    assert tuning.needed == 40 * (0.04 / 0.02) ** 2
    assert "is not above chance (160 judged queries would tell a gain of this size): from now on" in str(tuning)
    assert replace(tuning, gain=-0.01).needed == math.inf
    assert "would tell" not in str(replace(tuning, gain=-0.01))


def test_the_gain_is_over_the_stricter_of_two_best_arms():
    # two equal arms: the one that the folds choose changes, the best over all queries cannot be worse than what they find
    answers, gains = collection(30, {"a": 3, "b": 3}, seed=3)
    tuning = tune(["a", "b"], answers, gains)
    assert tuning.fused - tuning.gain >= max(tuning.arms.values()) - 1e-12


def test_of_noise_alone_nothing_is_adopted_more_often_than_chance_says():
    # fifty vectors and eight families to choose from: chosen and measured on the same queries, this would look like a gain
    adopted = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        gains = [{int(doc): 1 for doc in rng.choice(NUM_DOCS, 5, replace=False)} for _ in range(25)]
        answers = [{arm: answer(rng, 0, []) for arm in "ab"} for _ in range(25)]
        adopted += tune(["a", "b"], answers, gains, theoretical_minimum=MINIMA).is_adopted
    assert adopted <= 4


def test_the_same_seed_gives_the_same_and_three_arms_work():
    answers, gains = collection(40, {"a": 4, "b": 4, "c": 2})
    first = tune(["a", "b", "c"], answers, gains, seed=7)
    assert first == tune(["c", "b", "a"], answers, gains, seed=7)
    assert first.choices != tune(["a", "b", "c"], answers, gains, seed=8).choices


def test_four_arms_are_refined_between_the_steps_of_the_grid():
    answers, gains = collection(60, {"a": 5, "b": 3, "c": 2, "d": 0})
    task = Task(
        tuple("abcd"), answers, gains, [list(own.values()) for own in gains], Measure.of("nDCG@10"), 1000, MINIMA
    )
    coarse = task.measured([(0, (0.25,) * 4), (0, (0.5, 0.5, 0.0, 0.0)), (1, (1.0, 0.0, 0.0, 0.0))])
    joined, options = task.around(coarse, [2, 0, 1, 2])
    assert options[0] == [0]
    assert (len(options[1]), len(options[2])) == (1 + 6, 1 + 3)
    assert joined.fusions[options[2][1]].normalisation == "z-score"
    near = {tuple(joined.fusions[number].weights.values()) for number in options[1][1:]}
    assert near >= {(0.4375, 0.5625, 0.0, 0.0), (0.4375, 0.5, 0.0, 0.0625)}
    tuning = tune("abcd", answers, gains)
    assert tuning.is_adopted
    assert tuning.fusion.weights["a"] > tuning.fusion.weights.get("d", 0)


def test_the_simplex_has_equal_weights_and_every_arm_alone():
    assert set(simplex(2, 2)) == {(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)}
    assert len(list(simplex(3, 18))) == 190
    assert all(sum(own) == pytest.approx(1) for own in simplex(3, 18))


def test_equal_values_go_to_what_is_nearest_the_default():
    candidates = Candidates([], np.empty(0), np.array([0.5, 0.2, 0.1]))
    assert best_of(np.array([3.0, 3.0 + 1e-12, 2.0]), candidates) == 1


def test_a_fitted_choice_that_does_not_pay_on_held_out_queries_gives_way_to_the_default():
    rng = np.random.default_rng(0)
    values = rng.normal(
        0, 1, (500, 20)
    )  # the best of 500 of noise has a mean of about 0.7 on the queries that chose it
    values[0] = 0.3
    candidates = Candidates([], values, np.arange(500.0))
    assert values.mean(axis=1).argmax() != 0
    assert choose(candidates, np.arange(20), rng) == 0
    values[7] = 0.5  # better on every query
    assert choose(Candidates([], values[:8], np.arange(8.0)), np.arange(20), rng) == 7


def test_without_a_least_score_of_every_arm_that_normalisation_is_not_tried():
    answers, gains = collection(5, {"a": 3, "b": 2})
    every = [list(own.values()) for own in gains]
    for minima, tried in ((MINIMA, True), ({"a": 0.0}, False), ({"a": 0.0, "b": -math.inf}, False)):
        task = Task(("a", "b"), answers, gains, every, Measure.of("R@5"), 10, minima)
        assert ("theoretical-min" in {family.normalisation for family in task.families}) == tried
        assert {family.depth for family in task.families} == {10}


def test_equal_arms_differ_by_nothing():
    rng = np.random.default_rng(0)
    found = [
        (np.sort(rng.random(20).astype(np.float32))[::-1], rng.permutation(20).astype(np.int32)) for _ in range(30)
    ]
    tuning = tune("ab", [{"a": one, "b": one} for one in found], [{3: 1, 7: 2} for _ in found])
    assert (tuning.gain, tuning.p_value, tuning.is_adopted) == (0, 1, False)


@pytest.mark.parametrize("degrees", [1, 2, 3, 9, 49, 299, 5_000])
def test_students_t_is_scipys(degrees):
    from scipy.stats import t as students

    for value in (0.0, 1e-6, 0.1, 1.0, 2.0, 4.5, 9.0, 30.0):
        expected = 2 * students.sf(value, degrees)
        assert two_sided(value, degrees) == pytest.approx(expected, rel=1e-9, abs=1e-25)
    assert critical(0.05, degrees) == pytest.approx(students.isf(0.025, degrees), rel=1e-9)


def test_the_paired_gain_is_students():
    gain = paired_gain(np.array([0.1, 0.3, -0.1, 0.3]), 0.95)
    # mean 0.15, deviation sqrt(0.11 / 3), t of 3 degrees at 97.5 % 3.182446
    error = math.sqrt(0.11 / 3) / 2
    assert gain.mean == pytest.approx(0.15)
    assert (gain.low, gain.high) == pytest.approx((0.15 - 3.182446 * error, 0.15 + 3.182446 * error), abs=1e-6)
    assert critical(gain.p_value, 3) == pytest.approx(0.15 / error)
    for degrees, quantile in ((1, 12.7062047), (5, 2.5705818), (30, 2.0422725), (1000, 1.9623391)):
        assert critical(0.05, degrees) == pytest.approx(quantile, abs=1e-6)
        assert two_sided(quantile, degrees) == pytest.approx(0.05, abs=1e-7)
    assert paired_gain(np.zeros(5), 0.95) == (0, 0, 0, 1)
    assert paired_gain(np.full(4, 0.5), 0.95) == (0.5, 0.5, 0.5, 0)
    assert paired_gain(np.array([0.5]), 0.95) == (0.5, -math.inf, math.inf, 1)


def test_an_answer_with_a_document_twice_is_refused():
    twice = np.array([2.0, 1.0], np.float32), np.array([4, 4], np.int32)
    with pytest.raises(WinnowError, match="'b' returned a document twice"):
        tune(["a", "b"], [{"a": answer(np.random.default_rng(0), 1, [4]), "b": twice}] * 5, [{4: 1}] * 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": ["a"]}, "nothing to fuse with a alone"),
        ({"arms": []}, "nothing to fuse with no arm alone"),
        ({"arms": ["a", "z"]}, "query 0 has no answer of the arm 'z'"),
        ({"folds": 9}, "there are 8 judged queries, fewer than the 9 folds"),
        ({"folds": 1}, "folds is 1; at least 2"),
        ({"measure": "AP"}, "measure is 'AP'; weights can be tuned for nDCG@k, R@k and RR@k"),
        ({"measure": "nDCG@0"}, "measure is 'nDCG@0'"),
        ({"confidence": 1}, "confidence is 1"),
        ({"depth": 0}, "depth is 0"),
        ({"gains": [{}] * 8}, "no arm ranked a relevant document where nDCG@10 counts it"),
        ({"gains": [{59: 0, 1: -1}] * 8}, "no arm ranked a relevant document"),
        ({"gains": [{1: 1}]}, "answers to 8 queries and judgments of 1 and 1"),
        ({"judged": [[1]]}, "answers to 8 queries and judgments of 8 and 1"),
    ],
)
def test_what_cannot_be_tuned(change, message):
    answers, gains = collection(8, {"a": 3, "b": 2})
    request = {"arms": ["a", "b"], "answers": answers, "gains": gains, **change}
    with pytest.raises(WinnowError, match=message):
        tune(request.pop("arms"), request.pop("answers"), request.pop("gains"), **request)
