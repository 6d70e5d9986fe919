"""Reranking as a stage of a search: what the reranker is given, and what comes of its answer."""

import time

import numpy as np
import pytest
from encoders_for_tests import HashedWords
from rerankers_for_tests import Answering, LongestFirst

from index.errors import DeadlineError, WinnowError
from retrieval import Fusion, Retriever
from retrieval.encoders.bm25 import BM25Encoder
from retrieval.rerankers import stage
from retrieval.rerankers.protocol import Ranked
from retrieval.rerankers.stage import DEFAULT_DEPTH, Stage

CORPUS = [
    {"_id": "a", "text": "tea tea tea", "year": 1990},
    {"_id": "b", "title": "Tea", "text": "and tea again, with milk", "year": 2000},
    {"_id": "c", "text": "tea and rain over the sea, which is the longest text of all", "year": 2010},
    {"_id": "d", "text": "nothing of the kind", "year": 2020},
    {"_id": "e", "text": "tea rain sea", "year": 2020},
]
LENGTHS = {one["_id"]: len(f"{one.get('title', '')} {one['text']}".strip()) for one in CORPUS}


@pytest.fixture(scope="module")
def retriever():
    return Retriever(BM25Encoder()).index(CORPUS, progress=False)


def test_the_best_of_the_search_come_in_the_order_of_the_reranker(retriever):
    first = retriever.search("tea", 10)
    assert {hit.doc_id for hit in first} == {"a", "b", "c", "e"}
    hits = retriever.search("tea", 10, rerank=LongestFirst())
    assert [hit.doc_id for hit in hits] == sorted(["a", "b", "c", "e"], key=lambda doc_id: -LENGTHS[doc_id])
    assert [hit.rank for hit in hits] == [1, 2, 3, 4]
    assert [hit.score for hit in hits] == [LENGTHS[hit.doc_id] for hit in hits]
    before = {hit.doc_id: (hit.rank, hit.score) for hit in first}
    assert {hit.doc_id: (hit.first_rank, hit.first_score) for hit in hits} == before
    assert [(hit.title, hit.text, hit.fields) for hit in hits if hit.doc_id == "b"] == [
        ("Tea", "and tea again, with milk", {"year": 2000})
    ]


def test_the_reranker_reads_title_and_text_of_depth_documents_in_the_order_of_the_search(retriever):
    first = retriever.search("tea", 10)
    reranker = LongestFirst()
    hits = retriever.search("tea", 2, rerank=reranker, depth=3)
    ((query, texts),) = reranker.asked
    assert query == "tea"
    assert texts == [f"{hit.title} {hit.text}".strip() for hit in first[:3]]
    assert [hit.doc_id for hit in hits] == sorted((hit.doc_id for hit in first[:3]), key=lambda doc_id: -LENGTHS[doc_id])[:2]  # fmt: skip


def test_equal_scores_keep_the_order_of_the_search(retriever):
    corpus = [{"_id": name, "text": text} for name, text in zip("wxyz", ["tea sea", "sea tea", "tea tea", "sea sea"], strict=True)]  # fmt: skip
    equal = Retriever(BM25Encoder()).index(corpus, progress=False)
    hits = equal.search("tea", 10, rerank=LongestFirst())
    assert [hit.doc_id for hit in hits] == [hit.doc_id for hit in equal.search("tea", 10)] == ["y", "w", "x"]


def test_a_hundred_documents_are_reranked_unless_told():
    many = Retriever(BM25Encoder()).index([{"_id": f"{i}", "text": "tea " * (i % 7 + 1)} for i in range(130)], progress=False)  # fmt: skip
    reranker = LongestFirst()
    many.search("tea", rerank=reranker)
    many.search("tea", rerank=reranker, depth=120)
    assert [len(texts) for _, texts in reranker.asked] == [DEFAULT_DEPTH, 120] == [100, 120]


def test_without_a_reranker_nothing_of_a_hit_speaks_of_one(retriever):
    assert {(hit.first_rank, hit.first_score, hit.probability) for hit in retriever.search("tea")} == {(None,) * 3}


def test_a_probability_of_the_reranker_is_the_hits(retriever):
    assert {hit.probability for hit in retriever.search("tea", rerank=LongestFirst(0.25))} == {0.25}


def test_unstored_hits_are_reranked_by_their_texts_all_the_same(retriever):
    hits = retriever.search("tea", rerank=LongestFirst(), stored=False)
    assert [hit.doc_id for hit in hits] == [hit.doc_id for hit in retriever.search("tea", rerank=LongestFirst())]
    assert {(hit.title, hit.text) for hit in hits} == {("", "")}
    assert not any(hit.fields for hit in hits)


def test_a_filter_and_a_fusion_hold_before_the_reranker(retriever):
    reranker = LongestFirst()
    hits = retriever.search("tea", rerank=reranker, filter={"year": {"$lt": 2005}})
    assert [hit.doc_id for hit in hits] == ["b", "a"]
    both = Retriever(BM25Encoder(), HashedWords()).index(CORPUS, progress=False)
    fusion = Fusion(weights={"bm25": 1})
    found = both.search("tea", rerank=reranker, fusion=fusion)
    assert {hit.doc_id for hit in found} == {"a", "b", "c", "e"}  # the other arm finds "d" too
    assert {hit.doc_id for hit in both.search("tea", rerank=reranker)} == {"a", "b", "c", "d", "e"}


def test_a_query_that_finds_nothing_has_no_hits(retriever):
    assert retriever.search("unheard", rerank=LongestFirst()) == []


def test_a_batch_answers_like_single_searches(retriever, monkeypatch):
    monkeypatch.setattr(stage, "QUERIES_TOGETHER", 2)
    queries = ["tea", "rain", "unheard", "sea", "kind"]
    expected = [retriever.search(query, 2, rerank=LongestFirst(), depth=3) for query in queries]
    assert retriever.search_batch(queries, 2, rerank=LongestFirst(), depth=3, threads=1) == expected
    assert retriever.search_batch([], rerank=LongestFirst()) == []


def test_a_deadline_is_of_the_search_and_not_of_the_reranker(retriever):
    class Slow(LongestFirst):
        def ranked(self, one, top_k):
            time.sleep(0.7)
            return super().ranked(one, top_k)

    assert len(retriever.search("tea", rerank=Slow(), deadline=0.6)) == 4


def test_the_deadline_of_a_batch_is_not_used_up_by_reranking(retriever, monkeypatch):
    class Slow(LongestFirst):
        def ranked(self, one, top_k):
            time.sleep(0.7)
            return super().ranked(one, top_k)

    monkeypatch.setattr("retrieval.hybrid.QUERIES_TOGETHER", 1)
    monkeypatch.setattr(stage, "QUERIES_TOGETHER", 1)
    assert len(retriever.search_batch(["tea", "sea"], rerank=Slow(), deadline=0.6)) == 2


def test_a_late_arm_is_told_or_done_without_as_before(retriever):
    class Late(HashedWords):
        def encode_query(self, text):
            time.sleep(0.5)
            return super().encode_query(text)

    slow = Retriever(BM25Encoder(), Late()).index(CORPUS, progress=False)
    with pytest.raises(DeadlineError):
        slow.search("tea", rerank=LongestFirst(), deadline=0.05)
    hits = slow.search("tea", rerank=LongestFirst(), deadline=0.05, partial=True)
    assert list(hits.missing) == ["hashed"]
    assert hits[0].doc_id == "c"


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"k": 101}, "k is 101, but only 100 documents are reranked"),
        ({"k": 3, "depth": 2}, "k is 3, but only 2 documents are reranked"),
        ({"depth": 0}, "depth is 0; it must be a whole number"),
        ({"k": 0}, "k is 0; it must be a whole number"),
        ({"query": {"tea": 1.0}}, "the query is dict .*a reranker reads words"),
        ({"query": np.zeros(3)}, "the query is ndarray .*a reranker reads words"),
        ({"query": "\ud800"}, "not valid Unicode"),
        ({"rerank": "blockrank:folder"}, r"rerank is 'blockrank:folder'; give a reranker, as load_reranker"),
        ({"rerank": LongestFirst.rank}, "give a reranker"),
        ({"rerank": None, "depth": 5}, "depth is 5, but nothing is reranked"),
    ],
)
def test_what_cannot_be_reranked_is_one_sentence(retriever, asked, told):
    asked = {"query": "tea", "rerank": LongestFirst(), **asked}
    query = asked.pop("query")
    with pytest.raises(WinnowError, match=told):
        retriever.search(query, **asked)
    with pytest.raises(WinnowError, match=told):
        retriever.search_batch([query], **asked)


@pytest.mark.parametrize(
    ("ranking", "told"),
    [
        ([Ranked(0, 1.0), Ranked(0, 0.5)], "answering ranks document 0 of 4, which is not there or was ranked before"),
        ([Ranked(4, 1.0)], "ranks document 4 of 4"),
        ([Ranked(-1, 1.0)], "ranks document -1 of 4"),
        ([Ranked(1, float("nan"))], "answering scores document 1 with NaN"),
    ],
)
def test_a_ranking_that_cannot_be_is_not_believed(retriever, ranking, told):
    with pytest.raises(WinnowError, match=told):
        retriever.search("tea", rerank=Answering(*ranking))


def test_a_reranker_may_leave_documents_out_and_gives_no_more_than_k(retriever):
    assert len(retriever.search("tea", rerank=Answering(Ranked(2, 1.0)))) == 1
    every = [Ranked(index, 1.0) for index in (3, 0, 2, 1)]
    assert [hit.first_rank for hit in retriever.search("tea", 2, rerank=Answering(*every))] == [4, 1]


def test_documents_without_a_text_cannot_be_reranked():
    vectors = Retriever.from_pretrained("vectors")
    vectors.index([{"_id": "a", "vector": {"tea": 2.0}}, {"_id": "b", "vector": {"tea": 1.0}}], progress=False)
    with pytest.raises(WinnowError, match=r"none of the 2 documents found, 'a' first, has a title or a text"):
        vectors.search("tea", rerank=LongestFirst())
    vectors.add([{"_id": "c", "text": "green tea", "vector": {"tea": 0.5}}], progress=False).commit(progress=False)
    assert [hit.doc_id for hit in vectors.search("tea", rerank=LongestFirst())] == ["c", "a", "b"]


def test_the_explanation_is_of_the_first_stage(retriever):
    hit = retriever.search("tea", 1, rerank=LongestFirst(), depth=4)[0]
    assert retriever.explain("tea", hit.doc_id, 4).score == hit.first_score


def test_a_stage_without_a_reranker_asks_for_k():
    assert Stage.of(7, True, None, None).wanted == 7
    assert Stage.of(7, True, LongestFirst(), 20).wanted == 20
