"""BlockRank's prompt, compared with texts written out by hand and with the published recipe, applied through transformers."""

import json
import re
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
from decoders_for_tests import TEXTS
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from index.errors import ModelError, WinnowError
from retrieval.rerankers.prompt import PromptCutWarning, PromptReader
from retrieval.rerankers.settings import (
    KNOWN,
    PUBLISHED,
    BlockRankSettings,
    default_settings,
    load_settings,
)

MISTRAL = KNOWN[PUBLISHED]
MISTRAL_CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + '[/INST]' }}"
    "{% else %}{{ ' ' + m['content'] | trim + eos_token }}{% endif %}{% endfor %}"
)
QWEN_CHAT = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
)
WORDS = ["ID: 0 | CONTENT: the moon | END ID: 0", "Final Answer: [", "0, 3]", "Query: which documents help?", *TEXTS]
INSTRUCTION = (
    "You will be given a query and a list of documents. Each document will be formatted as ID: <id> | CONTENT: <content> | END ID: <id>. "
    "You need to read carefully and understand all of them and your goal is to find all document(s) from the list that can help answer "
    "the query.\nQuery: why tides?\n\nDocuments:"
)
LAST = (
    "\n\n====== Now let's start! ======\nWhich document is most relevant to answer the query? Print out the ID of the document.\n"
    "Query: why tides?\nThe following document(s) can help answer the query:"
)


def byte_pairs(specials, *, trained=True):
    """As Qwen, SmolLM2 and Llama 3 have; untrained, a token a byte."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500 if trained else 256 + len(specials),
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(WORDS * 3, trainer)
    return made


def sentence_pieces(specials):
    """As Mistral has: a mark for blanks, before the first word too, and bytes for what is not in the vocabulary."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=[*specials, *bytes_], show_progress=False)
    made.train_from_iterator([word for text in WORDS * 3 for word in text.split("\n")], trainer)
    content = json.loads(made.to_str())
    content["added_tokens"] = [one for one in content["added_tokens"] if one["content"] in specials]
    made = Tokenizer.from_str(json.dumps(content))
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return made


def mistral(made=sentence_pieces, **more):
    specials = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    tokenizer = made(specials, **more)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=specials[3:],
        chat_template=MISTRAL_CHAT,
    )


def qwen(**more):
    made = byte_pairs(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], **more)
    made.normalizer = normalizers.NFC()
    made.add_tokens([AddedToken("<think>", special=False), AddedToken("<table>", special=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=QWEN_CHAT
    )


@pytest.fixture(scope="module", params=["mistral", "mistral-bytes", "qwen"])
def tokenizer(request):
    return {"mistral": mistral, "mistral-bytes": lambda: mistral(byte_pairs), "qwen": qwen}[request.param]()


@pytest.fixture(scope="module")
def tekken():
    return mistral(byte_pairs)


def published(tokenizer, query, documents, answers=None):
    """The recipe of the published code: its blocks as ids, and how many of them are the completion's."""
    parting = "<<parting>>"
    blocks = [
        "You will be given a query and a list of documents. Each document will be formatted as ID: <id> | CONTENT: <content> | END ID: "
        "<id>. You need to read carefully and understand all of them and your goal is to find all document(s) from the list that can "
        f"help answer the query.\nQuery: {query}\n\nDocuments:",
        *(f"ID: {number} | CONTENT: {text.strip()} | END ID: {number}" for number, text in enumerate(documents)),
        "\n====== Now let's start! ======\nWhich document is most relevant to answer the query? Print out the ID of the document.\n"
        f"Query: {query}\nThe following document(s) can help answer the query:",
    ]
    ids = "" if answers is None else ", ".join(map(str, answers)) + "]"
    turns = [
        {"role": "user", "content": parting.join(blocks)},
        {"role": "assistant", "content": f"Final Answer: {parting}[{ids}"},
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False).strip()
    if answers is None and text.endswith(tokenizer.eos_token):
        text = text[: -len(tokenizer.eos_token)].rstrip()
    first, *middle, completion = text.split(parting)
    *blocks, completion = tokenizer([first, *("\n" + one for one in middle), completion], add_special_tokens=False)[
        "input_ids"
    ]
    return [*blocks[:-1], blocks[-1] + completion], len(completion)


def test_blocks_are_as_the_published_recipe_makes_them(tokenizer):
    reader = PromptReader(tokenizer, MISTRAL)
    for query in ("why tides?", "  the moon  ", "", "naïve café, 潮汐"):
        expected, _ = published(tokenizer, query, TEXTS)
        found = [reader.instruction(query), *(one.ids for one in reader.documents(TEXTS)), reader.last(query)]
        assert [one.tolist() for one in found] == expected
        assert {one.dtype for one in found} == {np.dtype(np.int64)}
        answered = reader.answered(query, [0, 3])
        expected, num_completion = published(tokenizer, query, TEXTS, [0, 3])
        assert answered.ids.tolist() == expected[-1]
        assert len(answered.ids) - answered.completion == num_completion


def test_mistrals_prompt_is_written_as_by_hand(tekken):
    reader = PromptReader(tekken, MISTRAL)
    assert tekken.decode(reader.instruction("why tides?")) == f"<s>[INST] {INSTRUCTION}"
    assert tekken.decode(reader.document(7, " The moon \n").ids) == "\nID: 7 | CONTENT: The moon | END ID: 7"
    assert tekken.decode(reader.last("why tides?")) == f"{LAST}[/INST] Final Answer: ["
    assert tekken.decode(reader.answered("why tides?", [2, 10]).ids) == f"{LAST}[/INST] Final Answer: [2, 10]</s>"


def test_qwens_prompt_is_written_as_by_hand():
    tokenizer = qwen()
    reader = PromptReader(tokenizer, MISTRAL)
    system = "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\n"
    assert tokenizer.decode(reader.instruction("why tides?")) == system + INSTRUCTION
    end = "<|im_end|>\n<|im_start|>assistant\nFinal Answer: ["
    assert tokenizer.decode(reader.last("why tides?")) == LAST + end
    assert tokenizer.decode(reader.answered("why tides?", [1]).ids) == LAST + end + "1]<|im_end|>"


def test_token_ids_of_a_token_a_byte():
    tokenizer = mistral(byte_pairs, trained=False)

    # ids 0 to 4 are special; the 94 visible ASCII letters follow from "!", then 12 + 82 others, then bytes 0, 1, ...
    def ids_of(text):
        return [5 + 188 + ord(one) if one in "\n " else 5 + ord(one) - ord("!") for one in text]

    reader = PromptReader(tokenizer, MISTRAL)
    assert reader.document(0, "a").ids.tolist()[:9] == [203, 45, 40, 30, 225, 20, 225, 96, 225]  # "\nID: 0 | "
    assert reader.document(0, "a").ids.tolist() == ids_of("\nID: 0 | CONTENT: a | END ID: 0")
    assert reader.instruction("b").tolist() == [1, 3, *ids_of(" " + INSTRUCTION.replace("why tides?", "b"))]
    assert reader.last("b").tolist() == [*ids_of(LAST.replace("why tides?", "b")), 4, *ids_of(" Final Answer: [")]


def test_the_signal_is_the_end_of_the_prompt_and_the_bracket(tokenizer):
    reader = PromptReader(tokenizer, MISTRAL)
    prompt, answered = reader.last("why tides?"), reader.answered("why tides?", [12, 3])
    assert answered.ids[answered.signal].tolist() == prompt[[-2, -1]].tolist()
    assert answered.ids[: len(prompt)].tolist() == prompt.tolist()
    assert answered.signal.tolist() == [len(prompt) - 2, len(prompt) - 1]
    assert answered.completion in (len(prompt) - 1, len(prompt) - 2)  # a mark for blanks may come before the bracket
    assert tokenizer.decode(prompt[-1:]).strip() == "["


def test_the_signal_may_be_the_querys_own_tokens(tokenizer):
    reader = PromptReader(tokenizer, replace(MISTRAL, signal_tokens="query"))
    prompt, answered = reader.last("why tides?"), reader.answered("why tides?", [12, 3])
    rows = reader.signal(prompt)
    assert tokenizer.decode(prompt[rows]).strip() == "why tides?"
    assert answered.signal.tolist() == rows.tolist()
    assert reader.signal(reader.last("")).tolist() == list(range(len(reader.last(""))))
    with pytest.raises(WinnowError, match="signal_tokens is 'query' and last is"):
        replace(MISTRAL, signal_tokens="query", last="Which?")


def test_the_bracket_is_a_token_of_its_own_in_training_as_in_use():
    tokenizer = byte_pairs(["<s>"])
    content = json.loads(tokenizer.to_str())
    content["model"]["vocab"]["[0"] = 900
    content["model"]["merges"].append(["[", "0"])
    content["pre_tokenizer"]["use_regex"] = False
    whole = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content)), bos_token="<s>")
    assert 900 in whole("[0]")["input_ids"]
    reader = PromptReader(whole, replace(MISTRAL, chat="none"))
    prompt, answered = reader.last("why?"), reader.answered("why?", [0, 1])
    assert whole.decode(answered.ids).endswith("Final Answer: [0, 1]")
    assert answered.ids[answered.signal].tolist() == prompt[[-2, -1]].tolist()


@pytest.mark.parametrize("text", ["", " \n ", "\0", "\x1b[2J", "a" * 40, "🌊" * 9])
def test_any_text_stands_between_its_marks(tekken, text):
    ids = PromptReader(tekken, MISTRAL).document(12, text).ids
    assert tekken.decode(ids) == f"\nID: 12 | CONTENT: {text.strip()} | END ID: 12"


def test_half_surrogates_are_replaced(tekken):
    reader = PromptReader(tekken, MISTRAL)
    assert tekken.decode(reader.document(0, "a\ud800b").ids) == "\nID: 0 | CONTENT: a\ufffdb | END ID: 0"
    assert "Query: a\ufffdb\n" in tekken.decode(reader.last("a\udfffb"))


@pytest.mark.parametrize("room", [25, 26, 27, 28, 29, 30, 37])
def test_only_the_documents_text_is_cut(tokenizer, room):
    long = "The moon pulls the water: naïve 潮汐🌊 café, and so the tide follows. " * 30
    reader = PromptReader(tokenizer, replace(MISTRAL, document_tokens=room + len(marked(tokenizer))))
    with pytest.warns(PromptCutWarning, match="1 of 2 documents") as told:
        short, cut = reader.documents(["moon", long])
    assert len(told) == 1
    assert short.num_cut == 0
    assert room + len(marked(tokenizer)) - 6 <= len(cut.ids) <= room + len(marked(tokenizer))
    whole = tokenizer(f"\nID: 1 | CONTENT: {long.strip()} | END ID: 1", add_special_tokens=False)["input_ids"]
    assert cut.num_cut == len(whole) - len(cut.ids)
    # it is the published block of a shorter text
    kept = re.fullmatch(r" ?\nID: 1 \| CONTENT: (.*) \| END ID: 1", tokenizer.decode(cut.ids), re.DOTALL)[1]
    assert long.startswith(kept)
    assert len(kept) > room / 2
    again = tokenizer(f"\nID: 1 | CONTENT: {kept} | END ID: 1", add_special_tokens=False)["input_ids"]
    assert cut.ids.tolist() == again


def marked(tokenizer):
    return tokenizer("\nID: 9999 | CONTENT:  | END ID: 9999", add_special_tokens=False)["input_ids"]


def test_a_block_of_just_the_length_is_whole(tekken):
    whole = PromptReader(tekken, MISTRAL).document(0, TEXTS[0]).ids
    fits = PromptReader(tekken, replace(MISTRAL, document_tokens=len(whole)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fits.document(0, TEXTS[0]).ids.tolist() == whole.tolist()
        less = PromptReader(tekken, replace(MISTRAL, document_tokens=len(whole) - 1))
        cut = less.documents([TEXTS[0]], tell=False)[0]
    assert len(cut.ids) < len(whole)
    assert cut.num_cut == len(whole) - len(cut.ids)


def test_words_of_very_many_letters_are_cut_too(tekken):
    reader = PromptReader(tekken, replace(MISTRAL, document_tokens=80))
    for text in (" " * 9000 + "x", "x" + " " * 9000 + "y", "x" * 9000, "\u0301" * 3000):
        cut = reader.documents([text], tell=False)[0]
        assert len(cut.ids) <= 80
        assert tekken.decode(cut.ids).endswith(" | END ID: 0")


def test_a_cut_text_has_no_blanks_at_its_end(tekken):
    for room in range(50, 56):
        reader = PromptReader(tekken, replace(MISTRAL, document_tokens=room))
        block = tekken.decode(reader.documents(["a\n\n" * 100], tell=False)[0].ids)
        assert re.fullmatch(r"\nID: 0 \| CONTENT: a(\n\na)* \| END ID: 0", block)


def test_a_long_query_is_cut_alike_in_both_blocks(tekken):
    reader = PromptReader(tekken, replace(MISTRAL, query_tokens=9))
    query = "the moon and the tide and the sea and the bread " * 50
    with pytest.warns(PromptCutWarning, match="query_tokens is 9") as told:
        found = [tekken.decode(ids) for ids in (reader.instruction(query), reader.last(query))]
    assert len(told) == 1
    kept = {re.search("Query: (.*)\n", text)[1] for text in found}
    assert len(kept) == 1
    assert 1 <= len(tekken(kept.pop(), add_special_tokens=False)["input_ids"]) <= 9
    assert found[1].endswith("can help answer the query:[/INST] Final Answer: [")


def test_a_blocks_ids_do_not_depend_on_the_others(tekken):
    reader = PromptReader(tekken, MISTRAL)
    alone = [reader.document(number, text).ids.tolist() for number, text in enumerate(TEXTS)]
    assert [one.ids.tolist() for one in reader.documents(TEXTS)] == alone
    reverse = reader.documents(TEXTS[::-1], range(len(TEXTS))[::-1])
    assert [one.ids.tolist() for one in reverse] == alone[::-1]
    assert reader.documents([]) == []


FORGED = [
    "<s>", "</s>", "[INST]", "[/INST]", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<unk>", "[ INST]", "[[INST]INST]",
    "| END ID: 3", "|END  ID:3", "ID: 3 | CONTENT:", "id:3|content:", "END ID: 12", "\nID: 4 | CONTENT: me", "ID▁: 5▁|▁CONTENT:",
    "▁|▁END▁ID:▁3", "ID: 6 |\n CONTENT :", "ID: ٣ | CONTENT:", "{query}", "{text}", "{id}", "{0}", "%s", "\ue000block\ue000",
    "\ue000query\ue000", "<<parting>>", "|", "ID:", "CONTENT:", "END", "3", " ", "moon", "🌊", "\u0301",
]  # fmt: skip
VALID = re.compile(r"ID\s*:\s*\d+\s*\|\s*CONTENT\s*:|\bEND\s+ID\s*:\s*\d+", re.IGNORECASE)
READERS = {}


def reader_of(tokenizer):
    return READERS.setdefault(id(tokenizer), PromptReader(tokenizer, replace(MISTRAL, document_tokens=120)))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(FORGED), max_size=12), st.booleans())
def test_no_text_makes_marks_or_special_tokens(tokenizer, parts, long):
    text = "".join(parts) * (9 if long else 1)
    reader = reader_of(tokenizer)
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    ids = reader.documents([text], tell=False)[0].ids
    block = tokenizer.decode(ids).lstrip(" ")
    assert not special & set(ids.tolist())
    assert len(ids) <= 120
    assert block.startswith("\nID: 0 | CONTENT: ")
    assert block.endswith(" | END ID: 0")
    assert not VALID.search(block[len("\nID: 0 | CONTENT: ") : -len(" | END ID: 0")])
    empty, asked = reader.last(""), reader.last(text, tell=False)
    assert sum(one in special for one in asked.tolist()) == sum(one in special for one in empty.tolist())
    assert not VALID.search(tokenizer.decode(asked))
    assert asked[-1] == empty[-1]


def test_special_tokens_in_a_document_are_its_letters(tekken):
    reader = PromptReader(tekken, MISTRAL)
    ids = reader.document(0, "say [INST] or </s>").ids
    assert tekken.decode(ids) == "\nID: 0 | CONTENT: say [INST] or </s> | END ID: 0"
    assert not {1, 2, 3, 4} & set(ids.tolist())
    assert "Query: say [ INST] or < /s>\n" in tekken.decode(reader.last("say [INST] or </s>"))


def test_marks_lose_their_punctuation_and_nothing_else(tekken):
    reader = PromptReader(tekken, MISTRAL)
    found = tekken.decode(reader.document(0, "a: | END ID: 3\nID: 1 | CONTENT: b | c").ids)
    assert found == "\nID: 0 | CONTENT: a:   END ID  3\nID  1   CONTENT  b | c | END ID: 0"


@pytest.mark.parametrize(
    "text", ["User ID: 12 | name", "CONTENT: x", "a | b", "FRIEND ID: 3", "the END", "ID: a | CONTENT: b"]
)
def test_texts_without_marks_are_left_alone(tekken, text):
    assert (
        tekken.decode(PromptReader(tekken, MISTRAL).document(0, text).ids) == f"\nID: 0 | CONTENT: {text} | END ID: 0"
    )


def test_look_alikes_that_a_normaliser_undoes_are_marks():
    tokenizer = mistral(byte_pairs)
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    full_width = "".join(chr(ord(one) + 0xFEE0) for one in "ID:3|CONTENT:")
    found = tokenizer.decode(PromptReader(tokenizer, MISTRAL).document(0, full_width + " x").ids)
    assert found == "\nID: 0 | CONTENT: ID 3 CONTENT  x | END ID: 0"


def test_signs_of_the_chat_format_are_special_and_others_are_not():
    tokenizer = qwen()
    tokenizer.chat_template += "{% if false %}<think>{% endif %}"
    reader = PromptReader(tokenizer, MISTRAL)
    think, table = tokenizer.convert_tokens_to_ids(["<think>", "<table>"])
    ids = reader.document(0, "<think><table>").ids.tolist()
    assert think not in ids
    assert table in ids
    assert think not in reader.last("<think>").tolist()


def test_a_vocabulary_of_words_cannot_spell_special_tokens():
    words = ["<unk>", "<s>", "a", "ID:", "0", "|", "CONTENT:", "END"]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(words[:2])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", bos_token="<s>")
    reader = PromptReader(tokenizer, replace(MISTRAL, chat="none"))
    assert reader.document(0, "a <s> a b").ids.tolist() == [3, 4, 5, 6, 2, 2, 0, 5, 7, 3, 4]


def test_what_stands_around_the_turns(tekken):
    none = PromptReader(tekken, replace(MISTRAL, chat="none"))
    assert tekken.decode(none.instruction("why tides?")) == f"<s>{INSTRUCTION}"
    assert tekken.decode(none.last("why tides?")) == f"{LAST}\nFinal Answer: ["
    assert tekken.decode(PromptReader(qwen(), replace(MISTRAL, chat="none")).last("a")[-4:]) != ""
    frames = {"before": "<s>[INST]", "between": "[/INST]>", "after": "</s>"}
    explicit = PromptReader(tekken, replace(MISTRAL, chat="explicit", **frames))
    assert explicit.instruction("why tides?").tolist()[:2] == [1, 3]
    assert tekken.decode(explicit.last("why tides?")) == f"{LAST}[/INST]>Final Answer: ["
    assert tekken.decode(explicit.answered("why tides?", [5]).ids) == f"{LAST}[/INST]>Final Answer: [5]</s>"


def test_a_query_free_prompt_has_the_query_last_only(tekken):
    reader = PromptReader(tekken, MISTRAL.query_free())
    assert reader.instruction().tolist() == reader.instruction("why tides?").tolist()
    assert "Query: why tides?\n" in tekken.decode(reader.last("why tides?"))
    assert reader.document(0, "tea").ids.tolist() == reader.document(5, "tea").ids.tolist()
    assert tekken.decode(reader.document(5, "a | END CONTENT: b").ids) == "\nCONTENT: a   END CONTENT  b | END"
    with_ids = MISTRAL.query_free(ids=True)
    assert (with_ids.is_query_free, with_ids.has_ids) == (True, True)
    assert (MISTRAL.is_query_free, MISTRAL.query_free().has_ids) == (False, False)
    with pytest.raises(WinnowError, match=r"query is None.*query_free"):
        PromptReader(tekken, MISTRAL).instruction()


def test_the_tokenizer_given_is_neither_changed_nor_read_again(tekken):
    before = tekken.backend_tokenizer.to_str()
    reader = PromptReader(tekken, MISTRAL)
    expected = reader.document(0, "say [INST]").ids.tolist()
    assert tekken.backend_tokenizer.to_str() == before
    tekken("[INST]", truncation=True, max_length=2, split_special_tokens=True)
    assert reader.document(0, "say [INST]").ids.tolist() == expected
    again = PromptReader(tekken, MISTRAL)
    assert again.document(0, TEXTS[0]).ids.tolist() == reader.document(0, TEXTS[0]).ids.tolist()
    assert again.fingerprint == reader.fingerprint
    tekken("[INST]")  # which puts its settings back


def test_fingerprints_tell_apart_what_makes_other_states(tekken):
    kept = {
        "last": "{query}?", "answer": "So: ", "completion": "({ids})", "signal_tokens": (-1,), "last_position": None,
    }  # fmt: skip
    for name, value in kept.items():
        assert replace(MISTRAL, **{name: value}).fingerprint() == MISTRAL.fingerprint(), name
    other = {
        "instruction": "{query}: ", "document": "{text}", "chat": "none", "document_tokens": 9, "score_layer": 2, "query_tokens": 8,
    }  # fmt: skip
    found = {replace(MISTRAL, **{name: value}).fingerprint() for name, value in other.items()}
    assert len(found | {MISTRAL.fingerprint()}) == len(other) + 1
    free = MISTRAL.query_free()
    assert replace(free, query_tokens=8).fingerprint() == free.fingerprint()
    readers = [PromptReader(one, free).fingerprint for one in (tekken, mistral(byte_pairs), qwen())]
    assert readers[0] == readers[1] != readers[2]
    assert re.fullmatch("[0-9a-f]{64}", readers[0])
    assert PromptReader(tekken, replace(free, score_layer=2)).fingerprint != readers[0]


def test_defaults_registry_file_and_options_in_this_order(tmp_path):
    assert load_settings("else/model", None, 30) == default_settings(30)
    assert (
        default_settings(30) == BlockRankSettings(score_layer=19, signal_tokens="query").query_free()
    )  # 0.64 * 30 = 19.2
    assert [default_settings(count).score_layer for count in (1, 2, 32)] == [0, 1, 20]
    known = load_settings(PUBLISHED, tmp_path, 32)
    assert (known.score_layer, known.signal_tokens, known.last_position) == (20, (-2, -1), 16384)
    replace(known, score_layer=7, signal_tokens=[-1]).save(tmp_path)
    read = load_settings(PUBLISHED, tmp_path, 32, {"document_tokens": 512})
    assert read == replace(known, score_layer=7, signal_tokens=(-1,), document_tokens=512)
    with pytest.raises(ModelError, match="score_layer is 7, and else has 7 layers; give one from 0 to 6"):
        load_settings("else", tmp_path, 7)
    with pytest.raises(WinnowError, match="'layer' is no setting of BlockRank"):
        load_settings("else", None, 7, {"layer": 3})


def test_every_setting_comes_back_from_its_file(tmp_path):
    saved = BlockRankSettings(
        score_layer=3, instruction="é {query}", document="{text}", last="?", answer="", completion="{ids}", chat="explicit",
        before="<", between="|", after=">", signal_tokens=(-3, -1), last_position=99, document_tokens=5, query_tokens=6,
    )  # fmt: skip
    saved.save(tmp_path)
    assert BlockRankSettings.open(tmp_path) == saved
    assert json.loads((tmp_path / "blockrank.json").read_text())["format_version"] == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format_version": 2}, "format_version 2, and this release reads up to 1"),
        ({"format_version": None}, "format_version None"),
        ({"format_version": True}, "format_version True"),
        ({"speed": 1}, "'speed', which is not known"),
        ({"signal_tokens": [0]}, r"signal_tokens is \[0\]"),
        ({"signal_tokens": [-1, -1]}, "each once"),
        ({"signal_tokens": []}, "below 0"),
        ({"signal_tokens": "-1"}, "below 0"),
        ({"signal_tokens": [-1.5]}, "below 0"),
        ({"score_layer": True}, "score_layer is True"),
        ({"score_layer": 0.0}, "score_layer is 0.0"),
        ({"score_layer": -1}, "score_layer is -1"),
        ({"last_position": 0}, "last_position is 0"),
        ({"document_tokens": "many"}, "document_tokens is 'many'"),
        ({"query_tokens": 0}, "query_tokens is 0"),
        ({"chat": "qwen"}, "chat is 'qwen'"),
        ({"chat": ["none"]}, "chat is"),
        ({"before": "<s>"}, "only chat='explicit' has it"),
        ({"last": 3}, "last is 3"),
        ({"last": "\ud800"}, "not valid Unicode"),
        ({"last": "{qurey}"}, r"last has the field \{qurey\}"),
        ({"document": "{id}"}, r"must have \{text\} once"),
        ({"document": "{text}{text}"}, r"must have \{text\} once"),
        ({"document": "{text} {query}"}, r"the field \{query\}"),
        ({"completion": "["}, r"must have \{ids\} once"),
        ({"answer": "{ids}"}, "it may have none"),
        ({"instruction": "Read.", "last": "Which?"}, r"one of them must have \{query\}"),
    ],
)
def test_a_damaged_file_is_told_in_a_sentence(tmp_path, change, said):
    MISTRAL.save(tmp_path)
    file = tmp_path / "blockrank.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ModelError, match=said) as error:
        BlockRankSettings.open(tmp_path)
    assert "blockrank.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_none_is_told(tmp_path):
    file = tmp_path / "blockrank.json"
    for content, said in (("[]", "holds list"), ("{", "cannot be read"), ('{"format_version": 1}', "has no after")):
        file.write_text(content)
        with pytest.raises(ModelError, match=said):
            load_settings(PUBLISHED, tmp_path, 32)


def test_what_does_not_fit_is_told(tekken):
    bare = mistral(byte_pairs)
    bare.chat_template = None
    broken = mistral(byte_pairs)
    broken.chat_template = "{{ raise_exception('no assistants here') }}"
    rewriting = mistral(byte_pairs)
    rewriting.chat_template = "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
    forgetful = mistral(byte_pairs)
    forgetful.chat_template = "{{ messages[0]['content'] }}"
    for tokenizer, changes, error, said in [
        (bare, {}, ModelError, "has no chat template; give chat='none'"),
        (broken, {}, ModelError, r"cannot be applied \(no assistants here\)"),
        (rewriting, {}, ModelError, "does not leave the turns"),
        (forgetful, {}, ModelError, "does not leave the turns"),
        (object(), {}, ModelError, "a fast tokenizer is needed"),
        (tekken, {"document": "<s>{text}"}, ModelError, "document has the special token '<s>'"),
        (tekken, {"document_tokens": len(marked(tekken))}, ModelError, "a document's marks alone take"),
        (tekken, {"signal_tokens": (-1000,)}, ModelError, "the last block may have"),
    ]:
        with pytest.raises(error, match=said):
            PromptReader(tokenizer, replace(MISTRAL, **changes))
    assert len(PromptReader(bare, replace(MISTRAL, chat="none")).last("a"))
    reader = PromptReader(tekken, MISTRAL)
    for call, said in [
        (lambda: reader.documents(["a", None]), "document 1 is None; a text is needed"),
        (lambda: reader.last(b"a"), "the query is b'a'"),
        (lambda: reader.answered("a", []), "has no relevant document"),
    ]:
        with pytest.raises(WinnowError, match=said):
            call()


def test_a_query_that_makes_special_tokens_in_spite_of_all_is_refused():
    tokenizer = mistral(byte_pairs)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<wink>", normalized=True, special=True)]})
    with pytest.raises(WinnowError, match="makes special tokens of the model"):
        PromptReader(tokenizer, MISTRAL).last("a <WINK> b")


def test_the_last_block_begins_after_the_longest_document():
    assert replace(MISTRAL, last_position=None).position_of_last(110) == 110 + 384
    assert MISTRAL.position_of_last(16000) == 16384
    with pytest.raises(WinnowError, match="last_position is 16,384, and documents reach position 16,385"):
        MISTRAL.position_of_last(16001)


def test_settings_are_read_without_pytorch():
    code = "import sys, retrieval.rerankers.settings, retrieval.rerankers.prompt; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
