"""Dense models of sentence-transformers: read with the vectors that the library itself gives."""

import json

import dense_for_tests as made
import numpy as np
import pytest
import tiny_checkpoints as tiny
import torch
from dense_for_tests import assert_equal_vectors, dense_model, ours, saved, theirs
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Router, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Normalize, Pooling, StaticEmbedding
from tiny_checkpoints import TEXTS, edit_json, write_json
from tokenizers import Tokenizer

from index.documents import Document
from retrieval.encoders.dense.encoder import DenseEncoder
from retrieval.encoders.loading import load_encoder, read_encoder

load = DenseEncoder.from_pretrained
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::retrieval.encoders.text_stream.TruncationWarning"),
]
MODES = {
    "mean": "mean",
    "cls": "cls",
    "max": "max",
    "lasttoken": "last",
    "weightedmean": "weighted_mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A plain checkpoint by the name of its family."""
    kept = {}

    def make(family):
        if family not in kept:
            folder = tmp_path_factory.mktemp("plain") / family
            if family in made.ARCHITECTURES:
                kept[family] = made.decoder(folder, family)
            else:
                kept[family] = getattr(made if hasattr(made, family) else tiny, family)(folder)
        return kept[family]

    return make


def dense(seed=0, inputs=32, outputs=16, **options):
    torch.manual_seed(seed)
    return Dense(inputs, outputs, **options)


@pytest.mark.parametrize("pooling", [*MODES, ("cls", "mean"), ("lasttoken", "max", "weightedmean")])
def test_every_pooling(plain, tmp_path, pooling):
    folder = dense_model(plain("bert"), tmp_path / "m", pooling)
    assert_equal_vectors(folder)
    named = [pooling] if isinstance(pooling, str) else pooling
    assert load(folder).document.options.pooling == "+".join(MODES[mode] for mode in named)


@pytest.mark.parametrize(
    "family",
    ["bert", "distilbert", "roberta", "xlm_roberta", "modernbert", "mpnet", "t5", "llama", "mistral", "qwen2", "qwen3"],
)
def test_every_family(plain, tmp_path, family):
    pooling = "lasttoken" if family in made.ARCHITECTURES else ("mean", "cls")
    assert_equal_vectors(dense_model(plain(family), tmp_path / "m", pooling, Normalize()))


@pytest.mark.parametrize("pooling", MODES)
def test_poolings_of_a_decoder(plain, tmp_path, pooling):
    differ = pooling != "cls"  # its first token sees no other
    assert_equal_vectors(dense_model(plain("llama"), tmp_path / "m", pooling), differ=differ)


@pytest.mark.parametrize("pooling", [*MODES, ("mean", "cls", "lasttoken")])
@pytest.mark.parametrize("family", ["bert", "mistral"])
def test_prompts_that_are_not_pooled(plain, tmp_path, family, pooling):
    prompts = {"query": "weather query: ", "document": "passage: "}
    folder = dense_model(plain(family), tmp_path / "m", pooling, include_prompt=False, prompts=prompts)
    assert_equal_vectors(folder)
    with_prompts = dense_model(plain(family), tmp_path / "w", pooling, prompts=prompts)
    assert_equal_vectors(with_prompts, differ=(family, pooling) != ("mistral", "cls"))
    if pooling not in ("lasttoken", "max"):
        assert all(np.abs(a - b).max() > 1e-3 for a, b in zip(ours(folder), ours(with_prompts), strict=True))


def test_a_prompt_that_fills_a_text_leaves_nothing_to_pool(plain, tmp_path):
    folder = made.decoder(tmp_path / "d", "llama", end=False)
    prompts = {"query": "", "document": "water " * 3}
    folder = dense_model(folder, tmp_path / "m", "mean", Normalize(), include_prompt=False, prompts=prompts)
    expected = theirs(folder)[1]
    assert not expected[-2:-1].any()  # of the empty text
    np.testing.assert_allclose(ours(folder)[1], expected, atol=1e-5, rtol=0)


def test_prompts_come_from_files_and_the_user(plain, tmp_path):
    folder = dense_model(plain("bert"), tmp_path / "m", prompts={"query": "weather: ", "document": "month "})
    assert_equal_vectors(folder)
    encoder = load(folder, query_prefix="tide: ", document_prefix="")
    library = SentenceTransformer(str(folder), device="cpu")
    for found, prompt in ((encoder.encode_queries(TEXTS), "tide: "), (encoder.encode_texts(TEXTS), "")):
        np.testing.assert_allclose(found, library.encode(TEXTS, prompt=prompt), atol=1e-5, rtol=0)


def test_a_default_prompt_is_for_neither_queries_nor_documents_as_in_the_library(plain, tmp_path):
    folder = dense_model(plain("bert"), tmp_path / "m", prompts={"sts": "weather: "}, default_prompt_name="sts")
    assert_equal_vectors(folder)


@pytest.mark.parametrize("activation", ["Tanh", "Identity", "ReLU", "GELU", "SiLU"])
def test_dense_layers(plain, tmp_path, activation):
    layer = dense(activation_function=getattr(torch.nn, activation)())
    assert_equal_vectors(dense_model(plain("bert"), tmp_path / "m", "mean", layer))


@pytest.mark.parametrize("options", [{"bias": False}, {"use_residual": True}, {"use_residual": True, "outputs": 32}])
def test_dense_layers_without_bias_and_with_a_residual(plain, tmp_path, options):
    assert_equal_vectors(dense_model(plain("bert"), tmp_path / "m", ("cls", "mean"), dense(inputs=64, **options)))


def test_layers_one_after_another(plain, tmp_path):
    norm = LayerNorm(16)
    torch.nn.init.normal_(norm.norm.weight)
    torch.nn.init.normal_(norm.norm.bias)
    layers = [dense(), norm, dense(1, 16, 24, activation_function=None), Normalize()]
    folder = dense_model(plain("bert"), tmp_path / "m", "mean", *layers)
    assert_equal_vectors(folder)
    assert load(folder).dimension == 24


def test_weights_in_a_pickle_of_tensors(plain, tmp_path):
    folder = dense_model(plain("bert"), tmp_path / "m", "mean", dense())
    expected = theirs(folder)
    from safetensors.torch import load_file

    for part in ("", "2_Dense"):
        stored = folder / part / "model.safetensors"
        torch.save(load_file(stored), folder / part / "pytorch_model.bin")
        stored.unlink()
    for found, own in zip(ours(folder), expected, strict=True):
        np.testing.assert_allclose(found, own, atol=1e-5, rtol=0)


def test_truncated_vectors_are_those_of_the_library_whatever_their_length(plain, tmp_path):
    folder = dense_model(plain("bert"), tmp_path / "m", "mean", Normalize(), truncate_dim=8)
    assert load(folder).dimension == 8
    assert_equal_vectors(folder)
    assert_equal_vectors(folder, like={"normalize_embeddings": True}, normalize=True)
    for found, expected in zip(ours(folder, truncate_dim=5), theirs(folder, truncate_dim=5), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_truncated_vectors_stay_as_they_are_where_they_are_compared_by_their_product(plain, tmp_path):
    folder = dense_model(plain("bert"), tmp_path / "m", similarity_fn_name="dot", truncate_dim=8)
    encoder = load(folder)
    assert (encoder.similarity, encoder.dimension, encoder.index.similarity) == ("dot", 8, "dot")
    assert_equal_vectors(folder)


def test_vectors_are_given_length_1_where_asked(plain, tmp_path):
    folder = dense_model(plain("bert"), tmp_path / "m")
    assert_equal_vectors(folder, normalize=True, like={"normalize_embeddings": True})


def test_lengths_and_case(plain, tmp_path):
    folder = tmp_path / "m"
    transformer = Transformer(str(plain("roberta")), max_seq_length=11, do_lower_case=True)
    saved([transformer, Pooling(32)], folder)
    assert_equal_vectors(folder)
    assert load(folder).document.options.max_length == 11
    edit_json(folder / "sentence_bert_config.json", query_length=5, document_length=7)
    assert_equal_vectors(folder)


def test_folders_of_older_releases(plain, tmp_path):
    folder = dense_model(plain("bert"), tmp_path / "m", ("mean", "cls"), dense(inputs=64), Normalize())
    expected = theirs(folder)
    modules = json.loads((folder / "modules.json").read_text())
    for module in modules:
        module["type"] = f"sentence_transformers.models.{module['type'].rpartition('.')[2]}"
    write_json(folder / "modules.json", modules)
    flags = dict.fromkeys(["max_tokens", "mean_sqrt_len_tokens"], False) | {"cls_token": True, "mean_tokens": True}
    old = {f"pooling_mode_{name}": value for name, value in flags.items()}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, **old})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 40, "do_lower_case": False})
    write_json(folder / "config_sentence_transformers.json", {"__version__": {"sentence_transformers": "2.0.0"}})
    again = theirs(folder)
    assert np.abs(again[0] - expected[0]).max() > 1e-3  # cls comes before mean now
    assert_equal_vectors(folder)


def test_a_router_has_a_model_for_each_side(plain, tmp_path):
    router = Router.for_query_document(
        query_modules=[Transformer(str(plain("roberta"))), Pooling(32, "cls"), dense(3)],
        document_modules=[Transformer(str(plain("bert"))), Pooling(32), dense(4)],
    )
    folder = saved([router, Normalize()], tmp_path / "m", prompts={"query": "weather: ", "document": ""})
    assert_equal_vectors(folder)


def test_layers_that_differ_behind_one_model(plain, tmp_path):
    shared = [Transformer(str(plain("bert"))), Pooling(32)]
    folder = saved([*shared, Router.for_query_document([dense(5)], [dense(6)])], tmp_path / "m")
    assert_equal_vectors(folder)
    encoder = load(folder)
    assert encoder.document.model.body is encoder.query.model.body


def token_table(seed=0):
    tokens = Tokenizer.from_file(str(tiny_tokenizer))
    weights = np.random.default_rng(seed).normal(size=(tokens.get_vocab_size(), 12)).astype(np.float32)
    return StaticEmbedding(tokens, embedding_weights=weights)


@pytest.fixture(autouse=True)
def _tokenizer(plain):
    global tiny_tokenizer
    tiny_tokenizer = plain("bert") / "tokenizer.json"


def test_a_table_of_token_vectors(tmp_path):
    folder = saved([token_table(), Normalize()], tmp_path / "m", prompts={"query": "weather: "})
    assert_equal_vectors(folder)
    assert load(folder).encode_texts(["moon " * 900]).shape == (1, 12)  # no text is too long


def test_a_table_as_model2vec_saves_it(tmp_path):
    from safetensors.numpy import save_file

    folder = saved([token_table()], tmp_path / "m")
    numbers = np.random.default_rng(1)
    size = Tokenizer.from_file(str(tiny_tokenizer)).get_vocab_size()
    save_file(
        {
            "embeddings": numbers.normal(size=(20, 12)).astype(np.float32),
            "mapping": numbers.integers(0, 20, size),
            "weights": numbers.uniform(size=size).astype(np.float32),
        },
        folder / "model.safetensors",
    )
    assert_equal_vectors(folder)


def test_one_query_has_the_vector_that_many_have(plain, tmp_path):
    encoder = load(dense_model(plain("bert"), tmp_path / "m", "mean", Normalize(), prompts={"query": "weather: "}))
    together = encoder.encode_queries(made.QUERIES)
    alone = np.stack([encoder.encode_query(query) for query in made.QUERIES])
    assert np.array_equal(together, alone)
    assert alone.dtype == np.float32


def test_a_query_without_text_finds_nothing(plain, tmp_path):
    encoder = load(dense_model(plain("bert"), tmp_path / "m", prompts={"query": "weather: "}))
    assert not encoder.encode_query(" \n").any()
    found = encoder.encode_queries(["moon", "", "rain"])
    assert found.any(axis=1).tolist() == [True, False, True]


def test_documents_stream_into_a_mapped_file(plain, tmp_path):
    encoder = load(dense_model(plain("bert"), tmp_path / "m"), factory="HNSW32", training_seconds=5)
    texts = [TEXTS[number % 4] if number % 50 else " " for number in range(150)]
    documents = (Document(str(number), "", text) for number, text in enumerate(texts))
    encoded = encoder.encode_documents(documents)
    assert isinstance(encoded.vectors.base.base, np.memmap)
    assert encoded.without.tolist() == [0, 50, 100]
    assert not encoded.vectors[encoded.without].any()
    assert (encoded.options.factory, encoded.options.training_seconds, encoded.options.dimension) == ("HNSW32", 5, 32)
    kept = np.setdiff1d(np.arange(150), encoded.without)
    assert np.array_equal(encoded.vectors[kept], encoder.encode_texts([texts[number] for number in kept]))
    none = encoder.encode_documents([])
    assert none.vectors.shape == (0, 32)
    assert len(none.without) == 0


def test_title_and_text_are_read_together(plain, tmp_path):
    encoder = load(dense_model(plain("bert"), tmp_path / "m"))
    encoded = encoder.encode_documents([Document("a", "moon", "rain")])
    assert np.array_equal(encoded.vectors, encoder.encode_texts(["moon rain"]))


def test_what_was_written_is_read_back_without_loading_weights(plain, tmp_path):
    modules = Router.for_query_document(
        [Transformer(str(plain("roberta"))), Pooling(32, "cls"), dense(3)],
        [Transformer(str(plain("bert"))), Pooling(32), dense(4), Normalize()],
    )
    folder = saved([modules], tmp_path / "m", prompts={"query": "weather: "})
    encoder = load_encoder(str(folder), None, {"truncate_dim": 9, "bytes_per_vector": 16, "normalize": True})
    (tmp_path / "index").mkdir()
    description = json.loads(json.dumps(encoder.write(tmp_path / "index")))
    again = read_encoder(tmp_path / "index", description)
    assert (again.name, again.arm, again.index) == (encoder.name, encoder.arm, encoder.index)
    assert not {"model"} & (again.document.__dict__.keys() | again.query.__dict__.keys())
    assert np.array_equal(again.encode_texts(TEXTS), encoder.encode_texts(TEXTS))
    assert np.array_equal(again.encode_queries(TEXTS), encoder.encode_queries(TEXTS))


@pytest.mark.parametrize("family", ["mpnet", "t5"])
def test_models_with_an_attention_of_their_own_are_padded(plain, tmp_path, family):
    encoder = load(dense_model(plain(family), tmp_path / "m"))
    texts = [text[:cut] for text in TEXTS for cut in (9, 14, 17, 30)]
    alone = np.concatenate([encoder.encode_texts([text]) for text in texts])
    np.testing.assert_allclose(encoder.encode_texts(texts), alone, atol=1e-6)
    assert encoder.document.model.body.layout == "padded"


def test_a_texts_vector_does_not_depend_on_its_company(plain, tmp_path):
    for family in ("bert", "modernbert"):
        encoder = load(dense_model(plain(family), tmp_path / family, ("mean", "weightedmean", "max")))
        alone = np.concatenate([encoder.encode_texts([text]) for text in TEXTS])
        assert np.array_equal(encoder.encode_texts(TEXTS[::-1])[::-1], alone)
