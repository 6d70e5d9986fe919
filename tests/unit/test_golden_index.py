"""Indexes as released versions wrote them (tests/golden) open, answer as written down, and are what docs/format.md says."""

import numpy as np
import pytest
from conftest import ROOT
from second_reader import BM25Folder, read_folder, search_dense, search_index

from index.dense.index import DenseIndex
from index.dense.options import DenseIndexOptions
from index.inverted import InvertedIndex
from index.verification import find_damage
from retrieval import Document, Retriever

V2 = ROOT / "tests" / "golden" / "v2"
HITS = {  # tea: 3 of 5 tokens and 1 of 6, so ln(1.2) * 3 / (3 + 0.9 * (0.6 + 0.4 * 5 / 5.5)) = 0.14143...
    "tea": [("tea", 0.1414342075586319), ("rain", 0.09433382004499435)],
    "green tea": [("tea", 0.23907476663589478), ("rain", 0.1886676400899887)],
    "rain, rain and tea": [("rain", 1.0397298336029053), ("tea", 0.1414342075586319)],
    "milk": [],
}
VECTOR_HITS = [(6.894117832183838, 3), (1.0, 0)]  # 0.1 is 9, 0.2 is 17, 3 is 255 steps of 3 / 255
DENSE_HITS = [(0.08799692243337631, 1), (0.08799692243337631, 4), (0.011375395581126213, 3), (-0.06262242794036865, 0)]


def test_an_index_of_version_2_opens_and_answers_as_it_did():
    retriever = Retriever.from_folder(V2 / "bm25", verify="full")
    statistics = retriever.statistics()
    assert (statistics.documents, statistics.segments, statistics.deleted) == (2, 2, 1)
    for query, hits in HITS.items():
        assert [(hit.doc_id, hit.score) for hit in retriever.search(query)] == hits
    (hit,) = retriever.search("rain")
    assert (hit.text, hit.fields) == ("rain on green hills, and tea after the rain", {"tags": ["wet", "☔"]})


@pytest.mark.parametrize("name", ["bm25", "u8", "dense"])
def test_an_index_of_version_2_is_found_sound(name):
    assert find_damage(V2 / name, "full") == []


def test_an_index_of_vectors_of_version_2_opens_and_answers_as_it_did():
    index = InvertedIndex.open(V2 / "u8", verify="full")
    scores, docs = index.search(np.array([0, 259, 299]), np.array([1.0, 2.0, 4.0]))
    assert list(zip(scores.tolist(), docs.tolist(), strict=True)) == VECTOR_HITS


def test_a_second_reader_written_from_the_format_gives_the_same_answers():
    second = BM25Folder(V2 / "bm25")
    assert second.search(["tea"], 10) == [(score, doc_id) for doc_id, score in HITS["tea"]]
    assert second.search(["green", "tea"], 10) == [(score, doc_id) for doc_id, score in HITS["green tea"]]
    found = second.search(["rain", "rain", "tea"], 10)
    assert found == [(score, doc_id) for doc_id, score in HITS["rain, rain and tea"]]
    assert second.search(["milk"], 10) == []
    assert [Document(*row) for row in second.live_documents()] == [
        Document("tea", "Tea", "green tea and black tea", {"year": 1999}),
        Document("rain", "", "rain on green hills, and tea after the rain", {"tags": ["wet", "☔"]}),
    ]
    assert search_index(V2 / "u8", {0: 1.0, 259: 2.0, 299: 4.0}, 10) == VECTOR_HITS


def test_a_dense_index_opens_and_answers_as_it_did():
    index = DenseIndex.open(V2 / "dense", verify="full")
    scores, docs = index.search(np.arange(70, dtype=np.float32) % 7 - 3, 10)
    assert list(zip(scores.tolist(), docs.tolist(), strict=True)) == DENSE_HITS
    assert search_dense(V2 / "dense", np.arange(70) % 7 - 3, 10) == DENSE_HITS


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("dimension", [1, 63, 64, 65, 384, 391])
def test_a_second_reader_agrees_on_dense_scores(similarity, dimension, tmp_path):
    rng = np.random.default_rng(dimension)
    vectors = rng.standard_normal((30, dimension)).astype(np.float32)
    vectors[[3, 17]] = 0
    index = DenseIndex.build(
        vectors, DenseIndexOptions(dimension, similarity), without=np.array([3, 17], np.int32), progress=False
    )
    index.save(tmp_path / "i")
    for query in rng.standard_normal((5, dimension)).astype(np.float32):
        scores, docs = index.search(query, 28)
        assert search_dense(tmp_path / "i", query, 28) == list(zip(scores.tolist(), docs.tolist(), strict=True))


def test_a_second_reader_agrees_on_an_index_after_changes_and_a_merge(tmp_path):
    retriever = Retriever.from_pretrained("bm25")
    retriever.save_pretrained(tmp_path / "i")
    words = ["tea", "green", "sea", "w1"]
    for segment in range(3):
        texts = [" ".join(words[: 1 + (n + segment) % 4] * (1 + n % 3)) for n in range(12)]
        records = [{"_id": f"{segment}-{n}", "text": text} for n, text in enumerate(texts)]
        retriever.add(records, progress=False).commit(progress=False, merge=False)
    retriever.delete(["0-1", "2-5", "2-6"])
    retriever.commit(progress=False, merge=False)
    for merge in (False, True):
        if merge:
            retriever.merge()
        second = BM25Folder(tmp_path / "i")
        for query in ("tea", "green w1", "sea sea tea"):
            assert second.search(query.split(), 40) == [(hit.score, hit.doc_id) for hit in retriever.search(query, 40)]
    assert read_folder(tmp_path / "i")[0]["commit"] == 6
