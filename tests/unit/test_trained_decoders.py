"""Decoders, and whatever sentence-transformers' layout cannot say, are trained, saved with how they encode, and loaded without being told."""

import json

import numpy as np
import pytest
import tiny_checkpoints as tiny
from decoders_for_tests import TEXTS, save_decoder

from index.errors import ModelError
from retrieval import LearnedSparseEncoder, Retriever
from retrieval.encoders.encoder_file import ENCODER_FILE
from retrieval.training.sparse.preparation import prepare
from retrieval.training.sparse.recipe import Recipe
from retrieval.training.trainer import train

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::retrieval.encoders.text_stream.TruncationWarning"),
]
load = LearnedSparseEncoder.from_pretrained
WORDS = ("moon", "tide", "bread", "salt", "water", "yeast", "flour", "sea")
CHAT = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin_of_text|>", "pad_token": "<pad>"}


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    decoder = save_decoder(tmp_path_factory.mktemp("llama"), "llama")
    (decoder / "tokenizer_config.json").write_text(json.dumps(CHAT))
    return {"llama": decoder, "bert": tiny.bert(tmp_path_factory.mktemp("bert") / "bert")}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A document says two words; a query asks for one of them."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "qrels").mkdir()
    lines = [{"_id": f"d{i}", "text": f"{word} {WORDS[i - 1]}"} for i, word in enumerate(WORDS)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    lines = [{"_id": f"q{i}", "text": word} for i, word in enumerate(WORDS)]
    (folder / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "qrels" / "train.tsv").write_text("".join(f"q{i}\td{i}\t1\n" for i in range(len(WORDS))))
    return folder


def task_of(start, data, tmp_path, *, threshold=0.0, **model):
    encoder = {"activation": "log1p", "max_length": 30, **model.pop("encoder", {})}
    recipe = Recipe.of(
        {
            "model": {"start": str(start), "encoder": encoder, **model},
            "data": {"folder": str(data)},
            "loss": {
                "answers": 4,
                "negatives": 0,
                "distillation": 0.0,
                "document_terms": 0,
                "query_learning_rate": 0.3,
            },
            "training": {"steps": 3, "warmup": 0, "evaluate_every": 0, "accumulation": 1, "learning_rate": 0.01},
        },
        "a recipe",
    )
    return recipe, prepare(recipe, cache=tmp_path / "cache", device="cpu", progress=False)


def trained(start, data, tmp_path, **model):
    """(the task after training, the folder of its model)"""
    recipe, task = task_of(start, data, tmp_path, **model)
    return task, train(task, recipe.training, tmp_path / "run", progress=False).model


def vectors(encoder, texts=TEXTS):
    return [
        tiny.dense(rows, encoder.num_terms) for rows in (encoder.encode_texts(texts), encoder.encode_queries(texts))
    ]


MISTRAL_SPLADE = {"echo": True, "bidirectional": True, "document_prefix": "passage: ", "query_prefix": "query: "}
CASES = {
    "siamese with echo, LoRA and prompts": ("llama", {"queries": "siamese", "lora": 2, "encoder": MISTRAL_SPLADE}),
    "two models, of which one is trained": ("llama", {"queries": "model", "frozen_documents": True}),
    "two models that read differently": ("llama", {"queries": "model", "encoder": {"document_echo": True}}),
    "queries by a learned table": ("llama", {"learned": True, "query_weights": "ones", "encoder": {"echo": True}}),
    "an encoder with a threshold": ("bert", {"encoder": {"threshold": 0.25, "pool_special": False}}),
    "an encoder, special terms forbidden": ("bert", {"queries": "model", "encoder": {"special_terms": False}}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_was_trained_is_what_is_loaded(case, starts, data, tmp_path):
    start, model = CASES[case]
    before = load(starts[start], activation="log1p", max_length=30)
    task, folder = trained(starts[start], data, tmp_path, **model)
    assert (folder / ENCODER_FILE).is_file()
    assert not (folder / "modules.json").exists()
    again = load(folder)
    rows = vectors(again)
    for tower, reader, found in zip((task.towers.document, task.towers.query), task.reads, rows, strict=True):
        expected = tower(reader.of(TEXTS)).detach().numpy()
        np.testing.assert_allclose(found, expected, atol=2e-5)
        assert expected.any(axis=1).sum() >= len(TEXTS) - 1
    assert not np.allclose(rows[1], vectors(before)[1], atol=1e-3), "training has changed nothing"
    # the search of an index that was opened again is that of these vectors
    Retriever(again).index(
        [{"_id": str(i), "text": text} for i, text in enumerate(TEXTS)], progress=False
    ).save_pretrained(tmp_path / "index")
    hits = Retriever.from_pretrained(tmp_path / "index").search("moon tide", k=9)
    query = tiny.dense(again.encode_queries(["moon tide"]), again.num_terms)[0]
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(rows[0] @ query)[::-1][: len(hits)], rtol=0.02)
    assert len(hits) >= 3


def test_a_user_still_says_more_than_the_file(starts, data, tmp_path):
    _, folder = trained(starts["llama"], data, tmp_path, queries="siamese", encoder=MISTRAL_SPLADE)
    own = load(folder)
    assert (own.document.options.prefix, own.query.options.prefix) == ("passage: ", "query: ")
    assert (own.document.options.echo, own.query.options.bidirectional, own.query.options.max_length) == (
        True,
        True,
        30,
    )
    told = load(folder, echo=False, query_prefix="q ", max_length=20)
    assert (told.document.options.prefix, told.query.options.prefix) == ("passage: ", "q ")
    assert (told.query.options.echo, told.document.options.max_length) == (False, 20)
    assert told.document.options.bidirectional


@pytest.fixture
def saved(starts, tmp_path):
    """A checkpoint whose file holds these options."""

    def write(**found):
        folder = save_decoder(tmp_path / "saved", "llama")
        told = {"format_version": 1, "document": {}, "query": {}} | found
        (folder / ENCODER_FILE).write_text(json.dumps({name: value for name, value in told.items() if value != "gone"}))
        return folder

    return write


DAMAGED = [
    ({"format_version": 2}, "has the format_version 2, this release reads 1"),
    ({"format_version": "gone"}, "has the format_version None, this release reads 1"),
    ({"format_version": True}, "has the format_version True"),
    ({"document": "gone"}, "has None for document"),
    ({"query": ["echo"]}, "has ['echo'] for query"),
    ({"queries": {}}, "has 'queries'; it may have document and query"),
    ({"document": {"ecco": True}}, "has the document option 'ecco'; known are activation"),
    ({"query": {"echo": "yes"}}, "query: echo is 'yes'"),
    ({"document": {"max_length": -1}}, "document: max_length is -1"),
    ({"document": {"activation": "relu"}}, "document: activation is 'relu'"),
    ({"document": {"threshold": "0.5"}}, "document: threshold is '0.5'"),
]


@pytest.mark.parametrize(("found", "said"), DAMAGED)
def test_a_damaged_file_is_told(found, said, saved):
    with pytest.raises(ModelError) as told:
        load(saved(**found), activation="log1p")
    assert said in str(told.value)
    assert ENCODER_FILE in str(told.value)
    assert str(told.value).count("\n") == 0


def test_what_is_no_json_is_told(saved):
    folder = saved()
    (folder / ENCODER_FILE).write_text('{"format_version": 1')
    with pytest.raises(ModelError, match=r"winnow_encoder\.json cannot be read"):
        load(folder, activation="log1p")


def test_a_table_has_no_options_of_a_model(saved):
    folder = saved(query={"echo": True})
    (folder / "idf.json").write_text(json.dumps({"a": 1.5}))
    with pytest.raises(ModelError, match=r"query option 'echo'; known are prefix, max_length, top_k"):
        load(folder, activation="log1p")


def test_special_tokens_weigh_what_the_file_beside_a_table_says(saved):
    folder = saved(document={"special_terms": True}, query={"max_length": 3})
    (folder / "idf.json").write_text(json.dumps({"<pad>": 2.5, "a": 1.5}))
    encoder = load(folder, activation="log1p")
    assert (encoder.query.weights[3], encoder.query.max_length) == (2.5, 3)
    assert encoder.document.options.special_terms
    (folder / ENCODER_FILE).unlink()
    encoder = load(folder, activation="log1p")
    assert (encoder.query.weights[3], encoder.document.options.special_terms) == (0, False)
