"""`winnow search --rerank`: what it prints, and what it refuses."""

import json

import pytest
from cross_encoders_for_tests import bert
from rerankers_for_tests import LongestFirst

from retrieval import Retriever
from retrieval.rerankers import loading
from winnow.cli import main

CORPUS = [
    {"_id": "a", "title": "Tea", "text": "tea and tea"},
    {"_id": "b", "text": "tea with milk, which is the longest text of all"},
    {"_id": "c", "text": "tea rain"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index") / "i"
    Retriever.from_pretrained("bm25").index(CORPUS, progress=False).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def longest(monkeypatch):
    asked = []

    def from_pretrained(model, *, dtype="float32"):
        asked.append((model, dtype))
        return LongestFirst()

    monkeypatch.setitem(loading.KINDS, "icr", lambda: from_pretrained)
    return asked


def failure(capsys, arguments):
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_hits_come_in_the_order_of_the_reranker_with_what_they_were_before(folder, longest, capsys):
    assert main(["search", folder, "tea", "-k", "2", "--rerank", "icr:some/model", "-o", "dtype=bfloat16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = Retriever.from_folder(folder).search("tea")
    place = {hit.doc_id: f"     before reranking: {hit.rank}. with {hit.score:.3f}" for hit in first}
    assert lines[0].split() == ["1", "47.000", "b"]
    assert lines[2] == place["b"]
    assert lines[4].split() == ["2", "15.000", "a", "Tea"]
    assert lines[6] == place["a"]
    assert longest == [("some/model", "bfloat16")]


def test_json_has_both_scores_and_without_a_reranker_neither(folder, longest, capsys):
    assert main(["search", folder, "tea", "--rerank", "icr:m", "--json"]) == 0
    first = {hit.doc_id: hit for hit in Retriever.from_folder(folder).search("tea")}
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert [hit["doc_id"] for hit in hits] == ["b", "a", "c"]
    for hit in hits:
        assert (hit["first_rank"], hit["first_score"]) == (first[hit["doc_id"]].rank, first[hit["doc_id"]].score)
        assert "probability" not in hit
    assert main(["search", folder, "tea", "--json"]) == 0
    (*_, last) = json.loads(capsys.readouterr().out)["hits"]
    assert list(last) == ["rank", "doc_id", "score", "title", "text", "fields"]


def test_the_explanation_is_of_the_score_before(folder, longest, capsys):
    assert main(["search", folder, "tea", "-k", "1", "--rerank", "icr:m", "--explain", "--json"]) == 0
    (hit,) = json.loads(capsys.readouterr().out)["hits"]
    assert sum(term["contribution"] for term in hit["terms"]) == pytest.approx(hit["first_score"])


def test_depth_is_what_the_reranker_is_given(folder, longest, capsys):
    best = Retriever.from_folder(folder).search("tea", 1)[0].doc_id
    assert main(["search", folder, "tea", "-k", "1", "--rerank", "icr:m", "--depth", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hits"][0]["doc_id"] == best == "a"


def test_a_real_cross_encoder_reranks(folder, tmp_path, capsys):
    model = bert(tmp_path / "model")
    assert main(["search", folder, "tea", "--rerank", f"cross-encoder:{model}", "-o", "max_length=20", "--json"]) == 0
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert sorted(hit["first_rank"] for hit in hits) == [1, 2, 3]
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["tea", "--depth", "5"], "depth is 5, but nothing is reranked"),
        (["tea", "-o", "dtype=float16"], "'dtype=float16' is an option of a reranker; give --rerank too"),
        (["tea", "--rerank", "minilm"], "write its kind (blockrank, cross-encoder, icr), a colon and a model"),
        (["tea", "--rerank", "icr:m", "-o", "layer=3"], "icr has no option layer; it has dtype"),
        (["tea", "--rerank", "icr:m", "-k", "5", "--depth", "3"], "k is 5, but only 3 documents are reranked"),
        (["--vector", '{"tea": 1}', "--rerank", "icr:m"], "a reranker reads words"),
    ],
)
def test_what_cannot_be_reranked_is_one_sentence(folder, longest, capsys, more, told):
    line = failure(capsys, ["search", folder, *more])
    assert line.startswith("winnow search: ")
    assert told in line
