"""Exports read by the engines they are for, where a Python has them: this one, or one that WINNOW_ENGINES names (paths with : between).

ciff-toolkit needs an older protobuf than our own dependencies take, so it can only be in another.
"""

import json
import os
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from eval.lucene import system
from retrieval import Retriever
from retrieval.exports.anserini import Anserini
from retrieval.exports.ciff import Ciff
from retrieval.exports.collection import Collection
from retrieval.exports.exporting import export
from retrieval.exports.qdrant import Qdrant

PROGRAMS = ROOT / "tests" / "engines"


def python_with(package, install):
    """A Python that has the package; skips the test where none does."""
    for python in [sys.executable, *filter(None, os.environ.get("WINNOW_ENGINES", "").split(":"))]:
        found = f"import importlib.util as u, sys; sys.exit(u.find_spec({package!r}) is None)"
        if subprocess.run([python, "-c", found]).returncode == 0:
            return python
    pytest.skip(
        f"NOT RUN: {package} is not here; `pip install {install}`, in another environment named by WINNOW_ENGINES if need be"
    )


def answer(python, program, *arguments, asked=None):
    told = subprocess.run(
        [python, PROGRAMS / program, *arguments], input=json.dumps(asked), capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr[-2000:]
    return json.loads(told.stdout)


def made_up(num_docs, num_terms, terms_a_document, seed=3):
    """{id: {term: weight}}, weights without ties among the sums."""
    rng = random.Random(seed)
    terms = [f"t{number} ü" for number in range(num_terms)]
    return {
        f"d{number} é": {term: rng.uniform(0.01, 3) for term in rng.sample(terms, terms_a_document)}
        for number in range(num_docs)
    }


def test_ciff_toolkit_reads_our_file(tmp_path):
    python = python_with("ciff_toolkit", "'ciff-toolkit==0.2.2' 'protobuf<5'")
    vectors = {doc_id: {t.replace(" ", ""): w for t, w in v.items()} for doc_id, v in made_up(300, 40, 12).items()}
    vectors["empty"] = {}
    export(Collection.open(vectors), Ciff(), tmp_path / "c", progress=False)
    header, mean, lists, documents = answer(python, "ciff_toolkit_reads.py", tmp_path / "c" / "index.ciff")
    impacts = {doc_id: {t: round(float(np.float32(w)) * 100) for t, w in v.items()} for doc_id, v in vectors.items()}
    lengths = [sum(vector.values()) for vector in impacts.values()]
    assert documents == [
        [number, doc_id, length] for number, (doc_id, length) in enumerate(zip(impacts, lengths, strict=True))
    ]
    terms = sorted({term for vector in impacts.values() for term in vector}, key=str.encode)
    assert [term for term, _ in lists] == terms
    for term, found in lists:
        postings = [[number, vector[term]] for number, vector in enumerate(impacts.values()) if term in vector]
        assert found == {"df": len(postings), "cf": sum(impact for _, impact in postings), "postings": postings}
    assert header == {
        "version": 1, "num_postings_lists": 40, "num_docs": 301, "total_postings_lists": 40, "total_docs": 301,
        "total_terms_in_collection": sum(lengths),
    }  # fmt: skip
    assert mean == sum(lengths) / 301


@pytest.mark.parametrize("model", ["vectors", "winnow-mini", "bm25"])
def test_qdrant_finds_what_we_find(tmp_path, model):
    python = python_with("qdrant_edge", "qdrant-edge-py")
    if model == "vectors":
        corpus = [{"_id": doc_id, "vector": vector} for doc_id, vector in made_up(800, 60, 15).items()]
        queries = [{"t3 ü": 1.5, "t7 ü": 0.25, "t11 ü": 2.0}, {"t59 ü": 0.1}]
    else:
        words = (
            "moon tide sea tea green black milk bread salt rain hill dog cat sun star night day red blue gold".split()
        )
        rng = random.Random(5)
        corpus = [{"_id": f"d{n}", "text": " ".join(rng.choices(words, k=rng.randint(1, 20)))} for n in range(300)]
        queries = ["moon over the sea", "green tea with milk", "a dog in the rain"]
    retriever = Retriever.from_pretrained(model).index(corpus, progress=False)
    retriever.delete(["d1", "d1 é"])
    retriever.commit(progress=False).save_pretrained(tmp_path / "i", progress=False)
    collection = Collection.open(tmp_path / "i")
    export(collection, Qdrant(), tmp_path / "q", progress=False)
    weighted = [collection.query(q) if isinstance(q, str) else collection.weighted(q) for q in queries]
    requests = [json.loads(Qdrant().query_request(query, collection.terms, 10)) for query in weighted]
    for query, hits in zip(queries, answer(python, "qdrant_finds.py", tmp_path / "q", asked=requests), strict=True):
        ours = [(hit.doc_id, hit.score) for hit in retriever.search(query, k=10)]
        assert len(ours) == 10
        assert [score for _, score in hits] == pytest.approx([score for _, score in ours], rel=1e-6)
        least = ours[-1][1] * (1 + 1e-6)  # equal scores are ordered as each engine likes
        assert {doc for doc, score in hits if score > least} == {doc for doc, score in ours if score > least}
        assert len(ours) == len(set(dict(hits)))


def test_pyserini_scores_our_impacts_as_we_do(tmp_path):
    python = python_with("pyserini", "'winnow-ir[anchors]'")
    vectors = {doc_id: {t.replace(" ", ""): w for t, w in v.items()} for doc_id, v in made_up(200, 40, 12).items()}
    collection = Collection.open(vectors)
    (tmp_path / "work").mkdir()
    export(collection, Anserini(), tmp_path / "work" / "documents", progress=False)
    queries = {f"q{number}": {f"t{number}ü": 1.234, f"t{number + 9}ü": 0.5} for number in range(20)}
    whole = {}
    for query, weights in queries.items():
        words = Anserini().query_request(collection.weighted(weights), collection.terms, 10).split("\t")[1].split()
        whole[query] = {term: words.count(term) for term in words}
    lines = "".join(json.dumps([query, weights]) + "\n" for query, weights in whole.items())
    (tmp_path / "work" / "queries.jsonl").write_text(lines)
    request = {"kind": "impacts", "depth": 200, "latency_k": 1, "warm_up": 0, "passes": 1}
    (tmp_path / "work" / "request.json").write_text(json.dumps(request))
    child = shutil.copy(system.CHILD, tmp_path / "child.py")
    subprocess.run([python, "-P", child, tmp_path / "work"], check=True, capture_output=True)
    impacts = {doc_id: {t: round(float(np.float32(w)) * 100) for t, w in v.items()} for doc_id, v in vectors.items()}
    for line in (tmp_path / "work" / "run.jsonl").read_text().splitlines():
        query, found = json.loads(line)
        assert whole[query] == {f"t{query[1:]}ü": 123, f"t{int(query[1:]) + 9}ü": 50}
        products = {d: sum(w * v.get(t, 0) for t, w in whole[query].items()) for d, v in impacts.items()}
        assert dict(found) == {doc_id: float(product) for doc_id, product in products.items() if product}
        assert len(found) > 50
