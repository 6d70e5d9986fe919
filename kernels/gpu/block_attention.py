"""Block-sparse attention by a table of segments on a GPU, forward and backward (BlockRank, arXiv:2510.05396, section 4.1).

    out[t, h] = sum over the keys i that t sees of exp(scale * q[t, h] . k[i, g] - lse[t, h]) * v[i, g],   g = h // (heads // kv_heads)
    lse[t, h] = ln of the sum over these of exp(scale * q[t, h] . k[i, g])

One pass over the keys of a tile of queries with a running maximum, as in FlashAttention-2 (arXiv:2307.08691). A tile is some tokens
of one segment with all heads that read the same keys, so that a short document fills the rows of a matrix instruction. Every tile of
keys comes through a tensor descriptor (TMA), whose addresses cost no registers. A long prefix is cut into pieces that are merged by
their log-sum-exp, as in Flash-Decoding.

No atomics anywhere, and every sum has a fixed order: outputs and gradients are bit for bit the same from run to run on one kind of
device, and what a row gets from a forward pass does not depend on which other prompts are packed beside its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.block_layout import BlockLayout
from kernels.gpu.block_tiles import Tiles, query_tiles_of

DTYPES = torch.float32, torch.float16, torch.bfloat16
SIZES = 64, 96, 128  # of a head; 96 is computed as 128, of which the descriptors fill up the rest with zeros
MERGED_ROWS = 16  # of a program that puts pieces together: more programs, each with little to wait for


class Blocks(NamedTuple):
    """How a kernel is cut: rows of queries (tokens times heads) and keys of a tile."""

    rows: int
    keys: int
    warps: int
    stages: int
    registers: int | None = None  # of a thread at most, where two programs then fit on a processor


class Kernels(NamedTuple):
    """The blocks of each of the three kernels that multiply matrices."""

    forward: Blocks
    queries: Blocks  # gradient of q
    keys: Blocks  # gradients of k and v


# by whether numbers have 16 bits, and columns of a tile. Those of 16 bits and 128 columns are the fastest of 96 that
# benchmarks/block_attention_sweep.py measured on an H100: small tiles with one warpgroup, several of which share a processor. The others are
# as large as fits without spills, by arithmetic and ptxas's report
BLOCKS = {
    (True, 64): Kernels(Blocks(128, 64, 8, 2, 128), Blocks(128, 64, 8, 2), Blocks(64, 128, 8, 2)),
    (True, 128): Kernels(Blocks(64, 32, 4, 3), Blocks(64, 32, 4, 3), Blocks(32, 64, 4, 3)),
    (False, 64): Kernels(Blocks(64, 32, 8, 2), Blocks(64, 32, 8, 2), Blocks(32, 32, 8, 2)),
    (False, 128): Kernels(Blocks(16, 32, 4, 2), Blocks(16, 32, 4, 2), Blocks(16, 16, 4, 2)),
}


def block_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: BlockLayout, scale: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out [tokens, heads, size] in the dtype of q, lse float32 [tokens, heads]), differentiable once in q, k and v through both.

    q     float32, float16 or bfloat16 [tokens, heads, size], size 64, 96 or 128; sums are float32
    k, v  [keys, kv_heads, size] of q's dtype and device; query head h reads head h // (heads // kv_heads)
    scale of the products of q and k; size ** -0.5 unless told

    The layout's numbers are read on the host at its first call, which waits for the device; a layout is not to be changed afterwards.
    A NaN among a segment's own rows reaches that segment and what sees its keys, nothing else. ValueError where arguments or
    layout do not fit.
    """
    check(q, k, v, layout)
    found: tuple[torch.Tensor, torch.Tensor] = BlockAttention.apply(
        q, k, v, layout, q.shape[2] ** -0.5 if scale is None else float(scale)
    )
    return found


def check(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: BlockLayout) -> None:
    """ValueError, in one sentence, where the arguments do not fit this kernel."""
    if q.ndim != 3 or k.ndim != 3 or k.shape != v.shape or q.shape[2] != k.shape[2] or not k.shape[1]:
        raise ValueError(
            f"q, k and v have the shapes {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}: give [tokens, heads, size] and "
            "twice [keys, kv_heads, size]."
        )
    if q.shape[2] not in SIZES:
        raise ValueError(
            f"the heads have {q.shape[2]} numbers: this kernel takes {', '.join(map(str, SIZES))}; use the backend 'cpu' for others."
        )
    if q.dtype not in DTYPES or any(side.dtype != q.dtype for side in (k, v)):
        raise ValueError(
            f"q, k and v are {', '.join(str(side.dtype) for side in (q, k, v))}: cast all to one of float32, float16 and bfloat16."
        )
    devices = [side.device for side in (q, k, v, *layout[:3])]
    if not (q.is_cuda or triton.knobs.runtime.interpret) or len(set(devices)) > 1:
        raise ValueError(
            f"q, k, v and the layout are on {', '.join(map(str, devices))}: move all to one CUDA device, or use the backend 'cpu'."
        )
    if q.shape[1] % k.shape[1] or q.shape[1] // k.shape[1] > most_heads_a_key():
        raise ValueError(
            f"q has {q.shape[1]} heads and k {k.shape[1]}: give a multiple of k's, at most {most_heads_a_key()} times as many, or use the "
            "backend 'cpu'."
        )


def takes_heads(q: torch.Tensor, k: torch.Tensor) -> bool:
    """Whether such heads are computed here; q and k fit each other."""
    return q.shape[2] in SIZES and q.dtype in DTYPES and q.shape[1] // k.shape[1] <= most_heads_a_key()


def most_heads_a_key() -> int:
    """Heads of q that share one of k, at most: a tile has a token with all of them."""
    return min(blocks.rows for kernels in BLOCKS.values() for blocks in kernels)


class BlockAttention(torch.autograd.Function):
    """What `block_attention` applies, after its checks."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: BlockLayout, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        q, k, v = (side if side.stride(2) == 1 else side.contiguous() for side in (q, k, v))
        out, lse = block_attention_triton(q, k, v, layout, scale)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.layout, ctx.scale = layout, scale
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_out: torch.Tensor, of_lse: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        from kernels.gpu import block_gradients  # which builds on this file

        q, k, v, out, lse = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        gradients = block_gradients.gradients_triton(q, k, v, out, lse, of_out, of_lse, ctx.layout, ctx.scale, wanted)
        return *gradients, None, None


def block_attention_triton(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: BlockLayout, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`block_attention` without checks and gradients."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
    blocks, group, kv_heads = blocks_for(q).forward, q.shape[1] // k.shape[1], k.shape[1]
    columns = triton.next_power_of_2(q.shape[2])
    tiles = query_tiles_of(layout, len(q), len(k), blocks.rows // group)
    parts, lses = parts_for(tiles, kv_heads, blocks.rows, columns, q.device)
    with torch.cuda.device_of(q):
        _forward_kernel[(len(tiles.programs), kv_heads)](
            q, *(described(side, (blocks.keys, 1, columns)) for side in (k, v)), out, lse, parts, lses, tiles.programs,
            scale, *q.stride()[:2],
            HEADS=q.shape[1], GROUP=group, SIZE=q.shape[2], COLUMNS=columns,
            BLOCK_ROWS=blocks.rows, BLOCK_KEYS=blocks.keys, **arithmetic(q),
            num_warps=blocks.warps, num_stages=blocks.stages, maxnreg=blocks.registers,
        )  # fmt: skip
    merge(tiles, parts, lses, out, lse, group, blocks.rows)
    return out, lse


def blocks_for(q: torch.Tensor) -> Kernels:
    return BLOCKS[q.element_size() == 2, triton.next_power_of_2(q.shape[2])]


def arithmetic(q: torch.Tensor) -> dict[str, Any]:
    return {
        "PRECISION": "tf32x3" if q.dtype == torch.float32 else "tf32",  # three tf32 products are as exact as float32
        "WIDENED": triton.knobs.runtime.interpret,  # whose dot takes the bits of a bfloat16 for a whole number
        "ONE_LOOP": q.dtype
        == torch.float32,  # a loop for the tiles without a border beside that for the others would spill
    }


def described(side: torch.Tensor, block: tuple[int, ...]) -> TensorDescriptor:
    """For tiles of [rows, heads, size]; what TMA cannot read where it is, is copied."""
    unit = 16 // side.element_size()
    strides = [side.stride(0) if len(side) > 1 else 128, side.stride(1) if side.shape[1] > 1 else 128]
    if side.stride(2) != 1 or any(stride % unit or stride <= 0 for stride in strides) or side.data_ptr() % 16:
        side = side.clone(memory_format=torch.contiguous_format)
        strides = [side.shape[1] * side.shape[2], side.shape[2]]
    return TensorDescriptor(side, list(side.shape), [*strides, 1], list(block))


def parts_for(
    tiles: Tiles, heads: int, rows: int, columns: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where pieces wait to be merged: float32 [slots, heads, rows, columns] and [slots, heads, rows]."""
    shape = max(1, tiles.slots), heads, rows  # a kernel wants an address even if it writes nothing there
    parts = torch.empty((*shape, columns), dtype=torch.float32, device=device)
    return parts, torch.empty(shape, dtype=torch.float32, device=device)


def merge(
    tiles: Tiles, parts: torch.Tensor, lses: torch.Tensor | None, out: torch.Tensor, lse: torch.Tensor | None,
    group: int, tile_rows: int, factor: float = 1.0,
) -> None:  # fmt: skip
    """Write what the pieces amount to: their sum times `factor`, or, of attention, the mean by the exponentials of their lse."""
    heads, columns = parts.shape[1], parts.shape[3]
    if len(tiles.merges):
        with torch.cuda.device_of(out):
            _merge_kernel[(len(tiles.merges), heads, triton.cdiv(tile_rows, MERGED_ROWS))](
                parts, lses, out, lse, tiles.merges, factor,
                HEADS=heads, GROUP=group, SIZE=out.shape[2], COLUMNS=columns,
                TILE_ROWS=tile_rows, BLOCK_ROWS=MERGED_ROWS, num_warps=columns // 32,
            )  # fmt: skip


@triton.jit
def product(a, b, PRECISION: tl.constexpr, WIDENED: tl.constexpr):
    """float32 a @ b"""
    if WIDENED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def keys_tile(side, key, kv_head, BLOCK_KEYS: tl.constexpr, COLUMNS: tl.constexpr):
    """[BLOCK_KEYS, COLUMNS] through a descriptor, zeros past the last key."""
    return side.load([key, kv_head, 0]).reshape(BLOCK_KEYS, COLUMNS)


@triton.jit
def masked_step(step, rest, prefix_rest, prefix_end, own, own_end, rows, token, BLOCK_KEYS: tl.constexpr):
    """(first key, where the keys end, where they end for each row) of a tile that has a border: `rest` tiles of what is left of the
    prefix, then own keys."""
    is_prefix = step < rest
    key = tl.where(is_prefix, prefix_rest + step * BLOCK_KEYS, own + (step - rest) * BLOCK_KEYS)
    end = tl.where(is_prefix, prefix_end, own_end)
    row_end = tl.where(is_prefix, prefix_end, tl.minimum(own_end - rows + token + 1, own_end))
    return key, end, row_end


@triton.jit
def _absorbed(
    queries, k, v, key, kv_head, end, row_end, factor, peak, total, sums,
    MASKED: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_KEYS: tl.constexpr, PRECISION: tl.constexpr, WIDENED: tl.constexpr,
):  # fmt: skip
    """(peak, total, sums) after one more tile of keys; logits are those of powers of 2."""
    keys = keys_tile(k, key, kv_head, BLOCK_KEYS, COLUMNS)
    values = keys_tile(v, key, kv_head, BLOCK_KEYS, COLUMNS)
    logits = product(queries, keys.T, PRECISION, WIDENED) * factor
    if MASKED:
        place = key + tl.arange(0, BLOCK_KEYS)
        logits = tl.where(place[None, :] < row_end[:, None], logits, float("-inf"))
        # others' values times 0 would be NaN if they are
        values = tl.where((place < end)[:, None], values, 0.0)
    higher = tl.maximum(peak, tl.max(logits, 1))
    weights = tl.math.exp2(logits - higher[:, None])
    shrunk = tl.math.exp2(peak - higher)
    total = total * shrunk + tl.sum(weights, 1)
    sums = sums * shrunk[:, None] + product(weights.to(values.dtype), values, PRECISION, WIDENED)
    return higher, total, sums


@triton.jit
def _forward_kernel(
    q, k, v, out, lse, parts, lses, tiles, scale, q_stride, q_head_stride,
    HEADS: tl.constexpr, GROUP: tl.constexpr, SIZE: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, PRECISION: tl.constexpr, WIDENED: tl.constexpr, ONE_LOOP: tl.constexpr,
):  # fmt: skip
    """One program: some tokens of a segment, the heads that share one head of keys, a piece of the prefix, perhaps the own keys."""
    tile, kv_head = tiles + tl.program_id(0) * 7, tl.program_id(1)
    row, rows = tl.load(tile), tl.load(tile + 1)
    prefix, prefix_end, own, own_end = tl.load(tile + 2), tl.load(tile + 3), tl.load(tile + 4), tl.load(tile + 5)
    line = tl.arange(0, BLOCK_ROWS)
    token, head = line // GROUP, kv_head * GROUP + line % GROUP
    columns = tl.arange(0, COLUMNS)
    at = (row + token).to(tl.int64)
    is_row = token < rows
    inside = is_row[:, None] & (columns < SIZE)[None, :]
    queries = tl.load(
        q + (at * q_stride + head.to(tl.int64) * q_head_stride)[:, None] + columns[None, :], mask=inside, other=0.0
    )

    factor = scale * 1.4426950408889634  # log2(e)
    peak = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_ROWS], tl.float32)
    sums = tl.zeros([BLOCK_ROWS, COLUMNS], tl.float32)
    prefix_rest = prefix if ONE_LOOP else prefix + (prefix_end - prefix) // BLOCK_KEYS * BLOCK_KEYS
    if not ONE_LOOP:
        for key in range(prefix, prefix_rest, BLOCK_KEYS):
            peak, total, sums = _absorbed(
                queries, k, v, key, kv_head, 0, token, factor, peak, total, sums,
                False, COLUMNS, BLOCK_KEYS, PRECISION, WIDENED,
            )  # fmt: skip
    rest = tl.cdiv(prefix_end - prefix_rest, BLOCK_KEYS)
    for step in range(rest + tl.cdiv(own_end - own, BLOCK_KEYS)):
        # every row sees the first key of the first tile that it meets, so no peak stays at -inf
        key, end, row_end = masked_step(step, rest, prefix_rest, prefix_end, own, own_end, rows, token, BLOCK_KEYS)
        peak, total, sums = _absorbed(
            queries, k, v, key, kv_head, end, row_end, factor, peak, total, sums,
            True, COLUMNS, BLOCK_KEYS, PRECISION, WIDENED,
        )  # fmt: skip

    sums = sums / total[:, None]
    log_sum = (peak + tl.math.log2(total)) * 0.6931471805599453  # ln(2)
    slot = tl.load(tile + 6)
    if slot < 0:
        first = row.to(tl.int64) * HEADS
        place = token * HEADS + head
        tl.store(lse + first + place, log_sum, mask=is_row)
        offsets = (place * SIZE)[:, None] + columns[None, :]
        tl.store(out + first * SIZE + offsets, sums.to(out.dtype.element_ty), mask=inside)
    else:
        first = (slot.to(tl.int64) * (HEADS // GROUP) + kv_head) * BLOCK_ROWS
        tl.store(lses + first + line, log_sum)
        tl.store(parts + first * COLUMNS + (line * COLUMNS)[:, None] + columns[None, :], sums)


@triton.jit
def _merge_kernel(
    parts, lses, out, lse, merges, factor,
    HEADS: tl.constexpr, GROUP: tl.constexpr, SIZE: tl.constexpr, COLUMNS: tl.constexpr,
    TILE_ROWS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    """One program puts together some rows of one tile, in the order of its pieces."""
    entry, kv_head = merges + tl.program_id(0) * 4, tl.program_id(1)
    row, rows, slot, slots = tl.load(entry), tl.load(entry + 1), tl.load(entry + 2), tl.load(entry + 3)
    line = tl.program_id(2) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    columns = tl.arange(0, COLUMNS)
    is_row = line // GROUP < rows
    is_part = line < TILE_ROWS
    peak = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_ROWS], tl.float32)
    sums = tl.zeros([BLOCK_ROWS, COLUMNS], tl.float32)
    for number in range(slots):
        place = ((slot + number).to(tl.int64) * HEADS + kv_head) * TILE_ROWS + line
        part = tl.load(parts + (place * COLUMNS)[:, None] + columns[None, :], mask=is_part[:, None], other=0.0)
        if lses is not None:
            piece = tl.load(lses + place, mask=is_part, other=0.0)
            higher = tl.maximum(peak, piece)
            shrunk, weight = tl.exp(peak - higher), tl.exp(piece - higher)
            peak, total = higher, total * shrunk + weight
            sums = sums * shrunk[:, None] + part * weight[:, None]
        else:
            sums += part
    at = (row + line // GROUP).to(tl.int64) * (HEADS * GROUP) + kv_head * GROUP + line % GROUP
    if lses is not None:
        sums = sums / total[:, None]
        tl.store(lse + at, peak + tl.log(total), mask=is_row)
    inside = is_row[:, None] & (columns < SIZE)[None, :]
    tl.store(out + (at * SIZE)[:, None] + columns[None, :], (sums * factor).to(out.dtype.element_ty), mask=inside)
