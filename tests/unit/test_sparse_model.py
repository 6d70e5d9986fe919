"""What is trained, against the encoder that it becomes, against transformers' own logits in float64, and in less memory."""

from itertools import pairwise

import decoders_for_tests as decoders
import numpy as np
import pytest
import tiny_checkpoints as tiny
import torch
from decoders_for_tests import save_decoder
from tiny_checkpoints import TEXTS, dense
from transformers import AutoModelForMaskedLM

from index.errors import ModelError, WinnowError
from retrieval.encoders.neural_side import NeuralSide
from retrieval.encoders.weighted_terms import inverse_document_frequency
from retrieval.training.adapters import merged_weights
from retrieval.training.sparse import model as sparse_model
from retrieval.training.sparse.beginning import beginning, build
from retrieval.training.sparse.model import QueryTable
from retrieval.training.sparse.recipe import ModelOptions

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::retrieval.encoders.text_stream.TruncationWarning"),
    pytest.mark.filterwarnings("ignore::retrieval.encoders.ragged_model.SlowModelWarning"),
]
WITH_EMPTY = ["rain", "", *TEXTS, "the moon"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    made = {}

    def make(family="bert", **options):
        key = f"{family} {sorted(options.items())}"
        if key not in made:
            folder = tmp_path_factory.mktemp("models") / family
            made[key] = (
                getattr(tiny, family)(folder, **options) if hasattr(tiny, family) else save_decoder(folder, family)
            )
        return made[key]

    return make


def towers(start, queries="siamese", encoder=None, **options):
    """(what is trained, the encoder that it begins as)"""
    encoder = {"activation": "log1p", **(encoder or {})}
    said = ModelOptions(start=str(start), queries=queries, encoder=encoder, **options)
    began_as = beginning(said)
    return build(said, began_as, np.ones(began_as.num_terms, np.float32)), began_as


def encoded(side, texts, num_terms):
    return np.concatenate([dense(rows, num_terms) for rows in side.encode(texts)])


OPTIONS = {
    "as it is": {},
    "two logarithms": {"activation": "log1p_log1p"},
    "without positions of special tokens": {"pool_special": False},
    "without special terms": {"special_terms": False},
    "with a threshold": {"threshold": 0.75},
    "cut and with a prompt": {"max_length": 9, "document_prefix": "rain ", "pool_special": False},
    "without special tokens": {"special_tokens": False},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_weights_are_those_of_the_encoder(checkpoint, options):
    trained, began_as = towers(checkpoint(), encoder=options)
    with torch.no_grad():
        found = trained.document(began_as.document.tokens.of(WITH_EMPTY)).numpy()
    expected = encoded(began_as.document, WITH_EMPTY, began_as.num_terms)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not found[1].any()
    assert (found > 0).sum(1).tolist() == (expected > 0).sum(1).tolist()
    if options.get("special_terms") is False:
        assert not found[:, : len(tiny.SPECIALS)].any()


@pytest.mark.parametrize("family", ["distilbert", "roberta", "xlm_roberta", "modernbert"])
def test_other_architectures_too(checkpoint, family):
    trained, began_as = towers(checkpoint(family))
    with torch.no_grad():
        found = trained.document(began_as.document.tokens.of(WITH_EMPTY)).numpy()
    np.testing.assert_allclose(found, encoded(began_as.document, WITH_EMPTY, began_as.num_terms), atol=2e-5)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3"])
@pytest.mark.parametrize("options", [{}, {"echo": True, "bidirectional": True, "document_prefix": "passage: "}])
def test_decoders_too_with_echo_and_with_adapters_that_do_nothing_yet(checkpoint, family, options):
    trained, began_as = towers(checkpoint(family), encoder=options, lora=2)
    with torch.no_grad():
        found = trained.document(began_as.document.tokens.of(decoders.TEXTS)).numpy()
    np.testing.assert_allclose(found, encoded(began_as.document, decoders.TEXTS, began_as.num_terms), atol=2e-5)
    assert not found[1].any()


def grow(adapters):
    """As training would: the second factor begins at 0."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in adapters.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def test_adapters_alone_are_trained_and_merged_they_are_the_model(checkpoint, tmp_path):
    trained, began_as = towers(checkpoint("llama"), encoder={"echo": True}, lora=2)
    model = trained.document
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(names) == 2 * 2 * 7  # two factors, two layers, seven projections: not the one to the vocabulary
    assert all("lora_" in name for name in names)
    grow(model)
    tokens = began_as.document.tokens.of(decoders.TEXTS)
    weights = model(tokens)
    weights.sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is not None] == names
    with model.whole() as module:
        state = dict(merged_weights(module))
        assert set(state) == {name for name in decoders.library_model(checkpoint("llama")).state_dict()}
        module.config.architectures = ["LlamaForCausalLM"]
        module.save_pretrained(tmp_path, state_dict=state)
    decoders.tokenizer().save(str(tmp_path / "tokenizer.json"))
    side = decoders.encoder_of(tmp_path, echo=True).document
    np.testing.assert_allclose(decoders.dense_rows(side, decoders.TEXTS), weights.detach(), atol=2e-5)
    before = encoded(began_as.document, decoders.TEXTS, began_as.num_terms)
    assert np.abs(before - weights.detach().numpy()).max() > 0.01


def wanted(texts, num_terms, seed=1):
    """float64 [texts, terms]: a loss is the sum of weights times these."""
    return torch.randn(len(texts), num_terms, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_alike(found, expected):
    """To rounding, of the largest of all: the gradient of keys' biases is nothing but rounding."""
    assert set(found) == set(expected)
    largest = max(float(one.abs().max()) for one in expected.values())
    for name, one in expected.items():
        torch.testing.assert_close(found[name].to(one.dtype), one, rtol=1e-3, atol=1e-5 * largest, msg=name)


@pytest.mark.parametrize("tied", [True, False])
def test_gradients_are_those_of_the_library_one_text_at_a_time_in_float64(checkpoint, tied):
    folder = checkpoint("bert", tie_word_embeddings=tied)
    trained, began_as = towers(folder, encoder={"activation": "log1p_log1p"})
    factors = wanted(TEXTS, began_as.num_terms)
    (trained.document(began_as.document.tokens.of(TEXTS)).double() * factors).sum().backward()
    with trained.document.whole() as module:
        found = gradients(module)

    theirs = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float64).eval()
    for one, row in zip(began_as.document.tokens.of(TEXTS), factors, strict=True):
        logits = theirs(torch.from_numpy(one.ids)[None]).logits[0].max(0).values
        (logits.relu().log1p().log1p() * row).sum().backward()
    expected = gradients(theirs)
    assert ("cls.predictions.decoder.weight" in found) is not tied
    assert_alike(found, expected)


@pytest.mark.parametrize("at_once", [1, 20, 60, 10_000])
def test_gradient_caching_changes_neither_weights_nor_gradients(checkpoint, at_once):
    found = []
    for tokens_at_once in (0, at_once):
        trained, began_as = towers(checkpoint(), tokens_at_once=tokens_at_once)
        weights = trained.document(began_as.document.tokens.of(WITH_EMPTY))
        (weights.double() * wanted(WITH_EMPTY, began_as.num_terms)).sum().backward()
        found.append((weights.detach(), gradients(trained)))
    (weights, expected), (cached_weights, cached) = found
    torch.testing.assert_close(cached_weights, weights, rtol=0, atol=1e-5)
    assert_alike(cached, expected)


def test_gradient_caching_draws_the_same_dropout_again(checkpoint, monkeypatch):
    found = []
    for is_cached in (True, False):
        if not is_cached:
            monkeypatch.setattr(sparse_model, "checkpoint", lambda encode, batch, use_reentrant: encode(batch))
        trained, began_as = towers(checkpoint(), tokens_at_once=30, dropout=0.3)
        trained.train()
        torch.manual_seed(8)
        weights = trained.document(began_as.document.tokens.of(TEXTS))
        (weights.double() * wanted(TEXTS, began_as.num_terms)).sum().backward()
        found.append((weights.detach(), gradients(trained), torch.rand(1)))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][2] == found[1][2]  # the random state afterwards
    for name, one in found[1][1].items():
        assert torch.equal(found[0][1][name], one), name
    trained.eval()
    assert not torch.equal(trained.document(began_as.document.tokens.of(TEXTS)), found[0][0])


def test_gradient_caching_keeps_the_activations_of_a_few_tokens(checkpoint):
    kept = {}
    for tokens_at_once in (0, 40):
        trained, began_as = towers(checkpoint(), tokens_at_once=tokens_at_once)
        tokens, pointers = began_as.document.tokens.of(TEXTS * 8), {}
        of_weights = {parameter.data_ptr() for parameter in trained.parameters()}

        def keep(tensor, pointers=pointers, of_weights=of_weights):
            if tensor.data_ptr() not in of_weights:
                pointers[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            trained.document(tokens)
        kept[tokens_at_once] = sum(pointers.values())
    assert kept[40] < kept[0] / 10


def test_batches_have_no_more_tokens_than_asked_and_all_texts_in_order(checkpoint):
    trained, began_as = towers(checkpoint(), tokens_at_once=25)
    tokens = began_as.document.tokens.of([*TEXTS, *TEXTS])
    batches = list(trained.document.batches(tokens))
    assert [one.ids.tolist() for batch in batches for one in batch] == [one.ids.tolist() for one in tokens]
    sums = [sum(len(one.ids) for one in batch) for batch in batches]
    assert all(total <= 25 or len(batch) == 1 for total, batch in zip(sums, batches, strict=True))
    assert all(total + len(after[0].ids) > 25 for total, (_, after) in zip(sums, pairwise(batches), strict=False))


def test_texts_without_tokens_are_zeros_and_harm_no_gradient(checkpoint):
    trained, began_as = towers(checkpoint())
    read = began_as.document.tokens.of
    with torch.no_grad():
        assert trained.document(read(["", ""])).tolist() == [[0.0] * began_as.num_terms] * 2
        assert trained.document([]).shape == (0, began_as.num_terms)
    trained.document(read(["", "rain", ""])).sum().backward()
    with_empty = gradients(trained)
    trained.zero_grad()
    trained.document(read(["rain"])).sum().backward()
    for name, one in gradients(trained).items():
        assert torch.equal(with_empty[name], one), name


def test_forbidden_terms_have_no_gradient(checkpoint):
    trained, began_as = towers(checkpoint("bert", tie_word_embeddings=False), encoder={"special_terms": False})
    trained.document(began_as.document.tokens.of(TEXTS)).sum().backward()
    of_projection = trained.document.projection.weight.grad
    assert not of_projection[: len(tiny.SPECIALS)].any()
    assert of_projection[len(tiny.SPECIALS) :].any()


@pytest.mark.parametrize("option", [{"own_terms": True}, {"top_k": 5}, {"prune_ratio": 0.1}])
def test_options_that_do_not_learn_are_refused(checkpoint, option):
    [(name, value)] = option.items()
    with pytest.raises(WinnowError, match=rf"{name} is {value}; a model is trained with .* so give it when encoding"):
        towers(checkpoint(), encoder=option)


def test_other_poolings_are_refused(checkpoint):
    with pytest.raises(WinnowError, match="pooling is 'sum'; the head that is trained takes the maximum"):
        towers(checkpoint(), encoder={"pooling": "sum"})


def tokens_of(*own):
    return [sparse_model.Tokens(np.array(ids), slice(0, 0), np.array(ids, np.int64), False) for ids in own]


def test_a_table_weighs_each_token_of_a_query_once():
    table = QueryTable(np.array([0.5, 2.0, 0.0, 1.5], np.float32), learned=False)
    found = table(tokens_of([1, 3, 1, 1], [], [2, 0]))
    assert found.tolist() == [[0, 2.0, 0, 1.5], [0, 0, 0, 0], [0.5, 0, 0, 0]]
    assert not found.requires_grad


def test_a_learned_table_learns_the_terms_of_queries_that_have_weight():
    table = QueryTable(np.array([0.5, 2.0, 0.0, 1.5], np.float32), learned=True)
    (table(tokens_of([1, 2, 1], [1, 3])) * torch.tensor([1.0, 10.0, 100.0, 1000.0])).sum().backward()
    assert table.table.grad.tolist() == [0, 10 + 10, 0, 1000]  # a weight of 0 stays: special terms
    with torch.no_grad():
        table.table[1] = -1.0
    assert table.weights.tolist() == [0.5, 0, 0, 1.5]


def test_siamese_has_one_model_and_two_models_begin_alike_and_go_their_ways(checkpoint):
    siamese, _ = towers(checkpoint())
    assert siamese.query is siamese.document
    trained, began_as = towers(checkpoint(), queries="model")
    tokens = began_as.document.tokens.of(TEXTS)
    assert torch.equal(trained.document(tokens), trained.query(tokens))
    assert sum(1 for _ in trained.parameters()) == 2 * sum(1 for _ in siamese.parameters())
    trained.query(tokens).sum().backward()
    assert not gradients(trained.document)
    assert gradients(trained.query)


def test_another_model_for_queries_is_where_theirs_begins(checkpoint):
    other = checkpoint("bert", seed=9)
    trained, began_as = towers(checkpoint(), queries="model", encoder={"query_model": str(other)})
    with torch.no_grad():
        found = trained.query(began_as.query.tokens.of(TEXTS)).numpy()
    np.testing.assert_allclose(found, tiny.formula(other, TEXTS), atol=1e-4)


def test_frozen_documents_have_neither_gradients_nor_dropout(checkpoint):
    trained, began_as = towers(checkpoint(), queries="model", frozen_documents=True, dropout=0.4)
    assert not any(parameter.requires_grad for parameter in trained.document.parameters())
    assert all(parameter.requires_grad for parameter in trained.query.parameters())
    trained.train()
    tokens = began_as.document.tokens.of(TEXTS)
    expected = encoded(began_as.document, TEXTS, began_as.num_terms)
    np.testing.assert_allclose(trained.document(tokens).numpy(), expected, atol=1e-5)
    assert np.abs(trained.query(tokens).detach().numpy() - expected).max() > 0.01


def test_the_head_that_was_taken_off_is_there_where_the_model_is_saved(checkpoint):
    trained, _ = towers(checkpoint())
    with trained.document.whole() as module:
        assert module.get_output_embeddings() is trained.document.projection
        assert set(module.state_dict()) == set(AutoModelForMaskedLM.from_pretrained(checkpoint()).state_dict())
    assert trained.document.projection not in list(trained.document.module.modules())


def test_idf_of_the_collection_is_as_bm25_has_it():
    found = inverse_document_frequency(np.array([0, 1, 5, 10]), 10)
    np.testing.assert_allclose(
        found, [np.log(22), np.log(1 + 9.5 / 1.5), np.log(2), np.log(1 + 0.5 / 10.5)], rtol=1e-12
    )


def test_a_table_begins_as_idf_without_special_terms_or_as_the_checkpoint_has_it(checkpoint, tmp_path):
    said = ModelOptions(start=str(checkpoint()), encoder={"activation": "log1p"})
    idf = np.linspace(1, 2, len(tiny.WORDPIECES)).astype(np.float32)
    weights = build(said, beginning(said), idf).query.weights.numpy()
    assert not weights[: len(tiny.SPECIALS)].any()
    np.testing.assert_array_equal(weights[len(tiny.SPECIALS) :], idf[len(tiny.SPECIALS) :])
    tiny.bert(tmp_path)
    tiny.write_json(tmp_path / "idf.json", tiny.some_idf())
    said = ModelOptions(start=str(tmp_path), query_weights="checkpoint", encoder={"activation": "log1p"})
    weights = build(said, beginning(said), idf).query.weights.numpy()
    assert weights[tiny.WORDPIECES.index("moon")] == np.float32(tiny.some_idf()["moon"])


def test_a_tied_head_gives_the_products_with_the_input_embeddings(checkpoint):
    folder = checkpoint()
    trained, began_as = towers(folder, head="tied", threshold=0.25, encoder={"max_length": 40})
    assert isinstance(began_as.document, NeuralSide)
    with torch.no_grad():
        found = trained.document(began_as.document.tokens.of(TEXTS))
    assert not found[:, : len(tiny.SPECIALS)].any()
    body = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float64).bert.eval()
    rows = []
    for one in began_as.document.tokens.of(TEXTS):
        hidden = body(torch.from_numpy(one.ids)[None]).last_hidden_state[0]
        middle = torch.nn.functional.gelu(hidden + 4)  # what the identity of the transformation lets pass
        normalised = torch.nn.functional.layer_norm(middle, middle.shape[-1:], eps=1e-12) * 0.407
        logits = normalised @ body.embeddings.word_embeddings.weight.T - 0.25
        rows.append(logits.max(0).values.relu().log1p())
    expected = torch.stack(rows).detach()
    expected[:, : len(tiny.SPECIALS)] = 0
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)
    assert (found > 0).any(1).all()


def test_a_tokenizer_with_more_tokens_than_the_head_has_terms_is_refused(checkpoint, tmp_path):
    small = tiny.bert(tmp_path / "small", vocab_size=len(tiny.WORDPIECES) - 3)
    told = f"numbers its tokens up to {len(tiny.WORDPIECES) - 1}, the model has {len(tiny.WORDPIECES) - 3} terms"
    for head in ("own", "tied"):
        with pytest.raises(ModelError, match=told):
            towers(small, head=head)


REFUSED = {
    "no folder": ({"head": "tied", "start": "nowhere"}, "'nowhere' is no folder; with head = 'tied'"),
    "no option": ({"head": "tied", "encoder": {"nonsense": 1}}, "there is no model option 'nonsense'"),
    "of a name": (
        {"head": "tied", "encoder": {"revision": "x"}},
        "has revision, which does nothing with head = 'tied'",
    ),
    "too long": ({"head": "tied", "encoder": {"max_length": 41}}, "max_length is 41, but .* has 40 positions"),
    "precision": ({"encoder": {"dtype": "bfloat16"}}, "dtype is bfloat16; weights are trained in float32"),
    "precision of a tied head": ({"head": "tied", "encoder": {"dtype": "bfloat16"}}, "dtype is bfloat16"),
    "table": ({"queries": "table", "query_weights": "checkpoint"}, "has no query token weights"),
    "prefix": (
        {"queries": "table", "query_weights": "ones", "encoder": {"query_prefix": "moon "}},
        "have the prefix 'moon ' and top_k None; a table is trained without",
    ),
    "siamese": (
        {"encoder": {"query_activation": "log1p_log1p"}},
        "activation is 'log1p' of documents and 'log1p_log1p'",
    ),
    "tied siamese": ({"head": "tied", "encoder": {"query_threshold": 1.0, "max_length": 9}}, "threshold is 0.0 of doc"),
    "adapters": (
        {"lora": 1, "start": "distilbert", "head": "tied", "encoder": {"max_length": 9}},
        "of the type 'distil",
    ),
}


@pytest.mark.parametrize(("options", "told"), REFUSED.values(), ids=REFUSED)
def test_what_would_not_be_trained_as_it_says_is_refused(checkpoint, options, told):
    start = options.get("start", "bert")
    start = start if start == "nowhere" else checkpoint(start)
    with pytest.raises(WinnowError, match=told):
        towers(start, **{name: value for name, value in options.items() if name != "start"})


def test_a_siamese_model_with_a_second_one_for_queries_is_refused(checkpoint, tmp_path):
    folder = tiny.bert(tmp_path / "m")
    tiny.bert(folder / "query", seed=3)
    with pytest.raises(WinnowError, match="has a model for queries of its own; give queries = 'model'"):
        towers(folder)
    trained, _ = towers(folder, queries="model")
    assert trained.query is not trained.document
