"""Texts to the token ids that a model reads, without padding.

A text and its special tokens are put together here, not by the tokenizer: so a text is cut without losing them, and its own
tokens are known for the terms it holds.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Encoding, Tokenizer
from tokenizers.normalizers import BertNormalizer

from index.errors import ModelError
from retrieval.encoders.model_files import brief, read_json
from retrieval.encoders.options import NeuralOptions

UNUSED = re.compile(r"\[unused\d+\]|\[PAD\]|\[UNK\]|\[CLS\]|\[SEP\]|\[MASK\]")


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")


BERT_SETTINGS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}


class Tokens(NamedTuple):
    """One text as a model reads it."""

    ids: np.ndarray  # int64, special tokens included
    pooled: slice  # of the positions whose logits count
    own: np.ndarray  # int64, the text's own tokens, all of them
    is_cut: bool
    allowed: np.ndarray | None = None  # int64, the terms that may have weight; None: any


class TextReader(ABC):
    """Texts to what one side of a model reads."""

    def __init__(self, tokenizer: Tokenizer):
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer = tokenizer

    @property
    @abstractmethod
    def longest(self) -> int:
        """The most tokens that the model is given."""

    @abstractmethod
    def of(self, texts: Sequence[str]) -> list[Tokens]:
        """The texts as the model reads them."""

    def own(self, texts: Sequence[str]) -> list[np.ndarray]:
        """int64: the token ids of each text alone, all of them."""
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int64) for encoding in encodings]

    def terms_in(self, text: str) -> np.ndarray:
        """int64: the terms that the text says itself."""
        return self.own([text])[0]


class TextTokens(TextReader):
    """Tokenizes texts for one side of a model.

    Echo (Springer et al., arXiv:2402.15449): prefix, text and suffix are tokenized as one string, as without echo, and those ids stand
    there twice, special tokens around both. So the copies are the same tokens: a text whose first word would be another token
    after a space is the same at its second beginning. Nothing parts the copies but the prefix and suffix themselves. Only the
    second text is pooled, not its prefix and suffix, and each copy has half of max_length.

    Raises ModelError where max_length leaves no room for a text.
    """

    def __init__(self, tokenizer: Tokenizer, options: NeuralOptions):
        super().__init__(tokenizer)
        self.options = options
        self.before, self.after = special_ids(tokenizer) if options.special_tokens else ([], [])
        self.room = (options.max_length - len(self.before) - len(self.after)) // (2 if options.echo else 1)
        if self.room < 1:
            raise ModelError(f"max_length is {options.max_length}; special tokens alone take that much, so give more.")
        if len(self.own([options.prefix])[0]) >= self.room:
            raise ModelError(
                f"max_length is {options.max_length}; the prefix {options.prefix!r:.40} leaves no room for a text, so give more."
            )

    @property
    def longest(self) -> int:
        return self.options.max_length

    def of(self, texts: Sequence[str]) -> list[Tokens]:
        """A text without tokens of its own has none at all, whatever stands before and after it."""
        own, prefix, suffix = self.own(texts), self.options.prefix, self.options.suffix
        if not prefix and not suffix:
            return [self.put_together(ids, ids, slice(0, len(ids))) for ids in own]
        # one string, as the models were trained: at the seam a tokenizer may join or split
        framed = [f"{prefix}{text}{suffix}" for text in texts]
        if not self.options.echo:
            return [
                self.put_together(alone, ids, slice(0, len(ids)))
                for alone, ids in zip(own, self.own(framed), strict=True)
            ]
        found = self.tokenizer.encode_batch(framed, add_special_tokens=False)  # not the fast way: it tells no offsets
        return [
            self.put_together(alone, np.array(one.ids, np.int64), tokens_at(one, len(prefix), len(prefix) + len(text)))
            for alone, one, text in zip(own, found, texts, strict=True)
        ]

    def put_together(self, own: np.ndarray, read: np.ndarray, counted: slice) -> Tokens:
        """A text of the tokens `own`, read as `read`; without special tokens, those `counted` of the last copy are pooled."""
        if len(own) == 0:
            return Tokens(own, slice(0, 0), own, False)
        kept = read[: self.room]
        copies = [kept, kept] if self.options.echo else [kept]
        ids = np.concatenate([self.before, *copies, self.after]).astype(np.int64)
        pooled = slice(0, len(ids))
        if self.options.echo or not self.options.pool_special:
            first = len(ids) - len(self.after) - len(kept)  # of the last copy
            pooled = slice(first + min(counted.start, len(kept) - 1), first + min(counted.stop, len(kept)))
        return Tokens(ids, pooled, own, len(read) > self.room)


def tokens_at(encoding: Encoding, start: int, stop: int) -> slice:
    """The tokens that touch these characters; all of them where none does, as of blanks that a tokenizer does not count."""
    numbers = [number for number, (first, last) in enumerate(encoding.offsets) if last > start and first < stop]
    return slice(numbers[0], numbers[-1] + 1) if numbers else slice(0, len(encoding.offsets))


def special_ids(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text."""
    for text in chain(["a"], (tokenizer.decode([number]) for number in range(tokenizer.get_vocab_size()))):
        encoding = tokenizer.encode(text, add_special_tokens=True)
        own = [position for position, is_special in enumerate(encoding.special_tokens_mask) if not is_special]
        if own:  # a text that has a token, which "a" may not have
            return encoding.ids[: own[0]], encoding.ids[own[-1] + 1 :]
    return [], []


def special_terms(tokenizer: Tokenizer) -> np.ndarray:
    """int64: numbers of the tokens that stand for no word."""
    added = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    named = {number for token, number in tokenizer.get_vocab().items() if UNUSED.fullmatch(token)}
    return np.array(sorted(added | named), np.int64)


def check_settings(path: Path, tokenizer: Tokenizer) -> None:
    """Raise ModelError where tokenizer_config.json contradicts tokenizer.json: libraries differ in which of them counts."""
    config = read_json(path) if path.is_file() else {}
    if config.get("truncation_side", "right") != "right":
        raise ModelError(
            f"{path} cuts texts on the {config['truncation_side']!r:.20} side; only 'right' is known here."
        )
    if not isinstance(tokenizer.normalizer, BertNormalizer):
        return
    for setting, name in BERT_SETTINGS.items():
        wanted, held = config.get(setting), getattr(tokenizer.normalizer, name)
        if wanted is not None and bool(wanted) != bool(held):
            raise ModelError(
                f"{path} has {setting} = {wanted!r:.20}, tokenizer.json has {held!r}; make them agree, as the model was trained."
            )


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint, perhaps one within its GGUF file.

    Raises ModelError where there is none that the `tokenizers` library can run.
    """
    file = folder / "tokenizer.json"
    if file.is_file():
        try:
            found = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing narrower
            raise ModelError(f"{file} cannot be read ({brief(error)}); get the checkpoint again.") from error
        check_settings(folder / "tokenizer_config.json", found)
        return found
    from transformers import AutoTokenizer

    gguf = [] if any((folder / name).is_file() for name in TOKENIZER_FILES) else sorted(folder.glob("*.gguf"))
    within = {"gguf_file": gguf[0].name} if gguf else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **within)
        found = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        if len(found.get_vocab()) <= len(special_terms(found)):  # what the library makes of no vocabulary
            raise ValueError("no word is in its vocabulary")
        return found
    except Exception as error:  # whatever the library meets in the files
        raise ModelError(
            f"{folder} has no tokenizer that can be read ({brief(error)}); it needs tokenizer.json, or the vocabulary files "
            "of its architecture."
        ) from error
