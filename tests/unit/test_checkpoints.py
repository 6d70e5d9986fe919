"""Checkpoints as transformers, naver and OpenSearch lay them out, against the formula on transformers' own logits."""

import json
import math
import shutil
from functools import partial

import numpy as np
import pytest
import tiny_checkpoints as tiny
import torch
from tiny_checkpoints import TEXTS, WORDPIECES, dense, formula
from transformers import AutoTokenizer

from index.errors import ModelError, WinnowError
from index.inverted import InvertedIndex
from index.options import InvertedIndexOptions
from kernels.cpu.sparse import SparseRows
from retrieval import LearnedSparseEncoder, Retriever
from retrieval.encoders.term_weights import TermWeights

load = LearnedSparseEncoder.from_pretrained
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::retrieval.encoders.text_stream.TruncationWarning"),
    pytest.mark.filterwarnings("error:.*cannot be run on packed texts:RuntimeWarning"),  # right, but slow
]

FAMILIES = {
    "bert": tiny.bert,
    "bert, own head": partial(tiny.bert, tie_word_embeddings=False),
    "bert, pickle": lambda folder: tiny.as_pickle(tiny.bert(folder)),
    "bert, bfloat16": partial(tiny.bert, dtype=torch.bfloat16),
    "distilbert": tiny.distilbert,
    "roberta": tiny.roberta,
    "xlm-roberta": tiny.xlm_roberta,
    "modernbert": tiny.modernbert,
}


def documents(encoder, texts=TEXTS):
    return dense(encoder.encode_texts(texts), encoder.num_terms)


def queries(encoder, texts=TEXTS):
    return dense(encoder.encode_queries(texts), encoder.num_terms)


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    assert (expected > 0.01).any(axis=1).all(), "every text has something to compare"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def make(name):
        if name not in made:
            made[name] = FAMILIES[name](tmp_path_factory.mktemp("model") / "tiny")
        return made[name]

    return make


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("activation", "pooling"), [("log1p", "max"), ("log1p_log1p", "max"), ("log1p", "sum")])
def test_a_plain_checkpoint_has_the_weights_of_the_formula(folders, family, activation, pooling):
    folder = folders(family)
    encoder = load(folder, activation=activation, pooling=pooling)
    expected = formula(folder, TEXTS, logs=activation.count("log1p"), pooling=pooling)
    close(documents(encoder), expected)
    close(queries(encoder, TEXTS[:2]), expected[:2])


def test_the_last_text_is_cut_or_longer_than_local_attention_sees(folders):
    lengths = {name: len(load(folders(name), activation="log1p").document.tokens.of(TEXTS)[3].ids) for name in FAMILIES}
    assert lengths["bert"] == lengths["roberta"] == tiny.POSITIONS
    assert lengths["modernbert"] > 4 * 8


def test_positions_that_begin_late_shorten_texts_where_the_tokenizer_has_no_limit(folders, tmp_path):
    folder = shutil.copytree(folders("roberta"), tmp_path / "tiny")
    tiny.edit_json(folder / "tokenizer_config.json", model_max_length=10**30)
    encoder = load(folder, activation="log1p")
    assert encoder.document.options.max_length == tiny.POSITIONS  # the model has two more, which no token reaches
    close(documents(encoder), formula(folder, TEXTS, length=tiny.POSITIONS))


def test_an_own_head_is_not_the_input_embeddings(folders):
    from safetensors.numpy import load_file

    weights = load_file(folders("bert, own head") / "model.safetensors")
    assert not np.allclose(weights["cls.predictions.decoder.weight"], weights["bert.embeddings.word_embeddings.weight"])
    assert "cls.predictions.decoder.weight" not in load_file(folders("bert") / "model.safetensors")


def test_one_logarithm_or_two_is_asked_for_never_guessed(folders):
    with pytest.raises(
        ModelError, match=r"does not say how logits become weights; give activation='log1p'.*'log1p_log1p'"
    ):
        load(folders("bert"))


def test_splade_doc_queries_are_sets_of_tokens(folders):
    encoder = load(folders("bert"), activation="log1p", queries="binary")
    terms, weights = encoder.encode_queries(["the moon the MOON [MASK] ?"])[1:]
    assert {WORDPIECES[term] for term in terms} == {"the", "moon", "?"}
    assert set(weights) == {1}
    unknown = encoder.encode_queries(["\u6771"])  # naver's code takes only [PAD], [CLS], [SEP] and [MASK] away
    assert [WORDPIECES[term] for term in unknown.indices] == ["[UNK]"]


def test_splade_lexical_queries_keep_their_own_terms(folders):
    folder = folders("bert")
    encoder = load(folder, activation="log1p", query_own_terms=True)
    expected = formula(folder, TEXTS)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for row, text in zip(expected, TEXTS, strict=True):
        row[~np.isin(np.arange(len(row)), tokenizer(text, truncation=True)["input_ids"])] = 0
    close(queries(encoder), expected)
    close(documents(encoder), formula(folder, TEXTS))


def test_top_k_keeps_the_heaviest_terms(folders):
    encoder = load(folders("bert"), activation="log1p", document_top_k=5, query_top_k=2)
    expected = formula(folders("bert"), TEXTS)
    for kept, found in ((5, documents(encoder)), (2, queries(encoder))):
        least = np.sort(expected, axis=1)[:, -kept, None]
        close(found, np.where(expected >= least, expected, 0))


def test_prune_ratio_is_a_part_of_the_largest_weight(folders):
    expected = formula(folders("bert"), TEXTS)
    kept = np.where(expected > 0.4 * expected.max(1, keepdims=True), expected, 0)
    close(documents(load(folders("bert"), activation="log1p", prune_ratio=0.4)), kept)
    assert 0 < (kept > 0).sum() < (expected > 0).sum()


def test_efficient_splade_has_another_model_for_queries(folders, tmp_path):
    document, query = folders("bert"), tiny.bert(tmp_path / "query", seed=7, num_hidden_layers=1)
    for encoder in (
        load(document, activation="log1p", query_model=str(query)),
        load(with_query_folder(tmp_path / "naver"), activation="log1p"),
    ):
        close(documents(encoder), formula(document, TEXTS))
        close(queries(encoder), formula(query, TEXTS))


def with_query_folder(folder):
    """As naver's trainer leaves two models: the documents' at the root, the queries' in `query`."""
    tiny.bert(folder)
    tiny.bert(folder / "query", seed=7, num_hidden_layers=1)
    return folder


def test_two_models_of_different_vocabularies_are_refused(folders, tmp_path):
    with pytest.raises(ModelError, match=r"has another vocabulary \(341 tokens\) than .*tiny \(\d+\)"):
        load(folders("bert"), activation="log1p", query_model=str(folders("roberta")))
    larger = tiny.bert(tmp_path / "larger", vocab_size=len(WORDPIECES) + 8)
    terms = len(WORDPIECES)
    with pytest.raises(ModelError, match=rf"has {terms + 8} terms for queries, .* {terms} for documents"):
        load(folders("bert"), activation="log1p", query_model=str(larger))
    cased = tiny.bert(tmp_path / "cased", tokenizer_options={"do_lower_case": False})
    with pytest.raises(ModelError, match="tokenizes otherwise than"):
        load(folders("bert"), activation="log1p", query_model=str(cased))


def opensearch(folder, weights="idf.json"):
    tiny.distilbert(folder)
    if weights == "idf.json":
        tiny.write_json(folder / weights, tiny.some_idf())
    else:  # which names no special tokens
        lines = [f"{token}\t{weight}" for token, weight in tiny.some_idf().items() if not token.startswith("[")]
        (folder / weights).write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("activation", ["log1p", "log1p_log1p"])
@pytest.mark.parametrize("weights", ["idf.json", "query_token_weights.txt"])
def test_opensearch_queries_are_weighted_by_the_table_of_the_checkpoint(tmp_path, weights, activation):
    folder = opensearch(tmp_path / "tiny", weights)
    encoder = load(folder, activation=activation)
    idf = tiny.some_idf()
    terms, found = encoder.encode_queries(["What's the weather in NY? [SEP] \u6771 weather"])[1:]
    expected = {token: idf[token] for token in ("what", "'", "s", "the", "weather", "in", "ny", "?")}
    assert dict(zip((WORDPIECES[term] for term in terms), found, strict=True)) == pytest.approx(expected)
    rows = formula(folder, TEXTS, logs=activation.count("log1p"))
    rows[:, [number for number, token in enumerate(WORDPIECES) if token.startswith("[")]] = 0  # as its own code does
    close(documents(encoder), rows)


def test_a_table_takes_a_prefix_a_length_and_a_number_of_terms(tmp_path):
    encoder = load(
        opensearch(tmp_path / "tiny"), activation="log1p", query_prefix="query: ", query_max_length=4, query_top_k=3
    )
    idf = tiny.some_idf()
    terms, weights = encoder.encode_queries(["moon sea moon rain"])[1:]
    read = ["query", ":", "moon", "sea"]  # then the length is reached
    assert sorted(weights) == sorted(np.float32([idf[token] for token in read]))[-3:]
    assert list(terms) == sorted(terms)
    assert len(encoder.encode_queries(["  "]).indices) == 0


def test_an_option_of_a_model_is_refused_where_queries_have_none(tmp_path):
    with pytest.raises(WinnowError, match=r"query_pooling is an option of a model, and .* has queries without one"):
        load(opensearch(tmp_path / "tiny"), activation="log1p", query_pooling="sum")


def test_a_text_cannot_buy_special_tokens_a_weight(folders):
    encoder = load(folders("bert"), activation="log1p", queries="binary")
    assert len(encoder.encode_queries(["[CLS] [SEP] [PAD]"]).indices) == 0


# token: idf, weight in the document by doc-v2-distill, by doc-v3-distill; from the tests of sentence-transformers
GOLDEN = {
    "ny": (5.7729, 1.4109, 0.8049), "weather": (4.5684, 1.4673, 0.9710), "now": (3.5895, 0.7473, 0.4720),
    "?": (3.3313, 0.0, 0.0286), "what": (2.7699, 0.0, 0.0787), "in": (0.4989, 0.0, 0.0417),
}  # fmt: skip


@pytest.mark.parametrize(("column", "score"), [(1, 17.5307), (2, 11.1105)])
def test_opensearchs_own_example_has_its_published_score(tmp_path, column, score):
    """Query "What's the weather in ny now?", document "Currently New York is rainy.": tokens, table and scorer, without a model."""
    tokenizer = tiny.wordpieces(tmp_path).backend_tokenizer
    table = TermWeights.from_tokens(
        {token: row[0] for token, row in GOLDEN.items()}, tokenizer, len(WORDPIECES), "idf.json"
    )
    query = table.of(np.array(tokenizer.encode("What's the weather in ny now?", add_special_tokens=False).ids), None)
    terms = sorted((tokenizer.token_to_id(token), row[column]) for token, row in GOLDEN.items() if row[column])
    vectors = SparseRows(
        np.array([0, len(terms)]),
        *(np.array(part, kind) for part, kind in zip(zip(*terms, strict=True), ("i4", "f4"), strict=True)),
    )
    index = InvertedIndex.build(vectors, InvertedIndexOptions(num_terms=len(WORDPIECES), impacts="f32"))
    scores, _ = index.search(*query, 1)
    assert scores[0] == pytest.approx(score, abs=1e-3)
    assert math.fsum(row[0] * row[column] for row in GOLDEN.values()) == pytest.approx(score, abs=1e-3)


@pytest.mark.parametrize("kind", ["model", "binary", "table", "second model", "lexical"])
def test_a_saved_index_opened_again_gives_equal_scores(folders, tmp_path, kind):
    folder, options = folders("bert"), {"activation": "log1p"}
    if kind == "binary":
        options["queries"] = "binary"
    elif kind == "table":
        folder, options["query_top_k"], options["query_prefix"] = opensearch(tmp_path / "model"), 3, "rain "
    elif kind == "second model":
        folder = with_query_folder(tmp_path / "model")
    elif kind == "lexical":
        options["query_own_terms"] = True
    retriever = Retriever.from_pretrained(folder, **options)
    retriever.index([{"_id": str(number), "text": text} for number, text in enumerate(TEXTS)], progress=False)
    retriever.save_pretrained(tmp_path / "index", progress=False)
    opened = Retriever.from_folder(tmp_path / "index")
    for query in ("moon and sea", "weather in New York now?", "bread"):
        assert opened.search(query) == retriever.search(query)
        assert retriever.search(query)
    opened.add([{"_id": "new", "text": TEXTS[1]}], progress=False).commit(progress=False)
    assert opened.explain("bread", "new").score == opened.explain("bread", "1").score > 0


def test_an_index_names_the_weights_it_was_built_with(folders, tmp_path):
    retriever = Retriever.from_pretrained(folders("bert"), activation="log1p")
    retriever.index([{"_id": "a", "text": "moon"}], progress=False).save_pretrained(tmp_path / "i", progress=False)
    described = json.dumps(Retriever.from_folder(tmp_path / "i")._opened.snapshot.model.contents)
    assert str(folders("bert")) in described
    assert '"fingerprint": "' in described
