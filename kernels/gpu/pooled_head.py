"""Vocabulary projection fused with the maximum over the tokens of each text: what SPLADE-type encoders do last, on a GPU.

    pooled[text, term] = max over the text's tokens i of hidden[i] . weight[term]  + bias[term]

after Sparton (arXiv:2603.25011). The [tokens, vocabulary] table of logits never exists, forward or backward: a tile of it
lives in registers and leaves as one maximum and one winning token for each (text, term). The bias does not depend on
the token and what follows (relu, log) never decreases, so both come after the maximum.

Forward: texts lie end to end, and tiles of tokens run across their boundaries, so that texts of 129 tokens waste no
matrix instructions. A program owns the texts that begin in its chunk of the tokens, so each (text, term) is written by
one program. Backward: only the winner has a gradient, so both products are sums of a few rows. No atomics anywhere;
every sum has a fixed order: outputs and gradients are bit for bit the same from run to run on one kind of device.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable


class Blocks(NamedTuple):
    """How the forward kernel is cut. Chosen by arithmetic and ptxas's report; benchmarks/pooled_head_gpu.py --sweep tries others."""

    terms: int
    tokens: int
    width: int
    warps: int
    stages: int


# sm_90: terms lie along the rows of a matrix instruction, so the maximum over tokens stays inside a warp. 256 x 128
# asks the L2 cache for one byte per 85 floating-point operations (128 x 128: per 64); its
# accumulator is 128 registers of each of 256 threads, as much as fits without spills; a stage is 48 KiB of shared memory.
HALF_BLOCKS = Blocks(terms=256, tokens=128, width=64, warps=8, stages=3)
FLOAT_BLOCKS = Blocks(terms=128, tokens=64, width=32, warps=8, stages=3)
STRIDED_BLOCKS = Blocks(
    terms=128, tokens=64, width=16, warps=8, stages=2
)  # rows that cannot be read 16 bytes at a time

PROGRAMS_WANTED = 1024  # about eight for each multiprocessor, so that the last wave costs little
CHUNK_TOKENS = 256, 512, 1024, 2048  # the longer, the less of a chunk's last tile is empty
GROUP_CHUNKS = (
    4  # programs that run together share 4 chunks and some 33 tiles of the weight: about 25 MB of L2 at width 768
)
ENTRIES_AT_ONCE = 1 << 22  # (text, term) pairs sorted together by the backward: at most about 200 MB of scratch
DTYPES = torch.float32, torch.float16, torch.bfloat16


def pooled_head(
    hidden: torch.Tensor, starts: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(pooled float32 [texts, vocabulary], winner int32 [texts, vocabulary]), not differentiable.

    hidden  float32, float16 or bfloat16 [tokens, width], the texts end to end without padding; sums are float32
    starts  int32 or int64 [texts + 1]: text t owns hidden[starts[t] : starts[t + 1]], at least one token. Its values are
            checked: on the CPU that is free, on the device it waits for the device
    weight  [vocabulary, width], bias [vocabulary]: of hidden's dtype and device

    `winner` is the row of `hidden` with the largest logit, the earliest of equals. A NaN among a text's logits of a
    term makes `pooled` NaN; `winner` is then one of the text's tokens. ValueError where shapes, dtypes, devices or
    starts do not fit.
    """
    check(hidden, starts, weight, bias)
    pooled, winner = pooled_head_triton(hidden, starts, weight, bias)
    assert winner is not None
    return pooled, winner


def pooled_head_max(
    hidden: torch.Tensor, starts: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """`pooled` of `pooled_head`, float32 [texts, vocabulary], differentiable once in hidden, weight and bias.

    The gradient of a maximum goes to its winner alone. Gradients are summed in float32 and come in the dtypes of what
    they belong to. Entries whose gradient is exactly 0, as most are behind a relu, cost nothing but their reading.
    The backward asks once for each 4 million (text, term) pairs how many are not 0, which waits for the device.
    """
    check(hidden, starts, weight, bias)
    inputs = (hidden, weight) if bias is None else (hidden, weight, bias)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        return PooledHead.apply(hidden, starts, weight, bias)
    return pooled_head_triton(hidden, starts, weight, bias, with_winner=False)[0]


class PooledHead(torch.autograd.Function):
    """What `pooled_head_max` applies, after its checks."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, starts: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        pooled, winner = pooled_head_triton(hidden, starts, weight, bias)
        ctx.save_for_backward(hidden, starts, weight, winner)
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, starts, weight, winner = ctx.saved_tensors
        gradient = gradient.contiguous()  # autograd may hand over one value expanded to the whole shape
        wants_hidden, _, wants_weight, wants_bias = ctx.needs_input_grad
        return (
            hidden_gradient_triton(gradient, winner, hidden, starts, weight) if wants_hidden else None,
            None,
            weight_gradient_triton(gradient, winner, hidden, weight) if wants_weight else None,
            gradient.sum(0) if wants_bias else None,
        )


def check(hidden: torch.Tensor, starts: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    """ValueError, in one sentence, where the arguments of a pooled or summed head do not fit together."""
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden has shape {tuple(hidden.shape)} and weight {tuple(weight.shape)}: "
            "give [tokens, width] and [vocabulary, width] of one width."
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias has shape {tuple(bias.shape)}: give one number a term, ({len(weight)},).")
    tensors = [hidden, weight] if bias is None else [hidden, weight, bias]
    if hidden.dtype not in DTYPES or any(tensor.dtype != hidden.dtype for tensor in tensors):
        raise ValueError(
            f"hidden, weight and bias are {', '.join(str(tensor.dtype) for tensor in tensors)}: "
            "cast all to one of float32, float16 and bfloat16."
        )
    on_device = hidden.is_cuda or triton.knobs.runtime.interpret
    if not on_device or any(tensor.device != hidden.device for tensor in tensors):
        raise ValueError(
            f"hidden, weight and bias are on {', '.join(str(tensor.device) for tensor in tensors)}: "
            "move all to one CUDA device, or use kernels.cpu on the CPU."
        )
    check_starts(starts, len(hidden))


def check_starts(starts: torch.Tensor, tokens: int) -> None:
    if starts.ndim != 1 or len(starts) == 0 or starts.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"starts is {starts.dtype} {tuple(starts.shape)}: give int32 or int64 [texts + 1].")
    if tokens >= 2**31:
        raise ValueError(f"hidden has {tokens} tokens: give fewer than 2**31 at once, winners are int32.")
    values = starts.tolist()
    if values[0] != 0 or values[-1] != tokens:
        raise ValueError(f"starts runs from {values[0]} to {values[-1]}: make it run from 0 to the {tokens} tokens.")
    for text, (start, end) in enumerate(pairwise(values)):
        if end <= start:
            raise ValueError(f"text {text} runs from token {start} to {end}: give each text at least one token.")


def pooled_head_reference(
    hidden: torch.Tensor, starts: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `pooled_head` returns, from the whole table of logits of a text, in the dtype of its arguments."""
    pooled, winner = [], []
    for start, end in pairwise(starts.tolist()):
        logits = hidden[start:end] @ weight.T
        pooled.append(logits.amax(0))
        winner.append(start + logits.argmax(0))  # the first of equals
    table = torch.stack(pooled)
    return table if bias is None else table + bias, torch.stack(winner).to(torch.int32)


def pooled_head_triton(
    hidden: torch.Tensor,
    starts: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    with_winner: bool = True,
    blocks: Blocks | None = None,
    chunk_tokens: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`pooled_head` without its checks; the winner is left out where nobody needs it, as in encoding."""
    shape = len(starts) - 1, len(weight)
    pooled = torch.empty(shape, dtype=torch.float32, device=hidden.device)
    winner = torch.empty(shape, dtype=torch.int32, device=hidden.device) if with_winner else None
    if pooled.numel():
        blocks = blocks or blocks_for(hidden, weight, HALF_BLOCKS)
        launch_over_tiles(_pooled_head_kernel, hidden, starts, weight, bias, (pooled, winner), blocks, chunk_tokens)
    return pooled, winner


def blocks_for(hidden: torch.Tensor, weight: torch.Tensor, of_half_types: Blocks) -> Blocks:
    for rows in (hidden, weight):
        if rows.stride(1) != 1 or rows.stride(0) % 16 or rows.shape[1] % 16 or rows.data_ptr() % 16:
            return STRIDED_BLOCKS
    return FLOAT_BLOCKS if hidden.dtype == torch.float32 else of_half_types


def launch_over_tiles(
    kernel: Any,
    hidden: torch.Tensor,
    starts: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    outputs: tuple[torch.Tensor | None, ...],
    blocks: Blocks,
    chunk_tokens: int | None = None,
) -> None:
    """Launch a forward kernel once for each tile of terms and chunk of tokens."""
    is_float = hidden.dtype == torch.float32
    tokens, vocabulary = len(hidden), len(weight)
    tiles = triton.cdiv(vocabulary, blocks.terms)
    enough = [length for length in CHUNK_TOKENS if tiles * triton.cdiv(tokens, length) >= PROGRAMS_WANTED]
    chunk_tokens = chunk_tokens or max(enough, default=CHUNK_TOKENS[0])
    chunks = triton.cdiv(tokens, chunk_tokens)
    starts = starts.to(hidden.device)
    begins = torch.arange(chunks + 1, device=starts.device, dtype=starts.dtype) * chunk_tokens
    first_texts = torch.searchsorted(starts, begins.clamp(max=tokens))  # the first text that begins in each chunk
    with torch.cuda.device_of(hidden):
        kernel[(tiles * chunks,)](
            hidden, starts, first_texts, weight, bias, *outputs,
            chunks, tiles, vocabulary, hidden.shape[1], *hidden.stride(), *weight.stride(),
            0 if bias is None else bias.stride(0),
            BLOCK_TERMS=blocks.terms, BLOCK_TOKENS=blocks.tokens, BLOCK_WIDTH=blocks.width, GROUP_CHUNKS=GROUP_CHUNKS,
            PRECISION="tf32x3" if is_float else "tf32",  # three tf32 products are as exact as float32; half types ignore it
            WIDENED=triton.knobs.runtime.interpret,  # the interpreter's dot takes the bits of a bfloat16 for a whole number
            num_warps=blocks.warps, num_stages=blocks.stages,
        )  # fmt: skip


def hidden_gradient_triton(
    gradient: torch.Tensor, winner: torch.Tensor, hidden: torch.Tensor, starts: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """[tokens, width] of hidden's dtype: row i is the sum of gradient[t, v] * weight[v] where i is the winner.

    The entries that are not 0 are sorted by winner, stably, so that each token's program adds its own few rows.
    """
    result = torch.empty_like(hidden, memory_format=torch.contiguous_format)
    vocabulary, width = weight.shape
    block_width = min(256, triton.next_power_of_2(max(1, width)))
    bounds = starts.tolist()
    texts_at_once = max(1, ENTRIES_AT_ONCE // max(1, vocabulary))
    for first in range(0, len(gradient), texts_at_once):
        last = min(first + texts_at_once, len(gradient))
        of_group = gradient[first:last].view(-1)
        entries = of_group.nonzero().squeeze(1)
        tokens, order = winner[first:last].view(-1)[entries].sort(stable=True)
        every_token = torch.arange(bounds[first], bounds[last] + 1, device=tokens.device, dtype=tokens.dtype)
        _hidden_gradient_kernel[(bounds[last] - bounds[first], triton.cdiv(width, block_width))](
            of_group, entries[order], torch.searchsorted(tokens, every_token), weight, result[bounds[first] :],
            vocabulary, width, *weight.stride(), result.stride(0),
            BLOCK_ENTRIES=16, BLOCK_WIDTH=block_width, num_warps=4,
        )  # fmt: skip
    return result


def weight_gradient_triton(
    gradient: torch.Tensor, winner: torch.Tensor, hidden: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """[vocabulary, width] of weight's dtype: row v is the sum over texts of gradient[t, v] * hidden[winner[t, v]]."""
    result = torch.empty_like(weight, memory_format=torch.contiguous_format)
    vocabulary, width = weight.shape
    block_terms, block_width = 16, min(128, triton.next_power_of_2(max(1, width)))
    if result.numel():
        # one warp: whether a block is all 0 is then known without a barrier
        _weight_gradient_kernel[(triton.cdiv(vocabulary, block_terms), triton.cdiv(width, block_width))](
            gradient, winner, hidden, result,
            len(gradient), vocabulary, width, *hidden.stride(), result.stride(0),
            BLOCK_TERMS=block_terms, BLOCK_WIDTH=block_width, num_warps=1,
        )  # fmt: skip
    return result


@triton.jit
def _place_of_program(chunks, tiles, GROUP_CHUNKS: tl.constexpr):
    """(chunk, tile): neighbours in time are GROUP_CHUNKS chunks of one tile, then the next tile, for the L2 cache."""
    program = tl.program_id(0).to(tl.int64)
    first_chunk = program // (GROUP_CHUNKS * tiles) * GROUP_CHUNKS
    group = tl.minimum(chunks - first_chunk, GROUP_CHUNKS)
    within = program % (GROUP_CHUNKS * tiles)
    return first_chunk + within % group, within // group


@triton.jit
def _logits_tile(
    hidden, weight, tokens, terms, width, hidden_stride, hidden_step, weight_stride, weight_step,
    BLOCK_TERMS: tl.constexpr, BLOCK_TOKENS: tl.constexpr, BLOCK_WIDTH: tl.constexpr, PRECISION: tl.constexpr,
    WIDENED: tl.constexpr,
):  # fmt: skip
    """float32 [BLOCK_TERMS, BLOCK_TOKENS]; every token and term given must exist."""
    columns = tl.arange(0, BLOCK_WIDTH).to(tl.int64)
    left = weight + terms[:, None] * weight_stride + columns[None, :] * weight_step
    right = hidden + tokens[None, :] * hidden_stride + columns[:, None] * hidden_step
    logits = tl.zeros([BLOCK_TERMS, BLOCK_TOKENS], tl.float32)
    for first in range(0, width, BLOCK_WIDTH):
        of_terms = tl.load(left, mask=columns[None, :] < width - first, other=0.0)
        of_tokens = tl.load(right, mask=columns[:, None] < width - first, other=0.0)
        if WIDENED:
            of_terms, of_tokens = of_terms.to(tl.float32), of_tokens.to(tl.float32)
        logits = tl.dot(of_terms, of_tokens, logits, input_precision=PRECISION)
        left += BLOCK_WIDTH * weight_step
        right += BLOCK_WIDTH * hidden_step
    return logits


@triton.jit
def _larger_or_nan(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _pooled_head_kernel(
    hidden, starts, first_texts, weight, bias, pooled, winner,
    chunks, tiles, vocabulary, width, hidden_stride, hidden_step, weight_stride, weight_step, bias_step,
    BLOCK_TERMS: tl.constexpr, BLOCK_TOKENS: tl.constexpr, BLOCK_WIDTH: tl.constexpr, GROUP_CHUNKS: tl.constexpr,
    PRECISION: tl.constexpr, WIDENED: tl.constexpr,
):  # fmt: skip
    """One program pools BLOCK_TERMS terms of the texts that begin in one chunk of tokens."""
    chunk, tile = _place_of_program(chunks, tiles, GROUP_CHUNKS)
    terms = tile * BLOCK_TERMS + tl.arange(0, BLOCK_TERMS)
    in_vocabulary = terms < vocabulary
    offset = tl.zeros([BLOCK_TERMS], tl.float32)
    if bias is not None:
        offset = tl.load(bias + terms * bias_step, mask=in_vocabulary, other=0.0).to(tl.float32)
    text = tl.load(first_texts + chunk).to(tl.int64)
    begin = tl.load(starts + text).to(tl.int64)  # the first token that is not pooled yet
    end = tl.load(starts + tl.load(first_texts + chunk + 1)).to(tl.int64)
    position = tl.arange(0, BLOCK_TOKENS)
    best = tl.full([BLOCK_TERMS], float("-inf"), tl.float32)
    best_token = tl.zeros([BLOCK_TERMS], tl.int64) + begin
    for block in range(begin, end, BLOCK_TOKENS):
        # past the last token and the last term others are read again; they are left out below
        logits = _logits_tile(
            hidden, weight, tl.minimum(block + position, end - 1), tl.minimum(terms, vocabulary - 1),
            width, hidden_stride, hidden_step, weight_stride, weight_step,
            BLOCK_TERMS, BLOCK_TOKENS, BLOCK_WIDTH, PRECISION, WIDENED,
        )  # fmt: skip
        block_end = tl.minimum(block + BLOCK_TOKENS, end)
        while begin < block_end:  # for each text that has tokens here
            text_end = tl.load(starts + text + 1).to(tl.int64)
            stop = tl.minimum(text_end, block_end)
            low, high = (begin - block).to(tl.int32), (stop - block).to(tl.int32)
            inside = ((position >= low) & (position < high))[None, :]
            peak = tl.reduce(tl.where(inside, logits, float("-inf")), 1, _larger_or_nan)
            is_better = (peak > best) | (peak != peak)
            best = tl.where(is_better, peak, best)
            is_done = stop == text_end
            at = text * vocabulary + terms
            tl.store(pooled + at, best + offset, mask=in_vocabulary & is_done)
            if winner is not None:
                is_peak = inside & (logits == peak[:, None])
                found = tl.min(tl.where(is_peak, position[None, :], BLOCK_TOKENS), 1)
                found = tl.minimum(found, high - 1)  # nothing equals a NaN
                best_token = tl.where(is_better, block + found, best_token)
                tl.store(winner + at, best_token.to(tl.int32), mask=in_vocabulary & is_done)
                best_token = tl.where(is_done, text_end, best_token)
            best = tl.where(is_done, float("-inf"), best)
            text += is_done.to(tl.int64)
            begin = stop


@triton.jit
def _hidden_gradient_kernel(
    gradient, entries, token_entries, weight, result,
    vocabulary, width, weight_stride, weight_step, result_stride,
    BLOCK_ENTRIES: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
):  # fmt: skip
    """One program adds up BLOCK_WIDTH columns of one token: its entries of (text, term) times their rows of the weight."""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1).to(tl.int64) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)
    in_width = columns < width
    last = tl.load(token_entries + token + 1)
    total = tl.zeros([BLOCK_ENTRIES, BLOCK_WIDTH], tl.float32)
    for first in range(tl.load(token_entries + token), last, BLOCK_ENTRIES):
        number = first + tl.arange(0, BLOCK_ENTRIES)
        entry = tl.load(entries + number, mask=number < last, other=0)
        value = tl.load(gradient + entry, mask=number < last, other=0.0)
        rows = weight + (entry % vocabulary)[:, None] * weight_stride + columns[None, :] * weight_step
        row = tl.load(rows, mask=(number < last)[:, None] & in_width[None, :], other=0.0)
        total += value[:, None] * row.to(tl.float32)
    tl.store(result + token * result_stride + columns, tl.sum(total, 0).to(result.dtype.element_ty), mask=in_width)


@triton.jit
def _weight_gradient_kernel(
    gradient, winner, hidden, result,
    texts, vocabulary, width, hidden_stride, hidden_step, result_stride,
    BLOCK_TERMS: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
):  # fmt: skip
    """One program adds up BLOCK_WIDTH columns of BLOCK_TERMS terms over all texts; texts without a gradient here are passed over."""
    terms = tl.program_id(0).to(tl.int64) * BLOCK_TERMS + tl.arange(0, BLOCK_TERMS)
    columns = tl.program_id(1).to(tl.int64) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)
    in_vocabulary, in_width = terms < vocabulary, columns < width
    total = tl.zeros([BLOCK_TERMS, BLOCK_WIDTH], tl.float32)
    at = terms
    for _ in range(texts):
        value = tl.load(gradient + at, mask=in_vocabulary, other=0.0)
        is_active = value != 0
        if tl.max(is_active.to(tl.int32), 0) > 0:
            token = tl.load(winner + at, mask=is_active, other=0).to(tl.int64)
            rows = hidden + token[:, None] * hidden_stride + columns[None, :] * hidden_step
            row = tl.load(rows, mask=is_active[:, None] & in_width[None, :], other=0.0)
            total += value[:, None] * row.to(tl.float32)
        at += vocabulary
    rows = result + terms[:, None] * result_stride + columns[None, :]
    tl.store(rows, total.to(result.dtype.element_ty), mask=in_vocabulary[:, None] & in_width[None, :])
