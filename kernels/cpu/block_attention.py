"""Block-sparse attention on a processor: PyTorch's flash attention over segments of like length, merged by log-sum-exp. It also runs on a
GPU, with PyTorch's memory-efficient attention, for heads that the Triton kernels do not take.

A segment's attention is that to itself, where it is causal, and that to its prefix, where every row sees every key. The first is one call
for all segments of a length, which are filled up to whole steps at their ends, where a causal row does not look; the second one for all
neighbours that share a prefix. Nothing of tokens by tokens is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch

from kernels.block_layout import BlockLayout, checked

STEP = 16  # tokens: lengths of segments are filled up to its multiples
MOST_SCORES = 1 << 24  # of one head group in memory at once, in the backward pass


class Causal(NamedTuple):
    """Segments of one length on themselves."""

    rows: torch.Tensor  # int64 [segments, length] of queries; filled up with its last one
    keys: torch.Tensor  # int64 [segments, length]
    real: torch.Tensor  # bool [segments, length]: not filling


class Prefix(NamedTuple):
    """Neighbours on a range of keys."""

    rows: slice
    keys: slice


def block_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: BlockLayout, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `kernels.block_attention.block_attention` says."""
    checked(layout, len(q), len(k))
    found: tuple[torch.Tensor, torch.Tensor] = BlockAttention.apply(q, k, v, layout, scale)
    return found


class BlockAttention(torch.autograd.Function):
    """Flash attention forward; its gradients by the same parts, from the scores computed again."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: BlockLayout, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        out, lse = torch.empty_like(q), q.new_empty(q.shape[:2], dtype=exact(q.dtype))
        for part in causal_parts(layout):  # which have every row once
            found, sums = flash(q[part.rows], k[part.keys], v[part.keys], scale, is_causal=True)
            rows = part.rows[part.real]
            out[rows], lse[rows] = found[part.real], sums[part.real].to(lse.dtype)
        for rows, keys in prefix_parts(layout):
            found, sums = (side[0] for side in flash(q[None, rows], k[None, keys], v[None, keys], scale))
            sums = sums.to(lse.dtype)
            out[rows].lerp_(found, torch.sigmoid(sums - lse[rows])[..., None].to(out.dtype))  # a slice, so `out` itself
            lse[rows] = torch.logaddexp(lse[rows], sums)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.layout, ctx.scale = layout, scale
        return out, lse

    @staticmethod
    def backward(ctx: Any, of_out: torch.Tensor, of_lse: torch.Tensor) -> Any:
        q, k, v, out, lse = ctx.saved_tensors
        dtype = exact(q.dtype)
        of_q, of_k, of_v = (torch.zeros_like(side, dtype=dtype) for side in (q, k, v))
        delta = (of_out.to(dtype) * out.to(dtype)).sum(2) - of_lse
        rows_of = (q, of_out, delta, lse)
        for part in causal_parts(ctx.layout):
            for some in of_bounded_scores(part, q.shape[1]):
                queries = [side[some.rows] for side in rows_of]
                found = gradients(queries, k[some.keys], v[some.keys], ctx.scale, some.real)
                for grad, where, own in zip((of_q, of_k, of_v), (some.rows, some.keys, some.keys), found, strict=True):
                    grad.index_add_(0, where.flatten(), own.flatten(0, 1))
        for rows, keys in prefix_parts(ctx.layout):
            step = max(1, MOST_SCORES // ((keys.stop - keys.start) * q.shape[1]))
            for first in range(rows.start, rows.stop, step):
                few = slice(first, min(first + step, rows.stop))
                queries = [side[None, few] for side in rows_of]
                found = gradients(queries, k[None, keys], v[None, keys], ctx.scale, None)
                for grad, span, own in zip((of_q, of_k, of_v), (few, keys, keys), found, strict=True):
                    grad[span] += own[0]
        return *(grad.to(q.dtype) for grad in (of_q, of_k, of_v)), None, None


def exact(dtype: torch.dtype) -> torch.dtype:
    """What sums are kept in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def causal_parts(layout: BlockLayout) -> Iterator[Causal]:
    """Every segment on itself, in one of them."""
    starts, lengths = layout.starts[:-1, None].long(), torch.diff(layout.starts).long()[:, None]
    filled = (lengths[:, 0] + STEP - 1) // STEP * STEP
    for length in filled.unique().tolist():
        own = filled == length
        position = torch.arange(length, device=starts.device)
        inside = torch.minimum(position, lengths[own] - 1)
        yield Causal(starts[own] + inside, layout.own[own, None].long() + inside, position < lengths[own])


def prefix_parts(layout: BlockLayout) -> Iterator[Prefix]:
    """Every segment that sees a prefix, in one of them."""
    starts, prefixes = layout.starts.tolist(), layout.prefix.tolist()
    for (first, last), some in groupby(range(len(prefixes)), key=lambda segment: tuple(prefixes[segment])):
        segments = list(some)
        if last > first:
            yield Prefix(slice(starts[segments[0]], starts[segments[-1] + 1]), slice(first, last))


def flash(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, *, is_causal: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """[texts, length, heads, size] and [texts, length, heads] of q [texts, length, heads, size], k and v [texts, keys, kv_heads, size]."""
    groups = q.shape[2] // k.shape[2]
    # heads that share keys stand beside each other, and their keys are seen `groups` times without a copy
    queries = q.unflatten(2, (-1, groups)).permute(0, 2, 3, 1, 4).flatten(0, 1)
    keys, values = (side.transpose(1, 2).flatten(0, 1)[:, None].expand(-1, groups, -1, -1) for side in (k, v))
    if q.is_cuda:
        out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
            queries, keys, values, None, True, is_causal=is_causal, scale=scale
        )
        lse = lse[:, :, : q.shape[1]]  # which is filled up
    else:
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            queries, keys, values, is_causal=is_causal, scale=scale
        )
    out, lse = (side.unflatten(0, (len(q), -1)).flatten(1, 2).transpose(1, 2) for side in (out, lse))
    return out, lse


def of_bounded_scores(part: Causal, heads: int) -> Iterator[Causal]:
    """The part cut into fewer segments, so that their scores fit into memory."""
    length = part.rows.shape[1]
    step = max(1, MOST_SCORES // (length * length * heads))
    for first in range(0, len(part.rows), step):
        yield Causal(*(side[first : first + step] for side in part))


def gradients(
    of_rows: Sequence[torch.Tensor],
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    real: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of q, k and v, of some keys alone: with p the probabilities in the whole row, dv = p'do, ds = scale p (do v' - delta), dq = ds k,
    dk = ds' q, where delta holds the gradient of the log-sum-exp too.

    of_rows  q and do [texts, length, heads, size], delta and the log-sum-exp [texts, length, heads]
    k, v     [texts, keys, kv_heads, size]
    real     bool [texts, length] of causal texts: not filling; None: every row sees every key
    """
    q, _, delta, _ = of_rows
    dtype, length, groups = delta.dtype, q.shape[1], q.shape[2] // k.shape[2]

    def by_keys(side: torch.Tensor) -> torch.Tensor:
        """[texts, kv_heads, groups * length, ...]: rows of heads that share keys."""
        return side.to(dtype).unflatten(2, (-1, groups)).movedim(1, 3).flatten(2, 3)

    queries, outs, deltas, sums = map(by_keys, of_rows)
    keys, values = (side.to(dtype).transpose(1, 2) for side in (k, v))
    probabilities = (queries @ keys.transpose(2, 3) * scale - sums[..., None]).exp()
    if real is not None:
        sees = torch.ones(length, length, dtype=torch.bool, device=q.device).tril() & real[:, :, None]
        probabilities = torch.where(sees.repeat(1, groups, 1)[:, None], probabilities, 0)
    of_scores = (
        torch.where(probabilities > 0, probabilities * (outs @ values.transpose(2, 3) - deltas[..., None]), 0) * scale
    )
    of_queries = (of_scores @ keys).unflatten(2, (groups, length)).movedim(3, 1).flatten(2, 3)
    of_keys, of_values = of_scores.transpose(2, 3) @ queries, probabilities.transpose(2, 3) @ outs
    return of_queries, of_keys.transpose(1, 2), of_values.transpose(1, 2)
