"""PromptReps on a tiny decoder, against a recomputation in plain Python from the library's logits in float64."""

import math
from dataclasses import replace

import numpy as np
import pytest
from decoders_for_tests import TEXTS, encoder_of, library_logits, library_model, own_ids, save_decoder, tokenizer
from tokenizers import AddedToken, Tokenizer, models

from index.errors import ModelError, WinnowError
from retrieval import Retriever
from retrieval.encoders import prompt_reps
from retrieval.encoders.english_words import STOP_WORDS, content_words
from retrieval.encoders.model_files import ModelFiles
from retrieval.encoders.options import NeuralOptions
from retrieval.encoders.text_stream import TruncationWarning

PREFIX = (
    '<|im_start|>system\nYou are an AI assistant that can understand human language.<|im_end|>\n<|im_start|>user\n{}: "'
)
SUFFIX = (
    '". Use one word to represent the {} in a retrieval task. Make sure your word is in lowercase.<|im_end|>\n'
    '<|im_start|>assistant\nThe word is: "'
)
WORDS = {  # in lower case, without stop words and punctuation
    TEXTS[0]: ["moon", "pulls", "water", "sea", "tide", "follows"],
    TEXTS[2]: [],
    TEXTS[3]: ["flour", "water", "salt", "yeast", "make", "bread", "café", "naïve", "12345"],
    TEXTS[4]: ["tide"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_decoder(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture(scope="module")
def model(folder):
    return library_model(folder)


@pytest.fixture(scope="module")
def side(folder):
    return encoder_of(folder, method="promptreps").document


def recomputed(model, text, kind="passage", top_k=128, expansions=0, length=512):
    """{term: value} and the unit vector of one text."""
    prompt = own_ids(PREFIX.format(kind.capitalize())) + own_ids(text.strip())[:length] + own_ids(SUFFIX.format(kind))
    logits = library_logits(model, prompt)[-1].tolist()
    hidden = hidden_state(model, prompt)
    value = {term: round(100 * math.log(1 + max(0.0, logit))) for term, logit in enumerate(logits)}
    ranked = sorted(value, key=lambda term: (-max(0.0, logits[term]), term))
    allowed = {term for word in WORDS[text] for term in own_ids(word)}
    kept = [term for term in ranked if term in allowed][:top_k] if allowed else ranked[:10]
    names = {number: name for name, number in tokenizer().get_vocab().items()}
    lower = [term for term in ranked if "a" <= names.get(term, "")[:1] <= "z" and names[term].isalpha()]
    kept += [term for term in lower if term not in allowed][:expansions]
    length = math.sqrt(sum(number**2 for number in hidden))
    return {term: value[term] for term in kept if value[term]}, [number / length for number in hidden]


def hidden_state(model, ids):
    import torch

    with torch.inference_mode():
        return model.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1].tolist()


def entries(rows, number):
    part = slice(rows.indptr[number], rows.indptr[number + 1])
    return dict(zip(rows.indices[part].tolist(), rows.data[part].tolist(), strict=True))


@pytest.mark.parametrize("options", [{}, {"top_k": 5}, {"expansion_terms": 7}, {"top_k": 3, "expansion_terms": 400}])
def test_both_vectors_are_those_of_the_formula(folder, model, options):
    side = encoder_of(folder, method="promptreps", **options).document
    both = side.encode_both(TEXTS)
    assert both.dense.dtype == np.float32
    for number, text in enumerate(TEXTS):
        if text:
            sparse, dense = recomputed(
                model, text, top_k=options.get("top_k", 128), expansions=options.get("expansion_terms", 0)
            )
            assert entries(both.sparse, number) == sparse
            assert len(sparse) >= 2
            np.testing.assert_allclose(both.dense[number], dense, rtol=0, atol=1e-5)


def test_an_empty_text_has_no_vector(side):
    both = side.encode_both(["", TEXTS[0]])
    assert entries(both.sparse, 0) == {}
    assert both.dense[0].tolist() == [0] * 32
    nothing = side.encode_both([])
    assert (len(nothing.sparse.indptr), nothing.dense.shape) == (1, (0, 32))


def test_a_text_of_stop_words_alone_has_its_ten_largest_terms(side, model):
    WORDS["it is not the"] = []
    found = entries(side.encode_both(["it is not the"]).sparse, 0)
    assert found == recomputed(model, "it is not the")[0]
    assert len(found) == 10
    assert not set(found) & {term for word in "it is not the".split() for term in own_ids(word)}


def test_queries_are_asked_for_as_queries(folder, model):
    query = encoder_of(folder, method="promptreps").query
    terms, values = query.encode_one(TEXTS[0])
    assert dict(zip(terms.tolist(), values.tolist(), strict=True)) == recomputed(model, TEXTS[0], "query")[0]
    assert recomputed(model, TEXTS[0], "query")[0] != recomputed(model, TEXTS[0])[0]


def test_a_long_text_is_cut_and_the_question_is_not(folder, model):
    side = encoder_of(folder, method="promptreps", max_length=9).document
    (read,) = side.tokens.of([TEXTS[3]])
    assert read.ids.tolist() == own_ids(PREFIX.format("Passage")) + own_ids(TEXTS[3])[:9] + own_ids(
        SUFFIX.format("passage")
    )
    with pytest.warns(TruncationWarning, match="2 of 5 texts have more than max_length = 9 tokens"):
        both = side.encode_both(TEXTS)
    assert entries(both.sparse, 3) == recomputed(model, TEXTS[3], length=9)[0]  # words of the whole text all the same


def test_what_is_encoded_together_does_not_change_a_vector(side):
    together = side.encode_both(TEXTS * 20)
    for number in (0, 3, 4, 50):
        alone = side.encode_both([(TEXTS * 20)[number]])
        assert entries(alone.sparse, 0) == entries(together.sparse, number)
        np.testing.assert_allclose(alone.dense[0], together.dense[number], rtol=0, atol=1e-6)
    (rows,) = side.encode(TEXTS)
    assert [entries(rows, number) for number in range(5)] == [entries(together.sparse, number) for number in range(5)]


def test_blanks_around_a_text_do_not_count(side):
    both = side.encode_both([f"  {TEXTS[0]}\n", TEXTS[0]])
    assert entries(both.sparse, 0) == entries(both.sparse, 1)


def test_an_index_is_saved_and_opened_with_its_prompts(folder, tmp_path):
    retriever = Retriever.from_pretrained(folder, method="promptreps", query_max_length=64)
    retriever.index([{"_id": str(n), "text": text} for n, text in enumerate(TEXTS)], progress=False)
    retriever.save_pretrained(tmp_path / "index")
    found = [(hit.doc_id, hit.score) for hit in retriever.search("Which water follows the moon?")]
    assert found
    opened = Retriever.from_pretrained(tmp_path / "index")
    assert [(hit.doc_id, hit.score) for hit in opened.search("Which water follows the moon?")] == found
    assert isinstance(opened._opened.encoders[0].document, prompt_reps.PromptRepsSide)
    told = opened.explain("Which water follows the moon?", "0")
    assert told.terms
    assert not any(match.is_expansion for match in told.terms)  # tokens of words alone, not of words after a space


@pytest.mark.parametrize(
    ("marks", "model_type", "first", "last"),
    [
        (["<|start_header_id|>", "<|eot_id|>"], "llama", r'<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou', r'<|end_header_id|>\n\nThe word is: "'),
        (["<|user|>", "<|assistant|>", "<|end|>"], "phi3", r"<s><|system|>\nYou", r'<|end|>\n<|assistant|>\nThe word is: "'),
        ([], "mistral", "<s>[INST] You are", ' lowercase. [/INST]The word is: "'),
        (["<|im_start|>", "<|im_end|>"], "qwen3", "<|im_start|>system\nYou are", '<|im_end|>\n<|im_start|>assistant\nThe word is: "'),
    ],
)  # fmt: skip
def test_a_prompt_is_that_of_the_model_family(tmp_path, marks, model_type, first, last):
    (tmp_path / "config.json").write_text(f'{{"model_type": "{model_type}"}}')
    plain = Tokenizer(models.BPE())
    plain.add_special_tokens([AddedToken(mark) for mark in marks])
    found = prompt_reps.prompt_of("m", ModelFiles(str(tmp_path)), plain, "query")
    assert found["prefix"].startswith(first)
    assert found["prefix"].endswith('Query: "')
    assert found["suffix"].startswith('". Use one word to represent the query in a retrieval task.')
    assert found["suffix"].endswith(last)


def test_a_model_of_another_family_needs_a_prompt(tmp_path):
    folder = save_decoder(tmp_path, "qwen2")
    plain = (folder / "tokenizer.json").read_text().replace("<|im_start|>", "<|other|>")
    (folder / "tokenizer.json").write_text(plain)
    with pytest.raises(
        ModelError, match="has a chat format that is not known here; give document_prefix, document_suffix"
    ):
        encoder_of(folder, method="promptreps")
    given = encoder_of(folder, method="promptreps", prefix='Text: "', suffix='" is about')
    assert given.document.tokens.of(["a"])[0].ids.tolist() == own_ids('Text: "') + own_ids("a") + own_ids('" is about')


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "promptreps", "pooling": "max"}, r"pooling is 'max'; with method='promptreps' it must be 'last'\."),
        ({"method": "promptreps", "echo": True}, r"echo is True; with method='promptreps' it must be False\."),
        ({"method": "reps"}, r"method is 'reps'; it must be one of pooling, promptreps\."),
        ({"expansion_terms": 3}, r"expansion_terms is 3; only method='promptreps' has it, so leave it out\."),
        ({"method": "promptreps", "expansion_terms": -1}, r"expansion_terms is -1; it must be a whole number from 1"),
        (
            {"method": "promptreps", "max_length": 790},
            r"max_length is 790, but .* has 900 positions, the prompt included",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(folder, options, message):
    with pytest.raises(WinnowError, match=message):
        encoder_of(folder, **options)


def test_words_are_those_of_nltk_without_stop_words_and_punctuation():
    assert len(STOP_WORDS) == 198
    text = "The U.S. fleet (of 12) didn't sail. They're \"late\", isn't it? Dr. Smith's boats."
    assert content_words(text) == [
        "u.s",
        "fleet",
        "12",
        "n't",
        "sail",
        "'re",
        "``",
        "late",
        "''",
        "n't",
        "dr",
        "smith",
        "'s",
        "boats",
    ]
    older = STOP_WORDS - set(
        "he'd he'll he's i'd i'll i'm i've it'd it'll she'd she'll they'd they'll they're they've we'd we'll we're we've".split()
    )
    assert len(older) == 179
    assert all(len(prompt_reps_words(word)) > 1 for word in STOP_WORDS - older)


def prompt_reps_words(text):
    from nltk.tokenize import NLTKWordTokenizer

    return NLTKWordTokenizer().tokenize(text)


def test_of_equal_values_the_lower_terms_are_kept():
    tokens = prompt_reps.Tokens(
        np.zeros(1, np.int64), slice(0, 1), np.zeros(1, np.int64), False, np.array([5, 2, 9, 7])
    )
    weights = np.array([9, 9, 0.5, 9, 9, 0.5, 9, 0.7, 9, 0.5], np.float32)
    options = replace(NeuralOptions(method="promptreps", pooling="last", special_tokens=False), top_k=3)
    assert entries(prompt_reps.as_row(weights, tokens, options, np.empty(0, np.int64)), 0) == {2: 50, 5: 50, 7: 70}
