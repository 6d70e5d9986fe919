import math

import numpy as np
import pytest

from index.errors import WinnowError
from index.vectors import empty_rows
from retrieval.encoders.bm25 import BM25Encoder, BM25Options


def test_impact_is_idf_times_saturated_count():
    encoder, counts = BM25Encoder().encode_documents(["tea tea milk", "milk", ""], empty_rows())
    impacts = encoder.impacts(counts)
    tea = encoder.vocabulary.find("tea")
    documents, with_tea, length, mean_length = 2, 1, 3, (3 + 1) / 2  # the empty document does not count
    idf = math.log(1 + (documents - with_tea + 0.5) / (with_tea + 0.5))
    saturation = 0.9 * (1 - 0.4 + 0.4 * length / mean_length)
    assert impacts.data[impacts.indices == tea].tolist() == [np.float32(idf * 2 / (2 + saturation))]


def test_a_query_weighs_a_term_by_how_often_it_says_it():
    encoder, _ = BM25Encoder().encode_documents(["tea milk"], empty_rows())
    terms, weights = encoder.encode_query("Tea, tea and coffee")
    assert [encoder.term(term) for term in terms] == ["tea"]
    assert weights.tolist() == [2]


def test_the_vocabulary_does_not_depend_on_the_order_of_additions():
    both, counts_of_both = BM25Encoder().encode_documents(["milk tea", "apple"], empty_rows())
    first, counts = BM25Encoder().encode_documents(["milk tea"], empty_rows())
    second, counts = first.encode_documents(["apple"], counts)
    assert (
        [second.term(t) for t in range(second.num_terms)] == [both.term(t) for t in range(3)] == ["appl", "milk", "tea"]
    )
    for one, other in zip(counts, counts_of_both, strict=True):
        np.testing.assert_array_equal(one, other)
    assert first.num_terms == 2  # growing gave a new encoder


@pytest.mark.parametrize(("k1", "b"), [(-1, 0.4), (0.9, 1.1), (float("nan"), 0.4), (float("inf"), 0.4)])
def test_parameters_out_of_range_are_refused(k1, b):
    with pytest.raises(WinnowError, match="k1 must be 0 or greater, b between 0 and 1"):
        BM25Options(k1, b)
