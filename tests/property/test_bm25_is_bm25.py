"""BM25 of a retriever is BM25 in plain Python on the same tokens: bit for bit as docs/format.md rounds it, however the documents
came, and within float32 of the formula.
"""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval import Retriever
from retrieval.encoders.bm25 import BM25Encoder, BM25Options

words = st.sampled_from(["tea", "milk", "coffe", "sugar", "cup"])  # each its own stem
texts = st.lists(st.lists(words, max_size=8).map(" ".join), min_size=1, max_size=12)


def plain_bm25(texts, query, k1, b, number):
    """[(score, document), ...] best first. `number` rounds after each operation: np.float32 as the index does, or float."""
    counts = {doc: Counter(text.split()) for doc, text in texts.items()}
    lengths = {doc: sum(count.values()) for doc, count in counts.items()}
    num_docs = sum(length > 0 for length in lengths.values())
    mean_length = sum(lengths.values()) / num_docs if num_docs else 1
    frequency = Counter(token for count in counts.values() for token in count)
    asked = Counter(query)
    slope = k1 * b / mean_length
    scored = []
    for doc, count in counts.items():
        half = number(number(k1 * (1 - b)) + number(number(slope) * number(lengths[doc])))
        score = number(0)
        for token in sorted(set(query) & set(count)):
            idf = math.log(1 + (num_docs - frequency[token] + 0.5) / (frequency[token] + 0.5))
            impact = number(number(count[token]) / number(number(count[token]) + half))
            score = number(score + number(number(asked[token] * idf) * impact))
        if score > 0:
            scored.append((float(score), doc))
    return sorted(scored, key=lambda entry: (-entry[0], entry[1]))


@given(
    texts=texts,
    query=st.lists(words, max_size=5),
    k1=st.sampled_from([0.0, 0.9, 1.2]),
    b=st.sampled_from([0, 0.4, 1]),
    cuts=st.lists(st.integers(0, 12), max_size=2).map(sorted),
    deleted=st.sets(st.integers(0, 11), max_size=6),
)
def test_scores_equal_plain_bm25(texts, query, k1, b, cuts, deleted):
    retriever = Retriever(BM25Encoder(BM25Options(k1, b)))
    numbered = list(enumerate(texts))
    for first, past_last in zip([0, *cuts], [*cuts, len(texts)], strict=True):
        some = [{"_id": str(number), "text": text} for number, text in numbered[first:past_last]]
        if some:
            retriever.index(some, progress=False)
    left = {number: text for number, text in numbered if number not in deleted}
    retriever.delete([str(number) for number in deleted])
    retriever.commit(merge=False)
    if not left:
        assert len(retriever) == 0
        return
    found = [(hit.score, int(hit.doc_id)) for hit in retriever.search(" ".join(query), 20)]
    assert found == plain_bm25(left, query, k1, b, np.float32)
    by_formula = {doc: score for score, doc in plain_bm25(left, query, k1, b, float)}
    assert {doc: score for score, doc in found} == pytest.approx(by_formula, rel=1e-6)
