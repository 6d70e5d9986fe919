"""The benchmark of decoders on a tiny one, and its parts against numbers worked out by hand."""

import json
import sys

import decoder_quality
import numpy as np
import pytest
from decoders_for_tests import TEXTS, save_decoder

from kernels.cpu.sparse import SparseRows


def test_two_runs_are_fused_by_the_mean_of_scores_scaled_within_a_query():
    sparse = {"q": {"a": 9.0, "b": 5.0, "c": 1.0}, "r": {}, "s": {"a": 2.0}}
    dense = {"q": {"b": 0.8, "d": 0.6, "c": 0.2}, "r": {"a": 0.1, "b": 0.3}, "s": {"a": 0.5, "b": 0.4}}
    found = decoder_quality.fused(sparse, dense)
    assert {query: pytest.approx(scores) for query, scores in found.items()} == {
        "q": {"a": 0.5, "b": 0.25 + 0.5, "c": 0.0, "d": 0.5 * (0.6 - 0.2) / (0.8 - 0.2)},
        "r": {"a": 0.0, "b": 0.5},
        "s": {"a": 0.0 + 0.5, "b": 0.0},
    }


def test_dense_documents_are_ranked_by_inner_product_and_then_by_number():
    documents = np.array([[0, 1], [1, 0], [0, 1], [0.6, 0.8]], np.float32)
    ((scores, docs),) = decoder_quality.dense_answers(documents, np.array([[0, 1]], np.float32))
    assert docs.tolist() == [0, 2, 3, 1]
    assert scores.tolist() == pytest.approx([1, 1, 0.8, 0])


def test_sparse_rows_are_put_together_and_searched():
    parts = [
        SparseRows(np.array([0, 2]), np.array([3, 7], np.int32), np.array([2, 1], np.float32)),
        SparseRows(np.array([0, 0, 1]), np.array([7], np.int32), np.array([4], np.float32)),
    ]
    rows = decoder_quality.concatenated(parts)
    assert rows.indptr.tolist() == [0, 2, 2, 3]
    ((scores, docs),) = decoder_quality.sparse_answers(rows, parts[0]._replace(indptr=np.array([0, 2])), 10)
    assert docs.tolist() == [0, 2]
    assert scores.tolist() == pytest.approx([2 * 2 + 1, 4], abs=0.02)


def test_every_system_writes_a_line(tmp_path, monkeypatch):
    model = save_decoder(tmp_path / "model", "llama", max_position_embeddings=1500)
    data = tmp_path / "data"
    (data / "qrels").mkdir(parents=True)
    documents = [{"_id": str(number), "title": "", "text": text} for number, text in enumerate(TEXTS) if text]
    (data / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)))
    queries = [{"_id": "q", "text": "which water follows the moon"}, {"_id": "r", "text": "bread and salt"}]
    (data / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (data / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t0\t1\nr\t3\t2\n")
    arguments = ["--data", data, "--model", model, "--json", tmp_path / "out.json"]
    monkeypatch.setattr(sys, "argv", ["decoder_quality", *map(str, arguments)])
    decoder_quality.main()
    lines = [json.loads(line) for line in (tmp_path / "out.json").read_text().splitlines()]
    assert [line["system"] for line in lines] == [
        "bm25", "promptreps-sparse", "promptreps-dense", "promptreps-both", "splade-max", "splade-echo",
    ]  # fmt: skip
    assert lines[0]["nDCG@10"] == 1.0  # both queries share words with their document alone
    assert all(0 < line["nDCG@10"] <= 1 for line in lines)
    assert lines[4]["terms"] == lines[5]["terms"] == 128
    assert lines[5]["options"]["max_length"] == 1024
    assert len(lines[1]["model"]) == 64
    assert lines[1]["document_seconds"] > 0
