"""Which name, folder and option makes which dense encoder, and what is refused."""

import importlib.util
import json
import shutil

import numpy as np
import pytest
import tiny_checkpoints as tiny
import torch
import transformers
from decoders_for_tests import save_decoder
from dense_for_tests import decoder, dense_model, saved
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Router, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Normalize, Pooling
from sentence_transformers.sparse_encoder.modules import SpladePooling
from tiny_checkpoints import TEXTS, edit_json, write_json

from index.errors import ModelError, WinnowError
from retrieval import LearnedSparseEncoder
from retrieval.encoders.dense import checkpoints as dense_checkpoints
from retrieval.encoders.dense import registry as dense_registry
from retrieval.encoders.dense.encoder import DenseEncoder
from retrieval.encoders.loading import load_encoder
from retrieval.encoders.minilm import HUB_NAME, minilm_folder
from retrieval.encoders.registry import KNOWN as SPARSE
from retrieval.encoders.registry import LicenceWarning
from retrieval.encoding import encode_corpus

load = DenseEncoder.from_pretrained
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::retrieval.encoders.text_stream.TruncationWarning"),
]
needs_peft = pytest.mark.skipif(not importlib.util.find_spec("peft"), reason="NOT RUN: peft is not installed")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny.bert(tmp_path_factory.mktemp("plain") / "bert")


@pytest.fixture(scope="module")
def dense(bert, tmp_path_factory):
    """A dense model of sentence-transformers."""
    return dense_model(bert, tmp_path_factory.mktemp("dense") / "m", "mean", Normalize())


@pytest.fixture
def copied(dense, tmp_path):
    return shutil.copytree(dense, tmp_path / "copied")


def library_hidden(folder, ids, mask=None):
    """float64 [tokens, width]; mask bool [tokens, tokens]: which see which, instead of the model's own."""
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    given = {} if mask is None else {"attention_mask": torch.where(torch.tensor(mask), 0.0, -1e30)[None, None].double()}
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids]), **given).last_hidden_state[0].numpy()


def test_a_plain_model_is_asked_how_it_pools(bert):
    with pytest.raises(
        ModelError, match="does not say how a text's hidden states become one vector; give pooling= one of mean, cls"
    ):
        load(bert)
    encoder = load(bert, pooling="cls+mean", query_max_length=9)
    transformer = Transformer(str(bert))
    library = SentenceTransformer(modules=[transformer, Pooling(32, ("cls", "mean"))], device="cpu")
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), library.encode(TEXTS), atol=1e-5)
    transformer.max_seq_length = 9
    np.testing.assert_allclose(encoder.encode_queries(TEXTS), library.encode(TEXTS), atol=1e-5)


def test_dense_before_a_name_makes_it_dense(bert, dense):
    sparse, other = (
        load_encoder(str(bert), None, {"activation": "log1p"}),
        load_encoder(f"dense:{bert}", None, {"pooling": "cls"}),
    )
    assert isinstance(sparse, LearnedSparseEncoder)
    assert isinstance(other, DenseEncoder)
    assert (other.name, other.arm, sparse.arm) == (f"dense:{bert}", "bert-dense", "bert")
    by_itself = load_encoder(str(dense))
    assert isinstance(by_itself, DenseEncoder)
    assert (by_itself.name, by_itself.arm) == (str(dense), "m")


def test_modules_tell_sparse_from_dense(bert, dense, tmp_path):
    from sentence_transformers import SparseEncoder

    modules = [Transformer(str(bert), transformer_task="fill-mask"), SpladePooling()]
    SparseEncoder(modules=modules, device="cpu").save_pretrained(str(tmp_path / "sparse"), create_model_card=False)
    assert isinstance(load_encoder(str(tmp_path / "sparse")), LearnedSparseEncoder)
    with pytest.raises(ModelError, match="has the module SpladePooling, so it is a sparse encoder; leave dense: out"):
        load_encoder(f"dense:{tmp_path / 'sparse'}")
    with pytest.raises(ModelError, match="is no learned sparse encoder"):
        LearnedSparseEncoder.from_pretrained(dense)
    router = Router.for_query_document([Transformer(str(bert)), Pooling(32)], [Transformer(str(bert)), Pooling(32)])
    assert isinstance(load_encoder(str(saved([router], tmp_path / "router"))), DenseEncoder)


def test_dense_vectors_are_in_no_folder_of_vectors(dense, tmp_path):
    with pytest.raises(WinnowError, match="makes dense vectors, which no folder of vectors holds"):
        encode_corpus([{"_id": "a", "text": "moon"}], tmp_path / "v", model=str(dense))


def test_minilm_equals_the_library():
    library = SentenceTransformer(str(minilm_folder()), device="cpu")
    texts = [*TEXTS, "", "a long one " * 300]
    expected = library.encode(texts)
    for name in ("minilm", HUB_NAME, f"dense:{HUB_NAME}", str(minilm_folder())):
        encoder = load_encoder(name)
        assert (encoder.name, encoder.dimension, encoder.similarity) == (name, 384, "cosine")
        np.testing.assert_allclose(encoder.encode_texts(texts), expected, atol=1e-5, rtol=0)
    assert load_encoder("minilm").arm == "minilm"
    shorter = load_encoder("minilm", None, {"query_max_length": 8, "truncate_dim": 100})
    library.max_seq_length = 8
    expected = library.encode(texts, truncate_dim=100)
    np.testing.assert_allclose(shorter.encode_queries(texts[:4]), expected[:4], atol=1e-5, rtol=0)


def test_in_half_precision_minilm_points_the_same_way():
    exact, rough = (load_encoder("minilm", None, {"dtype": dtype}) for dtype in ("float32", "bfloat16"))
    found = rough.encode_texts(TEXTS)
    assert found.dtype == np.float32
    assert ((found * exact.encode_texts(TEXTS)).sum(axis=1) > 0.998).all()


@pytest.mark.parametrize("option", [{"revision": "main"}, {"query_model": "x/y"}])
def test_minilm_has_one_checkpoint(option):
    with pytest.raises(WinnowError, match=f"minilm has one checkpoint; leave {next(iter(option))} out"):
        load("minilm", **option)


def test_the_library_ends_texts_of_a_decoder_and_so_do_we(tmp_path):
    """As E5-Mistral: the last token, which the tokenizer adds, an instruction before queries alone, and length 1."""
    instruction = "Instruct: the tide\nQuery: "
    folder = dense_model(
        decoder(tmp_path / "plain", "mistral"), tmp_path / "m", "lasttoken", Normalize(), prompts={"query": instruction}
    )
    library, encoder = SentenceTransformer(str(folder), device="cpu"), load(folder)
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), library.encode_document(TEXTS), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_queries(TEXTS), library.encode_query(TEXTS), atol=1e-5)
    assert encoder.document.tokens.of(["moon " * 200])[0].ids[-1] == 2  # cut texts too


def test_an_end_token_is_put_where_the_tokenizer_puts_none(tmp_path):
    plain, ended = decoder(tmp_path / "plain", "llama", end=False), decoder(tmp_path / "ended", "llama")
    options = {"pooling": "last", "max_length": 20}
    expected = load(ended, **options).encode_texts(TEXTS)
    assert np.array_equal(load(plain, end_token="<|im_end|>", **options).encode_texts(TEXTS), expected)
    assert np.array_equal(load(ended, end_token="<|im_end|>", **options).encode_texts(TEXTS), expected)
    assert np.abs(load(plain, **options).encode_texts(TEXTS) - expected).max() > 0.1
    with pytest.raises(ModelError, match="end_token is '</nothing>', which is no token"):
        load(plain, end_token="</nothing>", **options)


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_a_decoder_may_see_what_comes_after(tmp_path, architecture):
    folder = save_decoder(tmp_path / "m", architecture)
    window = 6 if architecture == "mistral" else 999
    encoder = load(folder, pooling="mean", bidirectional=True, special_tokens=False)
    for text in TEXTS:
        ids = encoder.document.tokens.of([text])[0].ids.tolist()
        places = np.arange(len(ids))
        expected = library_hidden(folder, ids, np.abs(places[:, None] - places) < window).mean(axis=0)
        np.testing.assert_allclose(encoder.encode_texts([text])[0], expected, atol=1e-5)


@needs_peft
def test_an_adapter_is_merged_into_its_base(tmp_path):
    import peft

    base = decoder(tmp_path / "base", "llama")
    torch.manual_seed(3)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="FEATURE_EXTRACTION")
    adapted = peft.get_peft_model(transformers.AutoModel.from_pretrained(base), config)
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.2)
    adapted.save_pretrained(tmp_path / "adapter")
    edit_json(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=str(base))
    encoder = load(tmp_path / "adapter", pooling="last")
    adapted.eval()
    for text in TEXTS:
        ids = torch.tensor([encoder.document.tokens.of([text])[0].ids])
        with torch.inference_mode():
            expected = adapted(input_ids=ids).last_hidden_state[0, -1].numpy()
        np.testing.assert_allclose(encoder.encode_texts([text])[0], expected, atol=1e-5)
    assert np.abs(load(base, pooling="last").encode_texts(TEXTS) - encoder.encode_texts(TEXTS)).max() > 0.1


def test_promptreps_dense_half_is_that_of_both(tmp_path):
    folder = save_decoder(tmp_path / "m", "qwen2")
    texts = [*TEXTS[:3], "", "moon"]
    options = {"method": "promptreps", "max_length": 12}
    sparse = load_encoder(str(folder), None, options)
    encoder = load_encoder(f"dense:{folder}", None, options)
    expected = sparse.document.encode_both(texts).dense
    np.testing.assert_allclose(encoder.encode_texts(texts), expected, atol=1e-6)
    assert expected.any(axis=1).tolist() == [True, True, True, False, True]
    np.testing.assert_allclose(encoder.encode_queries(texts), sparse.query.encode_both(texts).dense, atol=1e-6)
    assert np.abs(encoder.encode_texts(["moon"]) - encoder.encode_queries(["moon"])).max() > 1e-3


def test_two_models_for_documents_and_queries(bert, tmp_path):
    other = tiny.roberta(tmp_path / "roberta")
    encoder = load(bert, query_model=str(other), pooling="mean")
    assert np.array_equal(encoder.encode_queries(TEXTS), load(other, pooling="mean").encode_queries(TEXTS))
    assert np.array_equal(encoder.encode_texts(TEXTS), load(bert, pooling="mean").encode_texts(TEXTS))
    wide = tiny.bert(tmp_path / "wide", hidden_size=48)
    with pytest.raises(ModelError, match=r"vectors of 32 numbers of documents and of 48 of queries"):
        load(bert, query_model=str(wide), pooling="mean")


def test_an_index_notices_other_weights(bert, tmp_path):
    folder = dense_model(bert, tmp_path / "m", "mean", Dense(32, 8))
    encoder = load(folder)
    (tmp_path / "i").mkdir()
    description = encoder.write(tmp_path / "i")
    torch.manual_seed(9)
    dense_model(bert, tmp_path / "n", "mean", Dense(32, 8))
    shutil.copy(tmp_path / "n" / "2_Dense" / "model.safetensors", folder / "2_Dense" / "model.safetensors")
    with pytest.raises(ModelError, match="the index was built with weights and config"):
        DenseEncoder.read(tmp_path / "i", description).encode_query("moon")


def test_names_are_known_once():
    assert not set(dense_registry.KNOWN) & set(SPARSE)
    for known in dense_registry.KNOWN.values():
        dense_checkpoints.DenseWishes.of(known.options)


def test_what_is_known_of_a_name_counts_where_its_files_say_nothing(bert, tmp_path, monkeypatch):
    asked = []

    def fetched(name, revision, patterns):
        asked.append(name)
        return folder

    monkeypatch.setattr("retrieval.encoders.model_files.fetched", fetched)
    folder = bert
    encoder = load_encoder("e5-small-v2")
    assert set(asked) == {"intfloat/e5-small-v2"}
    assert (encoder.query.options.prefix, encoder.document.options.prefix) == ("query: ", "passage: ")
    assert encoder.document.options.pooling == "mean"
    with pytest.warns(LicenceWarning, match="CC BY-NC 4.0, not for commercial use"):
        assert load_encoder("contriever").similarity == "dot"
    folder = dense_model(bert, tmp_path / "m", "cls", prompts={"query": "weather: "})
    encoder = load_encoder("intfloat/e5-small-v2", None, {"document_prefix": ""})
    assert (encoder.query.options.prefix, encoder.document.options.prefix) == ("weather: ", "")
    assert encoder.document.options.pooling == "cls"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pooling": "median"}, "pooling is 'median'; it must be one of mean, cls"),
        ({"pooling": "mean+"}, "pooling is ''; it must be one of"),
        ({"pooling": ["mean"]}, r"pooling is \['mean'\]; it must be one of"),
        ({"truncate_dim": 0}, "truncate_dim is 0; it must be a whole number from 1 to 32"),
        ({"truncate_dim": 33}, "truncate_dim is 33; it must be a whole number from 1 to 32"),
        ({"similarity": "euclidean"}, "compares vectors by 'euclidean'; known are cosine and dot"),
        ({"max_length": 41}, "max_length is 41, but .* has 40 positions"),
        ({"max_length": 2}, "special tokens alone take that much"),
        ({"prefix": "moon " * 50}, "leaves no room for a text"),
        ({"activation": "log1p"}, "there is no model option 'activation'"),
        ({"queries": "table"}, "there is no model option 'queries'"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"normalize": "yes"}, "normalize is 'yes'; it must be one of True, False"),
        ({"include_prompt": 1}, "include_prompt is 1"),
        ({"end_token": 3}, "end_token is 3; it must be a text"),
        ({"factory": "Flat", "bytes_per_vector": 8}, "both say how vectors are found"),
        ({"trust_remote_code": True}, "give the commit that you have read"),
        ({"method": "promptreps"}, "has a chat format that is not known here"),
        (
            {"method": "promptreps", "pooling": "mean", "prefix": "a", "suffix": "b"},
            "with method='promptreps' it must be 'last'",
        ),
    ],
)
def test_options_that_make_no_sense_are_told(dense, options, says):
    with pytest.raises(WinnowError, match=says):
        load_encoder(str(dense), None, options)


def test_dense_vectors_have_no_impacts(dense):
    with pytest.raises(WinnowError, match="leave impacts='u8' out"):
        load_encoder(str(dense), "u8")


@pytest.mark.parametrize(
    ("part", "change", "says"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "attention"}, "the pooling_mode 'attention'; known are cls"),
        ("1_Pooling/config.json", {"pooling_mode": []}, r"the pooling_mode \[\]"),
        ("1_Pooling/config.json", {"pooling_mode": {"a": 1}}, "the pooling_mode {'a': 1}"),
        (
            "1_Pooling/config.json",
            {"embedding_dimension": 31},
            "embedding_dimension = 31, what comes before it gives 32",
        ),
        ("1_Pooling/config.json", {"include_prompt": "no"}, "include_prompt = 'no'"),
        ("2_Dense/config.json", {"in_features": 7}, "in_features = 7, what comes before it gives 32"),
        ("2_Dense/config.json", {"out_features": -1}, "out_features = -1; it must be a whole number"),
        ("2_Dense/config.json", {"activation_function": "os.system"}, "activation_function 'os.system'; known are"),
        (
            "2_Dense/config.json",
            {"activation_function": "torch.nn.Softmax2d"},
            "activation_function 'torch.nn.Softmax2d'",
        ),
        ("2_Dense/config.json", {"module_input_name": "token_embeddings"}, "module_input_name 'token_embeddings'"),
        ("3_LayerNorm/config.json", {"dimension": 9}, "dimension = 9, what comes before it gives 8"),
        (
            "sentence_bert_config.json",
            {"transformer_task": "fill-mask"},
            "the transformer_task 'fill-mask', which gives no hidden",
        ),
        (
            "sentence_bert_config.json",
            {"query_expansion": {"length": 8}},
            "has query_expansion, which is not known here",
        ),
        (
            "config_sentence_transformers.json",
            {"similarity_fn_name": "manhattan"},
            "by 'manhattan'; known are cosine and dot",
        ),
        ("config_sentence_transformers.json", {"truncate_dim": "8"}, "truncate_dim is '8'"),
        ("config_sentence_transformers.json", {"prompts": ["a"]}, r"the prompts \['a'\]"),
        ("config_sentence_transformers.json", {"prompts": {"query": 3}}, "the prompts {'query': 3}"),
    ],
)
def test_files_that_make_no_dense_encoder_are_told(bert, tmp_path, part, change, says):
    folder = dense_model(bert, tmp_path / "m", "mean", Dense(32, 8), LayerNorm(8))
    edit_json(folder / part, **change)
    with pytest.raises(ModelError if "truncate" not in says else WinnowError, match=says):
        load(folder)


@pytest.mark.parametrize(
    ("modules", "says"),
    [
        ([], "has the modules of none"),
        (
            ["Transformer"],
            "has the modules Transformer; a dense encoder has a Transformer and a Pooling, or StaticEmbedding",
        ),
        (
            ["Transformer", "WeightedLayerPooling", "Pooling"],
            "has the modules Transformer, WeightedLayerPooling, Pooling",
        ),
        (["Transformer", "Pooling", "CNN"], "has the module 'CNN' after its pooling"),
        (
            ["Transformer", "Pooling", "SparseAutoEncoder"],
            "has the module SparseAutoEncoder, so it is a sparse encoder",
        ),
        (["StaticEmbedding"], "has no table of token vectors"),
    ],
)
def test_modules_that_make_no_dense_encoder_are_told(copied, modules, says):
    parts = {"Transformer": "", "Pooling": "1_Pooling"}
    listed = [
        {"idx": i, "name": str(i), "path": parts.get(kind, "2_X"), "type": f"a.{kind}"}
        for i, kind in enumerate(modules)
    ]
    (copied / "2_X").mkdir()
    shutil.copy(copied / "tokenizer.json", copied / "2_X")
    write_json(copied / "modules.json", listed)
    with pytest.raises(ModelError, match=says):
        load_encoder(f"dense:{copied}")


def test_layers_without_their_weights_are_told(bert, tmp_path):
    folder = dense_model(bert, tmp_path / "m", "mean", Dense(32, 8))
    edit_json(folder / "2_Dense" / "config.json", out_features=9)
    with pytest.raises(ModelError, match=r"linear.weight of shape \(8, 32\), its config.json asks for \(9, 32\)"):
        load(folder).encode_query("moon")
    edit_json(folder / "2_Dense" / "config.json", out_features=8, use_residual=True)
    with pytest.raises(ModelError, match=r"has no tensor 'residual.weight'"):
        load(folder).encode_query("moon")
    (folder / "2_Dense" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="2_Dense has no weights that can be read"):
        load(folder).encode_query("moon")
    (folder / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="2_Dense has no weights that can be read"):
        load(folder).encode_query("moon")


def test_routes_are_for_documents_and_queries(bert, tmp_path):
    router = Router({"query": [Transformer(str(bert)), Pooling(32)], "image": [Transformer(str(bert)), Pooling(32)]})
    with pytest.raises(
        ModelError, match="has the routes query, image; a dense encoder needs one for query and one for document"
    ):
        load(saved([router], tmp_path / "m"))


def test_vectors_of_another_width_than_the_files_say_are_told(dense):
    encoder = load(dense)
    encoder.query.width = 31
    with pytest.raises(ModelError, match="gives vectors of 32 numbers, its files say 31"):
        encoder.encode_query("moon")


@pytest.mark.parametrize("texts", ["moon", None, [3], ["\ud800"]])
def test_texts_must_be_texts(dense, texts):
    encoder = load(dense)
    for encode in (encoder.encode_texts, encoder.encode_queries):
        with pytest.raises(WinnowError, match=r"must be a|not valid Unicode"):
            encode(texts)


def test_a_query_must_be_a_text(dense):
    with pytest.raises(WinnowError, match="the query is int 3; it must be a string"):
        load(dense).encode_query(3)


def test_what_the_index_is_told_is_json(dense, tmp_path):
    description = load(dense, factory="IVF4,Flat", training_seconds=2.5, similarity="dot").write(tmp_path)
    assert json.loads(json.dumps(description)) == description
    assert (
        DenseEncoder.read(tmp_path, description).index
        == load(dense, factory="IVF4,Flat", training_seconds=2.5, similarity="dot").index
    )
