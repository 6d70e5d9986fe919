"""Texts to what a dense model reads: always a sequence, if only of special tokens, and which of its positions are pooled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from index.errors import ModelError
from retrieval.encoders.dense.options import DenseOptions
from retrieval.encoders.tokens import TextReader, Tokens, special_ids, special_terms

NONE = np.empty(0, np.int64)


class DenseTokens(TextReader):
    """Tokenizes texts for one side of a dense model, as sentence-transformers does.

    `own` of what it gives are all tokens of text and prompt, and none where the text itself has none.

    Raises ModelError where max_length leaves no room for a text, or the end token is none of the tokenizer's.
    """

    def __init__(self, tokenizer: Tokenizer, options: DenseOptions):
        super().__init__(tokenizer)
        self.options = options
        before, after = special_ids(tokenizer) if options.special_tokens else ([], [])
        if options.end_token:
            number = tokenizer.token_to_id(options.end_token)
            if number is None:
                raise ModelError(f"end_token is {options.end_token!r:.40}, which is no token of the model's tokenizer.")
            after = after if after[-1:] == [number] else [*after, number]
        self.before, self.after = np.array(before, np.int64), np.array(after, np.int64)
        self.room = options.max_length - len(before) - len(after)
        if self.room < 1:
            raise ModelError(f"max_length is {options.max_length}; special tokens alone take that much, so give more.")
        framed = self.own([f"{options.prefix}{options.suffix}"])[0] if options.prefix or options.suffix else NONE
        self.frame = len(framed)  # tokens around a text without any, about
        if self.frame >= self.room:
            raise ModelError(
                f"max_length is {options.max_length}; the prefix {options.prefix!r:.40} leaves no room for a text, so give more."
            )
        self.unpooled = 0
        if not options.include_prompt and options.prefix:
            self.unpooled = self.prompt_length(options.prefix)

    @property
    def longest(self) -> int:
        return self.options.max_length

    def of(self, texts: Sequence[str]) -> list[Tokens]:
        """Prompt and text are tokenized as one string, as the models were trained."""
        prefix, suffix = self.options.prefix, self.options.suffix
        if not prefix and not suffix:
            return [self.put_together(ids, len(ids) > 0) for ids in self.own(texts)]
        read = self.own([f"{prefix}{text}{suffix}" for text in texts])
        return [self.put_together(ids, self.has_text(text, ids)) for text, ids in zip(texts, read, strict=True)]

    def has_text(self, text: str, framed: np.ndarray) -> bool:
        """Whether a text has tokens of its own; `framed` are those of it in its prompt."""
        if len(framed) > self.frame + 1:  # a tokenizer may join what stands at the seam, not more
            return True
        return len(self.own([text])[0]) > 0

    def put_together(self, read: np.ndarray, has_text: bool) -> Tokens:
        ids = np.concatenate([self.before, read[: self.room], self.after])
        return Tokens(ids, slice(self.unpooled, len(ids)), read if has_text else NONE, len(read) > self.room)

    def prompt_length(self, prompt: str) -> int:
        """Positions of the prompt alone, without a special token at its end, as the library counts them."""
        ids = self.put_together(self.own([prompt])[0], True).ids
        return len(ids) - int(len(ids) > 0 and ids[-1] in special_terms(self.tokenizer))
