"""Folders that sentence-transformers' SparseEncoder wrote, or older releases of it: read with the vectors that it gives."""

import fractions
import json
import os
import shutil

import numpy as np
import pytest
import tiny_checkpoints as tiny
import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder, SparseStaticEmbedding, SpladePooling
from tiny_checkpoints import TEXTS, WORDPIECES, dense, edit_json, write_json
from transformers import AutoTokenizer

from index.errors import ModelError
from retrieval import LearnedSparseEncoder

load = LearnedSparseEncoder.from_pretrained
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::retrieval.encoders.text_stream.TruncationWarning"),
]
QUERIES = ["moon", "What's the weather in NEW York now?", "  bread and salt; flour,\nand caf\u00e9 "]


def theirs(folder, **options):
    model = SparseEncoder(str(folder), device="cpu", local_files_only=True, **options)
    return [encode(texts, convert_to_sparse_tensor=False).float().numpy()
            for encode, texts in ((model.encode_query, QUERIES), (model.encode_document, TEXTS))]  # fmt: skip


def ours(folder, **options):
    encoder = load(folder, **options)
    rows = encoder.encode_queries(QUERIES), encoder.encode_texts(TEXTS)
    return [dense(each, encoder.num_terms) for each in rows]


def assert_equal_vectors(folder, **options):
    for found, expected in zip(ours(folder, **options), theirs(folder), strict=True):
        np.testing.assert_allclose(found[:, : expected.shape[1]], expected, atol=1e-5, rtol=0)
        assert not found[:, expected.shape[1] :].any()
        assert (expected > 0.01).any(axis=1).all()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A plain checkpoint by the name of its family."""
    made = {}

    def make(family, *arguments):
        if family not in made:
            made[family] = getattr(tiny, family)(tmp_path_factory.mktemp("plain") / family, *arguments)
        return made[family]

    return make


def transformer(folder):
    return Transformer(str(folder), transformer_task="fill-mask")


def static(folder, seed=3, tokenizer=None):
    tokenizer = tokenizer or AutoTokenizer.from_pretrained(folder)
    weights = np.random.default_rng(seed).uniform(0, 4, len(tokenizer)).astype(np.float32)
    return SparseStaticEmbedding(tokenizer, torch.tensor(weights), frozen=True)


def saved(modules, folder, **options):
    SparseEncoder(modules=modules, device="cpu", **options).save_pretrained(str(folder), create_model_card=False)
    return folder


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "xlm_roberta", "modernbert"])
@pytest.mark.parametrize(("activation", "pooling"), [("relu", "max"), ("log1p_relu", "max"), ("relu", "sum")])
def test_one_tower(plain, tmp_path, family, activation, pooling):
    modules = [transformer(plain(family)), SpladePooling(pooling, activation)]
    assert_equal_vectors(saved(modules, tmp_path / "m"))


def test_prompts_and_max_active_dims(plain, tmp_path):
    prompts = {"query": "Query: ", "document": "passage: ", "other": "what"}
    for family in ("bert", "roberta"):
        modules = [transformer(plain(family)), SpladePooling()]
        folder = saved(modules, tmp_path / family, prompts=prompts, max_active_dims=7)
        assert_equal_vectors(folder)
        assert all((rows > 0).sum(1).max() == 7 for rows in ours(folder))


def test_a_prompt_called_passage_is_what_the_library_makes_of_it(plain, tmp_path):
    folder = saved([transformer(plain("bert")), SpladePooling()], tmp_path / "m")
    edit_json(folder / "config_sentence_transformers.json", prompts={"query": "query: ", "passage": "passage: "})
    assert_equal_vectors(folder)


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_lengths(plain, tmp_path, family):
    by_tokenizer = transformer(plain(family))
    by_tokenizer.max_seq_length = 11
    folder = saved([by_tokenizer, SpladePooling()], tmp_path / "by tokenizer")
    assert_equal_vectors(folder)
    edit_json(folder / "sentence_bert_config.json", max_seq_length=9)  # as releases before 6 say it; counts more
    assert load(folder).document.options.max_length == 9
    assert_equal_vectors(folder)
    edit_json(folder / "sentence_bert_config.json", query_length=5, document_length=8)
    assert load(folder).query.options.max_length == 5
    assert_equal_vectors(folder)


def test_a_length_beyond_ours_for_plain_checkpoints_is_theirs(tmp_path):
    folder = tiny.bert(tmp_path / "plain", max_position_embeddings=700, tokenizer_options={"model_max_length": 10**30})
    folder = saved([transformer(folder), SpladePooling()], tmp_path / "m")
    assert load(folder).document.options.max_length == 700
    assert_equal_vectors(folder)


def test_do_lower_case(tmp_path):
    cased = tiny.bert(tmp_path / "plain", tokenizer_options={"do_lower_case": False})
    folder = saved([transformer(cased), SpladePooling()], tmp_path / "m")
    before = ours(folder)
    edit_json(folder / "sentence_bert_config.json", do_lower_case=True)
    assert_equal_vectors(folder)
    assert np.abs(ours(folder)[0][1] - before[0][1]).max() > 1e-3  # of the query with capitals


def test_a_router_with_a_table_for_queries(plain, tmp_path):
    document = [transformer(plain("bert")), SpladePooling(activation_function="log1p_relu")]
    router = Router.for_query_document([static(plain("bert"))], document)
    folder = saved([router], tmp_path / "m")
    assert (folder / "query_0_SparseStaticEmbedding" / "model.safetensors").is_file()
    assert_equal_vectors(folder)
    unknown = load(folder).encode_queries(["\u6771"])
    assert [WORDPIECES[term] for term in unknown.indices] == ["[UNK]"]  # special as it is, the library counts it


def test_a_router_with_a_table_prompts_and_limits(plain, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(plain("bert"), model_max_length=6)
    document = [transformer(plain("bert")), SpladePooling()]
    router = Router.for_query_document([static(plain("bert"), tokenizer=tokenizer)], document)
    folder = saved([router], tmp_path / "m", prompts={"query": "rain ", "document": ""}, max_active_dims=3)
    assert_equal_vectors(folder)
    assert (ours(folder)[0] > 0).sum(1).tolist() == [2, 3, 3]


def test_a_table_in_a_json_file(plain, tmp_path, monkeypatch):
    router = Router.for_query_document([static(plain("bert"))], [transformer(plain("bert")), SpladePooling()])
    folder = saved([router], tmp_path / "m")
    table = folder / "query_0_SparseStaticEmbedding"
    (table / "model.safetensors").unlink()
    write_json(folder / "idf.json", tiny.some_idf())
    write_json(table / "config.json", {"frozen": True, "path": "idf.json"})
    monkeypatch.chdir(folder)  # where the library looks for it
    assert_equal_vectors(folder)
    shutil.move(folder / "idf.json", table / "idf.json")
    monkeypatch.chdir(table)
    assert_equal_vectors(folder)


def test_a_table_in_a_pickle(plain, tmp_path):
    router = Router.for_query_document([static(plain("bert"))], [transformer(plain("bert")), SpladePooling()])
    folder = saved([router], tmp_path / "m")
    table = folder / "query_0_SparseStaticEmbedding"
    (table / "model.safetensors").unlink()
    torch.save({"weight": router.sub_modules["query"][0].weight.detach()}, table / "pytorch_model.bin")
    assert_equal_vectors(folder)
    torch.save({"weight": fractions.Fraction(1, 2)}, table / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"has no tensor 'weight' that can be read \(a pickle of more than tensors"):
        load(folder)


def test_a_router_as_on_the_hub_has_the_documents_model_in_its_root(plain, tmp_path):
    """The layout of OpenSearch's and naver's repositories, with the class names of that time."""
    router = Router.for_query_document([static(plain("bert"))], [transformer(plain("bert")), SpladePooling()])
    folder = saved([router], tmp_path / "m")
    for path in (folder / "document_0_Transformer").iterdir():
        shutil.move(path, folder / path.name)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 20, "do_lower_case": False})
    write_json(folder / "document_1_SpladePooling" / "config.json",
               {"pooling_strategy": "max", "activation_function": "log1p_relu", "word_embedding_dimension": len(WORDPIECES)})  # fmt: skip
    write_json(
        folder / "router_config.json",
        {
            "types": {
                "query_0_SparseStaticEmbedding": "sentence_transformers.sparse_encoder.models.SparseStaticEmbedding.SparseStaticEmbedding",
                "": "sentence_transformers.sparse_encoder.models.MLMTransformer.MLMTransformer",
                "document_1_SpladePooling": "sentence_transformers.sparse_encoder.models.SpladePooling.SpladePooling",
            },
            "structure": {"query": ["query_0_SparseStaticEmbedding"], "document": ["", "document_1_SpladePooling"]},
            "parameters": {"default_route": "document", "allow_empty_key": True},
        },
    )
    write_json(
        folder / "modules.json",
        [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Router.Router"}],
    )
    assert load(folder).document.options.max_length == 20
    assert_equal_vectors(folder)


def test_a_router_with_encoders_on_both_sides(plain, tmp_path):
    small = tiny.bert(tmp_path / "small", seed=9, num_hidden_layers=1)
    router = Router.for_query_document(
        [transformer(small), SpladePooling("sum")], [transformer(plain("bert")), SpladePooling()]
    )
    assert_equal_vectors(saved([router], tmp_path / "m"))


def test_lexical_queries(plain, tmp_path):
    """SPLADE-v3-lexical: what the model says of the query's own tokens, times a table."""
    model = transformer(plain("bert"))
    query = [model, SpladePooling(), static(plain("bert"))]
    folder = saved([Router.for_query_document(query, [model, SpladePooling()])], tmp_path / "m")
    assert_equal_vectors(folder)
    assert load(folder).query.own_weights is not None


def test_the_names_of_older_releases(plain, tmp_path):
    """MLMTransformer, Asym with its routes in config.json, word_embedding_dimension."""
    folder = saved([transformer(plain("bert")), SpladePooling()], tmp_path / "tower")
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 20, "do_lower_case": False})
    write_json(
        folder / "1_SpladePooling" / "config.json",
        {"pooling_strategy": "sum", "activation_function": "relu", "word_embedding_dimension": None},
    )
    write_json(
        folder / "modules.json",
        [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.sparse_encoder.models.MLMTransformer"},
            {
                "idx": 1,
                "name": "1",
                "path": "1_SpladePooling",
                "type": "sentence_transformers.sparse_encoder.models.SpladePooling",
            },
        ],
    )
    assert_equal_vectors(folder)
    router = Router.for_query_document([static(plain("bert"))], [transformer(plain("bert")), SpladePooling()])
    folder = saved([router], tmp_path / "asym")
    routes = json.loads((folder / "router_config.json").read_text())
    del routes["parameters"]["route_mappings"]
    os.remove(folder / "router_config.json")
    write_json(folder / "config.json", routes)
    write_json(
        folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Asym"}]
    )
    assert_equal_vectors(folder)
    static_module = next(module for module in routes["types"] if module.endswith("SparseStaticEmbedding"))
    routes["types"][static_module] = (
        "sentence_transformers.sparse_encoder.models.IDF"  # which the library no longer opens
    )
    expected = ours(folder)
    write_json(folder / "config.json", routes)
    for found, before in zip(ours(folder), expected, strict=True):
        np.testing.assert_array_equal(found, before)


def test_options_of_the_user_count_more_than_the_files(plain, tmp_path):
    folder = saved(
        [transformer(plain("bert")), SpladePooling()], tmp_path / "m", prompts={"query": "rain ", "document": ""}
    )
    encoder = load(folder, activation="log1p_log1p", query_prefix="moon ", max_length=12)
    other = saved(
        [transformer(plain("bert")), SpladePooling(activation_function="log1p_relu")],
        tmp_path / "n",
        prompts={"query": "moon ", "document": ""},
    )
    edit_json(other / "sentence_bert_config.json", max_seq_length=12)
    np.testing.assert_allclose(dense(encoder.encode_queries(QUERIES), encoder.num_terms), theirs(other)[0], atol=1e-5)


def test_modules_over_no_vocabulary_are_refused(plain, tmp_path):
    from sentence_transformers.sentence_transformer.modules import Pooling

    words = Transformer(str(plain("bert")))
    autoencoder = SparseAutoEncoder(input_dim=32, hidden_dim=64, k=8, k_aux=16)
    folder = saved([words, Pooling(32), autoencoder], tmp_path / "csr")
    with pytest.raises(
        ModelError,
        match=r"has the modules Transformer, Pooling, SparseAutoEncoder; a sparse encoder over a vocabulary has",
    ):
        load(folder)
    folder = saved([transformer(plain("bert")), SpladePooling()], tmp_path / "hidden states")
    edit_json(folder / "sentence_bert_config.json", transformer_task="feature-extraction")
    with pytest.raises(
        ModelError, match=r"has the transformer_task 'feature-extraction', which gives no weights of terms"
    ):
        load(folder)
    edit_json(
        folder / "sentence_bert_config.json",
        transformer_task="fill-mask",
        query_expansion={"strategy": "fixed", "length": 8},
    )
    with pytest.raises(ModelError, match=r"has query_expansion, which is not known here"):
        load(folder)


def test_a_router_whose_sides_read_text_differently_is_refused(plain, tmp_path):
    cased = tiny.wordpieces(tmp_path / "cased", do_lower_case=False)
    router = Router.for_query_document([static(None, tokenizer=cased)], [transformer(plain("bert")), SpladePooling()])
    folder = saved([router], tmp_path / "m")
    with pytest.raises(ModelError, match=r"the query side of .* tokenizes otherwise than"):
        load(folder)
