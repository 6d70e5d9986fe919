"""Vocabulary projection fused with a sum over the tokens of each text: what SPLADE of 2021 does last, on a GPU.

    summed[text, term] = sum over the text's tokens i of log(1 + relu(hidden[i] . weight[term] + bias[term]))

(Formal et al., arXiv:2107.05720), cut as `pooled_head` cuts it: no [tokens, vocabulary] table, one program writes each
(text, term), tokens are added up in a fixed order. The logarithm is of 1 + x in float32: off by at most 1e-7 a token.
Every token has a gradient, so the backward computes the logits once more, a tile of the vocabulary at a time, with
the library's own matrix products. It has no atomics of ours: it is as deterministic as these products are.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from kernels.gpu.pooled_head import Blocks, _logits_tile, _place_of_program, blocks_for, check, launch_over_tiles

HALF_BLOCKS = Blocks(terms=128, tokens=128, width=64, warps=8, stages=3)  # the logarithms need registers, too
LOGITS_AT_ONCE = 1 << 24  # of the backward: 64 MiB of float32, some four times


def summed_head(
    hidden: torch.Tensor, starts: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """float32 [texts, vocabulary], differentiable once in hidden, weight and bias; arguments and errors of `pooled_head`.

    In half types the backward rounds the logits and their gradients to that type, as autograd does.
    """
    check(hidden, starts, weight, bias)
    return SummedHead.apply(hidden, starts, weight, bias)


class SummedHead(torch.autograd.Function):
    """What `summed_head` applies, after its checks."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, starts: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(hidden, starts, weight, bias)
        return summed_head_triton(hidden, starts, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, starts, weight, bias = ctx.saved_tensors
        of_hidden, of_weight, of_bias = summed_head_gradients(gradient, hidden, starts, weight, bias)
        return of_hidden, None, of_weight, None if bias is None else of_bias  # autograd casts them as their tensors


def summed_head_gradients(
    gradient: torch.Tensor, hidden: torch.Tensor, starts: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of hidden (float32), weight (its dtype) and bias (float32, also where there is none), from tiles of the vocabulary."""
    tokens, vocabulary = len(hidden), len(weight)
    lengths = starts.to(hidden.device).diff()
    text_of_token = torch.arange(len(lengths), device=hidden.device).repeat_interleave(lengths, output_size=tokens)
    of_hidden = torch.zeros_like(hidden, dtype=torch.float32)
    of_weight = torch.empty_like(weight)
    of_bias = torch.empty(vocabulary, dtype=torch.float32, device=hidden.device)
    terms_at_once = max(1, LOGITS_AT_ONCE // max(1, tokens))
    for first in range(0, vocabulary, terms_at_once):
        terms = slice(first, first + terms_at_once)
        logits = (hidden @ weight[terms].T).float()
        if bias is not None:
            logits += bias[terms].float()
        slopes = (gradient[:, terms][text_of_token] / (1 + logits)).masked_fill_(logits <= 0, 0.0)
        of_bias[terms] = slopes.sum(0)
        rounded = slopes.to(hidden.dtype)
        of_weight[terms] = rounded.T @ hidden
        of_hidden += rounded @ weight[terms]
    return of_hidden, of_weight, of_bias


def summed_head_reference(
    hidden: torch.Tensor, starts: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """What `summed_head` returns, from the whole table of logits of a text, in the dtype of its arguments."""
    shift = 0 if bias is None else bias
    bounds = pairwise(starts.tolist())
    return torch.stack([torch.log1p(torch.relu(hidden[a:b] @ weight.T + shift)).sum(0) for a, b in bounds])


def summed_head_triton(
    hidden: torch.Tensor,
    starts: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    blocks: Blocks | None = None,
    chunk_tokens: int | None = None,
) -> torch.Tensor:
    """`summed_head` without its checks, forward only."""
    summed = torch.empty(len(starts) - 1, len(weight), dtype=torch.float32, device=hidden.device)
    if summed.numel():
        blocks = blocks or blocks_for(hidden, weight, HALF_BLOCKS)
        launch_over_tiles(_summed_head_kernel, hidden, starts, weight, bias, (summed,), blocks, chunk_tokens)
    return summed


@triton.jit
def _summed_head_kernel(
    hidden, starts, first_texts, weight, bias, summed,
    chunks, tiles, vocabulary, width, hidden_stride, hidden_step, weight_stride, weight_step, bias_step,
    BLOCK_TERMS: tl.constexpr, BLOCK_TOKENS: tl.constexpr, BLOCK_WIDTH: tl.constexpr, GROUP_CHUNKS: tl.constexpr,
    PRECISION: tl.constexpr, WIDENED: tl.constexpr,
):  # fmt: skip
    """One program adds up BLOCK_TERMS terms of the texts that begin in one chunk of tokens; see `_pooled_head_kernel`."""
    chunk, tile = _place_of_program(chunks, tiles, GROUP_CHUNKS)
    terms = tile * BLOCK_TERMS + tl.arange(0, BLOCK_TERMS)
    in_vocabulary = terms < vocabulary
    offset = tl.zeros([BLOCK_TERMS], tl.float32)
    if bias is not None:
        offset = tl.load(bias + terms * bias_step, mask=in_vocabulary, other=0.0).to(tl.float32)
    text = tl.load(first_texts + chunk).to(tl.int64)
    begin = tl.load(starts + text).to(tl.int64)
    end = tl.load(starts + tl.load(first_texts + chunk + 1)).to(tl.int64)
    position = tl.arange(0, BLOCK_TOKENS)
    total = tl.zeros([BLOCK_TERMS], tl.float32)
    for block in range(begin, end, BLOCK_TOKENS):
        logits = _logits_tile(
            hidden, weight, tl.minimum(block + position, end - 1), tl.minimum(terms, vocabulary - 1),
            width, hidden_stride, hidden_step, weight_stride, weight_step,
            BLOCK_TERMS, BLOCK_TOKENS, BLOCK_WIDTH, PRECISION, WIDENED,
        )  # fmt: skip
        # a NaN stays one: the plain maximum with 0 would make a silent 0 of it
        weights = tl.log(1.0 + tl.maximum(logits + offset[:, None], 0.0, propagate_nan=tl.PropagateNan.ALL))
        block_end = tl.minimum(block + BLOCK_TOKENS, end)
        while begin < block_end:
            text_end = tl.load(starts + text + 1).to(tl.int64)
            stop = tl.minimum(text_end, block_end)
            low, high = (begin - block).to(tl.int32), (stop - block).to(tl.int32)
            inside = ((position >= low) & (position < high))[None, :]
            total += tl.sum(tl.where(inside, weights, 0.0), 1)
            is_done = stop == text_end
            tl.store(summed + text * vocabulary + terms, total, mask=in_vocabulary & is_done)
            total = tl.where(is_done, 0.0, total)
            text += is_done.to(tl.int64)
            begin = stop
