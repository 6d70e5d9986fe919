"""Every answer of the index equals the plain-Python definition: ids, float32 scores and the order of ties, bit for bit.

Seen to fail on these planted bugs: `>=` for `>` against the threshold in windowed_taat.search; `doc_a < doc_b` in
top_k.is_worse; windows counted one too few; a window not cleared; the last document of a window or the last posting of
a list left out; 254 levels; rounding down instead of half up; a level of 0; terms scored in the query's order; the
weight multiplied by the step before the impact; ties left unsorted.
"""

import numpy as np
import pytest
from collections_for_tests import as_pairs, brute_force, sparse_rows, stored_impacts
from hypothesis import example, given
from hypothesis import strategies as st

from index.inverted import InvertedIndex, InvertedIndexOptions
from index.vectors import SparseQuery
from kernels.cpu.postings import WINDOW

NUM_TERMS = 5
terms = st.integers(0, NUM_TERMS - 1)
few = st.sampled_from([1.0, 2.0, 3.0])  # so that equal scores are common
any_weight = st.floats(0, 100, width=32)
messy = st.integers(1, 10**6).map(lambda number: number / 7919)  # nearly every operation on these is rounded
odd = st.sampled_from([0.1, 0.7, 1e-3, 123.456, 1e-41, 3.3e5])  # sums depend on their order, one is denormal


def documents_of(weights, max_size=30):
    return st.lists(st.dictionaries(terms, weights), max_size=max_size)


@example(documents=[{0: 1.0}, {0: 1.0}, {0: 1.0}], query={0: 1.0}, k=2, impacts="u8")
@example(documents=[{0: 12.7, 1: 3.3}, {0: 5.1, 1: 0.9}], query={0: 1 / 7, 1: 0.3}, k=2, impacts="u8")
@example(documents=[{0: 0.1, 1: 0.7, 2: 123.456}], query={2: 0.1, 0: 3.3e5, 1: 0.7}, k=1, impacts="f32")
@given(
    documents=documents_of(few) | documents_of(any_weight) | documents_of(odd) | documents_of(messy),
    query=st.dictionaries(terms, few | any_weight | odd) | st.dictionaries(terms, messy),
    k=st.integers(1, 40),
    impacts=st.sampled_from(["u8", "u16", "f32"]),
)
def test_search_equals_brute_force(documents, query, k, impacts):
    index = InvertedIndex.build(sparse_rows(documents), InvertedIndexOptions(NUM_TERMS, impacts))
    answer = index.search(np.array(list(query), np.int64), np.array(list(query.values())), k)
    assert as_pairs(answer) == brute_force(stored_impacts(documents, impacts), query, k)


@given(documents=documents_of(any_weight), impacts=st.sampled_from(["u8", "u16"]))
def test_quantised_impacts_are_within_half_a_step(documents, impacts):
    index = InvertedIndex.build(sparse_rows(documents), InvertedIndexOptions(NUM_TERMS, impacts))
    for doc, document in enumerate(documents):
        for term, weight in document.items():
            step = index.postings.steps[term]
            stored = index.impacts(doc, np.array([term]))[0]
            if weight >= step / 2:
                assert abs(stored - weight) <= step * 0.5001
            else:  # a weight above 0 keeps a posting, of one step
                assert stored == (step if weight > 0 else 0)


@pytest.mark.parametrize("num_docs", [0, 1, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW + 3])
def test_windows_meet_without_gap_or_overlap(num_docs):
    rng = np.random.default_rng(num_docs)
    present = np.unique(rng.integers(0, max(num_docs, 1), 500))[: min(num_docs, 500)]
    present = np.union1d(present, [doc for doc in (0, WINDOW - 1, WINDOW, num_docs - 1) if 0 <= doc < num_docs])
    documents = [{} for _ in range(num_docs)]
    for doc in present.astype(int):
        documents[doc] = {int(term): float(rng.integers(1, 4)) for term in rng.integers(0, NUM_TERMS, 2)}
    index = InvertedIndex.build(sparse_rows(documents), InvertedIndexOptions(NUM_TERMS, "f32"))
    query = {0: 1.0, 3: 2.0}
    answer = index.search(np.array([3, 0]), np.array([2.0, 1.0]), 600)
    assert as_pairs(answer) == brute_force(stored_impacts(documents, "f32"), query, 600)


@given(
    documents=documents_of(few),
    queries=st.lists(st.dictionaries(terms, few), max_size=8),
    threads=st.integers(1, 4),
)
def test_a_batch_equals_its_queries_on_any_number_of_threads(documents, queries, threads):
    index = InvertedIndex.build(sparse_rows(documents), InvertedIndexOptions(NUM_TERMS))
    batch = [SparseQuery(np.array(list(q), np.int32), np.array(list(q.values()), np.float32)) for q in queries]
    answers = index.search_batch(batch, 3, threads)
    assert list(map(as_pairs, answers)) == [as_pairs(index.search(q.terms, q.weights, 3)) for q in batch]


@given(documents=documents_of(any_weight), impacts=st.sampled_from(["u8", "u16", "f32"]))
def test_an_opened_index_equals_the_built_one(documents, impacts, tmp_path_factory):
    index = InvertedIndex.build(sparse_rows(documents), InvertedIndexOptions(NUM_TERMS, impacts))
    folder = tmp_path_factory.mktemp("index") / "i"
    index.save(folder)
    opened = InvertedIndex.open(folder, verify="full")
    assert (opened.options, opened.num_docs) == (index.options, index.num_docs)
    for built, mapped in zip(index.postings, opened.postings, strict=True):
        np.testing.assert_array_equal(built, mapped)
        assert built.dtype == mapped.dtype
