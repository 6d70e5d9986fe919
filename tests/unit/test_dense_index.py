import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from dense_vectors_for_tests import FORMS, clumped, clumped_without, ranked, recall, same

from index.dense.index import DenseIndex
from index.dense.options import DenseIndexOptions
from index.dense.search import FEW, FEW_LEFT_OUT, DenseSearch
from index.errors import InvalidVectorsError, WinnowError

PLANE = np.array([[3, 0], [0, 2], [0.6, 0.8], [-1, 0]], np.float32)
COUNT, WITHOUT = 5_000, np.array([0, 17, 4_999], np.int32)


def build(vectors, similarity="dot", factory=None, without=None, **options):
    chosen = DenseIndexOptions(vectors.shape[1], similarity, factory, **options)
    return DenseIndex.build(vectors, chosen, without=without, progress=False)


def as_pairs(answer):
    return [(round(float(score), 5), int(doc)) for score, doc in zip(*answer, strict=True)]


@pytest.fixture(scope="module")
def vectors():
    return clumped_without(COUNT, WITHOUT)


@pytest.fixture(scope="module")
def queries():
    return clumped(40, seed=1)


@pytest.fixture(scope="module", params=["cosine", "dot"])
def flat(request, vectors):
    return build(vectors, request.param, without=WITHOUT)


def test_dot_scores_are_dot_products_and_negative_ones_count():
    index = build(PLANE)
    assert as_pairs(index.search([2.0, 1.0], k=9)) == [(6.0, 0), (2.0, 1), (2.0, 2), (-2.0, 3)]


def test_cosine_scores_are_of_vectors_of_length_1():
    index = build(PLANE, "cosine")
    assert as_pairs(index.search([0.0, 5.0], k=3)) == [(1.0, 1), (0.8, 2), (0.0, 0)]
    assert index.stored_rows([0, 1]).tolist() == [[1, 0], [0, 1]]


def test_a_vector_of_length_1_stays_as_it_is():
    once = build(clumped(300, 24), "cosine").stored_rows(np.arange(300))
    assert np.array_equal(build(once, "cosine").stored_rows(np.arange(300)), once)


def test_a_length_that_is_almost_1_counts_as_1():
    """What another library normalised in float32, or took from float16, is stored as it is."""
    vectors = np.array([[0.6, 0.8], [1 - 6e-7, 0], [1 + 2e-6, 0]], np.float32)
    index = build(vectors, "cosine")
    assert np.array_equal(index.stored_rows([0, 1]), vectors[:2])
    assert index.stored_rows([2]).tolist() == [[1, 0]]


def test_a_query_of_zeros_and_an_index_without_documents_find_nothing():
    for similarity in ("cosine", "dot"):
        assert len(build(PLANE, similarity).search([0.0, 0.0])[0]) == 0
    empty = DenseIndex.build_into(None, np.empty((0, 2), np.float32), DenseIndexOptions(2), progress=False)
    assert len(empty.search([1.0, 0.0])[0]) == 0
    assert empty.num_live == empty.num_live_with_vectors == 0


def test_documents_without_a_vector_are_counted_and_never_found():
    vectors = np.array([[0, 0], [-1, 0], [0, 0], [0.5, 0]], np.float32)
    index = build(vectors, without=np.array([0, 2], np.int32))
    assert as_pairs(index.search([1.0, 0.0], k=4)) == [(0.5, 3), (-1.0, 1)]
    assert (index.num_docs, index.num_live, index.num_live_with_vectors) == (4, 4, 2)
    seen = index.seen(np.array([True, True, False, False]))
    assert (seen.num_docs, seen.num_live, seen.num_live_with_vectors) == (4, 2, 1)
    assert as_pairs(seen.search([1.0, 0.0], k=4)) == [(-1.0, 1)]
    assert index.scores([1.0, 0.0], [3, 0]).tolist() == [0.5, 0.0]


@pytest.mark.parametrize("dimension", [1, 3, 64, 65, 128, 200])
def test_a_score_is_the_same_whatever_it_is_computed_beside(dimension):
    vectors, queries = clumped(700, dimension), clumped(45, dimension, seed=1)
    index = build(vectors)
    scores = np.stack([index.scores(query, np.arange(700)) for query in queries])
    # each within the rounding of 2 * dimension operations of the true one
    exact = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    bound = dimension * 2.0**-23 * np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(vectors, axis=1)
    assert np.all(np.abs(scores - exact) <= bound)
    for docs in ([5], [5, 699], np.arange(699, -1, -7)):
        assert all(np.array_equal(index.scores(q, docs), row[docs]) for q, row in zip(queries, scores, strict=True))
    for k in (1, 10, 300):
        expected = [(row[ranked(row)[:k]], ranked(row)[:k]) for row in scores]
        assert same(index.search_batch(queries, k), expected)
        assert same(index.search_batch(queries, k, threads=3), expected)
        assert same([index.search(query, k) for query in queries], expected)


def test_a_score_is_the_sum_that_the_format_defines():
    query, vector = np.random.default_rng(3).standard_normal((2, 150)).astype(np.float32)
    sums = np.zeros(64, np.float32)
    for i in range(128):
        sums[i % 64] += query[i] * vector[i]
    while len(sums) > 1:
        sums = sums[: len(sums) // 2] + sums[len(sums) // 2 :]
    total = sums[0]
    for i in range(128, 150):
        total += query[i] * vector[i]
    assert build(vector[np.newaxis]).scores(query, [0])[0] == total


@pytest.mark.parametrize("how", ["one", "batch", "threads", "by matrix multiplication"])
def test_equal_scores_rank_by_document_number_however_many_there_are(how):
    few = clumped(7, 48, seed=5)
    vectors = few[np.random.default_rng(2).integers(0, 7, 3_000)]
    index, queries = build(vectors), np.concatenate([few, clumped(30, 48, seed=6)])
    expected = []
    for query in queries:
        scores = index.scores(query, np.arange(3_000))
        expected.append((scores[ranked(scores)[:50]], ranked(scores)[:50]))
    if how == "one":
        assert same([index.search(query, 50) for query in queries], expected)
    elif how == "by matrix multiplication":
        times = -(-128_000 // (48 * len(queries)))  # FAISS takes it from 128,000 numbers on
        assert same(index.search_batch(np.tile(queries, (times, 1)), 50), expected * times)
        assert same(index.search_batch(np.tile(queries, (2 * times, 1)), 50, threads=2), expected * 2 * times)
    else:
        assert same(index.search_batch(queries, 50, threads=1 + (how == "threads")), expected)


@pytest.mark.parametrize("share", [0.999, 0.9, 0.5, 0.2, 0.01])
def test_an_exact_search_under_a_filter_is_the_search_over_what_is_allowed(flat, queries, share):
    allowed, live = (np.random.default_rng(seed).random(COUNT) < share for seed in (4, 5))
    for index, mask in ((flat, allowed), (flat.seen(live), allowed & live)):
        can_be_found = mask.copy()
        can_be_found[WITHOUT] = False
        expected = []
        for query in queries:
            scores = flat.scores(query, np.arange(COUNT))
            best = ranked(scores, can_be_found)[:20]
            expected.append((scores[best], best))
        assert same(index.search_batch(queries, 20, allowed=allowed), expected)
        assert same([index.search(query, 20, allowed=allowed) for query in queries[:5]], expected[:5])


@pytest.mark.parametrize("form", FORMS)
def test_candidates_of_every_form_are_found_under_filters_too(flat, vectors, queries, form):
    index = build(vectors, flat.options.similarity, form, without=WITHOUT)
    least = 0.75 if form.startswith("PCA") else 0.9 if "PQ8x4" in form else 0.97
    rng = np.random.default_rng(8)
    for share in (1.0, 0.999, 0.95, 0.3, 0.02):
        allowed = rng.random(COUNT) < share
        exact = flat.search_batch(queries, allowed=allowed)
        found = index.search_batch(queries, allowed=allowed)
        assert all(len(docs) == 10 and np.all(allowed[docs]) for _, docs in found)
        assert not any(np.isin(docs, WITHOUT).any() for _, docs in found)
        assert recall(found, exact) >= least, share
        for query, (scores, docs) in zip(queries, found, strict=True):
            assert np.array_equal(scores, flat.scores(query, docs))  # exact, whatever found them
            assert np.array_equal(ranked(scores), np.arange(10)) or len(set(scores)) < 10


def test_a_form_without_filters_of_its_own_finds_as_much_under_one():
    """More than FEW are allowed, and more than FEW_LEFT_OUT are not."""
    vectors, queries = clumped(3 * FEW), clumped(40, seed=1)
    exact, allowed = build(vectors, "cosine"), np.random.default_rng(3).random(3 * FEW) < 0.5
    assert FEW < np.count_nonzero(allowed) < 3 * FEW - FEW_LEFT_OUT
    for form in ("PQ8x4", "RaBitQfs", "HNSW8", "IVF64,SQ4", "SQ4"):
        index = build(vectors, "cosine", form)
        unfiltered = recall(index.search_batch(queries), exact.search_batch(queries))
        found = index.search_batch(queries, allowed=allowed)
        assert all(np.all(allowed[docs]) for _, docs in found)
        assert recall(found, exact.search_batch(queries, allowed=allowed)) >= unfiltered - 0.01
        seen = index.seen(allowed)
        assert recall(seen.search_batch(queries), exact.seen(allowed).search_batch(queries)) >= unfiltered - 0.01


def test_an_approximate_search_always_finds_k(vectors, queries):
    index = build(vectors, factory="IVF64,SQ8", without=WITHOUT)
    for k in (200, 10_000):
        for scores, docs in index.search_batch(queries[:3], k, parameters=DenseSearch(nprobe=1)):
            assert len(scores) == len(set(docs.tolist())) == min(k, COUNT - len(WITHOUT))


def test_search_parameters_are_those_of_one_call(vectors, queries):
    exact = build(vectors).search_batch(queries)
    index = build(vectors, factory="IVF64,SQ8")
    few, many = DenseSearch(nprobe=1), DenseSearch(nprobe=64)
    alone = {parameters: index.search_batch(queries, parameters=parameters) for parameters in (few, many)}
    assert recall(alone[few], exact) < recall(alone[many], exact) == 1
    with ThreadPoolExecutor(4) as pool:
        beside = list(pool.map(lambda p: index.search_batch(queries, parameters=p), [few, many] * 8))
    assert all(same(found, alone[(few, many)[i % 2]]) for i, found in enumerate(beside))
    coarse = build(vectors, factory="PQ4x4")
    reached = [
        recall(coarse.search_batch(queries, parameters=DenseSearch(rescored=times)), exact) for times in (1, 5, 100)
    ]
    assert reached[0] < reached[1] < reached[2]


def test_a_search_looks_the_harder_the_fewer_of_those_it_passes_may_be_found(vectors):
    graph, lists = build(vectors, factory="HNSW16"), build(vectors, factory="IVF64,SQ8")
    for share in (1, 0.5, 0.25):
        assert graph._wish(graph.codes, 30, share, DenseSearch(ef_search=40)).ef_search == 40 / share
        assert lists._wish(lists.codes, 30, share, DenseSearch(nprobe=4)).nprobe == 4 / share
    assert lists._wish(lists.codes, 30, 0.001, DenseSearch(nprobe=4)).nprobe == 64
    assert graph._wish(graph.codes, 30, 0.001, DenseSearch(ef_search=40)).ef_search == COUNT


def test_approximate_answers_do_not_depend_on_batches_or_threads(vectors, queries):
    for form in ("PQ8x4", "IVF16,PQ16x4fs", "RR,RaBitQ", "HNSW16"):
        index = build(vectors, factory=form)
        together = index.search_batch(queries)
        assert same(index.search_batch(queries, threads=2), together)
        assert same([index.search(query) for query in queries], together)


def test_an_index_merged_from_others_is_the_one_built_of_their_documents(vectors, queries, monkeypatch):
    monkeypatch.setattr("index.dense.methods.FEW", 1_000)
    for factory in (None, "SQ8", "IVF16,PQ16x4fs"):
        for similarity in ("cosine", "dot"):
            options = DenseIndexOptions(32, similarity, factory)
            cuts = [(0, 3_000), (3_000, 3_100), (3_100, COUNT)]
            parts = [
                DenseIndex.build_into(
                    None,
                    vectors[a:b],
                    options,
                    without=np.intersect1d(WITHOUT, np.arange(a, b)) - a,
                    progress=False,
                )
                for a, b in cuts
            ]
            live = np.random.default_rng(1).random(COUNT) < 0.8
            masks = [live[a:b] for a, b in cuts]
            merged = DenseIndex.merge_into(None, parts, live=masks, progress=False)
            seen = [part.seen(mask) for part, mask in zip(parts, masks, strict=True)]
            assert np.array_equal(DenseIndex.merge_into(None, seen, progress=False).vectors, merged.vectors)
            has_none = np.zeros(COUNT, bool)
            has_none[WITHOUT] = True
            whole = build(vectors[live], similarity, factory, without=np.flatnonzero(has_none[live]))
            assert merged.description() == whole.description()
            assert np.array_equal(merged.vectors, whole.vectors)
            assert same(merged.search_batch(queries), whole.search_batch(queries))
            assert merged.damage() is None


def test_a_part_of_a_collection_that_is_too_small_to_train_is_searched_exactly_until_it_is_merged(vectors, monkeypatch):
    monkeypatch.setattr("index.dense.methods.FEW", 1_000)
    options = DenseIndexOptions(32, factory="IVF64,SQ8")
    parts = [
        DenseIndex.build_into(
            None, vectors[1 + 1_000 * i : 1_001 + 1_000 * i], options, without=[16] if i == 0 else None, progress=False
        )
        for i in range(4)
    ]
    assert parts[0].codes is None
    assert "fewer than" in parts[0].method
    merged = DenseIndex.merge_into(None, parts, progress=False)
    assert merged.codes is not None
    assert merged.options == options
    parameters = DenseSearch(nprobe=3)
    assert len(parts[0].search(vectors[1], parameters=parameters)[0]) == len(
        merged.search(vectors[1], parameters=parameters)[0]
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_are_converted(dtype):
    vectors = clumped(50).astype(dtype)
    assert np.array_equal(build(vectors).stored_rows(np.arange(50)), vectors.astype(np.float32))


def test_the_callers_vectors_are_copied_and_left_alone():
    vectors = clumped(50)
    before = vectors.copy()
    index = build(vectors, "cosine")
    assert np.array_equal(vectors, before)
    stored = index.stored_rows([3]).copy()
    vectors[:] = 0
    assert np.array_equal(index.stored_rows([3]), stored)


def with_one(value, row=3, dtype=np.float32):
    vectors = clumped(40, 8).astype(dtype)
    vectors[row, 5] = value
    return vectors


def zeros_at(row):
    vectors = clumped(40, 8)
    vectors[row] = 0
    return vectors


@pytest.mark.parametrize(
    ("vectors", "without", "said"),
    [
        (clumped(40, 9), None, "9 dimensions, the index has 8"),
        (with_one(np.nan), None, "document 3 holds nan"),
        (with_one(-np.inf), None, "document 3 holds -inf"),
        (with_one(1e30), None, "document 3 has a length of 1e+30"),
        (with_one(1e300, dtype=np.float64), None, "document 3 holds inf"),
        (zeros_at(7), None, "document 7 is all zeros"),
        (clumped(40, 8), [7], "document 7 is said to have no vector"),
        (zeros_at(7), [40], "from 0 to 39, ascending"),
        (zeros_at(7), [7, 7], "ascending"),
        (zeros_at(7), [7.0], "whole numbers"),
        (clumped(40, 8).astype(np.int64), None, "dtype int64"),
        (clumped(40, 8)[0], None, "shape (8,)"),
        ([[1.0, 2.0], [1.0]], None, "are no array"),
        (np.empty((0, 8), np.float32), None, "none of 0 documents"),
        (np.zeros((2, 8), np.float32), [0, 1], "none of 2 documents"),
    ],
)  # fmt: skip
def test_vectors_that_cannot_be_indexed_are_refused(vectors, without, said):
    with pytest.raises(InvalidVectorsError) as error:
        DenseIndex.build(vectors, DenseIndexOptions(8), without=without, progress=False)
    assert said in str(error.value)
    assert str(error.value).endswith(".")


def test_queries_that_cannot_be_answered_are_refused(flat):
    query = np.ones(32, np.float32)
    for wrong, said in (
        (query[:31], "31 dimensions"),
        (query * np.nan, "holds nan"),
        (query.astype(int), "dtype int64"),
        (query[np.newaxis], "shape (1, 32)"),
    ):
        with pytest.raises(InvalidVectorsError, match=said.replace("(", r"\(").replace(")", r"\)")):
            flat.search(wrong)
    for arguments, said in (
        ({"k": 0}, "k is 0"),
        ({"allowed": np.ones(3, bool)}, "filter has dtype bool and shape"),
        ({"parameters": {"nprobe": 3}}, "give DenseSearch"),
    ):
        with pytest.raises(WinnowError, match=said):
            flat.search(query, **arguments)
    for docs in ([-1], [COUNT], [0.5]):
        with pytest.raises(InvalidVectorsError, match="are not all of the"):
            flat.scores(query, docs)


def test_parameters_that_the_method_does_not_have_are_refused(vectors):
    index = build(vectors, factory="SQ8", without=WITHOUT)
    for parameters in (DenseSearch(nprobe=3), DenseSearch(ef_search=3)):
        with pytest.raises(InvalidVectorsError, match="this one is SQ8; leave it out"):
            index.search(vectors[1], parameters=parameters)
    for wrong in ({"nprobe": 0}, {"nprobe": 1.5}, {"ef_search": True}, {"rescored": 0.5}, {"rescored": float("nan")}):
        with pytest.raises(InvalidVectorsError, match="must be a"):
            DenseSearch(**wrong)


def test_indexes_of_different_options_are_not_merged():
    with pytest.raises(WinnowError, match="different options"):
        DenseIndex.merge_into(None, [build(PLANE), build(PLANE, "cosine")], progress=False)
    with pytest.raises(WinnowError, match="no index to merge"):
        DenseIndex.merge_into(None, [], progress=False)
    with pytest.raises(WinnowError, match="live has 2 entries"):
        DenseIndex.merge_into(None, [build(PLANE)], live=[None, None], progress=False)


def test_nothing_is_said_on_standard_error_and_threads_of_others_are_left_alone(vectors, queries, capfd):
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)
    try:
        build(vectors, factory="OPQ8,IVF64,PQ8", without=WITHOUT).search_batch(queries[:2])
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(before)
    assert capfd.readouterr() == ("", "")


def test_faiss_is_imported_only_where_it_is_used():
    import subprocess

    program = (
        "import sys, numpy as np; from index import DenseIndex, DenseIndexOptions, DenseSearch\n"
        "DenseIndexOptions(64, factory='HNSW32'), DenseSearch(nprobe=3); assert 'faiss' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_table_for_each_list_does_not_keep_an_index_from_being_read(tmp_path):
    """FAISS sizes it before it reads: far more than the file has, where lists are many and vectors few."""
    vectors = clumped(5_000)
    index = DenseIndex.build(vectors, DenseIndexOptions(vectors.shape[1], factory="IVF64,PQ16"), progress=False)
    index.save(tmp_path / "i")
    opened = DenseIndex.open(tmp_path / "i", verify="full")
    assert opened.search(vectors[7], 3)[1].tolist() == index.search(vectors[7], 3)[1].tolist()
