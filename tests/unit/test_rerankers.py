"""What all rerankers do alike: texts, checks, the order; and which one a name stands for."""

import numpy as np
import pytest

from index.documents import Document
from index.errors import ModelError, WinnowError
from retrieval.rerankers import loading
from retrieval.rerankers.protocol import Ranked, best_first, list_to_rank, lists_to_rank, texts_of

GIVEN = ["  tea ", {"_id": "b", "title": "Tea", "text": "green"}, {"text": "black"}, Document("d", "Milk", "cold")]


def test_the_text_of_a_document_is_its_title_and_text_as_an_encoder_sees_them():
    assert texts_of(GIVEN) == ["tea", "Tea green", "black", "Milk cold"]
    assert texts_of([{"title": "Tea", "text": None}, Document("d"), ""]) == ["Tea", "", ""]
    assert texts_of(text for text in ["a", "b"]) == ["a", "b"]
    assert texts_of([]) == []


@pytest.mark.parametrize(
    ("documents", "told"),
    [
        ("tea", "must be a list of texts or documents"),
        ({"text": "tea"}, "must be a list of texts or documents"),
        (7, "documents is int 7"),
        (["tea", 7], "document 1 is int 7; it must be a string"),
        (["tea", None], "document 1 is NoneType"),
        ([{"_id": "a", "body": "tea"}], "document 0 has the fields '_id, body'; it needs a text"),
        ([{"text": ["tea"]}], "the text of document 0 is list"),
        (["\ud800"], "not valid Unicode"),
    ],
)
def test_what_is_no_document_is_one_sentence(documents, told):
    with pytest.raises(WinnowError, match=told):
        list_to_rank("tea", documents)


@pytest.mark.parametrize("query", [None, 7, ["tea"], "\ud800"])
def test_what_is_no_query_is_one_sentence(query):
    with pytest.raises(WinnowError, match="the query"):
        list_to_rank(query, ["tea"])


def test_each_query_has_a_list_of_its_own():
    assert lists_to_rank(["a", "b"], [["x"], []]) == [("a", ["x"]), ("b", [])]
    with pytest.raises(WinnowError, match="2 queries and 1 lists"):
        lists_to_rank(["a", "b"], [["x"]])
    with pytest.raises(WinnowError, match="queries is str 'a'"):
        lists_to_rank("a", [["x"]])
    with pytest.raises(WinnowError, match="list of lists"):
        lists_to_rank(["a"], "x")


def test_equal_scores_keep_the_order_they_came_in():
    scores = [1.0, 3.0, 1.0, 3.0, -np.inf, 2.0]
    assert best_first(scores) == [1, 3, 5, 0, 2, 4]
    assert best_first(scores, 3) == [1, 3, 5]
    assert best_first(scores, 99) == [1, 3, 5, 0, 2, 4]
    many = np.random.default_rng(3).integers(0, 4, 500) / 8
    assert best_first(many) == sorted(range(500), key=lambda index: (-many[index], index))
    assert best_first([]) == []


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(WinnowError, match="document 2 with NaN"):
        best_first([1.0, 2.0, np.nan])


@pytest.mark.parametrize("top_k", [0, -1, 1.5, True, "3"])
def test_top_k_is_a_whole_number(top_k):
    with pytest.raises(WinnowError, match=r"top_k is .*; it must be a whole number of at least 1"):
        best_first([1.0, 2.0], top_k)


@pytest.mark.parametrize(
    "written", ["blockrank", "blockrank:", "colbert:x", "", ":x", None, "BLOCKRANK:x", "some/model"]
)
def test_an_unknown_kind_of_reranker_is_one_sentence_with_the_kinds(written):
    with pytest.raises(ModelError, match=r"the reranker is .*blockrank, cross-encoder, icr.*, a colon and a model"):
        loading.load_reranker(written)


def test_a_kind_is_given_its_model_and_options(monkeypatch):
    asked = []

    def from_pretrained(model, *, dtype="float32"):
        asked.append((model, dtype))
        return "made"

    monkeypatch.setitem(loading.KINDS, "icr", lambda: from_pretrained)
    assert loading.load_reranker("icr:owner/model:tag", dtype="bfloat16") == "made"  # only the first colon parts
    assert asked == [("owner/model:tag", "bfloat16")]
    with pytest.raises(WinnowError, match="icr has no option depth; it has dtype"):
        loading.load_reranker("icr:model", depth=3)


def test_a_ranked_document_has_no_mass_or_probability_unless_its_reranker_says():
    assert Ranked(3, 0.5) == Ranked(index=3, score=0.5, mass=None, probability=None)
