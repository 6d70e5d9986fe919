"""One side of a neural sparse encoder: texts to sparse vectors, a stream of batches.

Batches hold so many tokens, texts of like length together and no padding between them; the vocabulary is never spread out over tokens
(kernels.cpu.pooled_head). A text's vector does not depend on the texts it is encoded with.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from tokenizers import Tokenizer

from index.errors import ModelError, WinnowWarning
from index.vectors import concatenate
from kernels.cpu.sparse import SparseRows
from retrieval.encoders.model_files import ModelFiles
from retrieval.encoders.options import NeuralOptions
from retrieval.encoders.tokens import TextTokens, Tokens, special_terms

if TYPE_CHECKING:
    from retrieval.encoders.neural_model import NeuralModel

NO_MEMORY = ("out of memory", "can't allocate memory", "could not create a primitive")  # the last one is oneDNN's

EMPTY_ROW = SparseRows(np.zeros(2, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))

Seen = Callable[[list[np.ndarray]], None]
Found = TypeVar("Found")


class TruncationWarning(WinnowWarning):
    """Texts were longer than the model reads."""

    def __init__(self, num_cut: int, num_texts: int, max_length: int):
        super().__init__(
            f"{num_cut:,} of {num_texts:,} texts have more than max_length = {max_length} tokens; what comes after was not read."
        )
        self.numbers = num_cut, num_texts, max_length


class MemoryWarning(WinnowWarning):
    """Memory ran out, and smaller batches are tried."""


class NeuralSide:
    """A model, loaded when it is first needed, and how its output becomes weights."""

    reads: type[TextTokens] = TextTokens

    def __init__(
        self,
        files: ModelFiles,
        options: NeuralOptions,
        tokenizer: Tokenizer,
        own_weights: np.ndarray | None = None,
        device: str | None = None,
    ):
        """
        own_weights  float32 [terms]: multiplies the weights of a text's own terms, where `options.own_terms`
        device       where the model runs, as PyTorch calls it; None: on a CUDA device where there is one
        """
        self.files, self.options, self.own_weights = files, options, own_weights
        self.tokens = self.reads(tokenizer, options)
        self.forbidden = np.empty(0, np.int64) if options.special_terms else special_terms(tokenizer)
        self.device = device
        self.tokens_a_batch: int | None = None  # the model's own number, until memory runs out

    @cached_property
    def model(self) -> NeuralModel:
        """Loaded when first asked for. Raises ModelError."""
        from retrieval.encoders.neural_model import NeuralModel

        return NeuralModel.of(self.files, self.options, self.device)

    def differs_from(self, other: NeuralSide) -> str | None:
        """What makes this side's vectors others than those of another; None: nothing."""
        files = [side.files.fingerprint or side.files.found_fingerprint for side in (self, other)]
        weights = [None if side.own_weights is None else side.own_weights.tolist() for side in (self, other)]
        if files[0] != files[1] or weights[0] != weights[1]:
            return "weights or config"
        options = [asdict(side.options) for side in (self, other)]
        return next(
            (f"{name} ({options[0][name]!r})" for name in options[0] if options[0][name] != options[1][name]), None
        )

    def encode(self, texts: Iterable[str], seen: Seen = lambda own: None) -> Iterator[SparseRows]:
        """The vectors of all texts, in order, some at a time.

        seen  is told the tokens of the texts' own

        Warns once, at the end, of texts that were cut.
        """
        yield from self.stream(texts, self.encode_tokens, seen)

    def stream(
        self, texts: Iterable[str], work: Callable[[list[Tokens]], Found], seen: Seen = lambda own: None
    ) -> Iterator[Found]:
        """What `work` finds in the texts, some at a time; the next texts are tokenized meanwhile."""
        texts, num_texts, num_cut = iter(texts), 0, 0
        with ThreadPoolExecutor(1, "tokenizer") as beside:

            def ask() -> Future[list[Tokens]] | None:
                some = list(islice(texts, self.model.texts_together))
                return beside.submit(self.tokens.of, some) if some else None

            waiting = ask()
            while waiting is not None:
                tokens, waiting = waiting.result(), ask()
                seen([one.own for one in tokens])
                num_texts += len(tokens)
                num_cut += sum(one.is_cut for one in tokens)
                yield work(tokens)
        if num_cut:
            warnings.warn(TruncationWarning(num_cut, num_texts, self.options.max_length), stacklevel=2)

    def encode_one(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """(terms int32, weights float32) of one text."""
        rows = self.encode_tokens(self.tokens.of([text]))
        return rows.indices, rows.data

    def encode_tokens(self, tokens: Sequence[Tokens]) -> SparseRows:
        """The vectors of texts, in order; ModelError where one text is too much."""
        return concatenate(self.in_batches(tokens, self.encode_batch, EMPTY_ROW))

    def in_batches(
        self, tokens: Sequence[Tokens], work: Callable[[list[Tokens]], Sequence[Found]], empty: Found
    ) -> list[Found]:
        """What `work` finds in each text, in order, and `empty` for one without tokens. Where memory runs out, batches are halved, from
        then on."""
        rows = [empty] * len(tokens)
        by_length = sorted((i for i, one in enumerate(tokens) if len(one.ids)), key=lambda i: len(tokens[i].ids))
        first = 0
        while first < len(by_length):
            batch = by_length[first : first + self.fitting([len(tokens[i].ids) for i in by_length[first:]])]
            try:
                found = work([tokens[i] for i in batch])
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self.halve(len(batch), sum(len(tokens[i].ids) for i in batch), error)
                continue
            for i, row in zip(batch, found, strict=True):
                rows[i] = row
            first += len(batch)
        return rows

    def fitting(self, lengths: Sequence[int]) -> int:
        """How many of the first texts go into a batch: at least one."""
        return max(
            1, int(np.searchsorted(np.cumsum(lengths), self.tokens_a_batch or self.model.tokens_a_batch, side="right"))
        )

    def halve(self, num_texts: int, num_tokens: int, error: BaseException) -> None:
        if num_texts == 1:
            raise ModelError(
                f"there is not enough memory for one text of {num_tokens} tokens; lower max_length."
            ) from error
        if self.tokens_a_batch is None:
            warnings.warn(
                f"memory ran out with {num_tokens:,} tokens in a batch; batches are halved and tried again.",
                MemoryWarning,
                stacklevel=4,
            )
        self.tokens_a_batch = num_tokens // 2

    def encode_batch(self, batch: Sequence[Tokens]) -> list[SparseRows]:
        """A row for each text; none is empty."""
        rows: list[SparseRows] = self.model.rows(batch, self.options, self.forbidden, self.own_weights)
        return rows


def is_out_of_memory(error: BaseException) -> bool:
    """PyTorch tells it in several ways."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(told in text for told in NO_MEMORY)
