"""Search over dense vectors against plain numpy, which shares no code with it: few distinct vectors, so that ties are common."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.dense import search as dense_search
from index.dense.index import DenseIndex
from index.dense.options import DenseIndexOptions
from index.dense.search import DenseSearch


@st.composite
def collections(draw):
    """Vectors of small whole numbers, whose dot products every order of adding gives exactly; some documents have none."""
    dimension = draw(st.sampled_from([1, 2, 5, 64, 70]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    distinct = rng.integers(-3, 4, (draw(st.integers(1, 12)), dimension)).astype(np.float32)
    vectors = distinct[rng.integers(0, len(distinct), draw(st.integers(1, 300)))]
    without = np.flatnonzero(rng.random(len(vectors)) < draw(st.sampled_from([0, 0.02, 0.5]))).astype(np.int32)
    vectors[without] = 0
    masks = [None if share == 1 else rng.random(len(vectors)) < share for share in draw(st.tuples(*[shares] * 2))]
    queries = rng.integers(-3, 4, (draw(st.sampled_from([1, 3, 40])), dimension)).astype(np.float32)
    return vectors, without, masks, queries


shares = st.sampled_from([1, 0.98, 0.6, 0.1, 0])


def expected(vectors, without, masks, query, k):
    """Scores and documents, best first."""
    if not query.any():
        return [], []
    found = [
        doc
        for doc in range(len(vectors))
        if doc not in set(without.tolist()) and all(m is None or m[doc] for m in masks)
    ]
    scores = vectors.astype(np.float64) @ query.astype(np.float64)
    best = sorted(found, key=lambda doc: (-scores[doc], doc))[:k]
    return [float(scores[doc]) for doc in best], best


@given(collections(), st.sampled_from([1, 2, 10, 1_000]), st.sampled_from([1, 3]))
def test_exact_search_is_brute_force(collection, k, threads):
    vectors, without, (live, allowed), queries = collection
    options = DenseIndexOptions(vectors.shape[1], "dot")
    index = DenseIndex.build_into(None, vectors, options, without=without, progress=False).seen(live)
    answers = index.search_batch(queries, k, threads, allowed=allowed)
    for query, (scores, docs) in zip(queries, answers, strict=True):
        assert (scores.tolist(), docs.tolist()) == expected(vectors, without, (live, allowed), query, k)


@given(
    collections(), st.sampled_from(["SQ8", "RaBitQ", "IVF2,Flat", "HNSW4", "PQ1x4"]), st.sampled_from([1, 10, 1_000])
)
def test_an_approximate_search_finds_as_many_with_exact_scores_in_order(collection, form, k):
    vectors, without, (live, allowed), queries = collection
    options = DenseIndexOptions(vectors.shape[1], "dot", form)
    if len(vectors) - len(without) < 16:
        return
    index = DenseIndex.build(vectors, options, without=without, progress=False).seen(live)
    parameters = DenseSearch(rescored=2)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dense_search, "FEW", 0)  # codes are looked at although so few could be scored one by one
        answers = index.search_batch(queries, k, allowed=allowed, parameters=parameters)
    for query, (scores, docs) in zip(queries, answers, strict=True):
        all_scores, all_docs = expected(vectors, without, (live, allowed), query, len(vectors))
        assert len(docs) == min(k, len(all_docs))
        score_of = dict(zip(all_docs, all_scores, strict=True))
        assert scores.tolist() == [score_of[doc] for doc in docs.tolist()]
        assert docs.tolist() == sorted(docs.tolist(), key=lambda doc: (-score_of[doc], doc))
