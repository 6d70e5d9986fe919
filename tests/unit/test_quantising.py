"""Checkpoints with 8 bits a weight: folders of every layout, read as any other, unpacked for other libraries."""

import shutil

import cross_encoders_for_tests as pairs
import numpy as np
import pytest
import tiny_checkpoints as tiny
from decoders_for_tests import save_decoder
from dense_for_tests import dense_model
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer, SparseEncoder
from tiny_checkpoints import TEXTS, dense

from index.documents import Document
from index.errors import ModelError, WinnowError
from retrieval import LearnedSparseEncoder, Retriever
from retrieval.encoders.dense.encoder import DenseEncoder
from retrieval.encoders.quantising import quantise
from retrieval.rerankers.loading import load_reranker

load = LearnedSparseEncoder.from_pretrained
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::retrieval.encoders.text_stream.TruncationWarning"),
]
QUERIES = ["moon", "What's the weather in NEW York now?", "bread and salt; flour, and caf\u00e9"]
BOTH = {"model-8bit.safetensors", "model.safetensors"}


def rounded(source, folder):
    """The same checkpoint in float32, each row of a model's matrices rounded to 127 steps either way."""
    shutil.copytree(source, folder)
    for path in folder.rglob("model.safetensors"):
        weights = load_file(path)
        for name, matrix in weights.items():
            if matrix.ndim == 2:
                scale = np.abs(matrix).max(1, keepdims=True) / np.float32(127)
                scale[scale == 0] = 1
                steps = np.rint(matrix.astype(np.float64) / scale).astype(np.float32)
                assert np.abs(steps).max() == 127
                weights[name] = steps * scale
        save_file(weights, path, {"format": "pt"})
    return folder


def weights_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.name in BOTH)


def vectors(encoder):
    rows = encoder.encode_queries(QUERIES), encoder.encode_texts(TEXTS)
    return [dense(each, encoder.num_terms) for each in rows]


def assert_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
        assert len(np.unique(one.round(3), axis=0)) > 2


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "xlm_roberta", "modernbert"])
def test_a_masked_language_model_is_its_rounded_self(tmp_path, family):
    plain = getattr(tiny, family)(tmp_path / "plain")
    quantise(plain, tmp_path / "small")
    assert weights_in(tmp_path / "small") == ["model-8bit.safetensors"]
    found = vectors(load(tmp_path / "small", activation="log1p"))
    assert_equal(found, vectors(load(rounded(plain, tmp_path / "rounded"), activation="log1p")))
    assert not np.array_equal(found[1], vectors(load(plain, activation="log1p"))[1])
    np.testing.assert_allclose(found[1], vectors(load(plain, activation="log1p"))[1], atol=0.3)
    tied = {"activation": "log1p", "projection": "tied"}  # the model without its head
    assert_equal(vectors(load(tmp_path / "small", **tied)), vectors(load(tmp_path / "rounded", **tied)))


def test_decoders_dense_models_and_cross_encoders_too(tmp_path):
    decoder, plain = save_decoder(tmp_path / "decoder"), tiny.bert(tmp_path / "plain")
    classifier, modules = pairs.bert(tmp_path / "classifier"), dense_model(plain, tmp_path / "modules", "mean")
    for folder in (decoder, classifier, modules):
        quantise(folder, tmp_path / f"{folder.name}-small")
        rounded(folder, tmp_path / f"{folder.name}-rounded")
    for kind in ("small", "rounded"):
        assert weights_in(tmp_path / f"modules-{kind}") == [f"model{'-8bit' * (kind == 'small')}.safetensors"]
    texts = [text for text in TEXTS if len(text) < 100]
    documents = [Document(str(number), text=text) for number, text in enumerate(TEXTS)]
    of_decoders, of_dense, of_pairs = (
        [
            read(tmp_path / f"{name}-{kind}")
            for kind in ("small", "rounded")
        ]
        for name, read in {
            "decoder": lambda path: load(path, activation="log1p").encode_texts(texts),
            "modules": lambda path: DenseEncoder.from_pretrained(path).encode_texts(TEXTS),
            "classifier": lambda path: load_reranker(f"cross-encoder:{path}").rank("moon", documents),
        }.items()
    )  # fmt: skip
    assert len(of_decoders[0].data) > 100
    np.testing.assert_array_equal(of_decoders[0].data, of_decoders[1].data)
    np.testing.assert_array_equal(*of_dense)
    assert of_dense[0].std() > 0.01
    assert of_pairs[0] == of_pairs[1]
    assert len({one.score for one in of_pairs[0]}) == len(documents)


def test_a_table_of_query_weights_stays_as_it_is(tmp_path):
    plain = tiny.distilbert(tmp_path / "plain")
    tiny.write_json(plain / "idf.json", tiny.some_idf())
    quantise(plain, tmp_path / "small")
    encoder = load(tmp_path / "small", activation="log1p_log1p", special_terms=True)
    np.testing.assert_array_equal(encoder.query.weights, load(plain, activation="log1p").query.weights)
    load(plain, activation="log1p_log1p", special_terms=True).save_pretrained(tmp_path / "router")
    quantise(tmp_path / "router", tmp_path / "small-router")
    assert weights_in(tmp_path / "small-router") == ["model-8bit.safetensors", "model.safetensors"]
    assert_equal(vectors(load(tmp_path / "small-router")), vectors(encoder))
    np.testing.assert_array_equal(load(tmp_path / "small-router").query.weights, encoder.query.weights)


@pytest.mark.parametrize("options", [{}, {"queries": "binary", "query_max_length": 7}])
def test_saved_again_it_is_float32_that_sentence_transformers_opens_with_equal_vectors(tmp_path, options):
    quantise(tiny.bert(tmp_path / "plain"), tmp_path / "small")
    encoder = load(tmp_path / "small", activation="log1p", **options)
    encoder.save_pretrained(tmp_path / "m")
    assert set(weights_in(tmp_path / "m")) == {"model.safetensors"}
    model = SparseEncoder(str(tmp_path / "m"), device="cpu", local_files_only=True)
    for encode, texts, rows in zip(
        (model.encode_query, model.encode_document), (QUERIES, TEXTS), vectors(encoder), strict=True
    ):
        np.testing.assert_allclose(encode(texts, convert_to_sparse_tensor=False).numpy(), rows, atol=1e-5)
        assert rows.any(axis=1).all()
    assert_equal(vectors(load(tmp_path / "m")), vectors(encoder))


def test_no_other_library_takes_steps_for_weights(tmp_path):
    dense_model(tiny.bert(tmp_path / "plain"), tmp_path / "modules", "mean")
    quantise(tmp_path / "modules", tmp_path / "small")
    with pytest.raises(OSError, match=r"no file named (pytorch_)?model"):
        SentenceTransformer(str(tmp_path / "small"), device="cpu", local_files_only=True)


def test_shards_halves_and_what_is_not_of_a_model(tmp_path):
    plain = tiny.bert(tmp_path / "plain")
    weights = load_file(plain / "model.safetensors")
    shutil.copytree(plain, tmp_path / "shards")
    (tmp_path / "shards" / "model.safetensors").unlink()
    shards = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(weights)}
    for shard in set(shards.values()):
        save_file({name: weights[name] for name in weights if shards[name] == shard}, tmp_path / "shards" / shard)
    tiny.write_json(tmp_path / "shards" / "model.safetensors.index.json", {"metadata": {}, "weight_map": shards})
    (tmp_path / "shards" / "optimizer.pt").write_bytes(b"not of a model")
    (tmp_path / "shards" / "pytorch_model.bin").write_bytes(b"the same again")
    for name in ("plain", "shards"):
        quantise(tmp_path / name, tmp_path / f"{name}-small")
    contents = [
        {path.name: path.read_bytes() for path in (tmp_path / f"{name}-small").iterdir()}
        for name in ("plain", "shards")
    ]
    assert contents[0] == contents[1]
    assert "optimizer.pt" not in contents[0]
    quantise(tmp_path / "plain-small", tmp_path / "again")
    assert_equal(*(vectors(load(tmp_path / name, activation="log1p")) for name in ("plain-small", "again")))


def test_an_index_knows_its_model_by_the_file_of_8_bits(tmp_path):
    quantise(tiny.bert(tmp_path / "plain"), tmp_path / "small")
    retriever = Retriever.from_pretrained(tmp_path / "small", activation="log1p", queries="binary")
    retriever.index([{"_id": "a", "text": "moon"}], progress=False).save_pretrained(tmp_path / "i", progress=False)
    opened = Retriever.from_pretrained(tmp_path / "i")
    opened.index([{"_id": "b", "text": "bread and salt"}], progress=False)
    assert next(iter(opened.search("salt"))).doc_id == "b"
    quantise(tiny.bert(tmp_path / "other", seed=3), tmp_path / "small-other")
    shutil.copy(tmp_path / "small-other" / "model-8bit.safetensors", tmp_path / "small")
    with pytest.raises(ModelError, match="the index was built with weights and config"):
        Retriever.from_pretrained(tmp_path / "i").index([{"_id": "c", "text": "rain"}], progress=False)


def test_what_cannot_be_written_in_8_bits_is_told_and_leaves_nothing(tmp_path):
    plain = tiny.bert(tmp_path / "plain")
    (tmp_path / "no-model").mkdir()
    with pytest.raises(
        ModelError, match=r"no-model has no model \(a config.json with architectures\); give the folder"
    ):
        quantise(tmp_path / "no-model", tmp_path / "small")
    with pytest.raises(ModelError, match=r"absent has no model"):
        quantise(tmp_path / "absent", tmp_path / "small")
    shutil.copytree(plain, tmp_path / "without")
    (tmp_path / "without" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"without has no weights; 8 bits are made of model.safetensors"):
        quantise(tmp_path / "without", tmp_path / "small")
    shutil.copytree(plain, tmp_path / "pickle")
    with pytest.raises(ModelError, match=r"pickle has pytorch_model.bin; 8 bits are made of model.safetensors"):
        quantise(tiny.as_pickle(tmp_path / "pickle"), tmp_path / "small")
    weights = load_file(plain / "model.safetensors")
    shutil.copytree(plain, tmp_path / "nan")
    weights["cls.predictions.bias"][3] = np.nan
    save_file(weights, tmp_path / "nan" / "model.safetensors")
    with pytest.raises(ModelError, match=r"cls.predictions.bias has the weight nan"):
        quantise(tmp_path / "nan", tmp_path / "small")
    shutil.copytree(plain, tmp_path / "cut")
    (tmp_path / "cut" / "model.safetensors").write_bytes((plain / "model.safetensors").read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"the weights of .*cut cannot be read"):
        quantise(tmp_path / "cut", tmp_path / "small")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    with pytest.raises(WinnowError, match=r"full holds 'thesis.tex' and is no model of this kind"):
        quantise(plain, tmp_path / "full")
    assert not [path.name for path in tmp_path.iterdir() if "small" in path.name or "partial" in path.name]
    assert (tmp_path / "full" / "thesis.tex").read_text() == "years of work"


def test_a_damaged_file_is_told_when_the_model_is_read(tmp_path):
    quantise(tiny.bert(tmp_path / "plain"), tmp_path / "small")
    path = tmp_path / "small" / "model-8bit.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    with pytest.raises(ModelError, match=r"^[^()]*model-8bit.safetensors is damaged: its weights have sha256"):
        load(tmp_path / "small", activation="log1p").encode_texts(["moon"])
