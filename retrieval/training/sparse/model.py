"""What is trained: texts to weights of terms, differentiable, on packed texts and with the fused head.

With l the logits of a text:  w(t) = ln(1 + relu(max over positions l(t) - threshold))  (SPLADE v2, arXiv:2109.10086), or the logarithm of
one more (arXiv:2504.14839). A side without a model has a weight for each term (inference-free; learned: Li-LSR, arXiv:2505.01452).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from index.errors import WinnowError
from kernels.cpu.pooled_head import Head
from kernels.cpu.trained_head import pooled_head_max
from retrieval.encoders.model_reading import quiet
from retrieval.encoders.neural_model import at_positions
from retrieval.encoders.options import NeuralOptions
from retrieval.encoders.ragged_model import RaggedModel
from retrieval.encoders.tokens import Tokens
from retrieval.training.adapters import add_lora

UNTRAINED = {"own_terms": False, "top_k": None, "prune_ratio": 0.0, "method": "pooling"}  # what does not learn


class SparseModel(torch.nn.Module):
    """A masked or causal language model as a sparse encoder.

    tokens_at_once  of these many tokens the activations are kept at a time, and computed again when gradients come: a batch may then be as
                    large as it likes (gradient caching, Gao et al., arXiv:2101.06983); None: all are kept
    """

    def __init__(self, module: Any, name: str, options: NeuralOptions, forbidden: np.ndarray, dropout: float = 0.0):
        """`module` is changed.

        forbidden  int64: terms without weight
        dropout    of every layer of the model that has one, but of attention

        Raises WinnowError for options that cannot be trained, ModelError for a model that cannot be run so.
        """
        super().__init__()
        for option, usual in UNTRAINED.items():
            if (value := getattr(options, option)) != usual:
                raise WinnowError(
                    f"{option} is {value!r:.40}; a model is trained with {usual!r}, so give it when encoding."
                )
        if options.pooling != "max":
            raise WinnowError(
                f"pooling is {options.pooling!r}; the head that is trained takes the maximum, so give 'max'."
            )
        self.module, self.name, self.options = module, name, options
        self.projection = module.get_output_embeddings()  # before it is taken off
        self.place = next(place for place, part in module.named_modules() if part is self.projection)
        with quiet():
            head = Head.of(self.projection.weight, self.projection.bias)
            self.ragged = RaggedModel.checked(module, head, name, bidirectional=options.bidirectional, trained=True)
        for part in module.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = dropout
        self.register_buffer("forbidden", torch.from_numpy(forbidden.astype(np.int64)), persistent=False)
        self.tokens_at_once: int | None = None

    def add_lora(self, rank: int) -> None:
        """Train adapters of this rank alone. Raises ModelError, WinnowError."""
        self.requires_grad_(False)  # of the projection too, which is not in the module now
        add_lora(self.module, self.module.base_model, rank, self.name)

    @contextmanager
    def whole(self) -> Iterator[Any]:
        """The model with its projection, as it is saved."""
        without = self.module.get_submodule(self.place)
        self.module.set_submodule(self.place, self.projection)
        try:
            yield self.module
        finally:
            self.module.set_submodule(self.place, without)

    @property
    def num_terms(self) -> int:
        return len(self.projection.weight)

    @property
    def device(self) -> torch.device:
        return self.projection.weight.device

    def forward(self, texts: Sequence[Tokens]) -> torch.Tensor:
        """float32 [texts, terms]; of a text without tokens zeros."""
        order = sorted((i for i, one in enumerate(texts) if len(one.ids)), key=lambda i: len(texts[i].ids))
        found = []
        for batch in self.batches([texts[i] for i in order]):
            if self.tokens_at_once is None or not torch.is_grad_enabled():
                found.append(self.encode(batch))
            else:
                found.append(checkpoint(self.encode, batch, use_reentrant=False))
        rows = torch.cat(found) if found else torch.zeros(0, self.num_terms, device=self.device)
        places = torch.tensor(order, dtype=torch.int64, device=rows.device)
        if len(order) == len(texts):
            return rows[torch.argsort(places)]
        return torch.zeros(len(texts), rows.shape[1], device=rows.device).index_copy(0, places, rows)

    def batches(self, texts: Sequence[Tokens]) -> Iterator[Sequence[Tokens]]:
        """Texts that follow each other, of no more than `tokens_at_once` tokens if there are several."""
        first, num_tokens = 0, 0
        for number, one in enumerate(texts):
            if self.tokens_at_once is not None and number > first and num_tokens + len(one.ids) > self.tokens_at_once:
                yield texts[first:number]
                first, num_tokens = number, 0
            num_tokens += len(one.ids)
        if len(texts):
            yield texts[first:]

    def encode(self, texts: Sequence[Tokens]) -> torch.Tensor:
        """Of texts that all have tokens."""
        starts = [0, *accumulate(len(one.ids) for one in texts)]
        hidden = self.ragged.hidden(torch.from_numpy(np.concatenate([one.ids for one in texts])), starts)
        if torch.is_autocast_enabled(hidden.device.type):
            hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
        hidden, starts = at_positions(hidden, starts, [range(*one.pooled.indices(len(one.ids))) for one in texts])
        return self.activated(largest(hidden, starts, self.projection.weight, self.projection.bias))

    def activated(self, logits: torch.Tensor) -> torch.Tensor:
        weights = torch.log1p(torch.relu(logits - self.options.threshold))
        if self.options.activation == "log1p_log1p":
            weights = torch.log1p(weights)
        return weights if len(self.forbidden) == 0 else weights.index_fill(1, self.forbidden, 0.0)


def largest(
    hidden: torch.Tensor, starts: Sequence[int], weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """float32 [texts, terms]: the largest logits, by the fused head of the device."""
    if not hidden.is_cuda:
        return pooled_head_max(hidden, starts, weight, bias)
    from kernels.gpu.pooled_head import pooled_head_max as on_gpu  # Triton comes with PyTorch for CUDA

    return on_gpu(
        hidden, torch.tensor(starts), weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype)
    )


class QueryTable(torch.nn.Module):
    """Queries without a model: a weight for each token that a query holds, once."""

    def __init__(self, weights: np.ndarray, *, learned: bool):
        """weights  float32 [terms], none below 0; where they begin, if they are learned"""
        super().__init__()
        self.table = torch.nn.Parameter(torch.from_numpy(weights.astype(np.float32)), requires_grad=learned)

    @property
    def weights(self) -> torch.Tensor:
        """float32 [terms], none below 0."""
        return torch.relu(self.table)

    def forward(self, texts: Sequence[Tokens]) -> torch.Tensor:
        """float32 [texts, terms]."""
        holds = torch.zeros(len(texts), len(self.table))
        for row, one in zip(holds, texts, strict=True):
            row[torch.from_numpy(one.own)] = 1
        return holds.to(self.table.device) * self.weights


class SparseTowers(torch.nn.Module):
    """The two sides of an encoder: one model for both (siamese), two, or a model for documents alone."""

    def __init__(self, document: SparseModel, query: SparseModel | QueryTable):
        super().__init__()
        self.document, self.query = document, query
