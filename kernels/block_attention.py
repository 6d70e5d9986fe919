"""Block-sparse attention by a table of segments (`kernels.block_layout`), on a processor or a GPU.

Only the scores that the table asks for are computed, so that time and memory grow with the documents of a prompt and not with
their square (BlockRank, arXiv:2510.05396).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch

from kernels.block_layout import BlockLayout
from kernels.cpu import block_attention as cpu

Backend = Literal["auto", "cpu", "triton", "reference"]


def block_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    layout: BlockLayout,
    scale: float | None = None,
    backend: Backend = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention [tokens, heads, size] in the dtype of q, and the natural logarithm of each row's sum of exponentials, float32 [tokens,
    heads] (float64 of float64). Gradients reach q, k and v through both.

    q        [tokens, heads, size]
    k, v     [keys, kv_heads, size]; query head h reads head h // (heads // kv_heads)
    scale    of the products of q and k; size ** -0.5 unless told
    backend  auto: triton for what is on a GPU, but for heads that it does not take, else cpu; cpu: PyTorch's own attention segment by
             segment, which runs on a GPU too; reference: every score of tokens by keys in float64, for tests

    Raises ValueError for shapes that do not fit.
    """
    check_shapes(q, k, v, layout)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if backend == "auto":
        backend = for_gpu(q, k) if q.is_cuda else "cpu"
    if backend == "cpu":
        return cpu.block_attention(q, k, v, layout, scale)
    if backend == "reference":
        return reference_attention(q, k, v, layout, scale)
    if backend == "triton":
        from kernels.gpu import block_attention as gpu  # which needs Triton

        found: tuple[torch.Tensor, torch.Tensor] = gpu.block_attention(q, k, v, layout, scale)
        return found
    raise ValueError(f"the backend is {backend!r}; it must be one of {', '.join(get_args(Backend))}.")


def for_gpu(q: torch.Tensor, k: torch.Tensor) -> Backend:
    """The faster one of those that take such heads."""
    from kernels.gpu import block_attention as gpu

    return "triton" if gpu.takes_heads(q, k) else "cpu"


def check_shapes(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: BlockLayout) -> None:
    fits = (
        q.ndim == k.ndim == 3
        and k.shape == v.shape
        and q.shape[2] == k.shape[2]
        and k.shape[1] > 0
        and q.shape[1] % k.shape[1] == 0
        and len(layout.starts) == len(layout.own) + 1 == len(layout.prefix) + 1
        and q.dtype == k.dtype == v.dtype
    )
    if not fits:
        raise ValueError(
            f"q {list(q.shape)} {q.dtype}, k {list(k.shape)} {k.dtype}, v {list(v.shape)} {v.dtype} and a layout of "
            f"{len(layout.own)} segments do not fit; q is [tokens, heads, size], k and v are [keys, kv_heads, size] of one dtype, with "
            "heads a multiple of kv_heads."
        )


def seen(layout: BlockLayout, num_keys: int) -> torch.Tensor:
    """bool [tokens, keys]: the whole mask, for tests."""
    rows, keys = torch.arange(int(layout.starts[-1]), device=layout.own.device), torch.arange(num_keys)
    keys = keys.to(rows.device)
    segment = torch.searchsorted(layout.starts[1:].contiguous(), rows, right=True)
    own, (first, end) = layout.own[segment], layout.prefix[segment].unbind(1)
    row = rows - layout.starts[segment]
    in_prefix = (keys >= first[:, None]) & (keys < end[:, None])
    return in_prefix | ((keys >= own[:, None]) & (keys <= (own + row)[:, None]))


def reference_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: BlockLayout, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition, in float64."""
    groups = q.shape[1] // k.shape[1]
    keys, values = (side.double().repeat_interleave(groups, 1) for side in (k, v))
    mask = seen(layout, len(k))[:, None]
    scores = (torch.einsum("thd,khd->thk", q.double(), keys) * scale).masked_fill(~mask, -torch.inf)
    values = values.masked_fill(~mask.any(1).any(0)[:, None, None], 0)  # what nobody sees may be anything
    lse = scores.logsumexp(2)
    out = torch.einsum("thk,khd->thd", (scores - lse[..., None]).exp(), values)
    return out.to(q.dtype), lse if q.dtype == torch.float64 else lse.float()
