"""BM25 scores equal a plain-Python BM25 on the same tokens: exactly with float32 impacts, within the step by default."""

import math
from collections import Counter

import numpy as np
import pytest
from collections_for_tests import as_pairs, brute_force, stored_impacts
from hypothesis import given
from hypothesis import strategies as st

from index.inverted import InvertedIndex
from index.options import InvertedIndexOptions
from index.vectors import empty_rows
from retrieval.encoders.bm25 import BM25Encoder, BM25Options

words = st.sampled_from(["tea", "milk", "coffee", "sugar", "cup"])
texts = st.lists(st.lists(words, max_size=8).map(" ".join), max_size=12)


def plain_bm25(texts, k1, b):
    """[{token: impact}, ...] by the formula, in Python floats, rounded once to float32."""
    counts = [Counter(text.split()) for text in texts]
    lengths = [sum(count.values()) for count in counts]
    num_docs = sum(length > 0 for length in lengths)
    mean_length = sum(lengths) / num_docs if num_docs else 1
    frequency = Counter(token for count in counts for token in count)
    return [
        {
            token: np.float32(
                math.log(1 + (num_docs - frequency[token] + 0.5) / (frequency[token] + 0.5))
                * tf
                / (tf + k1 * (1 - b + b * length / mean_length))
            )
            for token, tf in count.items()
        }
        for count, length in zip(counts, lengths, strict=True)
    ]


def stems(token):
    return {"coffee": "coffe"}.get(token, token)


@given(
    texts=texts,
    query=st.lists(words, max_size=5),
    k1=st.sampled_from([0.0, 0.9, 1.2]),
    b=st.sampled_from([0, 0.4, 1]),
    cut=st.integers(0, 12),
)
def test_scores_equal_plain_bm25(texts, query, k1, b, cut):
    encoder = BM25Encoder(BM25Options(k1, b))
    counts = empty_rows()
    for part in (texts[:cut], texts[cut:]):  # in one go or two, the collection is the same
        encoder, counts = encoder.encode_documents(part, counts)
    expected = plain_bm25(texts, k1, b)
    numbered = [{encoder.vocabulary.find(stems(t)): w for t, w in document.items()} for document in expected]
    for impacts in ("f32", "u8"):
        options = InvertedIndexOptions(encoder.num_terms, impacts)
        index = InvertedIndex.build(encoder.impacts(counts), options)
        terms, weights = encoder.encode_query(" ".join(query))
        numbered_query = dict(zip(terms.tolist(), weights.tolist(), strict=True))
        assert sum(numbered_query.values()) == sum(any(word in text.split() for text in texts) for word in query)
        answer = as_pairs(index.search(terms, weights, 20))
        # u8: the definition over quantised impacts, which differ from BM25 by half a step of each term at most
        assert answer == brute_force(stored_impacts(numbered, impacts), numbered_query, 20)
        exact = {doc: score for score, doc in brute_force(stored_impacts(numbered, "f32"), numbered_query, 20)}
        bound = sum(weight * float(index.forward.steps[term]) / 2 for term, weight in numbered_query.items())
        for score, doc in answer:
            assert score == pytest.approx(exact[doc], abs=(0 if impacts == "f32" else bound * 1.001 + 1e-6), rel=0)
