"""`pooled_head` with gradients: vocabulary projection and maximum over the tokens of each text, in little memory both ways.

    pooled[text, term] = max over the text's tokens i of (hidden[i] . weight[term] + bias[term])

The [tokens, vocabulary] table never exists. The gradient of a maximum goes to its winner alone, and behind a relu most entries have
none: of the few that do, the winners are found again when the gradient comes, so nothing but the inputs is kept meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag

from kernels.cpu.pooled_head import Head, pooled_head


def pooled_head_max(
    hidden: torch.Tensor, starts: Sequence[int], weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """float32 [texts, vocabulary], differentiable once in hidden, weight and bias.

    hidden  float32 or bfloat16 [tokens, width], the texts end to end; products are of this type
    starts  text t owns hidden[starts[t] : starts[t + 1]], at least one token; length texts + 1
    weight  float32 or bfloat16 [vocabulary, width], bias [vocabulary] or None

    Gradients are added up in float32 and come in the types of what they belong to; of equal logits the first token wins.
    """
    pooled: torch.Tensor = PooledHead.apply(hidden, tuple(starts), weight)
    return pooled if bias is None else pooled + bias


class PooledHead(torch.autograd.Function):
    """The maximum without the bias, which does not depend on the token."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, starts: tuple[int, ...], weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.starts = starts
        return pooled_head(hidden.detach(), starts, Head.of(weight.detach().to(hidden.dtype)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, torch.Tensor | None]:
        hidden, weight = ctx.saved_tensors
        text, term = gradient.nonzero(as_tuple=True)
        flow = gradient[text, term]
        used, place = term.unique(return_inverse=True)
        rows = weight[used]
        counts = torch.bincount(text, minlength=len(gradient)).tolist()
        token = winners(hidden, ctx.starts, rows.to(hidden.dtype), place.split(counts))
        of_hidden = summed(rows.float(), place, flow, token, len(hidden)).to(hidden.dtype)
        if not ctx.needs_input_grad[2]:
            return of_hidden, None, None
        of_weight = torch.zeros_like(weight)
        of_weight[used] = summed(hidden.float(), token, flow, place, len(used)).to(weight.dtype)
        return of_hidden, None, of_weight


def winners(
    hidden: torch.Tensor, starts: Sequence[int], rows: torch.Tensor, asked: Sequence[torch.Tensor]
) -> torch.Tensor:
    """int64: for each row of `rows` that is asked of a text its token with the largest product, one text after another."""
    found = [
        (hidden[start:end] @ rows[places].T).float().argmax(0) + start
        for (start, end), places in zip(pairwise(starts), asked, strict=True)
        if len(places)
    ]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)


def summed(
    rows: torch.Tensor, of_row: torch.Tensor, factors: torch.Tensor, into: torch.Tensor, size: int
) -> torch.Tensor:
    """[size, width]: factors[i] * rows[of_row[i]] is added to the row into[i]; always in the same order."""
    order = torch.argsort(into, stable=True)
    firsts = torch.searchsorted(into[order], torch.arange(size))
    return embedding_bag(of_row[order], rows, firsts, mode="sum", per_sample_weights=factors[order])
