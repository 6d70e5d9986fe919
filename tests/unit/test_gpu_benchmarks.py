"""The benchmarks of encoding and training on a GPU, run without one: what they count, and the data that they make."""

import json

import encode_gpu
import numpy as np
import pytest
import train_gpu

from retrieval import LearnedSparseEncoder
from retrieval.training.sparse.examples import Examples


@pytest.fixture(scope="module")
def tokenizer():
    return LearnedSparseEncoder.from_pretrained("winnow-mini", device="cpu").tokenizer


def test_operations_are_those_of_every_product():
    lengths = np.array([2, 3])
    encoder = encode_gpu.Shape("BertConfig", vocabulary=50, width=8, inner=16, layers=2, heads=2, kv_heads=2)
    layer = 4 * 8 * 8 + 2 * 8 * 16  # q, k, v, output; two matrices of the MLP
    head = 8 * 8 + 8 * 50
    assert encoder.operations(lengths) == 2 * 5 * (2 * layer + head) + 2 * 2 * 2 * 8 * (2 * 2 + 3 * 3)
    decoder = encode_gpu.Shape("MistralConfig", vocabulary=50, width=8, inner=16, layers=2, heads=2, kv_heads=1)
    layer = 2 * 8 * 8 + 2 * 8 * 4 + 3 * 8 * 16  # k and v of one head of 4 numbers; three matrices
    assert decoder.operations(lengths) == 2 * 5 * (2 * layer + 8 * 50) + 2 * 2 * 2 * 8 * (2 * 2 + 3 * 3) / 2


def test_texts_have_the_lengths_that_are_told(tokenizer):
    texts, lengths = encode_gpu.make_texts(tokenizer, 20)
    assert [len(tokenizer.encode(text).ids) for text in texts] == lengths.tolist()
    assert lengths.min() >= 128
    assert lengths.max() <= 256


def test_a_random_checkpoint_leaves_about_as_many_terms_as_a_trained_one(tokenizer, tmp_path):
    encoder = encode_gpu.make_encoder(encode_gpu.SHAPES["tiny"], tokenizer, tmp_path)
    texts, _ = encode_gpu.make_texts(tokenizer, 4)
    terms = len(encoder.encode_texts(texts).indices) / 4
    assert encode_gpu.TERMS_LEFT / 3 < terms < encode_gpu.TERMS_LEFT * 3


def test_encoding_is_recorded(tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl"
    arguments = [
        "encode_gpu.py",
        "--device",
        "cpu",
        "--shapes",
        "tiny",
        "--texts",
        "8",
        "--batch",
        "800",
        "--turns",
        "1",
    ]
    monkeypatch.setattr("sys.argv", [*arguments, "--dtypes", "float32", "--json", str(out)])
    encode_gpu.main()
    whole, device = map(json.loads, out.read_text().splitlines())
    assert (whole["kind"], whole["texts"], device["kind"], device["texts"]) == ("whole", 8, "device", 4)
    assert whole["documents_a_second"] == pytest.approx(8 / whole["seconds"])
    assert device["tokens_a_second"] == pytest.approx(device["tokens"] / device["seconds"])


def test_the_data_to_train_on_is_read(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(train_gpu, "DOCUMENTS", 12)
    train_gpu.make_data(tokenizer, tmp_path)
    examples = Examples.read(tmp_path, "train", tmp_path / "negatives.jsonl")
    assert (len(examples.documents), len(examples.queries)) == (12, 24)
    for number, query in enumerate(examples.queries):
        answer = examples.documents[number // 2]
        assert set(query.split()) <= set(answer.split())
