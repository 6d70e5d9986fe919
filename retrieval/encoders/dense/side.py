"""One side of a dense encoder: texts to vectors, a stream of batches. A text's vector does not depend on the texts beside it, but for rounding (docs/decisions/0011)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer

from index.errors import ModelError
from retrieval.encoders.dense.layers import Layer
from retrieval.encoders.dense.options import DenseOptions
from retrieval.encoders.dense.tokens import DenseTokens
from retrieval.encoders.model_files import ModelFiles
from retrieval.encoders.prompt_reps import Prompted
from retrieval.encoders.text_stream import Seen, TextStream
from retrieval.encoders.tokens import Tokens

if TYPE_CHECKING:
    from retrieval.encoders.dense.model import DenseModel


class DenseSide(TextStream):
    """A model, loaded when it is first needed, and how its hidden states become a vector."""

    def __init__(
        self,
        files: ModelFiles,
        layers: Sequence[Layer],
        options: DenseOptions,
        tokenizer: Tokenizer,
        width: int,
        *,
        is_table: bool = False,
        device: str | None = None,
    ):
        """
        layers    after the pooling
        width     of the vectors
        is_table  whether the model is a table of token vectors, without context
        device    where the model runs, as PyTorch calls it; None: on a CUDA device where there is one
        """
        self.files, self.layers, self.options, self.width = files, tuple(layers), options, width
        self.is_table, self.device, self.max_length = is_table, device, options.max_length
        self.tokens = (
            Prompted(tokenizer, options) if options.method == "promptreps" else DenseTokens(tokenizer, options)
        )

    @cached_property
    def model(self) -> DenseModel:
        """Loaded when first asked for. Raises ModelError."""
        from retrieval.encoders.dense.model import DenseModel

        return DenseModel.of(self.files, self.layers, self.options, is_table=self.is_table, device=self.device)

    def encode(self, texts: Iterable[str], seen: Seen = lambda own: None) -> Iterator[np.ndarray]:
        """float32 [some, width]: the vectors of all texts, in order; one that the model gets no token of is zeros.

        seen  is told the tokens of each text, none of one that has no tokens of its own

        Warns once, at the end, of texts that were cut.
        """
        yield from self.stream(texts, self.encode_tokens, seen)

    def encode_one(self, text: str) -> np.ndarray | None:
        """float32 [width]; None for a text without tokens of its own."""
        tokens = self.tokens.of([text])
        return self.encode_tokens(tokens)[0] if len(tokens[0].own) else None

    def encode_tokens(self, tokens: Sequence[Tokens]) -> np.ndarray:
        """float32 [texts, width]; ModelError where one text is too much."""
        return np.stack(self.in_batches(tokens, self.encode_batch, np.zeros(self.width, np.float32)))

    def encode_batch(self, batch: Sequence[Tokens]) -> list[np.ndarray]:
        found = self.model.vectors(batch, self.options)
        if found.shape[1] != self.width:
            raise ModelError(
                f"{self.files.name} gives vectors of {found.shape[1]} numbers, its files say {self.width}; get the checkpoint again."
            )
        return list(found)

    def describe(self) -> dict[str, Any]:
        """What `read` needs beside the tokenizer."""
        return {
            "model": self.files.describe(),
            "layers": [layer.describe() for layer in self.layers],
            "options": asdict(self.options),
            "width": self.width,
            "table": self.is_table,
        }

    @classmethod
    def read(cls, description: dict[str, Any], tokenizer: Tokenizer) -> DenseSide:
        return cls(
            ModelFiles.read(description["model"]),
            [Layer.read(layer) for layer in description["layers"]],
            DenseOptions(**description["options"]),
            tokenizer,
            description["width"],
            is_table=description["table"],
        )
