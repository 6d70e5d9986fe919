"""What holds of every fusion: against plain Python, under changes of scale, and of better ranks."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.fusion import Fusion

MINIMA = {"a": -4.0, "b": -4.0, "c": -4.0}
methods = st.sampled_from(["convex", "combsum", "combmnz", "rrf"])
normalisations = st.sampled_from(["min-max", "z-score", "theoretical-min", "distribution", "none"])
weight = st.sampled_from([0.5, 1.0, 2.0, 3.0])


@st.composite
def answer(draw, most=8):
    """Few distinct scores and documents, so that ties and documents of several arms are common."""
    docs = draw(st.lists(st.integers(0, 9), unique=True, max_size=most))
    scores = sorted(
        draw(st.lists(st.sampled_from([-2.0, -0.5, 0.0, 0.25, 1.0, 3.0]), min_size=len(docs), max_size=len(docs)))
    )
    return np.array(scores[::-1], np.float32), np.array(docs, np.int32)


arms = st.fixed_dictionaries({"a": answer(), "b": answer(), "c": answer()})
weights = st.fixed_dictionaries({"a": weight, "b": weight, "c": weight})


def plain_normalised(scores, how):
    """(values, what a missing document counts as)"""
    if not scores:
        return [], 0.0
    low, high, mean = min(scores), max(scores), sum(scores) / len(scores)
    if how == "none":
        return scores, min(0.0, low)
    if how == "theoretical-min":
        return [(score + 4) / (high + 4) for score in scores], 0.0
    if low == high:
        return [0.5 if how == "distribution" else 1.0] * len(scores), 0.0
    if how == "min-max":
        return [(score - low) / (high - low) for score in scores], 0.0
    squares = sum((score - mean) ** 2 for score in scores)
    if how == "z-score":
        z = [(score - mean) / (squares / len(scores)) ** 0.5 for score in scores]
        return [own - min(z) for own in z], 0.0
    deviation = (squares / (len(scores) - 1)) ** 0.5
    return [max(0.0, (score - (mean - 3 * deviation)) / (6 * deviation)) for score in scores], 0.0


def plain_fusion(given, weights, method, how):
    """document -> fused score"""
    every = {int(doc) for _, docs in given.values() for doc in docs}
    total = sum(weights.values()) if method == "convex" else 1
    fused, found = defaultdict(float), defaultdict(int)
    for arm, (scores, docs) in given.items():
        values, missing = plain_normalised(scores.astype(float).tolist(), how)
        if method == "rrf":
            values, missing = [1 / (60 + rank) for rank in range(1, len(docs) + 1)], 0.0
        own = dict(zip(docs.tolist(), values, strict=True))
        for doc in every:
            fused[doc] += weights[arm] / total * own.get(doc, missing)
            found[doc] += doc in own
    if method == "combmnz":
        return {doc: score * (found[doc] if score > 0 else 1) for doc, score in fused.items()}
    return dict(fused)


@given(arms, weights, methods, normalisations)
def test_fusion_is_what_plain_python_says(given, weights, method, how):
    fused = Fusion(method, how, weights).fuse(given, 30, MINIMA)
    expected = plain_fusion(given, weights, method, how)
    assert dict(zip(fused.docs.tolist(), fused.scores.tolist(), strict=True)) == pytest.approx(expected, abs=1e-9)
    pairs = list(zip(fused.scores.tolist(), fused.docs.tolist(), strict=True))
    assert pairs == sorted(pairs, key=lambda pair: (-pair[0], pair[1]))


@given(arms, weights, methods, normalisations, st.integers(1, 12))
def test_the_best_k_are_the_first_k_of_all(given, weights, method, how, k):
    fusion = Fusion(method, how, weights)
    every, some = fusion.fuse(given, 30, MINIMA), fusion.fuse(given, k, MINIMA)
    assert some.docs.tolist() == every.docs.tolist()[:k]
    assert some.scores.tolist() == every.scores.tolist()[:k]


@given(
    arms,
    weights,
    st.sampled_from(["min-max", "z-score", "distribution"]),
    st.sampled_from([0.125, 4.0]),
    st.integers(-8, 8),
)
def test_scale_and_origin_of_an_arm_change_nothing(given, weights, how, scale, origin):
    fusion = Fusion("convex", how, weights)
    before = fusion.fuse(given, 30)
    scores, docs = given["b"]
    after = fusion.fuse({**given, "b": (scores * np.float32(scale) + np.float32(origin), docs)}, 30)  # exact in float32
    expected = dict(zip(before.docs.tolist(), before.scores.tolist(), strict=True))
    assert dict(zip(after.docs.tolist(), after.scores.tolist(), strict=True)) == pytest.approx(expected, abs=1e-9)


@given(answer(), answer(), methods, st.sampled_from(["min-max", "z-score", "theoretical-min", "distribution", "none"]))
def test_a_document_that_is_nowhere_worse_is_not_ranked_below(first, second, method, how):
    """Of two documents that both arms returned, the one that scores higher in both ranks no lower."""
    given = {"a": first, "b": second}
    fused = Fusion(method, how).fuse(given, 30, MINIMA)
    places = {int(doc): place for place, doc in enumerate(fused.docs)}
    ranks = [{int(doc): rank for rank, doc in enumerate(docs)} for _, docs in given.values()]
    scores = [dict(zip(docs.tolist(), own.tolist(), strict=True)) for own, docs in given.values()]
    both = set(ranks[0]) & set(ranks[1])
    for doc in both:
        for other in both - {doc}:
            is_above = all(own[doc] < own[other] for own in ranks) and all(own[doc] > own[other] for own in scores)
            value, less = (fused.scores[places[one]] for one in (doc, other))
            assert not is_above or value >= less


@given(arms, normalisations)
def test_a_returned_document_is_never_worth_less_than_a_missing_one(given, how):
    fused = Fusion("convex", how).fuse(given, 30, MINIMA)
    for values in fused.values:
        assert len(values.scores) == 0 or values.scores.min() >= values.missing


@given(arms, weights, methods, normalisations, st.booleans())
def test_parts_add_up(given, weights, method, how, per_query):
    fused = Fusion(method, how, weights, per_query=per_query).fuse(given, 30, MINIMA)
    for doc, score in zip(fused.docs.tolist(), fused.scores.tolist(), strict=True):
        parts = fused.parts(doc)
        total = sum(part.weight * part.normalised for part in parts)
        times = sum(part.rank is not None for part in parts) if method == "combmnz" and total > 0 else 1
        assert total * times == pytest.approx(score, abs=1e-9)
        size = sum(abs(part.share) for part in parts)
        assert size == pytest.approx(1) or all(part.normalised == 0 for part in parts)
