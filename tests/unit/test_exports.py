"""Exports: what each file says, read back; what an engine cannot hold is told before anything is written; what it loses is counted."""

import json
import re
import struct
from fractions import Fraction

import numpy as np
import pytest
from conftest import ROOT

from index.errors import WinnowError
from retrieval import Retriever, encode_corpus
from retrieval.arm_search import Trying
from retrieval.exports import lines
from retrieval.exports.collection import Collection, chosen
from retrieval.exports.exporting import FORMATS, checked, export, format_of, overlap
from retrieval.exports.feature_fields import feature_name, rounded
from retrieval.exports.opensearch import OpenSearchSparseVector, in_bytes
from retrieval.opened import Opened
from retrieval.vector_files import read_vectors
from winnow.cli import main
from winnow.export import FORMATS as TOLD_FORMATS

VECTORS = {"a": {"green": 0.5, "tea": 1.25}, 'b "é"': {"3.5": 2.0, "tea": 0.001}, "c": {}}
TERMS = ["green", "tea", "3.5"]  # by number: in the order in which they are met
FLOATS = sorted(set(FORMATS) - {"anserini", "ciff"})


def exported(tmp_path, name, vectors=VECTORS, scale=None):
    """(folder, what was told)"""
    folder = tmp_path / name
    return folder, export(Collection.open(vectors), format_of(name, scale), folder, progress=False)


def records(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def request(name, weights, vectors=VECTORS, k=7):
    collection = Collection.open(vectors)
    return format_of(name).query_request(collection.weighted(weights), collection.terms, k)


# what the files say


def test_elasticsearch_reads_actions_and_documents_and_prunes_nothing(tmp_path):
    folder, told = exported(tmp_path, "elasticsearch")
    assert records(folder / "bulk-00000.ndjson") == [
        {"index": {"_id": "a"}}, {"vector": {"green": 0.5, "tea": 1.25}},
        {"index": {"_id": 'b "é"'}}, {"vector": {"3%2E5": 2.0, "tea": float("0.0009994507")}},
        {"index": {"_id": "c"}}, {},
    ]  # fmt: skip
    field = {"type": "sparse_vector", "index_options": {"prune": False}}
    assert json.loads((folder / "index.json").read_text()) == {"mappings": {"properties": {"vector": field}}}
    assert (told.documents, told.loss.weights, told.loss.left_out, told.loss.empty) == (3, 4, 0, 1)
    assert json.loads(request("elasticsearch", {"3.5": 0.1, "tea": 2, "milk": 9})) == {
        "size": 7, "_source": False,
        "query": {"sparse_vector": {"field": "vector", "query_vector": {"tea": 2.0, "3%2E5": 0.1}, "prune": False}},
    }  # fmt: skip


def test_opensearch_reads_the_same_into_rank_features(tmp_path):
    folder, _ = exported(tmp_path, "opensearch")
    assert records(folder / "bulk-00000.ndjson")[1] == {"vector": {"green": 0.5, "tea": 1.25}}
    mapping = json.loads((folder / "index.json").read_text())
    assert mapping == {"mappings": {"properties": {"vector": {"type": "rank_features"}}}}
    asked = json.loads(request("opensearch", {"3.5": 0.1}))
    assert asked["query"] == {"neural_sparse": {"vector": {"query_tokens": {"3%2E5": 0.1}}}}


def test_opensearchs_sparse_vector_has_numbers_for_terms_and_the_largest_weight_for_ceiling(tmp_path):
    folder, told = exported(tmp_path, "opensearch-sparse-vector")
    assert records(folder / "bulk-00000.ndjson")[1:4:2] == [
        {"vector": {"0": 0.5, "1": 1.25}},
        {"vector": {"1": 0.001, "2": 2.0}},
    ]
    assert records(folder / "vocabulary.jsonl") == TERMS
    method = json.loads((folder / "index.json").read_text())["mappings"]["properties"]["vector"]["method"]
    assert method["parameters"] == {"quantization_ceiling_ingest": 2.0, "quantization_ceiling_search": 16.0}
    assert (told.loss.left_out, told.loss.weights) == (1, 3)  # 0.001 / 2 * 255 is below a half
    worst = Fraction(abs(round(Fraction(5, 8) * 255) - Fraction(5, 8) * 255), Fraction(5, 8) * 255)
    assert told.loss.largest_error == pytest.approx(float(max(worst, Fraction(64, 255) / Fraction(1, 4) - 1)))
    asked = json.loads(request("opensearch-sparse-vector", {"3.5": 0.1, "tea": 2}))
    found = asked["query"]["neural_sparse"]["vector"]
    assert found == {"query_tokens": {"1": 2.0, "2": 0.1}, "method_parameters": {"k": 7, "top_n": 2}}


def test_qdrant_reads_bodies_of_points(tmp_path, monkeypatch):
    monkeypatch.setattr("retrieval.exports.qdrant.POINTS_A_BODY", 2)
    folder, told = exported(tmp_path, "qdrant")
    assert records(folder / "points-00000.jsonl") == [
        {"points": [
            {"id": 0, "vector": {"vector": {"indices": [0, 1], "values": [0.5, 1.25]}}, "payload": {"id": "a"}},
            {"id": 1, "vector": {"vector": {"indices": [1, 2], "values": [0.001, 2.0]}}, "payload": {"id": 'b "é"'}},
        ]},
        {"points": [{"id": 2, "vector": {}, "payload": {"id": "c"}}]},
    ]  # fmt: skip
    assert json.loads((folder / "collection.json").read_text()) == {"vectors": {}, "sparse_vectors": {"vector": {}}}
    assert told.loss.largest_error == 0
    assert json.loads(request("qdrant", {"3.5": 0.1, "tea": 2})) == {
        "query": {"indices": [1, 2], "values": [2.0, 0.1]}, "using": "vector", "limit": 7, "with_payload": True,
    }  # fmt: skip


def test_milvus_reads_rows(tmp_path):
    folder, _ = exported(tmp_path, "milvus")
    assert records(folder / "rows-00000.jsonl") == [
        {"id": "a", "vector": {"0": 0.5, "1": 1.25}},
        {"id": 'b "é"', "vector": {"1": 0.001, "2": 2.0}},
        {"id": "c", "vector": {}},
    ]
    schema = json.loads((folder / "collection.json").read_text())
    assert [field["dataType"] for field in schema["schema"]["fields"]] == ["VarChar", "SparseFloatVector"]
    asked = json.loads(request("milvus", {"3.5": 0.1}))
    assert (asked["data"], asked["searchParams"]["params"]) == ([{"2": 0.1}], {"drop_ratio_search": 0.0})


def test_vespa_reads_a_feed_of_tensors(tmp_path):
    folder, _ = exported(tmp_path, "vespa")
    assert records(folder / "feed-00000.jsonl")[1] == {
        "put": 'id:winnow:document::b "é"',
        "fields": {"id": 'b "é"', "vector": {"tea": 0.001, "3.5": 2.0}},
    }
    schema = (folder / "document.sd").read_text()
    assert "field vector type tensor<float>(t{})" in schema
    assert schema.count("{") == schema.count("}")
    asked = json.loads(request("vespa", {"3.5": 0.1}))
    assert (asked["input.query(q)"], asked["ranking"], asked["hits"]) == ({"3.5": 0.1}, "dot_product", 7)


def test_pgvector_copies_rows_with_indexes_from_one(tmp_path):
    folder, _ = exported(tmp_path, "pgvector", {"a\tb\\": {"tea": 0.5, "milk": 2e-7}, "c": {}})
    assert (folder / "rows-00000.tsv").read_text() == "a\\tb\\\\\t{1:0.5,2:2e-07}/2\nc\t{}/2\n"
    assert "CREATE TABLE documents (id text PRIMARY KEY, vector sparsevec(2));" in (folder / "schema.sql").read_text()
    assert request("pgvector", {"3.5": 0.1, "tea": 2}) == (
        "SELECT id, -(vector <#> '{2:2.0,3:0.1}/3') AS score FROM documents ORDER BY vector <#> '{2:2.0,3:0.1}/3', id LIMIT 7;"
    )


@pytest.mark.parametrize(("terms", "has_hnsw"), [(1_000, True), (1_001, False)])
def test_pgvector_asks_for_no_hnsw_index_that_cannot_be(tmp_path, terms, has_hnsw):
    folder, _ = exported(tmp_path, "pgvector", {"a": {f"t{n}": 1.0 for n in range(terms)}})
    assert ("USING hnsw (vector sparsevec_ip_ops)" in (folder / "schema.sql").read_text()) == has_hnsw


@pytest.mark.parametrize("scale", [None, 10, 1000.0])
def test_anserini_and_ciff_hold_the_same_whole_impacts_and_are_read_here(tmp_path, scale):
    factor = scale or 100
    expected = {
        doc_id: {term: float(round(weight * factor)) for term, weight in vector.items() if round(weight * factor)}
        for doc_id, vector in VECTORS.items()
    }
    for name, path in (("anserini", ""), ("ciff", "index.ciff")):
        folder, told = exported(tmp_path, name, scale=scale)
        read = {one.doc_id: dict(one.vector) for one in read_vectors(folder / path).documents()}
        assert read == expected
        assert told.loss.left_out == (0 if scale == 1000 else 1)
        assert told.loss.weights == (4 if scale == 1000 else 3)
    assert request("anserini", {"tea": 0.02, "3.5": 0.03, "green": 0.004}) == "1\ttea tea 3.5 3.5 3.5"
    assert json.loads(request("ciff", {"tea": 0.02, "3.5": 0.03, "green": 0.004})) == {"tea": 2, "3.5": 3}


def test_ciff_in_small_steps_is_the_same_file(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    vectors = {
        f"d{n}": {f"t{t}": float(w) for t, w in zip(rng.permutation(30)[:9], rng.uniform(0.01, 9, 9), strict=True)}
        for n in range(50)
    }
    exported(tmp_path, "ciff", vectors)
    whole = (tmp_path / "ciff" / "index.ciff").read_bytes()
    for name in ("ENTRIES_TOGETHER", "BYTES_TOGETHER"):
        monkeypatch.setattr(f"retrieval.exports.ciff.{name}", 7)
    exported(tmp_path / "small", "ciff", vectors)
    assert (tmp_path / "small" / "ciff" / "index.ciff").read_bytes() == whole
    assert {
        one.doc_id: len(one.vector) for one in read_vectors(tmp_path / "ciff" / "index.ciff").documents()
    } == dict.fromkeys(vectors, 9)


@pytest.mark.parametrize("name", FLOATS)  # the others have parts of their own, or one file
def test_parts_are_whole_lines_in_order(tmp_path, monkeypatch, name):
    vectors = {f"d{number}": {"tea": 0.5 + number, "milk": 1.0} for number in range(80)}
    one, _ = exported(tmp_path, name, vectors)
    monkeypatch.setattr(lines, "BYTES_A_FILE", 300)
    monkeypatch.setattr(lines, "BYTES_TOGETHER", 64)
    monkeypatch.setattr("retrieval.exports.qdrant.POINTS_A_BODY", 3)
    many, _ = exported(tmp_path / "many", name, vectors)
    stem = next(file.name for file in one.iterdir() if "-00000" in file.name).split("-")[0]
    parts = sorted(many.glob(f"{stem}-*"))
    assert len(parts) > 3
    assert all(part.read_text().endswith("\n") and part.stat().st_size < 700 for part in parts)
    joined = "".join(part.read_text() for part in parts)
    if name == "qdrant":
        points = [point for line in joined.splitlines() for point in json.loads(line)["points"]]
        assert [point["id"] for point in points] == list(range(80))
    else:
        assert joined == "".join(part.read_text() for part in one.glob(f"{stem}-*"))


# what engines keep


def test_a_weight_is_rounded_to_the_nearest_that_lucene_keeps_as_it_is():
    weights = np.random.default_rng(0).gamma(1.0, 0.7, 5_000).astype(np.float32)
    kept = rounded(weights)
    cut = (kept.view(np.uint32) >> 15 << 15).view(np.float32)  # what FeatureField does to a float
    assert np.array_equal(cut, kept)
    errors = np.abs(kept.astype(np.float64) - weights) / weights
    assert 1 / 600 < errors.max() <= 1 / 512
    assert rounded(np.array([1.0, 3e38, np.finfo(np.float32).max], np.float32)).tolist() == [
        1.0, struct.unpack("<f", struct.pack("<I", (0x7F61B1E6 + 0x4000) >> 15 << 15))[0], struct.unpack("<f", struct.pack("<I", 0x7F7F8000))[0],
    ]  # fmt: skip


def test_bytes_of_a_ceiling():
    assert in_bytes(np.array([0.0, 3.0, 4.0, 0.006, 0.0058], np.float32), 3.0).tolist() == pytest.approx(
        [0, 3, 3, 3 / 255, 0]
    )
    assert OpenSearchSparseVector(2.0).query_held(np.array([20.0])).tolist() == [16.0]


def test_no_two_terms_get_one_name():
    terms = [".", "%2E", "%", "%25", "a.b", "a%2Eb", "%252E"]
    names = [feature_name(term) for term in terms]
    assert len(set(names)) == len(terms)
    assert not any("." in name for name in names)


@pytest.mark.parametrize("name", FLOATS)
def test_formats_of_floats_lose_at_most_what_is_documented(tmp_path, name):
    rng = np.random.default_rng(3)
    vectors = {f"d{n}": {f"t{t}": float(w) for t, w in enumerate(rng.uniform(0.5, 3, 20))} for n in range(30)}
    _, told = exported(tmp_path, name, vectors)
    most = {"elasticsearch": 1 / 512, "opensearch": 1 / 512, "opensearch-sparse-vector": 3 / 510 / 0.5}.get(name, 0.0)
    assert told.loss.left_out == 0
    assert most / 2 <= told.loss.largest_error <= most


def test_overlap_is_of_the_rankings_by_the_kept_weights(tmp_path):
    vectors = {f"d{number}": {"tea": 1 + number / 1000} for number in range(100)}  # with a scale of 1 all are equal
    collection = Collection.open(vectors)
    assert overlap(collection, format_of("qdrant"), ["tea", "nothing"]) == 1.0
    assert overlap(collection, format_of("anserini", 1000), ["tea"]) == 1.0
    assert overlap(collection, format_of("anserini", 1), ["tea"]) == 0.0  # documents 0 to 9 instead of the last ten
    assert overlap(collection, format_of("anserini", 1), ["tea", "nothing"]) == 0.5


# limits


@pytest.mark.parametrize(
    ("name", "vectors", "message"),
    [
        ("elasticsearch", {"d" * 513: {"tea": 1}}, "has an id of 513 bytes, and elasticsearch takes 512"),
        ("opensearch", {"é" * 257: {"tea": 1}}, "has an id of 514 bytes, and opensearch takes 512"),
        ("opensearch-sparse-vector", {"d" * 513: {"tea": 1}}, "takes 512"),
        ("elasticsearch", {"a": {"t" * 32_767: 1}}, "has 32,767 bytes, and elasticsearch takes 1 to 32,766"),
        ("opensearch", {"a": {"." * 11_000: 1}}, "opensearch takes 1 to 32,766"),
        ("elasticsearch", {"a": {"tea": 1e-38}}, "the smallest weight is 1e-38, and elasticsearch takes 1.18e-38 or more"),
        ("opensearch-sparse-vector", {"a": {f"t{n}": 1 for n in range(65_537)}}, "has 65,537 terms, and .* tells 65,536 apart"),
        ("pgvector", {"a": {f"t{n}": 1 for n in range(16_001)}}, "has 16,001 terms, and a sparsevec has at most 16,000"),
        ("pgvector", {"a\0b": {"tea": 1}}, "has a NUL in its id"),
        ("milvus", {"d" * 65_536: {"tea": 1}}, "has an id of 65,536 bytes, and milvus takes 65,535"),
        ("vespa", {"a\x01": {"tea": 1}}, "has a control character in its id"),
        ("vespa", {"a": {"te\x7fa": 1}}, r"the term 'te\\x7fa' is empty or has a control character"),
        ("anserini", {"a": {"green tea": 1}}, "has the term 'green tea', which is empty, holds white space"),
        ("anserini", {"a": {"tea": 3e7}}, re.escape("3e+09 times the scale, and anserini takes 32 bits")),
        ("ciff", {"a": {"tea": 3e7}}, "ciff takes 32 bits; give a smaller scale than 100"),
        ("ciff", {"a": {"tea": 1.5e7, "milk": 1.5e7}}, "add up to 3e\\+09, and ciff keeps such a length in 32 bits"),
        *((name, {}, "holds no vectors to write") for name in FORMATS),
    ],
)  # fmt: skip
def test_what_an_engine_cannot_hold_is_told_and_nothing_is_left(tmp_path, name, vectors, message):
    with pytest.raises(WinnowError, match=message):
        exported(tmp_path, name, vectors)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "vectors"),
    [
        ("elasticsearch", {"d" * 512: {"tea": 1.1754944e-38}}), ("elasticsearch", {"a": {"t" * 32_766: 1}}),
        ("opensearch-sparse-vector", {"a": {f"t{n}": 1 for n in range(65_536)}}), ("milvus", {"d" * 65_535: {"tea": 1}}),
        ("pgvector", {"a": {f"t{n}": 1 for n in range(16_000)}}), ("ciff", {"a": {"tea": 2.1e7}}),
    ],
)  # fmt: skip
def test_what_is_just_within_the_limits_is_written(tmp_path, name, vectors):
    assert exported(tmp_path, name, vectors)[1].documents == 1


@pytest.mark.parametrize("name", ["elasticsearch", "opensearch"])
def test_a_query_weight_that_lucene_refuses_is_told(name):
    assert json.loads(request(name, {"tea": 64}))
    with pytest.raises(WinnowError, match=f"the query has a weight of 64.5, and {name} takes up to 64"):
        request(name, {"tea": 64.5})


def test_limits_are_seen_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("retrieval.exports.exporting.whole", lambda *_: pytest.fail("it began to write"))
    with pytest.raises(WinnowError, match="takes 512"):
        exported(tmp_path, "elasticsearch", {**VECTORS, "d" * 513: {}})


@pytest.mark.parametrize("name", FORMATS)
def test_a_failing_write_leaves_nothing(tmp_path, monkeypatch, name):
    def fails(*_):
        raise OSError("no room")

    monkeypatch.setattr("index.files.os.write", fails)
    with pytest.raises(WinnowError, match=r"could not be written \(no room\)"):
        exported(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_a_scale_is_for_whole_numbers(tmp_path):
    with pytest.raises(WinnowError, match="qdrant keeps weights as floats and takes no scale"):
        format_of("qdrant", 10)
    with pytest.raises(WinnowError, match="scale is 0; it must be a number above 0"):
        format_of("ciff", 0)
    with pytest.raises(WinnowError, match="'x' is no format; choose from anserini, ciff"):
        format_of("x")


# of an index


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """An index of three arms and two segments, one of its documents deleted."""
    folder = tmp_path_factory.mktemp("exports") / "i"
    retriever = Retriever.from_pretrained("bm25+winnow-mini")
    retriever.index([{"_id": "a", "text": "green tea, black tea"}, {"_id": "b", "text": "the moon"}], progress=False)
    retriever.save_pretrained(folder, progress=False)
    retriever.add([{"_id": "c", "text": "tea of the moon"}, {"_id": "d", "text": "zebra"}], progress=False)
    retriever.delete("b")
    retriever.commit(progress=False, merge=False)
    return folder


def dot_products(folder, asked):
    """{id: score} of the documents of a Qdrant export, by its own numbers."""
    weights = dict(zip(asked["query"]["indices"], asked["query"]["values"], strict=True))
    scores = {}
    for body in records(folder / "points-00000.jsonl"):
        for point in body["points"]:
            vector = point["vector"].get("vector", {"indices": [], "values": []})
            pairs = zip(vector["indices"], vector["values"], strict=True)
            scores[point["payload"]["id"]] = sum(weights.get(number, 0) * weight for number, weight in pairs)
    return scores


@pytest.mark.parametrize("arm", ["bm25", "winnow-mini"])
def test_scores_of_an_exported_arm_are_ours(tmp_path, index, arm):
    collection = Collection.open(index, arm)
    export(collection, format_of("qdrant"), tmp_path / "q", progress=False)
    opened = Opened.read(index)
    for text in ("green tea", "tea under the moon", "zebra"):
        asked = json.loads(format_of("qdrant").query_request(collection.query(text), collection.terms, 10))
        found = dot_products(tmp_path / "q", asked)
        assert list(found) == ["a", "c", "d"]
        scores, docs = opened.arms[arm].search(text, 10, Trying())
        ours = dict(zip(opened.snapshot.ids(docs.tolist()), scores.tolist(), strict=True))
        assert {doc_id: score for doc_id, score in found.items() if score} == pytest.approx(ours, rel=1e-6)
        assert ours


def test_terms_of_deleted_documents_are_not_exported(index):
    collection = Collection.open(index, "bm25")
    assert collection.terms == ["black", "green", "moon", "tea", "zebra"]
    assert checked(collection, format_of("qdrant"), progress=False).documents == 3


def test_an_arm_must_be_named_where_there_are_several(index, tmp_path):
    with pytest.raises(WinnowError, match="has the sparse arms bm25, winnow-mini; name the one to export"):
        Collection.open(index)
    with pytest.raises(WinnowError, match="has no arm 'x'; it has bm25, winnow-mini"):
        Collection.open(index, "x")
    with pytest.raises(WinnowError, match="is no index and has no arm 'bm25'"):
        Collection.open(VECTORS, "bm25")
    assert Collection.open(index, "bm25").num_docs == 3


def test_a_dense_arm_is_told():
    class Dense:
        arm, kind = "minilm", "dense"

    opened = Opened.read(ROOT / "tests" / "golden" / "v2" / "bm25")
    with pytest.raises(WinnowError, match="the arm minilm holds dense vectors, and exports are of sparse ones"):
        chosen(opened._replace(encoders=(Dense(),)), None)


# the command


def run(capsys, *arguments):
    """(status, what it printed, what it said of errors)"""
    status = main(["export", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_command_writes_an_arm_and_prints_the_query(tmp_path, index, capsys):
    (tmp_path / "queries.jsonl").write_text('{"_id": "1", "text": "green tea"}\n')
    command = index, "--to", "elasticsearch", "--arm", "winnow-mini", "--no-progress", "-k", "3"
    status, out, _ = run(
        capsys, *command, "--out", tmp_path / "e", "--with-query", "green tea", "--overlap", tmp_path / "queries.jsonl"
    )
    assert status == 0
    told, asked = out.split("{", 1)
    assert re.search(r"e: 3 documents, [1-9]\d* impacts; 0 weights rounded to 0 and left out\n", told)
    error = float(re.search(r"largest error of a weight that is kept: (\S+) of it\n", told)[1])
    assert 0 < error <= 1 / 512
    assert "of our ten best documents for 1 queries, 100.0% are the ten best by these weights\n" in told
    vector = json.loads("{" + asked)["query"]["sparse_vector"]["query_vector"]
    assert set(vector) == {"green", "tea"}
    status, alone, _ = run(capsys, *command, "--with-query", "green tea")
    assert (status, alone) == (0, "{" + asked)


def test_vectors_of_winnow_encode_are_asked_by_their_model(tmp_path, index, capsys):
    encode_corpus([{"_id": "a", "text": "green tea"}], tmp_path / "v", "winnow-mini", progress=False)
    _, of_vectors, _ = run(capsys, tmp_path / "v", "--to", "elasticsearch", "--with-query", "green tea")
    _, of_index, _ = run(capsys, index, "--arm", "winnow-mini", "--to", "elasticsearch", "--with-query", "green tea")
    (one, other) = (json.loads(text)["query"]["sparse_vector"]["query_vector"] for text in (of_vectors, of_index))
    assert one == other
    status, out, _ = run(capsys, tmp_path / "v", "--to", "vespa", "--out", tmp_path / "o", "--no-progress")
    assert (status, "the engine keeps every weight as it is\n" in out) == (0, True)


def test_topics_of_an_index_are_by_its_model(tmp_path, index, capsys):
    (tmp_path / "queries.jsonl").write_text('{"_id": "1", "text": "green tea"}\n')
    out = "--out", tmp_path / "c", "--queries", tmp_path / "queries.jsonl", "--topics", tmp_path / "t.tsv"
    status, _, _ = run(capsys, index, "--arm", "bm25", "--to", "anserini", *out, "--no-progress")
    assert status == 0
    # 3 documents are left: idf of green (in 1) is ln(1 + 2.5 / 1.5), of tea (in 2) ln(1 + 1.5 / 2.5)
    words = ["green"] * round(100 * np.log(1 + 2.5 / 1.5)) + ["tea"] * round(100 * np.log(1 + 1.5 / 2.5))
    assert sorted((tmp_path / "t.tsv").read_text().split()) == sorted(["1", *words])


def test_what_does_not_go_together_is_told(tmp_path, index, capsys):
    for arguments, message in (
        ([index, "--to", "qdrant"], "nothing says what to write"),
        ([index, "--to", "qdrant", "--queries", "q", "--topics", "t"], "topics are Anserini's, and qdrant reads none"),
        ([index, "--to", "qdrant", "--with-query", "x", "-k", "0"], "k is 0"),
        ([index, "--arm", "bm25", "--to", "qdrant", "--with-query", "unheard"], "the query 'unheard' has no term of"),
        ([tmp_path / "nowhere", "--to", "qdrant", "--with-query", "x"], "is no file of vectors"),
        ([index, "--arm", "bm25", "--to", "qdrant", "--overlap", "nowhere"], "nowhere is no file"),
        ([index, "--arm", "bm25", "--to", "qdrant", "--out", tmp_path], "exists; give a folder that does not"),
    ):
        status, out, err = run(capsys, *arguments)
        assert (status != 0, out) == (True, "")
        assert message in err


def test_the_command_offers_every_format():
    assert set(TOLD_FORMATS) == set(FORMATS)
