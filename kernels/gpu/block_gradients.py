"""The backward pass of `kernels.gpu.block_attention`: with p = exp(scale * q . k - lse) computed again, tile by tile,

    delta = sum of out * dout - dlse,   ds = p * (dout . v - delta),   dq = scale * ds @ k,   dk = scale * ds.T @ q,   dv = p.T @ dout

as in FlashAttention-2 (arXiv:2307.08691); delta carries the gradient of lse. dq goes over the tiles of queries of the forward pass.
dk and dv go over tiles of keys, each with the ranges of query rows that see it: for a document its own rows and the last block, for
the instruction all rows of the prompt, cut into pieces whose sums are added in their order. No atomics: gradients are bit for bit the
same from run to run on one kind of device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from kernels.block_layout import BlockLayout
from kernels.gpu.block_attention import (
    Blocks,
    arithmetic,
    blocks_for,
    described,
    keys_tile,
    masked_step,
    merge,
    parts_for,
    product,
)
from kernels.gpu.block_tiles import key_tiles_of, query_tiles_of

DELTA_ROWS = 32  # of one program; each row is read once and added up


def gradients_triton(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: torch.Tensor,
    of_out: torch.Tensor, of_lse: torch.Tensor, layout: BlockLayout, scale: float, wanted: Sequence[bool],
) -> tuple[torch.Tensor | None, ...]:  # fmt: skip
    """(dq, dk, dv) in the dtypes of q, k and v, None where not wanted; sums are float32."""
    of_out = of_out if of_out.stride(2) == 1 else of_out.contiguous()
    delta = delta_triton(out, of_out, of_lse)
    of_queries = query_gradient_triton(q, k, v, of_out, lse, delta, layout, scale) if wanted[0] else None
    if not (wanted[1] or wanted[2]):
        return of_queries, None, None
    return of_queries, *key_gradients_triton(q, k, v, of_out, lse, delta, layout, scale)


def delta_triton(out: torch.Tensor, of_out: torch.Tensor, of_lse: torch.Tensor) -> torch.Tensor:
    """float32 [tokens, heads]: the sum of out times its gradient, less the gradient of lse."""
    of_lse = of_lse.contiguous()
    delta = torch.empty_like(of_lse)
    with torch.cuda.device_of(out):
        _delta_kernel[(triton.cdiv(delta.numel(), DELTA_ROWS),)](
            out, of_out, of_lse, delta, delta.numel(), *of_out.stride()[:2],
            HEADS=out.shape[1], SIZE=out.shape[2], COLUMNS=triton.next_power_of_2(out.shape[2]),
            BLOCK_ROWS=DELTA_ROWS, num_warps=4,
        )  # fmt: skip
    return delta


def query_gradient_triton(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, of_out: torch.Tensor, lse: torch.Tensor, delta: torch.Tensor,
    layout: BlockLayout, scale: float,
) -> torch.Tensor:  # fmt: skip
    of_queries = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    blocks, group, kv_heads = blocks_for(q).queries, q.shape[1] // k.shape[1], k.shape[1]
    columns = triton.next_power_of_2(q.shape[2])
    tiles = query_tiles_of(layout, len(q), len(k), blocks.rows // group)
    parts, _ = parts_for(tiles, kv_heads, blocks.rows, columns, q.device)
    with torch.cuda.device_of(q):
        _query_gradient_kernel[(len(tiles.programs), kv_heads)](
            q, *(described(side, (blocks.keys, 1, columns)) for side in (k, v)), of_out, lse, delta, of_queries, parts,
            tiles.programs, scale, *q.stride()[:2], *of_out.stride()[:2],
            HEADS=q.shape[1], GROUP=group, SIZE=q.shape[2], COLUMNS=columns,
            BLOCK_ROWS=blocks.rows, BLOCK_KEYS=blocks.keys, **arithmetic(q),
            num_warps=blocks.warps, num_stages=blocks.stages, maxnreg=blocks.registers,
        )  # fmt: skip
    merge(tiles, parts, None, of_queries, None, group, blocks.rows)
    return of_queries


def key_gradients_triton(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, of_out: torch.Tensor, lse: torch.Tensor, delta: torch.Tensor,
    layout: BlockLayout, scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """(dk, dv); zero for keys that no row sees."""
    of_keys, of_values = (torch.empty(side.shape, dtype=side.dtype, device=side.device) for side in (k, v))
    blocks, group, kv_heads = blocks_for(q).keys, q.shape[1] // k.shape[1], k.shape[1]
    columns, heads = triton.next_power_of_2(q.shape[2]), heads_at_once(group, blocks)
    tiles = key_tiles_of(layout, len(q), len(k), blocks.keys)
    key_parts, _ = parts_for(tiles, kv_heads, blocks.keys, columns, q.device)
    value_parts, _ = parts_for(tiles, kv_heads, blocks.keys, columns, q.device)
    with torch.cuda.device_of(q):
        _key_gradients_kernel[(len(tiles.programs), kv_heads)](
            *(described(side, (blocks.rows // heads, heads, columns)) for side in (q, of_out)),
            k, v, lse, delta, of_keys, of_values, key_parts, value_parts, tiles.programs, scale,
            *k.stride()[:2], *v.stride()[:2],
            HEADS=q.shape[1], GROUP=group, GROUP_HEADS=heads, SIZE=q.shape[2], COLUMNS=columns,
            BLOCK_ROWS=blocks.rows, BLOCK_KEYS=blocks.keys, **arithmetic(q),
            num_warps=blocks.warps, num_stages=blocks.stages, maxnreg=blocks.registers,
        )  # fmt: skip
    merge(tiles, key_parts, None, of_keys, None, 1, blocks.keys, scale)
    merge(tiles, value_parts, None, of_values, None, 1, blocks.keys)
    return of_keys, of_values


def heads_at_once(group: int, blocks: Blocks) -> int:
    """Heads of a tile of queries that a descriptor can cut out: a power of 2 that divides the group."""
    return min(group & -group, blocks.rows)


@triton.jit
def _delta_kernel(
    out, of_out, of_lse, delta, rows, gradient_stride, gradient_head_stride,
    HEADS: tl.constexpr, SIZE: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    line = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    columns = tl.arange(0, COLUMNS)
    inside = (line < rows)[:, None] & (columns < SIZE)[None, :]
    result = tl.load(out + (line * SIZE)[:, None] + columns[None, :], mask=inside, other=0.0)
    at = (line // HEADS) * gradient_stride + (line % HEADS) * gradient_head_stride
    gradient = tl.load(of_out + at[:, None] + columns[None, :], mask=inside, other=0.0)
    total = tl.sum(result.to(tl.float32) * gradient.to(tl.float32), 1)
    tl.store(delta + line, total - tl.load(of_lse + line, mask=line < rows, other=0.0), mask=line < rows)


@triton.jit
def _with_tile(
    queries, gradients, log_sums, deltas, k, v, key, kv_head, end, row_end, factor, sums,
    MASKED: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_KEYS: tl.constexpr, PRECISION: tl.constexpr, WIDENED: tl.constexpr,
):  # fmt: skip
    """The sums of ds @ k with one more tile of keys; log_sums are those of powers of 2."""
    keys = keys_tile(k, key, kv_head, BLOCK_KEYS, COLUMNS)
    values = keys_tile(v, key, kv_head, BLOCK_KEYS, COLUMNS)
    weights = tl.math.exp2(product(queries, keys.T, PRECISION, WIDENED) * factor - log_sums[:, None])
    of_logits = weights * (product(gradients, values.T, PRECISION, WIDENED) - deltas[:, None])
    if MASKED:
        place = key + tl.arange(0, BLOCK_KEYS)
        of_logits = tl.where(place[None, :] < row_end[:, None], of_logits, 0.0)
        keys = tl.where((place < end)[:, None], keys, 0.0)  # others' keys times 0 would be NaN if they are
    return sums + product(of_logits.to(keys.dtype), keys, PRECISION, WIDENED)


@triton.jit
def _query_gradient_kernel(
    q, k, v, of_out, lse, delta, of_queries, parts, tiles, scale,
    q_stride, q_head_stride, gradient_stride, gradient_head_stride,
    HEADS: tl.constexpr, GROUP: tl.constexpr, SIZE: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, PRECISION: tl.constexpr, WIDENED: tl.constexpr, ONE_LOOP: tl.constexpr,
):  # fmt: skip
    """One program: what one of the forward kernel has."""
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
    gradients = tl.load(
        of_out + (at * gradient_stride + head.to(tl.int64) * gradient_head_stride)[:, None] + columns[None, :],
        mask=inside,
        other=0.0,
    )
    log_sums = tl.load(lse + at * HEADS + head, mask=is_row, other=0.0) * 1.4426950408889634  # log2(e)
    deltas = tl.load(delta + at * HEADS + head, mask=is_row, other=0.0)

    factor = scale * 1.4426950408889634
    sums = tl.zeros([BLOCK_ROWS, COLUMNS], tl.float32)
    prefix_rest = prefix if ONE_LOOP else prefix + (prefix_end - prefix) // BLOCK_KEYS * BLOCK_KEYS
    if not ONE_LOOP:
        for key in range(prefix, prefix_rest, BLOCK_KEYS):
            sums = _with_tile(
                queries, gradients, log_sums, deltas, k, v, key, kv_head, 0, token, factor, sums,
                False, COLUMNS, BLOCK_KEYS, PRECISION, WIDENED,
            )  # fmt: skip
    rest = tl.cdiv(prefix_end - prefix_rest, BLOCK_KEYS)
    for step in range(rest + tl.cdiv(own_end - own, BLOCK_KEYS)):
        key, end, row_end = masked_step(step, rest, prefix_rest, prefix_end, own, own_end, rows, token, BLOCK_KEYS)
        sums = _with_tile(
            queries, gradients, log_sums, deltas, k, v, key, kv_head, end, row_end, factor, sums,
            True, COLUMNS, BLOCK_KEYS, PRECISION, WIDENED,
        )  # fmt: skip

    sums = sums * scale
    slot = tl.load(tile + 6)
    if slot < 0:
        first = row.to(tl.int64) * (HEADS * SIZE)
        offsets = ((token * HEADS + head) * SIZE)[:, None] + columns[None, :]
        tl.store(of_queries + first + offsets, sums.to(of_queries.dtype.element_ty), mask=inside)
    else:
        first = (slot.to(tl.int64) * (HEADS // GROUP) + kv_head) * (BLOCK_ROWS * COLUMNS)
        tl.store(parts + first + (line * COLUMNS)[:, None] + columns[None, :], sums)


@triton.jit
def _with_rows(
    keys, values, q, of_out, lse, delta, row, end, head, place, shift, factor, of_keys, of_values,
    MASKED: tl.constexpr, HEADS: tl.constexpr, GROUP_HEADS: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, PRECISION: tl.constexpr, WIDENED: tl.constexpr,
):  # fmt: skip
    """The sums of (ds.T @ q, p.T @ dout) with one more tile of queries: tokens from `row` on, GROUP_HEADS heads from `head` on."""
    line = tl.arange(0, BLOCK_ROWS)
    token = row + line // GROUP_HEADS
    queries = q.load([row, head, 0]).reshape(BLOCK_ROWS, COLUMNS)
    gradients = of_out.load([row, head, 0]).reshape(BLOCK_ROWS, COLUMNS)
    at = token.to(tl.int64) * HEADS + head + line % GROUP_HEADS
    if MASKED:
        is_row = token < end
        log_sums = tl.load(lse + at, mask=is_row, other=0.0)
        deltas = tl.load(delta + at, mask=is_row, other=0.0)
        # others' rows times 0 would be NaN if they are
        queries = tl.where(is_row[:, None], queries, 0.0)
        gradients = tl.where(is_row[:, None], gradients, 0.0)
    else:
        log_sums, deltas = tl.load(lse + at), tl.load(delta + at)
    logits = product(keys, queries.T, PRECISION, WIDENED) * factor
    weights = tl.math.exp2(logits - (log_sums * 1.4426950408889634)[None, :])  # log2(e)
    of_logits = weights * (product(values, gradients.T, PRECISION, WIDENED) - deltas[None, :])
    if MASKED:
        is_seen = is_row[None, :] & (place[:, None] <= (token + shift)[None, :])
        weights, of_logits = tl.where(is_seen, weights, 0.0), tl.where(is_seen, of_logits, 0.0)
    of_values += product(weights.to(gradients.dtype), gradients, PRECISION, WIDENED)
    of_keys += product(of_logits.to(queries.dtype), queries, PRECISION, WIDENED)
    return of_keys, of_values


@triton.jit
def _key_gradients_kernel(
    q, of_out, k, v, lse, delta, of_keys, of_values, key_parts, value_parts, tiles, scale,
    k_stride, k_head_stride, v_stride, v_head_stride,
    HEADS: tl.constexpr, GROUP: tl.constexpr, GROUP_HEADS: tl.constexpr, SIZE: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, PRECISION: tl.constexpr, WIDENED: tl.constexpr, ONE_LOOP: tl.constexpr,
):  # fmt: skip
    """One program: a tile of keys of one head, with the rows that see it completely and those that see it causally."""
    BLOCK_TOKENS: tl.constexpr = BLOCK_ROWS // GROUP_HEADS
    PARTS: tl.constexpr = GROUP // GROUP_HEADS  # a tile of queries has so many tokens of one part of the heads
    tile, kv_head = tiles + tl.program_id(0) * 8, tl.program_id(1)
    key, num_keys = tl.load(tile), tl.load(tile + 1)
    row, row_end, causal_row, causal_end = tl.load(tile + 2), tl.load(tile + 3), tl.load(tile + 4), tl.load(tile + 5)
    causal_shift, slot = tl.load(tile + 6), tl.load(tile + 7)
    line, columns = tl.arange(0, BLOCK_KEYS), tl.arange(0, COLUMNS)
    place, wide = key + line, (key + line).to(tl.int64)
    # by their addresses, once: read through a descriptor of three dimensions, these would stay in registers and not in shared memory
    inside = (line < num_keys)[:, None] & (columns < SIZE)[None, :]
    keys = tl.load(
        k + (wide * k_stride + kv_head.to(tl.int64) * k_head_stride)[:, None] + columns[None, :], mask=inside, other=0.0
    )
    values = tl.load(
        v + (wide * v_stride + kv_head.to(tl.int64) * v_head_stride)[:, None] + columns[None, :], mask=inside, other=0.0
    )
    factor, head = scale * 1.4426950408889634, kv_head * GROUP
    key_sums = tl.zeros([BLOCK_KEYS, COLUMNS], tl.float32)
    value_sums = tl.zeros([BLOCK_KEYS, COLUMNS], tl.float32)

    row_rest = row if ONE_LOOP else row + (row_end - row) // BLOCK_TOKENS * BLOCK_TOKENS
    if not ONE_LOOP:
        for step in range((row_rest - row) // BLOCK_TOKENS * PARTS):
            key_sums, value_sums = _with_rows(
                keys, values, q, of_out, lse, delta, row + step // PARTS * BLOCK_TOKENS, 0, head + step % PARTS * GROUP_HEADS,
                place, 0, factor, key_sums, value_sums,
                False, HEADS, GROUP_HEADS, COLUMNS, BLOCK_ROWS, PRECISION, WIDENED,
            )  # fmt: skip
    rest = tl.cdiv(row_end - row_rest, BLOCK_TOKENS)
    for step in range((rest + tl.cdiv(causal_end - causal_row, BLOCK_TOKENS)) * PARTS):
        # what is left of the rows that see all, which are those of a shift past every key, then the causal ones
        number = step // PARTS
        is_rest = number < rest
        at = tl.where(is_rest, row_rest + number * BLOCK_TOKENS, causal_row + (number - rest) * BLOCK_TOKENS)
        end = tl.where(is_rest, row_end, causal_end)
        shift = tl.where(is_rest, key + BLOCK_KEYS, causal_shift)
        key_sums, value_sums = _with_rows(
            keys, values, q, of_out, lse, delta, at, end, head + step % PARTS * GROUP_HEADS,
            place, shift, factor, key_sums, value_sums,
            True, HEADS, GROUP_HEADS, COLUMNS, BLOCK_ROWS, PRECISION, WIDENED,
        )  # fmt: skip

    # what is stored is spread as the sums are, over many addresses: they are kept as 32-bit distances from one
    if slot < 0:
        first = (key.to(tl.int64) * (HEADS // GROUP) + kv_head) * SIZE
        offsets = (line * (HEADS // GROUP * SIZE))[:, None] + columns[None, :]
        tl.store(of_keys + first + offsets, (key_sums * scale).to(of_keys.dtype.element_ty), mask=inside)
        tl.store(of_values + first + offsets, value_sums.to(of_values.dtype.element_ty), mask=inside)
    else:
        first = (slot.to(tl.int64) * (HEADS // GROUP) + kv_head) * (BLOCK_KEYS * COLUMNS)
        offsets = (line * COLUMNS)[:, None] + columns[None, :]
        tl.store(key_parts + first + offsets, key_sums)
        tl.store(value_parts + first + offsets, value_sums)
