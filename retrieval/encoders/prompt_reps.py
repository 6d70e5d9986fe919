"""PromptReps: a decoder is asked for one word that stands for a text; what it is about to answer is the text's representation.

Zhuang et al., arXiv:2404.18424. At the last position of prefix + text + suffix, with l the logits and h what they are projected from:

    sparse   w(t) = round(100 * ln(1 + relu(l(t))))  for t of the tokens of the text's words, the `top_k` largest, and of
             `expansion_terms` other tokens; of a text without words, the 10 largest of all tokens
    dense    h / |h|

Words are the text's in lower case, without stop words and punctuation, each tokenized alone. A text without tokens has no vector.
The prompts of Llama 3, Mistral and Phi-3 are the published ones, as published code reads them: a backslash and an n, not a new line.
Chat models with <|im_start|> (Qwen, SmolLM2) have none published; theirs is the same in their own chat format.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from index.errors import ModelError
from index.vectors import concatenate
from kernels.cpu.sparse import SparseRows
from retrieval.encoders.dense.options import DenseOptions
from retrieval.encoders.model_files import ModelFiles
from retrieval.encoders.neural_side import EMPTY_ROW, NeuralSide
from retrieval.encoders.options import PROMPT_REPS, NeuralOptions
from retrieval.encoders.tokens import TextReader, Tokens

SETTINGS: dict[str, Any] = {**PROMPT_REPS, "top_k": 128}
STEPS = 100  # of a weight of 1
WITHOUT_WORDS = 10  # terms of a text that has only stop words

SYSTEM = "You are an AI assistant that can understand human language."
TASK = "Use one word to represent the {kind} in a retrieval task. Make sure your word is in lowercase."


class Prompt(NamedTuple):
    """What comes before and after a text of a kind, passage or query, which `{kind}` and `{Kind}` stand for."""

    prefix: str
    suffix: str
    marks: tuple[str, ...]  # tokens that tokenizers of these models have
    model_types: tuple[str, ...] = ()  # where they do not always


PROMPTS = (
    Prompt(
        rf"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{SYSTEM}<|eot_id|>"
        r'<|start_header_id|>user<|end_header_id|>\n\n{Kind}: "',
        rf'". {TASK}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nThe word is: "',
        ("<|start_header_id|>", "<|eot_id|>"),
    ),
    Prompt(
        f'<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{{Kind}}: "',
        f'". {TASK}<|im_end|>\n<|im_start|>assistant\nThe word is: "',
        ("<|im_start|>", "<|im_end|>"),
    ),
    Prompt(
        rf'<s><|system|>\n{SYSTEM}<|end|>\n<|user|>\n{{Kind}}: "',
        rf'". {TASK}<|end|>\n<|assistant|>\nThe word is: "',
        ("<|user|>", "<|assistant|>", "<|end|>"),
    ),
    Prompt(
        f'<s>[INST] {SYSTEM} {{Kind}}: "',
        f'". {TASK} [/INST]The word is: "',
        ("[INST]", "[/INST]"),
        ("mistral", "mixtral"),
    ),
)


def prompt_of(name: str, files: ModelFiles, tokenizer: Tokenizer, kind: str) -> dict[str, str]:
    """The options prefix and suffix for a model. Raises ModelError where its chat format is not known."""
    for prompt in PROMPTS:
        is_marked = all(tokenizer.token_to_id(mark) is not None for mark in prompt.marks)
        if is_marked or files.config.get("model_type") in prompt.model_types:
            return {part: fill(getattr(prompt, part), kind) for part in ("prefix", "suffix")}
    raise ModelError(
        f"{name} has a chat format that is not known here; give document_prefix, document_suffix, query_prefix and query_suffix, the "
        "prompt as the model is to read it."
    )


def fill(template: str, kind: str) -> str:
    return template.replace("{Kind}", kind.capitalize()).replace("{kind}", kind)


def side_of(
    files: ModelFiles, options: NeuralOptions, tokenizer: Tokenizer, own_weights: np.ndarray | None = None
) -> NeuralSide:
    """The side of an encoder that the options ask for."""
    if options.method == "promptreps":
        return PromptRepsSide(files, options, tokenizer)
    return NeuralSide(files, options, tokenizer, own_weights)


class Prompted(TextReader):
    """Prefix, text and suffix, each tokenized by itself, so that a text is cut without losing the question."""

    def __init__(self, tokenizer: Tokenizer, options: NeuralOptions | DenseOptions):
        super().__init__(tokenizer)
        self.room = options.max_length
        self.before, self.after = self.own([options.prefix, options.suffix])

    @property
    def longest(self) -> int:
        return len(self.before) + self.room + len(self.after)

    def of(self, texts: Sequence[str]) -> list[Tokens]:
        """A text without tokens of its own has none at all."""
        return [self.prompted(own) for own in self.own([text.strip() for text in texts])]

    def prompted(self, own: np.ndarray) -> Tokens:
        if len(own) == 0:
            return Tokens(own, slice(0, 0), own, False)
        ids = np.concatenate([self.before, own[: self.room], self.after])
        return Tokens(ids, slice(0, len(ids)), own, len(own) > self.room)


class PromptTokens(Prompted):
    """The same, with the terms of a text's words."""

    def terms_in(self, text: str) -> np.ndarray:
        return self.of_words([text])[0]

    def of(self, texts: Sequence[str]) -> list[Tokens]:
        own, allowed = self.own(texts), self.of_words([text.strip() for text in texts])
        return [
            tokens._replace(own=ids, allowed=terms)
            for tokens, ids, terms in zip(super().of(texts), own, allowed, strict=True)
        ]

    def of_words(self, texts: Sequence[str]) -> list[np.ndarray]:
        """int64, each once: the tokens of each text's words."""
        from retrieval.encoders.english_words import content_words

        words = [sorted(set(content_words(text))) for text in texts]
        every = sorted(set().union(*words))
        ids = dict(zip(every, self.own(every), strict=True))
        none = np.empty(0, np.int64)
        return [np.unique(np.concatenate([none, *(ids[word] for word in some)])) for some in words]


class PromptRepsSide(NeuralSide):
    """Both vectors of a text, from one pass of the model."""

    reads = PromptTokens

    def __init__(self, files: ModelFiles, options: NeuralOptions, tokenizer: Tokenizer):
        super().__init__(files, options, tokenizer)
        self.expansions = expansion_terms(tokenizer) if options.expansion_terms else np.empty(0, np.int64)

    def encode_batch(self, batch: Sequence[Tokens]) -> list[SparseRows]:
        return [row for row, _ in self.encode_batch_both(batch)]

    def encode_batch_both(self, batch: Sequence[Tokens]) -> list[tuple[SparseRows, np.ndarray]]:
        weights, dense = self.model.last(batch, self.options)
        weights[:, self.forbidden] = 0
        rows = [as_row(own, tokens, self.options, self.expansions) for own, tokens in zip(weights, batch, strict=True)]
        return list(zip(rows, dense, strict=True))

    def encode_both(self, texts: Iterable[str]) -> Both:
        """The vectors of all texts, in order. A text without tokens has an empty row, and zeros.

        Warns once, at the end, of texts that were cut.
        """
        empty = (EMPTY_ROW, np.zeros(self.model.width, np.float32))
        sparse, dense = [], [np.empty((0, self.model.width), np.float32)]
        for found in self.stream(texts, lambda tokens: self.in_batches(tokens, self.encode_batch_both, empty)):
            sparse.append(concatenate([row for row, _ in found]))
            dense.append(np.stack([vector for _, vector in found]))
        return Both(concatenate(sparse), np.concatenate(dense))


class Both(NamedTuple):
    """Sparse and dense vectors of the same texts."""

    sparse: SparseRows
    dense: np.ndarray  # float32 [texts, width], of length 1 or 0


def expansion_terms(tokenizer: Tokenizer) -> np.ndarray:
    """int64: the tokens that may stand for a word which the text does not have: a lower-case letter, then letters."""
    names = ((number, token.removeprefix("▁")) for token, number in tokenizer.get_vocab().items())
    return np.array(sorted(number for number, token in names if "a" <= token[:1] <= "z" and token.isalpha()), np.int64)


def as_row(weights: np.ndarray, tokens: Tokens, options: NeuralOptions, expansions: np.ndarray) -> SparseRows:
    """The entries of one text; weights float32 [terms] of all terms."""
    allowed = tokens.allowed
    assert allowed is not None
    if len(allowed):
        terms = heaviest(allowed, weights, options.top_k or len(allowed))
    else:
        terms = heaviest(np.arange(len(weights)), weights, WITHOUT_WORDS)
    if options.expansion_terms:
        others = heaviest(np.setdiff1d(expansions, allowed), weights, options.expansion_terms)
        terms = np.union1d(terms, others)
    values = np.rint(weights[terms] * np.float32(STEPS))
    terms, values = terms[values > 0], values[values > 0]
    order = np.argsort(terms)
    return SparseRows(np.array([0, len(terms)]), terms[order].astype(np.int32), values[order].astype(np.float32))


def heaviest(terms: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
    """So many of the terms; of equal weights the lower numbers."""
    return terms[np.lexsort((terms, -weights[terms]))[:count]]
