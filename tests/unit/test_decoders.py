"""Decoders as sparse encoders: against transformers' own forward, text by text, and the formula in float64."""

import numpy as np
import pytest
from decoders_for_tests import (
    ARCHITECTURES,
    NUM_TERMS,
    TEXTS,
    dense_rows,
    encoder_of,
    library_logits,
    library_model,
    own_ids,
    pooled,
    save_decoder,
    spread,
    tokenizer,
)

from index.errors import ModelError
from retrieval import Retriever
from retrieval.encoders.options import NeuralOptions
from retrieval.encoders.text_stream import TruncationWarning
from retrieval.encoders.tokens import TextTokens

CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The folder and the library's model of an architecture, made once."""
    made = {}

    def find(architecture):
        if architecture not in made:
            folder = save_decoder(tmp_path_factory.mktemp(architecture), architecture)
            made[architecture] = folder, library_model(folder)
        return made[architecture]

    return find


def expected(model, ids, pooling="max", count=None, mask=None):
    """Of a text's ids; only the last `count` positions are pooled."""
    if not ids:
        return np.zeros(NUM_TERMS)
    return pooled(library_logits(model, ids, mask)[-(count or len(ids)) :], pooling)


@pytest.mark.parametrize("pooling", ["max", "mean", "sum", "last"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_vectors_are_those_of_the_library_and_the_formula_without_a_first_token(checkpoint, architecture, pooling):
    folder, model = checkpoint(architecture)
    found = dense_rows(encoder_of(folder, pooling=pooling).document, TEXTS)
    np.testing.assert_allclose(found, [expected(model, own_ids(text), pooling) for text in TEXTS], **CLOSE)
    assert found.any(1).tolist() == [True, False, True, True, True]


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen3"])
def test_bidirectional_attention_is_a_full_mask_and_in_a_window_a_full_band(checkpoint, architecture):
    folder, model = checkpoint(architecture)
    window = 6 if architecture == "mistral" else len(own_ids(TEXTS[3]))
    encoder = encoder_of(folder, bidirectional=True)
    causal = dense_rows(encoder_of(folder).document, TEXTS)
    found = dense_rows(encoder.document, TEXTS)
    for text, row, other in zip(TEXTS, found, causal, strict=True):
        ids = own_ids(text)
        places = np.arange(len(ids))
        mask = np.abs(places[:, None] - places) < window
        np.testing.assert_allclose(row, expected(model, ids, mask=mask), **CLOSE)
        assert len(ids) < 2 or np.abs(row - other).max() > 0.01


def test_a_sliding_window_matters_for_texts_longer_than_it(checkpoint):
    folder, model = checkpoint("mistral")
    ids = own_ids(TEXTS[0])
    places = np.arange(len(ids))
    unlimited = expected(model, ids, mask=places[:, None] >= places)
    assert np.abs(dense_rows(encoder_of(folder).document, TEXTS[:1])[0] - unlimited).max() > 0.01


def test_queries_and_passages_have_their_prefixes_and_only_the_heaviest_terms(checkpoint):
    folder, model = checkpoint("llama")  # the layout of tevatron and LACONIC, whose flags are not stored
    encoder = encoder_of(
        folder, bidirectional=True, top_k=40, document_prefix="passage: ", query_prefix="query: ", document_top_k=60
    )
    for side, prefix, top_k in ((encoder.document, "passage: ", 60), (encoder.query, "query: ", 40)):
        ids = own_ids(prefix + TEXTS[0])
        weights = expected(model, ids, mask=np.ones((len(ids), len(ids)), bool))
        weights[np.argsort(-weights)[top_k:]] = 0
        np.testing.assert_allclose(dense_rows(side, TEXTS[:1])[0], weights, **CLOSE)
    terms, weights = encoder.query.encode_one(TEXTS[0])
    assert len(terms) == 40
    assert weights.tolist() == dense_rows(encoder.query, TEXTS[:1])[0, terms].tolist()


def test_the_first_token_is_there_when_asked_for(checkpoint):
    folder, model = checkpoint("qwen2")
    found = dense_rows(encoder_of(folder, special_tokens=True).document, TEXTS)
    np.testing.assert_allclose(found[4], expected(model, [0, *own_ids(TEXTS[4])]), **CLOSE)
    without = dense_rows(encoder_of(folder, special_tokens=True, pool_special=False).document, TEXTS)
    count = len(own_ids(TEXTS[4]))
    np.testing.assert_allclose(without[4], expected(model, [0, *own_ids(TEXTS[4])], count=count), **CLOSE)


@pytest.mark.parametrize("pooling", ["max", "mean", "last"])
@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_echo_reads_a_text_twice_and_pools_the_second(checkpoint, architecture, pooling):
    folder, model = checkpoint(architecture)
    found = dense_rows(encoder_of(folder, echo=True, pooling=pooling).document, TEXTS)
    for text, row in zip(TEXTS, found, strict=True):
        ids = own_ids(text)
        np.testing.assert_allclose(row, expected(model, ids * 2, pooling, len(ids)), **CLOSE)


def test_echo_with_a_prompt_repeats_the_prompt_and_pools_the_text_alone(checkpoint):
    folder, model = checkpoint("llama")
    options = {"echo": True, "prefix": "query: ", "suffix": " tide", "pooling": "mean", "special_tokens": True}
    found = dense_rows(encoder_of(folder, **options).document, ["the sea"])[0]
    once = own_ids("query: the sea tide")
    words = [tokenizer().decode([number]) for number in once]
    first = "".join(words).index(" the sea")
    counted = [len("".join(words[:place])) for place in range(len(words))]
    text = [place for place, at in enumerate(counted) if first <= at < first + len(" the sea")]
    assert 0 < len(text) < len(once)
    logits = library_logits(model, [0, *once, *once])
    np.testing.assert_allclose(found, pooled(logits[[1 + len(once) + place for place in text]], "mean"), **CLOSE)


def test_both_copies_of_an_echo_are_the_same_tokens():
    """After a space, "The" would be another token."""
    assert own_ids("The tide The tide")[: len(own_ids("The tide"))] * 2 != own_ids("The tide The tide")
    (read,) = TextTokens(tokenizer(), NeuralOptions(echo=True, special_tokens=False)).of(["The tide"])
    assert read.ids.tolist() == own_ids("The tide") * 2
    assert read.pooled == slice(len(own_ids("The tide")), len(read.ids))


@pytest.mark.parametrize("text", ["the sea", " ", "é", "日本", "x" * 200, "tide\n"])
def test_an_echo_never_pools_nothing_nor_the_prompt_alone(text):
    options = NeuralOptions(echo=True, special_tokens=False, prefix="query:", suffix="?", max_length=40)
    (read,) = TextTokens(tokenizer(), options).of([text])
    span = range(*read.pooled.indices(len(read.ids)))
    prompt, half = len(own_ids("query:")), len(read.ids) // 2
    assert half <= 20
    assert read.ids[:half].tolist() == read.ids[half:].tolist()
    assert half + prompt <= span.start < span.stop <= len(read.ids)
    assert read.is_cut == (len(text) == 200)
    shown = tokenizer().decode(read.ids[span.start : span.stop].tolist())
    assert text.startswith(shown) if read.is_cut else shown == text


def test_each_copy_of_an_echo_has_half_of_the_length(checkpoint):
    folder, model = checkpoint("llama")
    encoder = encoder_of(folder, echo=True, max_length=21)
    with pytest.warns(TruncationWarning, match=r"2 of 5 texts have more than max_length = 21 tokens"):
        found = dense_rows(encoder.document, TEXTS)
    kept = own_ids(TEXTS[3])[:10]
    np.testing.assert_allclose(found[3], expected(model, kept * 2, count=10), **CLOSE)


@pytest.mark.parametrize("echo", [False, True])
def test_a_prompt_that_leaves_no_room_is_refused(checkpoint, echo):
    with pytest.raises(ModelError, match=r"max_length is 4; the prefix 'query: the tide' leaves no room for a text"):
        encoder_of(checkpoint("llama")[0], max_length=4, prefix="query: the tide", echo=echo)


def test_what_is_encoded_together_does_not_change_a_vector(checkpoint):
    encoder = encoder_of(checkpoint("mistral")[0], echo=True)
    together = dense_rows(encoder.document, TEXTS)
    alone = np.concatenate([spread(encoder.document.encode_tokens(encoder.document.tokens.of([t]))) for t in TEXTS])
    np.testing.assert_allclose(alone, together, rtol=0, atol=1e-6)


def test_an_index_of_a_decoder_is_saved_with_what_was_said_of_it(checkpoint, tmp_path):
    folder, _ = checkpoint("qwen3")
    options = {"echo": True, "bidirectional": True, "top_k": 50, "query_prefix": "query: "}
    retriever = Retriever.from_pretrained(folder, activation="log1p", **options)
    documents = [{"_id": str(number), "text": text} for number, text in enumerate(TEXTS)]
    retriever.index(documents, progress=False).save_pretrained(tmp_path / "saved")
    opened = Retriever.from_pretrained(tmp_path / "saved")
    query = "the moon and the tide"
    assert [(hit.doc_id, hit.score) for hit in opened.search(query)] == [
        (hit.doc_id, hit.score) for hit in retriever.search(query)
    ]
    assert len(opened.search(query)) == 4
