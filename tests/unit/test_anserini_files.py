"""Anserini's files of learned sparse vectors: written, read back, searched; what they cannot hold is told."""

import gzip
import json
import re

import numpy as np
import pytest

from index.errors import CorpusError, WinnowError
from retrieval import LearnedSparseEncoder, Retriever, anserini_files, encode_corpus
from retrieval.anserini_files import Written, encoded_queries, read_topics, write_topics, write_vectors
from retrieval.vector_files import read_vectors
from winnow.cli import main

VECTORS = {"a": {"green": 0.5, "tea": 1.234}, "b": {"milk": 2.0, "tea": 0.004}, "c": {}, "é d": {"##s": 0.005}}
IMPACTS = {"a": {"green": 50, "tea": 123}, "b": {"milk": 200}, "c": {}, "é d": {}}  # 0.004 and 0.005 come to 0
TEXTS = [
    "the moon pulls the sea",
    "bread and salt",
    "walking dogs by the sea",
    "tea",
    "rain on the hills",
    "lunar tides",
]
CORPUS = [{"_id": f"d{number}", "text": text} for number, text in enumerate(TEXTS)]
QUERIES = {"1": "moon sea", "2": "bread with salt", "3": "dogs in the rain", "4": ""}


def vectors_of(source):
    return {document.doc_id: document.vector for document in read_vectors(source).documents()}


def scores(retriever, query):
    return {hit.doc_id: hit.score for hit in retriever.search(query, k=100)}


def test_a_collection_is_json_lines_of_whole_impacts(tmp_path):
    assert write_vectors(VECTORS, tmp_path / "new" / "c", progress=False) == Written(
        rows=4, impacts=3, left_out=2, empty=2
    )
    (part,) = (tmp_path / "new" / "c").iterdir()
    lines = [json.loads(line) for line in part.read_text().splitlines()]
    assert lines == [{"id": doc_id, "contents": "", "vector": vector} for doc_id, vector in IMPACTS.items()]
    assert all(type(impact) is int for line in lines for impact in line["vector"].values())


def test_a_scale_of_one_keeps_whole_weights(tmp_path):
    whole = {"a": {"tea": 3.0, "milk": 70_000.0}}
    write_vectors(whole, tmp_path / "c", scale=1, progress=False)
    assert vectors_of(tmp_path / "c") == whole


def test_a_collection_in_parts_is_read_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(anserini_files, "DOCUMENTS_A_FILE", 2)
    monkeypatch.setattr(anserini_files, "LINES_TOGETHER", 1)
    many = {f"d{number}": {"tea": 1.0 + number} for number in range(5)}
    write_vectors(many, tmp_path / "c", scale=1, progress=False)
    assert sorted(part.name for part in (tmp_path / "c").iterdir()) == [
        f"part-{number:05}.jsonl" for number in range(3)
    ]
    assert list(vectors_of(tmp_path / "c").items()) == list(many.items())
    (tmp_path / "c" / "part-00001.jsonl").write_text('{"id": "d0", "contents": "", "vector": {}}\n')
    with pytest.raises(CorpusError, match=r"part-00001\.jsonl:1 has the id 'd0' of one before it"):
        read_vectors(tmp_path / "c")


def test_a_folder_of_packed_json_lines_is_a_corpus_with_its_texts(tmp_path):
    for number in range(2):
        line = json.dumps({"id": f"d{number}", "contents": f"text {number}", "vector": {"tea": number + 1}})
        (tmp_path / f"docs{number}.json.gz").write_bytes(gzip.compress(line.encode()))
    retriever = Retriever.from_pretrained("vectors").index(tmp_path, progress=False)
    assert [(hit.doc_id, hit.text) for hit in retriever.search("tea")] == [("d1", "text 1"), ("d0", "text 0")]


def test_an_index_is_no_collection(tmp_path):
    Retriever.from_pretrained("bm25").index(CORPUS, progress=False).save_pretrained(tmp_path / "i", progress=False)
    assert list((tmp_path / "i").glob("*.json"))
    with pytest.raises(CorpusError, match="is no file of vectors"):
        read_vectors(tmp_path / "i")
    with pytest.raises(CorpusError, match="holds neither"):
        Retriever.from_pretrained("bm25").index(tmp_path / "i", progress=False)


def test_scores_of_an_index_of_the_files_are_dot_products_of_the_impacts(tmp_path):
    encode_corpus(CORPUS, tmp_path / "encoded", "winnow-mini", progress=False)
    encoder = LearnedSparseEncoder.from_pretrained("winnow-mini")
    write_vectors(tmp_path / "encoded", tmp_path / "c", progress=False)
    written = write_topics(encoded_queries(encoder, QUERIES), tmp_path / "topics.tsv")
    assert (written.rows, written.empty) == (3, 1)  # a topic without terms keeps Anserini from reading the others
    rounded = {
        doc_id: {term: round(weight * 100) for term, weight in vector.items()}
        for doc_id, vector in vectors_of(tmp_path / "encoded").items()
    }
    queries = {
        query: {term: round(weight * 100) for term, weight in vector.items()}
        for query, vector in encoded_queries(encoder, QUERIES)
    }
    retriever = Retriever.from_pretrained("vectors", impacts="f32").index(tmp_path / "c", progress=False)
    topics = read_topics(tmp_path / "topics.tsv")
    lines = dict(line.split("\t") for line in (tmp_path / "topics.tsv").read_text().splitlines())
    assert list(topics) == list(lines) == ["1", "2", "3"]
    found = 0
    for query in topics:
        weights = queries[query]
        products = {
            doc_id: sum(weights.get(term, 0) * impact for term, impact in vector.items())
            for doc_id, vector in rounded.items()
        }
        expected = {doc_id: float(score) for doc_id, score in products.items() if score}
        assert scores(retriever, topics[query]) == scores(retriever, lines[query]) == expected
        found += len(expected)
    assert found > 5


def test_what_is_lost_is_at_most_half_a_step(tmp_path):
    weights = np.random.default_rng(0).gamma(1.0, 0.5, 500).astype(np.float32).tolist()
    given = {"a": {f"t{number}": weight for number, weight in enumerate(weights)}}
    for scale in (10, 100, 255.5):
        write_vectors(given, tmp_path / str(scale), scale=scale, progress=False)
        read = vectors_of(tmp_path / str(scale))["a"]
        assert max(abs(read.get(term, 0) / scale - weight) for term, weight in given["a"].items()) <= 0.5 / scale + 1e-9


def test_topics_repeat_a_term_as_often_as_it_weighs(tmp_path):
    queries = [("q1", {"tea": 0.03, "##s": 0.014}), ("q2", {"milk": 0.004})]
    for path in (tmp_path / "new" / "topics.tsv", tmp_path / "topics.tsv.gz"):
        assert write_topics(queries, path) == Written(rows=1, impacts=2, left_out=1, empty=1)
        assert read_topics(path) == {"q1": {"tea": 3, "##s": 1}}
    assert (tmp_path / "new" / "topics.tsv").read_text() == "q1\ttea tea tea ##s\n"


@pytest.mark.parametrize(
    ("vectors", "scale", "message"),
    [
        (VECTORS, 0, "scale is 0; it must be a number above 0"),
        (VECTORS, float("nan"), "scale is nan"),
        (VECTORS, True, "scale is True"),
        ({"a": {"green tea": 1}}, 100, "document 'a' has the term 'green tea', which is empty, holds white space"),
        ({"a": {"": 1}}, 100, "document 'a' has the term '', which is empty"),
        ({"a": {"t" * 256: 1}}, 100, "has more than 255 characters"),
        ({"a": {"tea": 3e7}}, 100, re.escape("has the impact 3,000,000,000 of 'tea', beyond 32 bits")),
        ({}, 100, "there are no vectors to write"),
    ],
)
def test_what_a_collection_cannot_hold_is_told_and_nothing_is_left(tmp_path, vectors, scale, message):
    with pytest.raises(WinnowError, match=message):
        write_vectors(vectors, tmp_path / "c", scale=scale, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_left_alone(tmp_path):
    with pytest.raises(WinnowError, match="exists; give a folder that does not"):
        write_vectors(VECTORS, tmp_path, progress=False)


@pytest.mark.parametrize("queries", [[("a b", {})], [("", {})], [("\ud800", {})], [("a", {}), ("a", {})]])
def test_ids_that_topics_cannot_hold_are_told(tmp_path, queries):
    with pytest.raises(WinnowError, match="is empty, holds white space or invalid Unicode, or occurs twice"):
        write_topics(queries, tmp_path / "t.tsv")


def test_a_topic_of_endless_words_is_refused(tmp_path):
    with pytest.raises(WinnowError, match="the query 'q' would be 2,000,000 words"):
        write_topics([("q", {"tea": 2e4})], tmp_path / "t.tsv")


@pytest.mark.parametrize("content", ["q1 tea tea", "\ttea", "q1\ttea\nq1\tmilk"])
def test_what_is_no_topic_is_told_with_its_line(tmp_path, content):
    (tmp_path / "t.tsv").write_text(content)
    with pytest.raises(CorpusError, match=rf"t\.tsv:{len(content.splitlines())} is .*; a topic is an id"):
        read_topics(tmp_path / "t.tsv")


def test_the_command_writes_documents_and_topics(tmp_path, capsys):
    encode_corpus(CORPUS, tmp_path / "encoded", "winnow-mini", progress=False)
    lines = [json.dumps({"_id": query, "text": text}) for query, text in QUERIES.items()]
    (tmp_path / "queries.jsonl").write_text("\n".join(lines))
    encoded, out, queries, topics = (str(tmp_path / name) for name in ("encoded", "c", "queries.jsonl", "t.tsv"))
    command = ["export", encoded, "--to", "anserini", "--out", out]
    assert main([*command, "--queries", queries, "--topics", topics]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"c: 6 documents, [1-9]\d* impacts; \d+ weights rounded to 0 and left out", printed)
    assert re.search(r"t\.tsv: 3 queries, [1-9]\d* impacts; ", printed)
    assert "queries without a term, which no topic can be, left out: 1\n" in printed
    encoder = LearnedSparseEncoder.from_pretrained("winnow-mini")
    expected = {
        query: {t: round(w * 100) for t, w in vector.items()} for query, vector in encoded_queries(encoder, QUERIES)
    }
    assert read_topics(topics) == {
        query: {t: n for t, n in vector.items() if n} for query, vector in expected.items() if vector
    }
    for wrong, message in (
        (["--queries", queries], "give both or neither"),
        (["--queries", "nowhere", "--topics", topics], "nowhere is no file"),
        ([], "c exists"),
    ):
        assert main([*command, *wrong]) != 0
        assert message in capsys.readouterr().err
    assert (
        main(
            ["export", out, "--to", "anserini", "--out", str(tmp_path / "d"), "--queries", queries, "--topics", topics]
        )
        != 0
    )
    assert "does not say which model made its vectors" in capsys.readouterr().err
