"""A sequence classification model of transformers on packed pairs of texts.

The layers run on all pairs end to end (`RaggedModel`). What follows them, the pooling and the classifier of each architecture, is
the library's own, called with the layers' results in the place of the layers. Loading compares it with the library's own way.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from index.errors import ModelError
from retrieval.encoders.model_files import ModelFiles, brief
from retrieval.encoders.model_reading import on_device, quiet, read_model
from retrieval.encoders.neural_model import ON_GPU, ON_PROCESSOR
from retrieval.encoders.ragged_model import RaggedModel, replace_linear_layers

CHECKED_LENGTHS = (9, 9, 14)  # of the pairs that a model is checked with; two at a time where lengths are equal


class PairTokens(NamedTuple):
    """A query and a document as a model reads them."""

    ids: np.ndarray  # int64, special tokens included
    types: np.ndarray | None  # int64: 0 for the query, 1 for the document; None for models that are not told
    is_cut: bool


class GivenStates(torch.nn.Module):
    """Stands where a model has its layers, and gives back hidden states that were computed before."""

    def __init__(self, pooler: torch.nn.Module | None):
        super().__init__()
        self.pooler = pooler
        self.under_way = threading.local()  # .states [pairs, tokens, width]: several threads may rank at once

    def forward(self, *_: Any, **__: Any) -> BaseModelOutputWithPoolingAndCrossAttentions:
        states = self.under_way.states
        pooled = None if self.pooler is None else self.pooler(states)
        return BaseModelOutputWithPoolingAndCrossAttentions(last_hidden_state=states, pooler_output=pooled)


class ClassifierModel:
    """Pairs of token ids to the logit of relevance, in memory."""

    def __init__(self, model: Any, name: str):
        """`model` is changed: its layers are taken out of it."""
        layers = model.base_model
        pooler = getattr(layers, "pooler", None)  # which RaggedModel takes off
        self.given = GivenStates(pooler)
        self.ragged = RaggedModel.checked(layers, None, name)
        setattr(model, model.base_model_prefix, self.given)
        replace_linear_layers(model)
        self.head = model
        self.texts_together, self.tokens_a_batch = ON_GPU if layers.device.type == "cuda" else ON_PROCESSOR

    @classmethod
    def load(cls, files: ModelFiles, dtype: str, device: str | None = None) -> ClassifierModel:
        """Raises ModelError for a checkpoint that classifies no texts, or into more than two classes, and for a device that is not there."""
        model = read_model(files, dtype, with_head=True, classifies=True).eval().requires_grad_(False)
        if model.config.num_labels > 2:
            raise ModelError(
                f"{files.name} tells {model.config.num_labels} classes apart; a cross-encoder has one score, or two classes of which the "
                "second means relevant."
            )
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        on_device(model, files.name, device)
        try:
            with quiet():
                checked: ClassifierModel = cls.checked(model, files.name)
                return checked
        except (ModelError, MemoryError):
            raise
        except Exception as error:  # whatever an architecture that is like no other does
            raise ModelError(f"{files.name} ({type(model).__name__}) cannot be run here ({brief(error)}).") from error

    @classmethod
    @torch.inference_mode()
    def checked(cls, model: Any, name: str) -> ClassifierModel:
        """After a comparison with the library's own way on a few pairs. Raises ModelError where they differ."""
        num_ids, padding = len(model.get_input_embeddings().weight), getattr(model.config, "pad_token_id", None)
        pairs = []
        for number, length in enumerate(CHECKED_LENGTHS):
            ids = (np.arange(length) * 31 + 7 * number) % num_ids
            ids[ids == padding] = (31 * length + 7 * number) % num_ids
            pairs.append(PairTokens(ids, None, False))
        theirs = [model(input_ids=torch.from_numpy(pair.ids)[None].to(model.device)).logits[0] for pair in pairs]
        expected = relevance(torch.stack(theirs))
        if not expected.isfinite().all():
            raise ModelError(
                f"{name} gives scores that are no finite numbers; its weights are damaged, or too large for its dtype: give "
                "dtype='float32'."
            )
        margin = 1e-4 if model.dtype == torch.float32 else 0.1  # of a score of 1 or more
        found = cls(model, name)
        amiss = np.abs(found.logits(pairs) - expected.cpu().numpy()).max()
        if amiss > margin * max(1, float(expected.abs().max())):
            raise ModelError(
                f"{name} ({type(model).__name__}) does more to its layers' results than a head on them; it cannot be used as a "
                "cross-encoder here."
            )
        return found

    @torch.inference_mode()
    def logits(self, pairs: Sequence[PairTokens]) -> np.ndarray:
        """float32 [pairs]. Of a packed model on one thread of a processor a pair's logit is the same, bit for bit, whatever the pairs beside
        it; with more threads attention's products, which depend on where in memory a thread adds up, move it by some 1e-7."""
        starts = [0, *accumulate(len(pair.ids) for pair in pairs)]
        ids = torch.from_numpy(np.concatenate([pair.ids for pair in pairs]))
        told = [pair.types for pair in pairs if pair.types is not None]
        types = torch.from_numpy(np.concatenate(told)) if told else None
        hidden = self.ragged.hidden(ids, starts, types=types)
        found = []
        for start, end in pairwise(
            starts
        ):  # the head sees pairs one by one: its few outputs are added up otherwise in other numbers of rows
            self.given.under_way.states = hidden[None, start:end]
            own_ids = ids[None, start:end].to(hidden.device)
            given = {"input_ids": own_ids, "attention_mask": torch.ones_like(own_ids)}
            found.append(relevance(self.head(**given).logits).cpu())
        self.given.under_way.states = None
        every: np.ndarray = torch.cat(found).numpy()
        return every


def relevance(logits: torch.Tensor) -> torch.Tensor:
    """float32 [pairs] of [pairs, 1 or 2]: the one logit, or by how much the class "relevant" is ahead."""
    logits = logits.float()
    return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
