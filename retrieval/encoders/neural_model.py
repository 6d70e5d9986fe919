"""A transformers checkpoint as a sparse encoder: packed texts to vocabulary logits, pooled, then to weights.

With l the logits of a text and max over its positions:  w(t) = ln(1 + relu(max l(t) - threshold))  (SPLADE v2,
arXiv:2109.10086), or the logarithm of one more (arXiv:2504.14839); with sum and mean the activation comes before the pooling.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch

from index.errors import ModelError
from kernels.cpu.pooled_head import Head, pooled_head
from kernels.cpu.sparse import SparseRows
from retrieval.encoders.model_files import ModelFiles, brief
from retrieval.encoders.model_reading import on_device, projection_of, quiet, read_model
from retrieval.encoders.options import NeuralOptions
from retrieval.encoders.ragged_model import RaggedModel
from retrieval.encoders.tokens import Tokens

# texts tokenized and sorted by length at a time, which is also the step of a progress bar; tokens in a batch
ON_PROCESSOR = 64, 2048  # more are not faster
ON_GPU = 2048, 65_536

LOADED: WeakValueDictionary[tuple[Any, ...], NeuralModel] = WeakValueDictionary()


class NeuralModel:
    """A model ready to encode, in memory."""

    def __init__(self, ragged: RaggedModel, head: Head, weight: torch.Tensor, bias: torch.Tensor | None):
        """weight, bias  of the projection, which `head` has in tiles"""
        self.ragged, self.head = ragged, head
        self.projection = (weight, bias) if weight.is_cuda else None
        self.texts_together, self.tokens_a_batch = ON_GPU if weight.is_cuda else ON_PROCESSOR

    @classmethod
    def of(cls, files: ModelFiles, options: NeuralOptions, device: str | None = None) -> NeuralModel:
        """The model, which both sides of an encoder share if they can. Raises ModelError.

        device  as PyTorch calls it; None: a CUDA device where there is one
        """
        files.check_fingerprint()
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        # by what lies there now: a name may mean other weights than before
        weights = (files.folder, files.found_fingerprint, files.trust_remote_code)
        key = (*weights, options.dtype, options.bidirectional, options.projection, device)
        model = LOADED.get(key)
        if model is None:
            LOADED[key] = model = cls.load(files, options, device)
        return model

    @classmethod
    def load(cls, files: ModelFiles, options: NeuralOptions, device: str) -> NeuralModel:
        """Raises ModelError for what cannot be a sparse encoder, and for a device that is not there."""
        model = read_model(files, options.dtype, with_head=options.projection == "own")
        on_device(model, files.name, device)
        if options.projection == "tied":
            weight, bias = model.get_input_embeddings().weight, None
        else:
            weight, bias = projection_of(model, files)
        try:
            head = Head.of(weight, bias)
            with quiet():
                ragged = RaggedModel.checked(model, head, files.name, bidirectional=options.bidirectional)
        except (ModelError, MemoryError):
            raise
        except Exception as error:  # whatever an architecture that is like no other does
            raise ModelError(f"{files.name} ({type(model).__name__}) cannot be run here ({brief(error)}).") from error
        return cls(ragged, head, weight, bias)

    @torch.inference_mode()
    def rows(
        self, batch: Sequence[Tokens], options: NeuralOptions, forbidden: np.ndarray, own_weights: np.ndarray | None
    ) -> list[SparseRows]:
        """A row for each text, none of which is empty."""
        hidden, starts = self.hidden(batch, options)
        pooled = self.pooled(hidden, starts, options)
        pooled[:, torch.from_numpy(forbidden).to(pooled.device)] = 0
        if options.own_terms:
            found = [of_own_terms(*pair, own_weights) for pair in zip(pooled.cpu().numpy(), batch, strict=True)]
        else:
            found = entries(pooled)
        return [as_row(terms, weights, options) for terms, weights in found]

    @torch.inference_mode()
    def last(self, batch: Sequence[Tokens], options: NeuralOptions) -> tuple[np.ndarray, np.ndarray]:
        """At the last position of each text: (weights of all terms, float32 [texts, terms]; what goes into the projection, of length 1,
        float32 [texts, width])."""
        hidden, starts = self.hidden(batch, options)
        dense = torch.nn.functional.normalize(hidden.float(), dim=-1)
        return self.pooled(hidden, starts, options).cpu().numpy(), dense.cpu().numpy()

    @property
    def width(self) -> int:
        return int(self.ragged.model.config.get_text_config().hidden_size)

    def hidden(self, batch: Sequence[Tokens], options: NeuralOptions) -> tuple[torch.Tensor, list[int]]:
        """([pooled tokens, width], where each text's begin): what goes into the projection."""
        ids = torch.from_numpy(np.concatenate([one.ids for one in batch]))
        starts = [0, *accumulate(len(one.ids) for one in batch)]
        hidden = self.ragged.hidden(ids, starts)
        spans = [range(*one.pooled.indices(len(one.ids))) for one in batch]
        if options.pooling == "last":
            spans = [span[-1:] for span in spans]
        return at_positions(hidden, starts, spans)

    def pooled(self, hidden: torch.Tensor, starts: list[int], options: NeuralOptions) -> torch.Tensor:
        """float32 [texts, terms], activated, where the model is."""

        def activation(logits: torch.Tensor) -> torch.Tensor:
            return activated(logits, options)

        if options.pooling in ("max", "last"):
            return activation(self.largest(hidden, starts))
        pooled = pooled_head(hidden, starts, self.head, activation)
        if options.pooling == "mean":
            pooled /= torch.diff(torch.tensor(starts))[:, None].to(pooled.device)
        return pooled

    def largest(self, hidden: torch.Tensor, starts: list[int]) -> torch.Tensor:
        """float32 [texts, terms]: the largest logits."""
        if self.projection is None:
            return pooled_head(hidden, starts, self.head)
        from kernels.gpu.pooled_head import pooled_head_max  # Triton comes with PyTorch for CUDA

        return pooled_head_max(hidden, torch.tensor(starts), *self.projection)


def at_positions(hidden: torch.Tensor, starts: list[int], spans: Sequence[range]) -> tuple[torch.Tensor, list[int]]:
    """Of texts end to end the rows at some of each text's own positions, and where each text's begin."""
    if [0, *accumulate(map(len, spans))] == starts:
        return hidden, starts
    kept = np.concatenate(
        [np.arange(span.start, span.stop) + start for span, start in zip(spans, starts, strict=False)]
    )
    return hidden[torch.from_numpy(kept).to(hidden.device)], [0, *accumulate(map(len, spans))]


def activated(logits: torch.Tensor, options: NeuralOptions) -> torch.Tensor:
    """In place."""
    weights = logits.sub_(options.threshold).relu_().log1p_()
    return weights.log1p_() if options.activation == "log1p_log1p" else weights


def of_own_terms(weights: np.ndarray, tokens: Tokens, own_weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(terms ascending, weights above 0) of the terms that a text has itself; weights float32 [terms]."""
    terms = np.unique(tokens.ids)
    found = weights[terms] if own_weights is None else weights[terms] * own_weights[terms]
    return terms[found > 0], found[found > 0]


def entries(pooled: torch.Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
    """(terms ascending, weights) of each text that are not 0. From a GPU these alone are copied, a hundredth of the table."""
    if pooled.device.type == "cpu":
        table = pooled.numpy()
        return [(terms := np.flatnonzero(weights), weights[terms]) for weights in table]
    return nonzero_entries(pooled)


def nonzero_entries(pooled: torch.Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
    """The same, found where the table is."""
    places = pooled.nonzero()
    found = pooled[places[:, 0], places[:, 1]].cpu().numpy()
    ends = torch.searchsorted(places[:, 0].contiguous(), torch.arange(1, len(pooled), device=places.device)).tolist()
    return list(zip(np.split(places[:, 1].cpu().numpy(), ends), np.split(found, ends), strict=True))


def as_row(terms: np.ndarray, found: np.ndarray, options: NeuralOptions) -> SparseRows:
    """The entries of one text that are kept, of these terms and their weights."""
    if options.prune_ratio and len(found):
        kept = found > options.prune_ratio * found.max()
        terms, found = terms[kept], found[kept]
    if options.top_k is not None and len(found) > options.top_k:
        kept = np.sort(np.lexsort((terms, -found))[: options.top_k])  # of equal weights the lower terms
        terms, found = terms[kept], found[kept]
    return SparseRows(np.array([0, len(terms)]), terms.astype(np.int32), found)
