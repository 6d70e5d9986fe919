"""The parts of the encoding benchmarks that can be wrong without a long run."""

import json
import sys

import numpy as np
import pytest

sentence_transformers = pytest.importorskip("sentence_transformers")


def test_rates_of_linear_layers_are_told_of_both(monkeypatch, capsys):
    import linear_rate

    monkeypatch.setattr(linear_rate, "TOKENS", 32)
    monkeypatch.setattr(linear_rate, "SHAPES", ((16, 24),))
    monkeypatch.setattr(linear_rate, "REPEATS", 1)
    linear_rate.main()
    told = json.loads(capsys.readouterr().out)
    assert set(told["gflops"]) == {"16 to 24, float32", "16 to 24, bfloat16"}
    assert all(set(rates) == {"pytorch", "ours"} for rates in told["gflops"].values())


def test_differences_count_terms_that_only_one_has(tmp_path):
    import encode

    ours, theirs = ([0, 2, 3], [1, 5, 2], [1.0, 0.5, 2.0]), ([0, 1, 2], [1, 2], [1.25, 2.0])
    for who, (indptr, indices, data) in {"ours": ours, "theirs": theirs}.items():
        np.savez(tmp_path / f"{who}.npz", indptr=indptr, indices=indices, data=np.array(data, np.float32))
    assert encode.differences(tmp_path) == {"weights": 3, "largest_difference": 0.5, "differences_above_1e-5": 2}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_the_peak_grows_with_what_is_held():
    import encode

    peak = encode.peak_megabytes()
    held = np.ones(int(peak + 64) << 20, np.uint8)  # more than ever before, whatever was freed
    assert encode.peak_megabytes() >= len(held) >> 20


def test_a_checkpoint_is_made_whose_texts_have_the_lengths_asked_for(tmp_path):
    import encode

    folder = encode.make_checkpoint("minilm", tmp_path / "model")
    texts, tokens = encode.make_texts(folder, 5)
    assert len(texts) == 5
    assert ((tokens >= 128) & (tokens <= 256)).all()
    for who, load in encode.SPARSE.items():
        np.savez(tmp_path / f"{who}.npz", **load(folder, "float32", "cpu")[0](texts[:2]))
    assert encode.differences(tmp_path)["largest_difference"] < 2e-5
    assert 0 < encode.floor_seconds(folder, tokens, "float32") < 60


def test_dense_vectors_are_compared_and_single_queries_timed(tmp_path, monkeypatch):
    import encode

    monkeypatch.setattr(encode, "TIMED", 10)
    folder = encode.make_dense_checkpoint("minilm", tmp_path / "model")
    texts, tokens = encode.make_texts(folder, 5)
    turns = {}
    for who, load in encode.DENSE.items():
        encode_texts, encode_query = load(str(folder), "float32", "cpu")
        np.savez(tmp_path / f"{who}.npz", **encode_texts(texts[:2]))
        turns[who] = [{"query_ms": encode.median_ms(encode_query)}]
    told = encode.dense_differences(tmp_path)
    assert told["largest_difference"] < 1e-5
    assert told["least_cosine"] > 0.99999
    assert set(encode.single_queries(turns)["query_ms"]) == {"ours", "theirs"}
    headless = encode.floor_seconds(folder, tokens, "float32", with_head=False)
    assert 0 < headless < 60


def test_how_many_times_as_fast_single_queries_are():
    import encode

    turns = {"ours": [{"query_ms": 3.0}, {"query_ms": 2.0}], "theirs": [{"query_ms": 5.0}, {"query_ms": 9.0}]}
    assert encode.single_queries(turns)["query_times_as_fast"] == 2.5
