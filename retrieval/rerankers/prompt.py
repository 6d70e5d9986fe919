"""Query and documents to the blocks of token ids that BlockRank reads, each block tokenized alone (Gupta et al., arXiv:2510.05396).

    instruction   what to do, perhaps with the query        begins as the chat format does
    documents     "\n" + the document between its marks
    last          "\n" + the question + the beginning of the answer, then that of the completion, tokenized apart

Blocks of tokens are the boundaries, so no text can move them. Nor can a text hold what the model takes for more than text:

    special tokens     stay the letters they are written with; in a query, where special tokens of the chat format are near, a blank
                       parts their first letter from the rest
    marks              "ID: 3 | CONTENT:" or "| END ID: 3", spaced and spelled in any case, lose punctuation, a blank for each sign
    {query} and so on  are never looked for in a text
    half surrogates    which cannot be written as UTF-8, become U+FFFD

All other texts are tokenized as the published code does.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from index.errors import ModelError, WinnowError, WinnowWarning
from retrieval.encoders.model_files import brief
from retrieval.rerankers.settings import BlockRankSettings

# stand for what is filled in later while a chat template is applied; no text of a prompt has them
END_OF_BLOCK, DOCUMENTS, QUERY, IDS = (f"\ue000{word}\ue000" for word in ("block", "documents", "query", "ids"))
HALF_SURROGATES = re.compile("[\ud800-\udfff]")
PUNCTUATION = re.compile(r"[^\w\s]|_")
LARGEST_ID = 9999  # that document_tokens must have room for


class PromptCutWarning(WinnowWarning):
    """Documents were longer than a block may be, or a query than is read."""


class DocumentTokens(NamedTuple):
    """One document as the model reads it."""

    ids: np.ndarray  # int64
    num_cut: int  # tokens of its text that were left out


class AnsweredTokens(NamedTuple):
    """A last block with the answer that is to be learned."""

    ids: np.ndarray  # int64
    completion: int  # where it starts, what is to be predicted
    signal: np.ndarray  # int64, the positions of the signal tokens: those that a prompt without answer has


class PromptFormat(NamedTuple):
    """All of a prompt but query, documents and answer."""

    instruction: list[str]  # what stands around the query, wherever it is
    document: tuple[str, str]  # before and after the text, {id} in both
    last: list[str]
    opening: str  # of the completion
    closing: str

    @classmethod
    def of(cls, settings: BlockRankSettings, tokenizer: Any) -> PromptFormat:
        """With the chat format of a transformers tokenizer. Raises ModelError where it has none, or one that changes the prompt."""
        instruction, last = (part.replace("{query}", QUERY) for part in (settings.instruction, settings.last))
        user = END_OF_BLOCK.join([instruction, DOCUMENTS, last])
        assistant = settings.answer + END_OF_BLOCK + settings.completion.replace("{ids}", IDS)
        blocks = framed(settings, tokenizer, user, assistant).strip().split(END_OF_BLOCK)
        counts = [part.count(QUERY) for part in (settings.instruction.replace("{query}", QUERY), last)]
        if (
            len(blocks) != 4
            or blocks[1] != DOCUMENTS
            or [blocks[0].count(QUERY), blocks[2].count(QUERY)] != counts
            or blocks[3].count(IDS) != 1
        ):
            raise ModelError(
                f"the chat template of {named(tokenizer)} does not leave the turns of a prompt as they are; give chat='explicit' with "
                "before, between and after."
            )
        before, after = settings.document.split("{text}")
        opening, closing = blocks[3].split(IDS)
        return cls(blocks[0].split(QUERY), ("\n" + before, after), ("\n" + blocks[2]).split(QUERY), opening, closing)

    def around(self, number: int) -> tuple[str, str]:
        """What stands before and after a document's text."""
        before, after = (part.replace("{id}", str(number)) for part in self.document)
        return before, after


def framed(settings: BlockRankSettings, tokenizer: Any, user: str, assistant: str) -> str:
    """Both turns as the model is used to them. Raises ModelError."""
    if settings.chat == "explicit":
        return f"{settings.before}{user}{settings.between}{assistant}{settings.after}"
    if settings.chat == "none":
        first = tokenizer.bos_token_id
        begins = first is not None and tokenizer("a")["input_ids"][:1] == [first]
        return f"{tokenizer.bos_token if begins else ''}{user}\n{assistant}"
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            f"{named(tokenizer)} has no chat template; give chat='none', or chat='explicit' with before, between and after."
        )
    turns = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False))
    except Exception as error:  # whatever a template raises
        raise ModelError(
            f"the chat template of {named(tokenizer)} cannot be applied ({brief(error)}); give chat='explicit' with before, between "
            "and after."
        ) from error


class PromptReader:
    """Queries and documents to blocks of token ids. Its tokenizers are its own, so it may be used from several threads.

    tokenizer  of transformers, with one of the `tokenizers` library within

    Raises ModelError where the tokenizer has none, or the prompt cannot be written with it.
    """

    def __init__(self, tokenizer: Any, settings: BlockRankSettings):
        if not isinstance(getattr(tokenizer, "backend_tokenizer", None), Tokenizer):
            raise ModelError(
                f"{named(tokenizer)} is a {type(tokenizer).__name__}; a fast tokenizer is needed, so add its tokenizer.json."
            )
        self.settings, self.format = settings, PromptFormat.of(settings, tokenizer)
        controls = control_tokens(tokenizer, settings)
        self.control = np.array(sorted(set(controls.values()) - {tokenizer.unk_token_id}), np.int64)
        written = tokenizer.backend_tokenizer.to_str()
        self.chat_tokens = copied(written, controls, as_text=False)
        self.text_tokens = copied(written, controls, as_text=True)
        longest_first = sorted((one for one in controls if len(one) > 1), key=len, reverse=True)
        self.controls = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self.marks, self.normalizer = marks(settings.document), self.text_tokens.normalizer
        # of the copy, as the given one may just be set to cut or pad
        self._tokenizer_hash = hashlib.sha256(self.text_tokens.to_str().encode()).hexdigest()
        self._opening = self.chat_ids(self.format.opening)
        self.check(named(tokenizer))

    def check(self, name: str) -> None:
        """Raise ModelError where the settings do not fit the tokenizer."""
        found = self.controls.search(self.settings.document)
        if found:
            raise ModelError(
                f"document has the special token {found[0]!r:.40} of {name}; documents are read without any, so leave it out."
            )
        before, after = self.format.around(LARGEST_ID)
        most, marked = self.settings.document_tokens, len(self.text_ids(before + after))
        if marked >= most:
            raise ModelError(
                f"document_tokens is {most}, and a document's marks alone take {marked}; give more, or a shorter document template."
            )
        shortest = len(self.last("", tell=False))
        signal = self.settings.signal_tokens
        if signal != "query" and -min(signal) > shortest:
            raise ModelError(
                f"signal_tokens is {list(signal)}, and the last block may have {shortest} tokens; give others."
            )

    def instruction(self, query: str | None = None) -> np.ndarray:
        """int64: the first block. A query-free one needs no query. Raises WinnowError where one is missing or is no text."""
        if self.settings.is_query_free:
            return self.chat_ids("".join(self.format.instruction))
        if query is None:
            raise WinnowError("query is None, and the instruction has {query}; give a query, or settings.query_free().")
        return self.asked(self.format.instruction, self.read_query(query, "{query}" not in self.settings.last))

    def last(self, query: str, *, tell: bool = True) -> np.ndarray:
        """int64: the last block, up to where the model would write ids. Warns of a query that is cut, unless told not to."""
        return np.concatenate([self.asked(self.format.last, self.read_query(query, tell)), self._opening])

    def answered(self, query: str, relevant: Sequence[int], *, tell: bool = True) -> AnsweredTokens:
        """The last block with the numbers of relevant documents, for training. Raises WinnowError where there are none."""
        if len(relevant) == 0:
            raise WinnowError(f"the query {query!r:.40} has no relevant document; give at least one to learn from.")
        prompt, opening = self.asked(self.format.last, self.read_query(query, tell)), self._opening
        rest = f"{', '.join(str(int(number)) for number in relevant)}{self.format.closing}"
        completion = self.chat_ids(self.format.opening + rest)
        if completion[: len(opening)].tolist() != opening.tolist():
            # the tokenizer joins a bracket and a number; in use there is no number yet, and the signal is read at the bracket
            completion = np.concatenate([opening, self.chat_ids(rest)])
        rows = self.signal(np.concatenate([prompt, opening]))
        return AnsweredTokens(np.concatenate([prompt, completion]), len(prompt), rows)

    def signal(self, last: np.ndarray) -> np.ndarray:
        """int64: the rows of a last block that the score is read from."""
        if self.settings.signal_tokens == "query":
            return rows_of_query(last, self.last("", tell=False))
        return len(last) + np.array(self.settings.signal_tokens, np.int64)

    def document(self, number: int, text: str) -> DocumentTokens:
        """One block of documents()."""
        return self.documents([text], [number])[0]

    def documents(
        self, texts: Sequence[str], numbers: Sequence[int] | None = None, *, tell: bool = True
    ) -> list[DocumentTokens]:
        """The documents' blocks, their ids as numbered, else 0, 1, ... Each block is the same whatever others are there.

        A text is cut to what the block has room for, its marks are not. Warns once of all that are cut, unless told not to. Raises
        WinnowError for what is no text.
        """
        numbers = range(len(texts)) if numbers is None else numbers
        texts = [self.harmless(text, f"document {place}").strip() for place, text in enumerate(texts)]
        blocks = [text.join(self.format.around(number)) for number, text in zip(numbers, texts, strict=True)]
        encodings = self.text_tokens.encode_batch_fast(blocks, add_special_tokens=False)
        most, found = self.settings.document_tokens, []
        for number, text, encoding in zip(numbers, texts, encodings, strict=True):
            ids = np.array(encoding.ids, np.int64)
            if len(ids) <= most:
                found.append(DocumentTokens(self.without_control(ids), 0))
                continue
            kept = np.array(shortened(self.text_tokens, text, *self.format.around(number), most)[1], np.int64)
            found.append(DocumentTokens(self.without_control(kept), len(ids) - len(kept)))
        num_cut = sum(one.num_cut > 0 for one in found)
        if num_cut and tell:
            warnings.warn(
                PromptCutWarning(
                    f"{num_cut:,} of {len(found):,} documents have more than document_tokens = {most} tokens; what comes after was not "
                    "read."
                ),
                stacklevel=2,
            )
        return found

    @cached_property
    def fingerprint(self) -> str:
        """sha256, in hexadecimal, of all but the model that a document's states depend on: settings, chat format, tokenizer."""
        content = [self.settings.fingerprint(), self.format.instruction, self.format.document, self._tokenizer_hash]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def read_query(self, query: str, tell: bool) -> str:
        """What is read of a query."""
        text = self.harmless(query, "the query")
        while (parted := self.controls.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)) != text:
            text = parted
        num_tokens, most = len(self.text_ids(text)), self.settings.query_tokens
        if num_tokens <= most:
            return text
        kept = shortened(self.text_tokens, text, "", "", most)[0]
        if tell:
            warnings.warn(
                PromptCutWarning(
                    f"the query {query!r:.40} has {num_tokens:,} tokens, and query_tokens is {most}; what comes after was not read."
                ),
                stacklevel=3,
            )
        return kept

    def asked(self, parts: list[str], query: str) -> np.ndarray:
        """int64: a block around the query. Raises WinnowError where the query makes special tokens."""
        ids = self.chat_ids(query.join(parts))
        if np.isin(ids, self.control).sum() != np.isin(self.chat_ids("".join(parts)), self.control).sum():
            raise WinnowError(f"the query {query!r:.60} makes special tokens of the model; write it without them.")
        return ids

    def harmless(self, text: str, what: str) -> str:
        """A text that holds no marks. Raises WinnowError for what is no text."""
        if not isinstance(text, str):
            raise WinnowError(f"{what} is {text!r:.60}; a text is needed, so give one.")
        text = HALF_SURROGATES.sub("\ufffd", text)
        # a tokenizer may make the same tokens of other letters: of full-width ones, or of the mark that stands for a blank
        seen = (self.normalizer.normalize_str(text) if self.normalizer else text).replace("▁", " ")
        if not self.marks.search(seen):
            return text
        # once more where what is left makes another mark; each time some punctuation goes, so this ends
        while (parted := self.marks.sub(lambda found: PUNCTUATION.sub(" ", found[0]), seen)) != seen:
            seen = parted
        return seen

    def without_control(self, ids: np.ndarray) -> np.ndarray:
        """Vocabularies of whole words may spell a special token even so."""
        return ids[~np.isin(ids, self.control)]

    def chat_ids(self, text: str) -> np.ndarray:
        return np.array(self.chat_tokens.encode(text, add_special_tokens=False).ids, np.int64)

    def text_ids(self, text: str) -> np.ndarray:
        return np.array(self.text_tokens.encode(text, add_special_tokens=False).ids, np.int64)


def named(tokenizer: Any) -> str:
    return str(getattr(tokenizer, "name_or_path", "") or "the tokenizer")


def control_tokens(tokenizer: Any, settings: BlockRankSettings) -> dict[str, int]:
    """Those that a text must not make: special ones, and signs that the chat format writes, such as <think>."""
    template = tokenizer.chat_template or ""
    # str: a template may be several by name
    frames = "".join([str(template), settings.before, settings.between, settings.after])
    found = {
        token.content: number
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special or (PUNCTUATION.match(token.content) and token.content in frames)
    }
    return found | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))


def copied(written: str, controls: dict[str, int], *, as_text: bool) -> Tokenizer:
    """A tokenizer for our use alone, that finds control tokens in a text or takes them for letters."""
    content = json.loads(written)
    for token in content["added_tokens"]:
        token["special"] = token["special"] or token["content"] in controls
    found = Tokenizer.from_str(json.dumps(content))
    found.no_padding()
    found.no_truncation()
    found.encode_special_tokens = as_text
    return found


def marks(template: str) -> re.Pattern[str]:
    """What stands before or after a document's text, with any number for its id, spaced in any way, in any case.

    Marks without punctuation are words, which a text may say; marks of punctuation alone count only with an id.
    """
    before, after = (re.findall(r"\{id\}|\w+|[^\w\s]", part) for part in template.split("{text}"))
    patterns = []
    for parts in (before, after):
        has_words = any(re.match(r"\w", part) for part in parts)
        if "{id}" in parts or (has_words and any(PUNCTUATION.match(part) for part in parts)):
            patterns.append(spaced(parts))
    inner = [place for place, part in enumerate(after) if re.match(r"\w", part)]
    if "{id}" in after and inner and inner[0] > 0:  # without what leads to it, as "END ID: 3"
        patterns.append(r"(?<!\w)" + spaced(after[inner[0] :]))
    return re.compile("|".join(patterns) or r"(?!)", re.IGNORECASE)


def spaced(parts: list[str]) -> str:
    pattern, was_word = "", False
    for part in parts:
        is_word = part == "{id}" or re.match(r"\w", part) is not None
        pattern += r"\s+" if was_word and is_word else r"\s*" if pattern else ""
        pattern += r"\d+" if part == "{id}" else re.escape(part)
        was_word = is_word
    return pattern + (
        r"(?!\w)" if was_word and parts[-1] != "{id}" else ""
    )  # no mark begins a longer word, a number may


def rows_of_query(last: np.ndarray, without: np.ndarray) -> np.ndarray:
    """int64: the query's own tokens in a last block, which differs there from one without a query; all rows for an empty query."""
    shortest = min(len(last), len(without))
    same = last[:shortest] == without[:shortest]
    first = shortest if same.all() else int(same.argmin())
    same = last[::-1][: shortest - first] == without[::-1][: shortest - first]
    after = len(last) - (len(same) if same.all() else int(same.argmin()))
    return np.arange(first, after) if first < after else np.arange(len(last))


def shortened(tokenizer: Tokenizer, text: str, before: str, after: str, most: int) -> tuple[str, list[int]]:
    """As much of a text's beginning as makes, with what is around it, at most so many tokens; and these.

    Raises WinnowError where what is around it has more.
    """
    num_chars = 32 * most  # of a long text only so much as surely has enough tokens
    while True:
        encoding = tokenizer.encode(f"{before}{text[:num_chars]}{after}", add_special_tokens=False)
        if len(encoding.ids) > 2 * most or num_chars >= len(text):
            break
        num_chars *= 2
    text = text[:num_chars]
    ends = [stop - len(before) for _, stop in encoding.offsets if len(before) < stop <= len(before) + len(text)]
    kept, num_kept, ids = text, len(ends), encoding.ids
    while len(ids) > most:
        if not kept:
            raise WinnowError(f"document_tokens is {most}, and a document's marks alone take {len(ids)}; give more.")
        num_kept = max(0, num_kept - (len(ids) - most))  # seldom twice: at the new end a word may have more tokens
        kept = text[: ends[num_kept - 1]].rstrip() if num_kept else ""
        ids = tokenizer.encode(f"{before}{kept}{after}", add_special_tokens=False).ids
    return kept, ids
