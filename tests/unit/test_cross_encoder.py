"""Cross-encoders: the scores of sentence-transformers, whatever is scored together, and what is refused."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import cross_encoders_for_tests as pairs
import numpy as np
import pytest
import tiny_checkpoints as tiny
import torch
import transformers
from decoders_for_tests import save_decoder
from sentence_transformers import CrossEncoder

from index.documents import Document
from index.errors import ModelError, WinnowError
from retrieval.encoders.text_stream import TruncationWarning
from retrieval.rerankers.classifier_model import GivenStates
from retrieval.rerankers.cross_encoder import CrossEncoderReranker
from retrieval.rerankers.loading import load_reranker

DOCUMENTS = [
    *(text.strip() for text in tiny.TEXTS),
    "",
    "moon",
    "the sea the moon the bread",
    "sea moon bread",
    "New York\n is rainy",
]
LONG = tiny.TEXTS[3][:160]  # a query that alone is more than half of what fits
QUERIES = ["moon", "What's the weather in NEW York now?", LONG]
pytestmark = pytest.mark.filterwarnings("ignore::retrieval.encoders.text_stream.TruncationWarning")


def theirs(folder, query, documents=DOCUMENTS, **options):
    model = CrossEncoder(str(folder), device="cpu", local_files_only=True, **options)
    return model.predict([(query, document) for document in documents], show_progress_bar=False)


def ours(reranker, query, documents=DOCUMENTS):
    """The scores in the order of the documents."""
    return np.array([one.score for one in sorted(reranker.rank(query, documents), key=lambda one: one.index)])


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return pairs.bert(tmp_path_factory.mktemp("bert"))


@pytest.mark.parametrize("architecture", pairs.ARCHITECTURES)
@pytest.mark.parametrize("num_labels", [1, 2])
def test_scores_are_those_of_sentence_transformers(tmp_path, architecture, num_labels):
    folder = pairs.ARCHITECTURES[architecture](tmp_path, num_labels)
    reranker = CrossEncoderReranker.from_pretrained(folder)
    for query in QUERIES:
        expected = theirs(folder, query, activation_fn=torch.nn.Identity())
        expected = expected if num_labels == 1 else expected[:, 1] - expected[:, 0]
        np.testing.assert_allclose(ours(reranker, query), expected, atol=1e-5, rtol=0)
        assert expected.std() > 0.02  # else equal scores tell nothing
    assert reranker.model.ragged.layout == ("padded" if architecture == "deberta" else "packed")


def test_documents_come_best_first(bert):
    reranker = CrossEncoderReranker.from_pretrained(bert)
    scores = theirs(bert, "moon", activation_fn=torch.nn.Identity())
    found = reranker.rank("moon", DOCUMENTS)
    assert [one.index for one in found] == np.argsort(-scores, kind="stable").tolist()
    assert reranker.rank("moon", DOCUMENTS, top_k=3) == found[:3]
    assert [one.index for one in reranker.rank("moon", ["rain", "sea", "rain", "rain"]) if one.index != 1] == [0, 2, 3]
    assert reranker.rank("moon", []) == []


def test_title_and_text_are_read_together(bert):
    reranker = CrossEncoderReranker.from_pretrained(bert)
    given = ["moon sea", {"title": "moon", "text": "sea"}, Document("a", "moon", "sea"), {"text": "moon sea"}]
    assert len({one.score for one in reranker.rank("bread", given)}) == 1


@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert_mean"])
def test_a_score_is_the_same_bit_for_bit_whatever_is_scored_with_it(tmp_path, architecture, one_thread):
    reranker = CrossEncoderReranker.from_pretrained(pairs.ARCHITECTURES[architecture](tmp_path))
    together = ours(reranker, "moon", DOCUMENTS * 9)
    alone = [reranker.rank("moon", [document])[0].score for document in DOCUMENTS]
    assert together.tolist() == alone * 9
    reranker.tokens_a_batch = 50
    assert ours(reranker, "moon").tolist() == alone


def test_on_several_threads_a_score_hardly_depends_on_what_is_scored_with_it(bert):
    reranker = CrossEncoderReranker.from_pretrained(bert)
    alone = [reranker.rank("moon", [document])[0].score for document in DOCUMENTS]
    assert ours(reranker, "moon", DOCUMENTS * 9).tolist() == pytest.approx(alone * 9, abs=2e-6)


def test_a_batch_is_each_list_by_itself(bert, one_thread):
    reranker = CrossEncoderReranker.from_pretrained(bert)
    lists = [DOCUMENTS, [], DOCUMENTS[3:5], DOCUMENTS[::-1]]
    queries = ["moon", "sea", "bread", "rain"]
    each = [reranker.rank(query, own, 4) for query, own in zip(queries, lists, strict=True)]
    assert reranker.rank_batch(queries, lists, 4) == each
    assert [len(found) for found in each] == [4, 0, 2, 4]


def test_two_threads_may_rank_at_once(bert, monkeypatch):
    reranker = CrossEncoderReranker.from_pretrained(bert)
    lists = [["moon"], ["bread"]]
    expected = [reranker.rank("sea", own) for own in lists]
    both, forward = Barrier(2, timeout=60), GivenStates.forward

    def met(self, *given, **named):
        both.wait()  # each has put its hidden states in place before either goes on
        return forward(self, *given, **named)

    monkeypatch.setattr(GivenStates, "forward", met)
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lambda own: reranker.rank("sea", own), lists)) == expected
    assert expected[0] != expected[1]


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_half_precision_is_near(tmp_path, architecture):
    folder = pairs.ARCHITECTURES[architecture](tmp_path)
    exact = ours(CrossEncoderReranker.from_pretrained(folder), "moon")
    found = ours(CrossEncoderReranker.from_pretrained(folder, dtype="bfloat16"), "moon")
    assert 0 < np.abs(found - exact).max() < 0.1


def test_a_head_that_reads_more_than_the_layers_give_is_refused(tmp_path, monkeypatch):
    folder, forward = pairs.bert(tmp_path), transformers.BertForSequenceClassification.forward

    def other(self, input_ids=None, **given):
        found = forward(self, input_ids=input_ids, **given)
        found.logits = found.logits + (1 if given.get("attention_mask") is None else 0)
        return found

    monkeypatch.setattr(transformers.BertForSequenceClassification, "forward", other)
    with pytest.raises(ModelError, match="does more to its layers' results than a head on them"):
        CrossEncoderReranker.from_pretrained(folder)


def test_many_pairs_are_tokenized_some_at_a_time(bert, monkeypatch):
    reranker = CrossEncoderReranker.from_pretrained(bert)
    expected = ours(reranker, "moon").tolist()
    monkeypatch.setattr("retrieval.rerankers.cross_encoder.TOKENIZED_TOGETHER", 2)
    assert ours(reranker, "moon").tolist() == expected


@pytest.mark.filterwarnings("default")
def test_pairs_that_are_cut_are_counted_once_a_call(bert):
    reranker = CrossEncoderReranker.from_pretrained(bert, max_length=12)
    with pytest.warns(TruncationWarning) as told:
        reranker.rank_batch(["moon", "sea"], [["rain", " ".join(["bread"] * 9)], [" ".join(["bread"] * 8)]])
    assert [one.message.numbers for one in told] == [(1, 3, 12)]  # 3 special tokens, a query of one, 8 of the document
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reranker.rank("moon", ["rain"])


def test_what_is_cut_is_the_end_of_the_document_and_not_a_shorter_query(bert):
    reranker = CrossEncoderReranker.from_pretrained(bert, max_length=12)
    query, document = "moon sea", "bread salt yeast flour water rain hour open cafe new york"
    kept = " ".join(document.split()[: 12 - 3 - 2])
    assert ours(reranker, query, [document]) == ours(reranker, query, [kept])
    assert ours(reranker, query, [document]) != ours(reranker, query, [kept.rpartition(" ")[0]])


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}, "sigmoid"),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, "identity"),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"}, "sigmoid"),
    ],
)
def test_the_activation_is_the_one_its_files_name(tmp_path, written, name):
    folder = pairs.bert(tmp_path, **written)
    reranker = CrossEncoderReranker.from_pretrained(folder)
    assert reranker.activation == name
    np.testing.assert_allclose(ours(reranker, "moon"), theirs(folder, "moon"), atol=1e-6)
    other = "identity" if name == "sigmoid" else "sigmoid"
    again = CrossEncoderReranker.from_pretrained(folder, activation=other)
    assert ours(again, "moon").tolist() != ours(reranker, "moon").tolist()
    assert [one.index for one in again.rank("moon", DOCUMENTS)] == [
        one.index for one in reranker.rank("moon", DOCUMENTS)
    ]


def test_a_folder_of_sentence_transformers_is_read_as_that_library_does(tmp_path, bert):
    CrossEncoder(str(bert), device="cpu", local_files_only=True, max_length=20).save_pretrained(str(tmp_path))
    reranker = CrossEncoderReranker.from_pretrained(tmp_path)
    assert (reranker.activation, reranker.max_length) == ("sigmoid", 20)
    np.testing.assert_allclose(ours(reranker, "moon"), theirs(tmp_path, "moon"), atol=1e-6)


def test_large_logits_are_activated_without_overflow_and_keep_their_order(bert):
    reranker = CrossEncoderReranker.from_pretrained(bert, activation="sigmoid")
    found = reranker.in_order(np.array([800, -800, 900, 0], np.float32), None)
    assert [(one.index, one.score) for one in found] == [(2, 1.0), (0, 1.0), (3, 0.5), (1, 0.0)]


def test_a_masked_language_model_is_no_cross_encoder(tmp_path):
    with pytest.raises(
        ModelError, match=r"is a BertForMaskedLM, which does not score pairs.*ForSequenceClassification"
    ):
        CrossEncoderReranker.from_pretrained(tiny.bert(tmp_path))


def test_a_decoder_is_no_cross_encoder(tmp_path):
    with pytest.raises(ModelError, match="is a LlamaForCausalLM, which does not score pairs"):
        load_reranker(f"cross-encoder:{save_decoder(tmp_path)}")


def test_three_classes_are_refused(tmp_path):
    with pytest.raises(ModelError, match="tells 3 classes apart"):
        CrossEncoderReranker.from_pretrained(pairs.bert(tmp_path, num_labels=3))


def test_an_activation_of_another_kind_is_refused_unless_one_is_given(tmp_path):
    folder = pairs.bert(tmp_path, sentence_transformers={"activation_fn": "torch.nn.modules.activation.Tanh"})
    with pytest.raises(ModelError, match=r"applies 'torch.nn.modules.activation.Tanh' to its scores"):
        CrossEncoderReranker.from_pretrained(folder)
    CrossEncoderReranker.from_pretrained(folder, activation="identity")


def test_a_folder_with_more_modules_is_refused(tmp_path, bert):
    CrossEncoder(str(bert), device="cpu", local_files_only=True).save_pretrained(str(tmp_path))
    modules = [{"idx": i, "name": str(i), "path": "", "type": f"x.{kind}"} for i, kind in enumerate(["Transformer", "Dense"])]  # fmt: skip
    tiny.write_json(tmp_path / "modules.json", modules)
    with pytest.raises(ModelError, match="has the modules Transformer, Dense"):
        CrossEncoderReranker.from_pretrained(tmp_path)


def test_a_prompt_is_refused(tmp_path, bert):
    CrossEncoder(str(bert), device="cpu", local_files_only=True).save_pretrained(str(tmp_path))
    tiny.edit_json(tmp_path / "config_sentence_transformers.json", default_prompt_name="web", prompts={"web": "x"})
    with pytest.raises(ModelError, match="puts its prompt 'web' before each text"):
        CrossEncoderReranker.from_pretrained(tmp_path)


def test_a_missing_head_is_told(tmp_path):
    tiny.bert(tmp_path)
    tiny.edit_json(tmp_path / "config.json", architectures=["BertForSequenceClassification"])
    with pytest.raises(ModelError, match=r"lacks .* of the weights of BertForSequenceClassification, bert.pooler"):
        CrossEncoderReranker.from_pretrained(tmp_path)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_told(tmp_path, missing):
    folder = pairs.roberta(tmp_path)
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=r"not complete|has no tokenizer|no weights"):
        CrossEncoderReranker.from_pretrained(folder)


def test_weights_that_are_no_numbers_are_told(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = pairs.bert(tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"].fill_(float("nan"))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="no finite numbers"):
        CrossEncoderReranker.from_pretrained(folder)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"activation": "tanh"}, "activation is 'tanh'"),
        ({"max_length": 0}, "max_length is 0"),
        ({"max_length": 3}, "special tokens alone take that much"),
        ({"max_length": 41}, "has positions for 40 tokens"),
        ({"tokens_a_batch": -5}, "tokens_a_batch is -5"),
        ({"device": "warp"}, "cannot be put on the device 'warp'"),
    ],
)
def test_options_that_are_none_are_told(bert, options, told):
    with pytest.raises(WinnowError, match=told):
        CrossEncoderReranker.from_pretrained(bert, **options)


def test_an_unknown_option_is_told(bert):
    with pytest.raises(WinnowError, match="cross-encoder has no option depth"):
        load_reranker(f"cross-encoder:{bert}", depth=3)


def test_a_folder_that_is_not_there_is_told():
    with pytest.raises(ModelError, match=r"neither a folder|known model"):
        load_reranker("cross-encoder:/no/such/folder")
