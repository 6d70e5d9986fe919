import math

import numpy as np
import pytest

from index.errors import WinnowError
from retrieval import Document, Retriever
from retrieval.encoders.bm25 import BM25Encoder, BM25Options


def test_a_score_is_idf_times_saturated_count():
    texts = ["tea tea milk", "milk", ""]
    retriever = Retriever.from_pretrained("bm25").index(
        [{"_id": str(number), "text": text} for number, text in enumerate(texts)], progress=False
    )
    documents, with_tea, length, mean_length = 2, 1, 3, (3 + 1) / 2  # the empty document does not count
    idf = math.log(1 + (documents - with_tea + 0.5) / (with_tea + 0.5))
    half = 0.9 * (1 - 0.4 + 0.4 * length / mean_length)
    (match,) = retriever.explain("Tea, tea and coffee", "0").terms
    assert match.term == "tea"
    assert match.weight == np.float32(2 * idf)  # the query says it twice
    assert match.impact == pytest.approx(2 / (2 + half), rel=1e-7)


def test_the_vocabulary_is_sorted_and_its_statistics_are_counted():
    vectors, options, statistics, vocabulary, _ = BM25Encoder().encode_documents(
        [Document("1", text="milk tea"), Document("2", text="apple tea tea"), Document("3")]
    )
    assert [vocabulary[number] for number in range(options.num_terms)] == ["appl", "milk", "tea"]
    assert (vectors.indptr.tolist(), vectors.indices.tolist(), vectors.data.tolist()) == (
        [0, 2, 4, 4],
        [1, 2, 0, 2],
        [1, 1, 1, 2],
    )
    assert (statistics.documents, statistics.length, statistics.document_frequency.tolist()) == (2, 5, [1, 1, 2])


@pytest.mark.parametrize(("k1", "b"), [(-1, 0.4), (0.9, 1.1), (float("nan"), 0.4), (float("inf"), 0.4)])
def test_parameters_out_of_range_are_refused(k1, b):
    with pytest.raises(WinnowError, match="k1 must be 0 or greater, b between 0 and 1"):
        BM25Options(k1, b)


def test_counts_are_stored_as_they_are():
    with pytest.raises(WinnowError, match="bm25 stores term counts as they are; leave impacts='u8' out"):
        Retriever.from_pretrained("bm25", impacts="u8")
