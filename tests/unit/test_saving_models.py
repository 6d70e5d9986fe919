"""Models written for sentence-transformers: it opens them with equal vectors, and we with equal options."""

import json
import os

import numpy as np
import pytest
import tiny_checkpoints as tiny
import torch
from sentence_transformers import SparseEncoder
from tiny_checkpoints import TEXTS, WORDPIECES, dense

import index.files
from index.errors import ModelError, StorageError, WinnowError
from retrieval import LearnedSparseEncoder, Retriever
from retrieval.encoders.term_weights import TermWeights

load = LearnedSparseEncoder.from_pretrained
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::retrieval.encoders.text_stream.TruncationWarning"),
]
QUERIES = ["moon", "What's the weather in NEW York now?", "bread and salt; flour, and caf\u00e9"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    made = {}

    def make(family, **options):
        key = json.dumps([family, sorted(options)])
        if key not in made:
            made[key] = getattr(tiny, family)(tmp_path_factory.mktemp("plain") / family, **options)
        return made[key]

    return make


def vectors(encoder):
    rows = encoder.encode_queries(QUERIES), encoder.encode_texts(TEXTS)
    return [dense(each, encoder.num_terms) for each in rows]


def assert_survives(encoder, folder):
    """Written, then opened by both libraries."""
    encoder.save_pretrained(folder)
    expected = vectors(encoder)
    model = SparseEncoder(str(folder), device="cpu", local_files_only=True)
    for encode, texts, rows in zip(
        (model.encode_query, model.encode_document), (QUERIES, TEXTS), expected, strict=True
    ):
        np.testing.assert_allclose(encode(texts, convert_to_sparse_tensor=False).numpy(), rows, atol=1e-5)
        assert rows.any(axis=1).all()
    again = load(folder)
    assert again.document.options == encoder.document.options
    if isinstance(encoder.query, TermWeights):
        assert all(
            getattr(again.query, name) == getattr(encoder.query, name) for name in ("prefix", "max_length", "top_k")
        )
        np.testing.assert_array_equal(again.query.weights, encoder.query.weights)
    else:
        assert again.query.options == encoder.query.options
    for found, rows in zip(vectors(again), expected, strict=True):
        np.testing.assert_array_equal(found, rows)
    left = [path.name for path in folder.parent.iterdir() if path.name.startswith(f".{folder.name}")]
    assert left == [], "nothing half written stays"


ONE_TOWER = {
    "as it is": {},
    "two logarithms, sum": {"activation": "log1p_log1p", "pooling": "sum"},
    "prompts, top_k and length": {"query_prefix": "Query: ", "document_prefix": "rain ", "top_k": 9, "max_length": 15},
    "two lengths": {"query_max_length": 6, "document_max_length": 17},
}


@pytest.mark.parametrize(("family", "options"), [
    *(("bert", options) for options in ONE_TOWER),
    *((family, "prompts, top_k and length") for family in ("distilbert", "roberta", "xlm_roberta", "modernbert")),
])  # fmt: skip
def test_one_model_for_both_sides_is_one_tower(plain, tmp_path, family, options):
    assert_survives(load(plain(family), **{"activation": "log1p", **ONE_TOWER[options]}), tmp_path / "m")
    assert (tmp_path / "m" / "1_SpladePooling").is_dir()


@pytest.mark.parametrize("options", [
    {"queries": "binary"}, {"queries": "binary", "query_prefix": "rain ", "query_max_length": 5},
    {"queries": "binary", "max_length": 12, "document_prefix": "sea "},
])  # fmt: skip
def test_queries_by_a_table_are_a_route_of_a_router(plain, tmp_path, options):
    assert_survives(load(plain("bert"), activation="log1p", **options), tmp_path / "m")
    assert (tmp_path / "m" / "query_0_SparseStaticEmbedding" / "model.safetensors").is_file()


def test_opensearchs_table_is_kept(tmp_path):
    tiny.distilbert(tmp_path / "plain")
    tiny.write_json(tmp_path / "plain" / "idf.json", tiny.some_idf())
    encoder = load(tmp_path / "plain", activation="log1p_log1p", special_terms=True, top_k=4)
    assert_survives(encoder, tmp_path / "m")
    assert (vectors(encoder)[0] > 0).sum(1).tolist() == [1, 4, 4]


def test_two_models_are_two_routes(plain, tmp_path):
    small = tiny.bert(tmp_path / "small", seed=9, num_hidden_layers=1)
    encoder = load(plain("bert"), activation="log1p", query_model=str(small), query_pooling="sum", query_max_length=7)
    assert_survives(encoder, tmp_path / "m")
    assert len(list((tmp_path / "m").rglob("model.safetensors"))) == 2


def test_one_model_with_two_poolings_is_written_once(plain, tmp_path):
    encoder = load(plain("bert"), activation="log1p", query_activation="log1p_log1p", query_max_length=9)
    assert_survives(encoder, tmp_path / "m")
    assert len(list((tmp_path / "m").rglob("model.safetensors"))) == 1


def test_lexical_queries_are_written_as_a_table_of_ones(plain, tmp_path):
    encoder = load(plain("bert"), activation="log1p", query_own_terms=True)
    encoder.save_pretrained(tmp_path / "m")
    again = load(tmp_path / "m")
    assert again.query.options == encoder.query.options
    assert set(again.query.own_weights) == {1}
    model = SparseEncoder(str(tmp_path / "m"), device="cpu", local_files_only=True)
    expected = model.encode_query(QUERIES, convert_to_sparse_tensor=False).numpy()
    np.testing.assert_allclose(vectors(again)[0], expected, atol=1e-5)
    np.testing.assert_allclose(vectors(encoder)[0], expected, atol=1e-5)
    assert_survives(again, tmp_path / "n")  # and with a table of its own


def test_pickled_and_shortened_weights_are_written_so_that_vectors_are_equal(plain, tmp_path):
    assert_survives(load(tiny.as_pickle(tiny.bert(tmp_path / "pickle")), activation="log1p"), tmp_path / "m")
    halved = tiny.bert(tmp_path / "bfloat16", dtype=torch.bfloat16)  # the library would compute in bfloat16
    assert_survives(load(halved, activation="log1p"), tmp_path / "n")


def test_a_tokenizer_told_to_lower_case_stays_so(plain, tmp_path):
    cased = load(tiny.bert(tmp_path / "plain", tokenizer_options={"do_lower_case": False}), activation="log1p")
    cased.save_pretrained(tmp_path / "cased")
    tiny.edit_json(tmp_path / "cased" / "sentence_bert_config.json", do_lower_case=True)
    assert_survives(load(tmp_path / "cased"), tmp_path / "m")
    assert vectors(load(tmp_path / "m"))[0][1, WORDPIECES.index("new")] > 0


def test_the_model_of_a_saved_index_can_be_written(plain, tmp_path):
    retriever = Retriever.from_pretrained(plain("bert"), activation="log1p")
    retriever.index([{"_id": "a", "text": "moon"}], progress=False).save_pretrained(tmp_path / "i", progress=False)
    assert_survives(Retriever.from_folder(tmp_path / "i")._opened.encoders[0], tmp_path / "m")


@pytest.mark.parametrize(("options", "what"), [
    ({"threshold": 0.5}, r"threshold = 0.5 of the document side \(only 0.0\)"),
    ({"query_suffix": " ?"}, r"suffix = ' \?' of the query side \(only ''\)"),
    ({"echo": True}, r"echo = True"),
    ({"pooling": "mean"}, r"the pooling mean \(only max, sum\)"),
    ({"special_terms": False}, r"special_terms = False"),
    ({"document_pool_special": False}, r"pool_special = False"),
    ({"special_tokens": False}, r"special_tokens = False"),
    ({"prune_ratio": 0.1}, r"prune_ratio = 0.1"),
    ({"dtype": "bfloat16"}, r"dtype = 'bfloat16'"),
    ({"document_top_k": 8}, r"top_k = 8 for documents and None for queries \(only one number\)"),
    ({"document_top_k": 8, "queries": "binary"}, r"top_k = 8 for documents and None for queries"),
])  # fmt: skip
def test_what_the_format_has_no_place_for_is_refused_by_name(plain, tmp_path, options, what):
    encoder = load(plain("bert"), **{"activation": "log1p", **options})
    with pytest.raises(
        ModelError, match=rf"cannot be saved for sentence-transformers, whose format has no place for {what}"
    ):
        encoder.save_pretrained(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_mini_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"mini cannot be saved .* no place for queries weighed by the collection"):
        load("mini").save_pretrained(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(WinnowError, match=r"mini weighs the terms of a query by the collection that is searched"):
        load("mini").encode_queries(["moon"])
    with pytest.raises(ModelError, match=r"bm25 is no learned sparse encoder"):
        load("bm25")


def test_a_table_beside_more_terms_than_tokens_is_refused(plain, tmp_path):
    encoder = load(plain("modernbert"), activation="log1p", queries="binary")
    with pytest.raises(ModelError, match=r"token weights where the model has \d+ terms and the tokenizer \d+ tokens"):
        encoder.save_pretrained(tmp_path / "m")


def test_another_such_model_is_replaced_and_anything_else_refused(plain, tmp_path):
    encoder = load(plain("bert"), activation="log1p", queries="binary")
    encoder.save_pretrained(tmp_path / "m")
    (tmp_path / "empty").mkdir()
    encoder.save_pretrained(tmp_path / "empty")
    other = load(plain("bert"), activation="log1p_log1p")
    assert_survives(other, tmp_path / "m")
    assert not (tmp_path / "m" / "router_config.json").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    with pytest.raises(
        WinnowError, match=r"full holds 'thesis.tex' and is no model of this kind; give a new or empty folder"
    ):
        encoder.save_pretrained(tmp_path / "full")
    with pytest.raises(WinnowError, match=r"thesis.tex is not a folder; give a new or empty folder"):
        encoder.save_pretrained(tmp_path / "full" / "thesis.tex")
    assert (tmp_path / "full" / "thesis.tex").read_text() == "years of work"


def test_a_model_can_be_written_over_the_one_it_came_from(plain, tmp_path):
    load(plain("bert"), activation="log1p").save_pretrained(tmp_path / "m")
    encoder = load(tmp_path / "m", query_prefix="rain ")
    before = vectors(encoder)
    encoder.save_pretrained(tmp_path / "m")
    for found, expected in zip(vectors(load(tmp_path / "m")), before, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("failing", ["write", "fsync", "replace"])
def test_where_the_disk_fails_what_was_there_stays(plain, tmp_path, monkeypatch, failing):
    load(plain("bert"), activation="log1p").save_pretrained(tmp_path / "m")
    before = sorted((path.relative_to(tmp_path), path.stat().st_size) for path in tmp_path.rglob("*"))
    calls, true = iter(range(1000)), getattr(os, failing)

    def fails(*arguments):
        if next(calls) == (1 if failing == "replace" else 6):
            raise OSError(28, "No space left on device")
        return true(*arguments)

    monkeypatch.setattr(index.files.os, failing, fails)
    with pytest.raises(StorageError, match=r"could not be written \(No space left on device\)"):
        load(plain("bert"), activation="log1p_log1p").save_pretrained(tmp_path / "m")
    monkeypatch.undo()
    assert sorted((path.relative_to(tmp_path), path.stat().st_size) for path in tmp_path.rglob("*")) == before
    assert load(tmp_path / "m").document.options.activation == "log1p"
