"""Vocabulary projection fused with pooling over tokens: what SPLADE-type encoders do last, in little memory.

    max   pooled[text, term] = max over the text's tokens i of (hidden[i] . weight[term] + bias[term])
    sum   pooled[text, term] = sum over the text's tokens i of activation(hidden[i] . weight[term] + bias[term])

Formal et al., SPLADE, arXiv:2107.05720 (sum) and SPLADE v2, arXiv:2109.10086 (max). One tile of the vocabulary at a time, on
texts packed end to end without padding, so the [tokens, vocabulary] table never exists. What follows a maximum
(threshold, log) never decreases, so it is applied once a term instead of once a token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

from kernels.cpu.linear import linear

TILE = 1024  # terms; a tile of logits then stays in the processor's cache

Activation = Callable[[torch.Tensor], torch.Tensor]


class Head(NamedTuple):
    """A vocabulary projection cut into tiles."""

    tiles: Sequence[torch.nn.Module]  # [tokens, width] -> [tokens, terms of the tile]
    num_terms: int

    @classmethod
    def of(cls, weight: torch.Tensor, bias: torch.Tensor | None = None, tile: int = TILE) -> Head:
        """weight [terms, width], bias [terms]."""
        cuts = [slice(first, first + tile) for first in range(0, len(weight), tile)]
        return cls([linear(weight[cut], None if bias is None else bias[cut]) for cut in cuts], len(weight))


def pooled_head(
    hidden: torch.Tensor, starts: Sequence[int], head: Head, summed: Activation | None = None
) -> torch.Tensor:
    """float32 [texts, terms]: of each text the largest logit of each term, or the sum of its `summed` logits.

    hidden  [tokens, width], the texts end to end
    starts  text t owns hidden[starts[t] : starts[t + 1]], at least one token; length texts + 1
    """
    pooled = torch.empty(len(starts) - 1, head.num_terms, dtype=torch.float32, device=hidden.device)
    first_term = 0
    for tile in head.tiles:
        logits = tile(hidden)
        if summed is not None:
            logits = summed(logits.float())
        terms = slice(first_term, first_term + logits.shape[1])
        for row, (start, end) in zip(pooled, pairwise(starts), strict=True):
            row[terms] = logits[start:end].amax(0) if summed is None else logits[start:end].sum(0)
        first_term = terms.stop
    return pooled


def pooled_head_reference(
    hidden: torch.Tensor,
    starts: Sequence[int],
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    summed: Activation | None = None,
) -> torch.Tensor:
    logits = hidden @ weight.T + (0 if bias is None else bias)
    if summed is None:
        return torch.stack([logits[a:b].amax(0) for a, b in pairwise(starts)])
    return torch.stack([summed(logits[a:b]).sum(0) for a, b in pairwise(starts)])
