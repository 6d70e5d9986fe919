"""Fusion of the answers of several arms; expected values worked out by hand."""

import json
import math

import numpy as np
import pytest

from index.errors import IndexFormatError, WinnowError
from retrieval.fusion import Fusion
from retrieval.normalisation import normalised
from retrieval.query_weights import confidence


def answer(*hits):
    """(document, score), ..., best first."""
    return np.array([score for _, score in hits], np.float32), np.array([doc for doc, _ in hits], np.int32)


def nothing():
    return answer()


BM25 = answer((7, 9.0), (3, 5.0), (8, 3.0), (1, 1.0))
DENSE = answer((3, 0.5), (1, 0.25), (9, -0.5))


def ranked(fused):
    return dict(zip(fused.docs.tolist(), fused.scores.tolist(), strict=True))


def test_min_max_over_each_list_is_what_anserini_computes():
    # pyserini's fusion: (s - min) / (max - min) in each run, 0 for a document that a run lacks, then alpha a + (1 - alpha) b
    fused = Fusion(weights={"bm25": 0.3, "dense": 0.7}).fuse({"bm25": BM25, "dense": DENSE})
    assert ranked(fused) == pytest.approx(
        {
            3: 0.3 * (5 - 1) / (9 - 1) + 0.7 * 1,
            1: 0.3 * 0 + 0.7 * (0.25 + 0.5) / (0.5 + 0.5),
            7: 0.3 * 1,
            8: 0.3 * (3 - 1) / (9 - 1),
            9: 0.7 * 0,
        },
        abs=1e-12,
    )
    assert fused.docs.tolist() == [3, 1, 7, 8, 9]


def test_reciprocal_rank_counts_from_1_and_gives_nothing_for_a_missing_document():
    fused = Fusion("rrf").fuse({"bm25": BM25, "dense": DENSE})
    assert ranked(fused) == pytest.approx(
        {3: 1 / 62 + 1 / 61, 7: 1 / 61, 1: 1 / 64 + 1 / 62, 8: 1 / 63, 9: 1 / 63}, abs=1e-15
    )
    assert fused.docs.tolist() == [3, 1, 7, 8, 9]  # 8 and 9 are equal: the lower number first
    weighted = Fusion("rrf", k=1, weights={"bm25": 2, "dense": 1}).fuse({"bm25": BM25, "dense": DENSE})
    assert ranked(weighted)[3] == pytest.approx(2 / 3 + 1 / 2, abs=1e-15)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("min-max", [1, 0.5, 0.25, 0]),
        ("z-score", [8 / math.sqrt(8.75), 4 / math.sqrt(8.75), 2 / math.sqrt(8.75), 0]),  # mean 4.5, variance 8.75
        ("theoretical-min", [(9 + 1) / 10, (5 + 1) / 10, (3 + 1) / 10, (1 + 1) / 10]),
        ("distribution", [0.5 + (score - 4.5) / (6 * math.sqrt(35 / 3)) for score in (9, 5, 3, 1)]),  # of a sample
        ("none", [9, 5, 3, 1]),
    ],
)
def test_normalisations_by_hand(how, expected):
    scores, missing = normalised(BM25[0], how, -1.0)
    assert scores == pytest.approx(expected, abs=1e-12)
    assert missing == 0


def test_scores_beyond_three_deviations_stay_apart_above_and_count_0_below():
    scores, _ = normalised(np.array([101.0, 100.0] + [1.0] * 98, np.float32), "distribution", None)
    assert scores[0] > scores[1] > 1
    scores, _ = normalised(np.array([1.0] * 98 + [-100.0, -101.0], np.float32), "distribution", None)
    assert scores[-2:].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("how", "value"), [("min-max", 1), ("z-score", 1), ("theoretical-min", 1), ("distribution", 0.5), ("none", 4)]
)
@pytest.mark.parametrize("hits", [[(5, 4.0)], [(5, 4.0), (6, 4.0)]])
def test_one_hit_alone_and_hits_that_are_all_equal(how, value, hits):
    fused = Fusion(normalisation=how).fuse({"a": answer(*hits)}, theoretical_minimum={"a": 0.0})
    assert ranked(fused) == {doc: value for doc, _ in hits}


def test_an_arm_without_hits_keeps_its_weight():
    fused = Fusion().fuse({"bm25": BM25, "dense": nothing()})
    assert ranked(fused) == {7: 0.5, 3: 0.25, 8: 0.125, 1: 0}
    both = Fusion().fuse({"bm25": nothing(), "dense": nothing()})
    assert both.docs.tolist() == both.scores.tolist() == []
    assert both.docs.dtype == np.int32


def test_an_arm_that_did_not_answer_leaves_its_weight_to_the_others():
    fused = Fusion(weights={"bm25": 0.2, "dense": 0.8}).fuse({"bm25": BM25})
    assert fused.weights == (1.0,)
    assert ranked(fused)[7] == 1


@pytest.mark.parametrize("how", ["min-max", "z-score", "theoretical-min", "distribution", "none"])
def test_a_missing_document_is_never_better_off_than_the_lowest_returned(how):
    values = normalised(np.array([0.5, -0.25, -0.5], np.float32), how, -1.0)
    assert values.missing <= values.scores[-1]


def test_raw_negative_scores_count_as_the_lowest_where_missing():
    fused = Fusion("combsum", "none").fuse({"a": answer((1, -1.0), (2, -3.0)), "b": answer((1, 2.0), (4, 1.0))})
    assert ranked(fused) == {1: -1 + 2, 4: -3 + 1, 2: -3 + 0}


def test_combsum_and_combmnz():
    arms = {"bm25": BM25, "dense": DENSE}
    assert ranked(Fusion("combsum").fuse(arms)) == {3: 0.5 + 1, 7: 1, 8: 0.25, 1: 0 + 0.75, 9: 0}
    assert ranked(Fusion("combmnz").fuse(arms)) == {3: 2 * 1.5, 7: 1, 8: 0.25, 1: 2 * 0.75, 9: 0}
    weights = {"bm25": 2.0, "dense": 4.0}
    assert ranked(Fusion("combmnz", weights=weights).fuse(arms))[3] == 2 * (2 * 0.5 + 4 * 1)


def test_combmnz_does_not_multiply_a_sum_below_0():
    fused = Fusion("combmnz", "none").fuse({"a": answer((1, -1.0)), "b": answer((1, -2.0))})
    assert ranked(fused) == {1: -3}


def test_three_arms_and_weights_that_are_scaled_to_1():
    arms = {"a": answer((1, 1.0), (2, 0.0)), "b": answer((2, 1.0), (3, 0.0)), "c": answer((3, 1.0), (1, 0.0))}
    fused = Fusion(weights={"a": 5, "b": 3, "c": 2}).fuse(arms)
    assert ranked(fused) == pytest.approx({1: 0.5, 2: 0.3, 3: 0.2})
    assert fused.weights == pytest.approx((0.5, 0.3, 0.2))
    huge = Fusion(weights={"a": 1e100, "b": 1e100}).weights_of(["a", "b"])
    assert huge == {"a": 0.5, "b": 0.5}


def test_the_order_of_arms_changes_no_bit():
    rng = np.random.default_rng(0)
    arms = {name: answer(*zip(range(50), np.sort(rng.random(50))[::-1], strict=True)) for name in "abc"}
    fusion = Fusion(weights={"a": 0.1, "b": 0.7, "c": 0.3})
    back = Fusion(weights={"c": 0.3, "b": 0.7, "a": 0.1}).fuse(dict(reversed(arms.items())), k=50)
    assert back.scores.tobytes() == fusion.fuse(arms, k=50).scores.tobytes()


def test_an_arm_of_weight_0_is_not_searched():
    fusion = Fusion(weights={"bm25": 1, "dense": 0})
    assert fusion.weights_of(["bm25", "dense"]) == {"bm25": 1.0}
    assert fusion.fuse({"bm25": BM25, "dense": DENSE}).docs.tolist() == [7, 3, 8, 1]
    assert Fusion().weights_of(["b", "a"]) == {"a": 0.5, "b": 0.5}


def test_equal_fused_scores_rank_by_document():
    fused = Fusion().fuse({"a": answer((9, 2.0), (4, 1.0)), "b": answer((5, 2.0), (3, 1.0))}, k=3)
    assert fused.docs.tolist() == [5, 9, 3]


def test_depth_cuts_each_list_before_it_is_normalised():
    fused = Fusion(depth=2).fuse({"bm25": BM25}, k=2)
    assert ranked(fused) == {7: 1, 3: 0}
    assert Fusion(depth=2).depth_for(3) == 3
    assert Fusion(depth=2).fuse({"bm25": BM25}, k=3).docs.tolist() == [
        7,
        3,
        8,
    ]  # more hits than depth: the lists go as far
    assert Fusion().fuse({"bm25": BM25}, k=100).docs.tolist() == [7, 3, 8, 1]


def test_parts_say_what_each_arm_gave():
    fused = Fusion(weights={"bm25": 0.2, "dense": 0.8}).fuse({"bm25": BM25, "dense": DENSE}, k=1)
    lexical, dense = fused.parts(3)
    assert (lexical.arm, lexical.rank, lexical.score, lexical.normalised) == ("bm25", 2, 5.0, 0.5)
    assert (dense.arm, dense.rank, dense.score, dense.normalised) == ("dense", 1, 0.5, 1.0)
    assert (lexical.weight, dense.weight) == pytest.approx((0.2, 0.8))
    assert (lexical.share, dense.share) == pytest.approx((0.1 / 0.9, 0.8 / 0.9))
    alone = fused.parts(7)  # not among the hits, and not returned by the second arm
    assert (alone[1].rank, alone[1].score, alone[1].normalised, alone[1].share) == (None, None, 0.0, 0.0)
    assert [part.share for part in fused.parts(12345)] == [0, 0]


def test_parts_add_up_to_the_fused_score():
    for fusion in (
        Fusion(),
        Fusion("rrf"),
        Fusion("combsum", "z-score"),
        Fusion("convex", "distribution", per_query=True),
    ):
        fused = fusion.fuse({"bm25": BM25, "dense": DENSE})
        for doc, score in ranked(fused).items():
            assert sum(part.weight * part.normalised for part in fused.parts(doc)) == pytest.approx(score, abs=1e-15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "mean"}, "method is 'mean'; it must be one of convex, rrf, combsum, combmnz"),
        ({"normalisation": "l2"}, "normalisation is 'l2'"),
        ({"weights": {"a": -1.0}}, "the weight of the arm 'a' is -1.0; it must be a number of at least 0"),
        ({"weights": {"a": math.nan}}, "is nan"),
        ({"weights": {"a": math.inf}}, "is inf"),
        ({"weights": {"a": True}}, "is True"),
        ({"weights": {"a": 0, "b": 0.0}}, "at least one must be above 0"),
        ({"weights": {}}, "at least one must be above 0"),
        ({"weights": [1, 2]}, "it must map names of arms to numbers"),
        ({"weights": {1: 2}}, "it must map names of arms to numbers"),
        ({"per_query": 1}, "per_query is 1"),
        ({"k": -1}, "k of rrf is -1"),
        ({"k": math.nan}, "k of rrf is nan"),
        ({"depth": 0}, "depth is 0"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(WinnowError, match=message.replace("(", r"\(")):
        Fusion(**options)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (answer((1, math.nan)), "scored document 1 nan"),
        (answer((1, 2.0), (2, math.nan), (3, 1.0)), "scored document 2 nan"),
        (answer((1, math.inf), (2, 1.0)), "scored document 1 inf"),
        (answer((1, 1.0), (2, -math.inf)), "scored document 2 -inf"),
        (answer((1, 1.0), (2, 2.0)), "out of order"),
        (answer((4, 2.0), (4, 1.0)), "'a' returned a document twice"),
        ((np.ones(2, np.float32), np.ones(3, np.int32)), r"scores of shape \(2,\)"),
    ],
)
def test_answers_that_cannot_be_fused(given, message):
    with pytest.raises(WinnowError, match=message):
        Fusion().fuse({"a": given, "b": BM25})


def test_arms_that_there_are_not_are_named():
    with pytest.raises(WinnowError, match="names the arm 'dens', which there is not; the arms are bm25, dense"):
        Fusion(weights={"bm25": 1, "dens": 1}).weights_of(["dense", "bm25"])
    with pytest.raises(WinnowError, match=r"none of the arms that answered \(bm25\) has a weight"):
        Fusion(weights={"dense": 1}).fuse({"bm25": BM25})


def test_a_theoretical_minimum_that_nobody_knows_is_asked_for():
    fusion = Fusion(normalisation="theoretical-min")
    for least in (None, {"bm25": 0.0}, {"bm25": 0.0, "dense": -math.inf}):
        with pytest.raises(WinnowError, match="needs the least score that an arm can give"):
            fusion.fuse({"bm25": BM25, "dense": DENSE}, theoretical_minimum=least)
    fused = fusion.fuse({"bm25": BM25, "dense": DENSE}, theoretical_minimum={"bm25": 0, "dense": -1})
    assert ranked(fused)[3] == pytest.approx(0.5 * 5 / 9 + 0.5 * 1)
    below = normalised(np.array([0.5, -1.0000001], np.float32), "theoretical-min", -1.0)
    assert below.scores.tolist() == [1, 0]


def test_a_fusion_is_stored_and_read_back():
    for fusion in (Fusion(), Fusion("rrf", k=20, weights={"a": 0.25, "b": 0.75}, depth=100, per_query=True)):
        assert Fusion.of_json(json.loads(json.dumps(fusion.as_json()))) == fusion


@pytest.mark.parametrize(
    "damage",
    [
        lambda written: {**written, "later": 1},
        lambda written: {name: value for name, value in written.items() if name != "k"},
        lambda written: {**written, "method": "mean"},
        lambda written: {**written, "method": ["convex"]},
        lambda written: {**written, "weights": {"a": "1"}},
        lambda written: {**written, "depth": 1.5},
        lambda written: [written],
        lambda _: None,
    ],
)
def test_a_stored_fusion_that_was_damaged_is_refused(damage):
    with pytest.raises(IndexFormatError, match="stored fusion"):
        Fusion.of_json(damage(Fusion().as_json()))


def test_weights_given_are_copied():
    weights = {"a": 1.0}
    fusion = Fusion(weights=weights)
    weights["a"] = -1.0
    assert fusion.weights == {"a": 1.0}


def test_weights_of_a_query_follow_how_far_the_first_hit_stands_out():
    clear = answer((1, 10.0), (2, 1.0), (3, 1.0), (4, 1.0), (5, 1.0))  # mean 2.8, deviation 3.6: 2 deviations
    flat = answer((5, 5.0), (4, 1.0))  # mean 3, deviation 2: 1 deviation
    fused = Fusion(per_query=True).fuse({"clear": clear, "flat": flat})
    assert fused.weights == pytest.approx((2 / 3, 1 / 3))
    assert ranked(fused) == pytest.approx({1: 2 / 3, 5: 1 / 3, 2: 0, 3: 0, 4: 0})
    weighted = Fusion("combsum", weights={"clear": 1, "flat": 3}, per_query=True).fuse({"clear": clear, "flat": flat})
    assert weighted.weights == pytest.approx((4 * 2 / 5, 4 * 3 / 5))  # the sum stays 4


def test_weights_of_a_query_do_not_depend_on_scale_and_lists_without_hits_have_none():
    scores = BM25[0]
    assert confidence(scores * 4 - 7) == pytest.approx(confidence(scores), abs=1e-12)
    assert confidence(scores[:0]) == 0
    assert confidence(scores[:1]) == confidence(np.ones(3, np.float32)) == 1
    fused = Fusion(per_query=True).fuse({"bm25": BM25, "dense": nothing()})
    assert fused.weights == (1, 0)
    assert Fusion(per_query=True).fuse({"a": nothing(), "b": nothing()}).weights == (0.5, 0.5)
