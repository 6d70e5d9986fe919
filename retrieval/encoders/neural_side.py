"""One side of a neural sparse encoder: texts to sparse vectors, a stream of batches.

Batches hold so many tokens, texts of like length together and no padding between them; the vocabulary is never spread out over tokens
(kernels.cpu.pooled_head). A text's vector does not depend on the texts it is encoded with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from index.vectors import concatenate
from kernels.cpu.sparse import SparseRows
from retrieval.encoders.model_files import ModelFiles
from retrieval.encoders.options import NeuralOptions
from retrieval.encoders.text_stream import Seen, TextStream
from retrieval.encoders.tokens import TextReader, TextTokens, Tokens, special_terms

if TYPE_CHECKING:
    from retrieval.encoders.neural_model import NeuralModel

EMPTY_ROW = SparseRows(np.zeros(2, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))


class NeuralSide(TextStream):
    """A model, loaded when it is first needed, and how its output becomes weights."""

    reads: Callable[[Tokenizer, NeuralOptions], TextReader] = TextTokens

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
        self.device, self.max_length = device, options.max_length

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

    def encode_one(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """(terms int32, weights float32) of one text."""
        rows = self.encode_tokens(self.tokens.of([text]))
        return rows.indices, rows.data

    def encode_tokens(self, tokens: Sequence[Tokens]) -> SparseRows:
        """The vectors of texts, in order; ModelError where one text is too much."""
        return concatenate(self.in_batches(tokens, self.encode_batch, EMPTY_ROW))

    def encode_batch(self, batch: Sequence[Tokens]) -> list[SparseRows]:
        """A row for each text; none is empty."""
        rows: list[SparseRows] = self.model.rows(batch, self.options, self.forbidden, self.own_weights)
        return rows
