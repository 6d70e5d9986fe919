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
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, None, torch.Tensor | None]:
        hidden, weight = ctx.saved_tensors
        of_hidden = torch.zeros(hidden.shape, dtype=torch.float32)
        of_weight = torch.zeros(weight.shape, dtype=torch.float32) if ctx.needs_input_grad[2] else None
        for row, (start, end) in zip(gradient, pairwise(ctx.starts), strict=True):
            terms = row.nonzero()[:, 0]
            if len(terms) == 0:
                continue
            tokens, rows = hidden[start:end].float(), weight[terms].float()
            winner = (tokens.to(hidden.dtype) @ rows.to(hidden.dtype).T).float().argmax(0)
            flow = torch.zeros(end - start, len(terms))  # one entry a column
            flow[winner, torch.arange(len(terms))] = row[terms]
            torch.mm(flow, rows, out=of_hidden[start:end])
            if of_weight is not None:
                of_weight[terms] += flow.T @ tokens
        return of_hidden.to(hidden.dtype), None, None if of_weight is None else of_weight.to(weight.dtype)
