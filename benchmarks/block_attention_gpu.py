"""How fast is block attention on a GPU, beside causal flash attention, FlexAttention and three calls? One JSON line a measurement.

    python benchmarks/block_attention_gpu.py --bandwidth-tbs 3.35 --peak-tflops 990 --json OUT
    python benchmarks/block_attention_gpu.py --interpret --json OUT                  no GPU: tiny, for its correctness alone

One layer over one prompt in bfloat16: an instruction of 110 tokens, documents of one length, a last block of 70. Contestants: `blocks`
(kernels/gpu/block_attention.py), `causal` (flash attention of the whole prompt, every token on all before it), `flex` (FlexAttention,
compiled, with the mask of the blocks made without a table of tokens by tokens) and `varlen` (flash attention of packed sequences in
three calls, merged by their log-sum-exp; forward only, as its log-sum-exp has no gradient). Before anything is timed, a sample of
rows and keys of `blocks` is compared with float64. Times are medians of CUDA events with a cold L2 cache; `backward` is the backward
pass alone. `floor_ms` is the time that the numbers read and written once, or the multiplications and additions of the pairs that
the mask allows, take at the given rates; `share_of_floor` is that over the time, and `times_blocks` the time over that of `blocks`.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pooled_head_gpu import environment, error_of, median_ms, peak_bytes
from protocol import record

from kernels.block_layout import BlockLayout, PromptBlocks, prompt_layout

INSTRUCTION, LAST = 110, 70  # tokens
SHAPES = (100, 80), (500, 160), (100, 384)  # documents, tokens of each
HEADS = {"Mistral-7B": (32, 8, 128), "SmolLM2-135M": (9, 3, 64)}  # heads, heads of the keys, size
FLEX_BLOCK = 128  # tokens of the sides of FlexAttention's blocks
TOLERANCE = {
    "out": 1e-2,
    "lse": 1e-4,
    "dq": 2e-2,
    "dk": 2e-2,
    "dv": 2e-2,
}  # of the largest number of a sample; bfloat16 has 8 bits


class Problem(NamedTuple):
    blocks: PromptBlocks
    layout: BlockLayout
    q: torch.Tensor  # [tokens, heads, size]
    k: torch.Tensor  # [tokens, kv_heads, size]
    v: torch.Tensor
    of_out: torch.Tensor  # the gradient, like q


def make_problem(blocks: PromptBlocks, heads: tuple[int, int, int], device: str) -> Problem:
    generator = torch.Generator(device).manual_seed(0)
    tokens, (num_heads, kv_heads, size) = tokens_of(blocks), heads

    def random(count: int) -> torch.Tensor:
        return torch.randn(tokens, count, size, generator=generator, device=device).to(torch.bfloat16)

    sides = random(num_heads), random(kv_heads), random(kv_heads), random(num_heads)
    return Problem(blocks, prompt_layout([blocks], device), *sides)


def tokens_of(blocks: PromptBlocks) -> int:
    return blocks.instruction + sum(blocks.documents) + blocks.last


def pairs(blocks: PromptBlocks) -> int:
    """Of a query and a key that it sees."""
    within = sum(length * (length + 1) // 2 for length in (blocks.instruction, *blocks.documents, blocks.last))
    before_last = blocks.instruction + sum(blocks.documents)
    return within + blocks.instruction * sum(blocks.documents) + blocks.last * before_last


def work(problem: Problem, backward: bool) -> tuple[int, int]:
    """(multiplications and additions, bytes): two products of matrices forward, five backward; every tensor read or written once."""
    tokens, heads, size = problem.q.shape
    kv_heads, width = problem.k.shape[1], problem.q.element_size()
    operations = (10 if backward else 4) * heads * size * pairs(problem.blocks)
    sides = (4 * heads + 4 * kv_heads) if backward else (2 * heads + 2 * kv_heads)  # q, out, dout, dq; k, v, dk, dv
    return operations, tokens * (sides * size * width + 4 * heads)


def floor_ms(problem: Problem, backward: bool, bandwidth_tbs: float, peak_tflops: float) -> float:
    operations, num_bytes = work(problem, backward)
    return max(num_bytes / bandwidth_tbs, operations / peak_tflops) / 1e9


def seen_by(blocks: PromptBlocks, token: int) -> list[range]:
    """The ranges of keys that a token sees."""
    if token < blocks.instruction:
        return [range(token + 1)]
    start = blocks.instruction
    for length in blocks.documents:
        if token < start + length:
            return [range(blocks.instruction), range(start, token + 1)]
        start += length
    return [range(token + 1)]


def seeing(blocks: PromptBlocks, key: int) -> list[range]:
    """The ranges of tokens that see a key."""
    tokens, start = tokens_of(blocks), blocks.instruction
    if key < start:
        return [range(key, tokens)]
    for length in blocks.documents:
        if key < start + length:
            return [range(key, start + length), range(tokens - blocks.last, tokens)]
        start += length
    return [range(key, tokens)]


def gathered(ranges: list[range], *sides: torch.Tensor) -> list[torch.Tensor]:
    """In float64."""
    rows = torch.tensor([row for numbers in ranges for row in numbers], device=sides[0].device)
    return [side[rows].double() for side in sides]


def largest_errors(problem: Problem, sample: int = 6) -> dict[str, float]:
    """Of results and gradients on a few tokens, against float64, as shares of the largest number of them all."""
    from kernels.gpu.block_attention import block_attention

    sides = [side.detach().clone().requires_grad_() for side in problem[2:5]]
    out, lse = block_attention(*sides, problem.layout)
    gradients = torch.autograd.grad(out, sides, problem.of_out)
    q, k, v, of_out = (side.detach() for side in problem[2:])
    group, scale = q.shape[1] // k.shape[1], q.shape[2] ** -0.5
    tokens, generator = len(q), torch.Generator().manual_seed(2)
    chosen = [0, tokens - 1, *torch.randint(tokens, (sample,), generator=generator).tolist()]
    # of all tokens together: what is 0, as the gradient of a query that sees one key, has no share of its own
    found: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {name: [] for name in TOLERANCE}
    for token in chosen:
        keys, values = (side.repeat_interleave(group, 1) for side in gathered(seen_by(problem.blocks, token), k, v))
        logits = torch.einsum("hd,khd->hk", q[token].double(), keys) * scale
        weights = logits.softmax(1)
        of_weights = torch.einsum("hd,khd->hk", of_out[token].double(), values)
        of_logits = weights * (of_weights - (weights * of_weights).sum(1, keepdim=True))
        found["out"].append((out.detach()[token], torch.einsum("hk,khd->hd", weights, values)))
        found["lse"].append((lse.detach()[token], logits.logsumexp(1)))
        found["dq"].append((gradients[0][token], torch.einsum("hk,khd->hd", of_logits, keys) * scale))
    for key in chosen:
        queries, of_rows, rows, sums = gathered(seeing(problem.blocks, key), q, of_out, out.detach(), lse.detach())
        of_keys, of_values = [], []
        for head in range(k.shape[1]):
            of_group = slice(head * group, (head + 1) * group)
            weights = (queries[:, of_group] @ k[key, head].double() * scale - sums[:, of_group]).exp()
            delta = (of_rows[:, of_group] * rows[:, of_group]).sum(2)
            of_logits = weights * (of_rows[:, of_group] @ v[key, head].double() - delta)
            of_keys.append(torch.einsum("tg,tgd->d", of_logits, queries[:, of_group]) * scale)
            of_values.append(torch.einsum("tg,tgd->d", weights, of_rows[:, of_group]))
        found["dk"].append((gradients[1][key], torch.stack(of_keys)))
        found["dv"].append((gradients[2][key], torch.stack(of_values)))
    return {name: error_of(*map(torch.stack, zip(*pairs, strict=True))) for name, pairs in found.items()}


def refuse_wrong_results(errors: dict[str, float]) -> None:
    for name, error in errors.items():
        if not error <= TOLERANCE[name]:
            sys.exit(
                f"{name} of block attention is off by {error:.2g} of its largest number, more than {TOLERANCE[name]}: nothing was timed."
            )


def flex_blocks(blocks: PromptBlocks, side: int = FLEX_BLOCK) -> tuple[torch.Tensor, torch.Tensor]:
    """(any, all): bool [blocks of queries, blocks of keys], whether some or all pairs of a block are allowed. Nothing of tokens by tokens
    is made, but one block of rows by blocks of keys."""
    tokens = tokens_of(blocks)
    count = -(-tokens // side)
    edges = torch.arange(count) * side
    some, every = torch.zeros(count, count, dtype=torch.bool), torch.zeros(count, count, dtype=torch.bool)
    for block in range(count):
        allowed = torch.zeros(count, dtype=torch.int64)
        rows = range(block * side, min((block + 1) * side, tokens))
        for row in rows:
            for keys in seen_by(blocks, row):
                allowed += (keys.stop - edges).clamp(0, side) - (keys.start - edges).clamp(0, side)
        some[block], every[block] = allowed > 0, allowed == side * side
    return some, every


def flex_mask(blocks: PromptBlocks, device: str) -> Any:
    """FlexAttention's BlockMask of a prompt."""
    from torch.nn.attention.flex_attention import BlockMask

    tokens, before_last = tokens_of(blocks), tokens_of(blocks) - blocks.last
    lengths = torch.tensor([blocks.instruction, *blocks.documents, blocks.last])
    segment = torch.repeat_interleave(torch.arange(len(lengths)), lengths).to(device)

    def allowed(batch: Any, head: Any, row: Any, key: Any) -> Any:
        sees = (key < blocks.instruction) | (segment[row] == segment[key]) | (row >= before_last)
        return (key <= row) & sees

    some, every = flex_blocks(blocks)
    tables = []
    for chosen in (some & ~every, every):
        numbers = chosen.sum(1, dtype=torch.int32)
        places = chosen.to(torch.int8).argsort(dim=1, descending=True, stable=True).to(torch.int32)
        tables += [numbers[None, None].to(device), places[None, None].to(device)]
    return BlockMask.from_kv_blocks(*tables, BLOCK_SIZE=FLEX_BLOCK, mask_mod=allowed, seq_lengths=(tokens, tokens))


class Packed(NamedTuple):
    """Sequences end to end, as varlen_attn wants them described."""

    starts: torch.Tensor  # int32 [sequences + 1]
    longest: int

    @classmethod
    def of(cls, lengths: list[int], device: str) -> Packed:
        starts = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)
        return cls(starts, max(lengths))


Attend = Callable[
    ..., tuple[torch.Tensor, torch.Tensor]
]  # q, k, v, the queries Packed, the keys, causal -> out, lse [tokens, heads]


def three_calls(attend: Attend, problem: Problem) -> Callable[[], torch.Tensor]:
    """Every segment on itself, the documents on the instruction, the last block on all before it; merged by log-sum-exp."""
    (q, k, v), blocks, device = problem[2:5], problem.blocks, str(problem.q.device)
    first, before_last = blocks.instruction, len(q) - blocks.last
    segments = Packed.of([first, *blocks.documents, blocks.last], device)
    documents, instruction, last, before = (
        Packed.of([length], device) for length in (before_last - first, first, blocks.last, before_last)
    )

    def call() -> torch.Tensor:
        own, own_lse = attend(q, k, v, segments, segments, True)
        of_documents = attend(q[first:before_last], k[:first], v[:first], documents, instruction, False)
        of_last = attend(q[before_last:], k[:before_last], v[:before_last], last, before, False)
        parts = [own[:first]]
        for rows, (out, lse) in ((slice(first, before_last), of_documents), (slice(before_last, None), of_last)):
            parts.append(merged(own[rows], own_lse[rows], out, lse))
        return torch.cat(parts)

    return call


def merged(out: torch.Tensor, lse: torch.Tensor, other: torch.Tensor, other_lse: torch.Tensor) -> torch.Tensor:
    share = torch.sigmoid(lse - other_lse)[:, :, None]
    return (out.float() * share + other.float() * (1 - share)).to(out.dtype)


def varlen(q: Any, k: Any, v: Any, queries: Packed, keys: Packed, causal: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """An `Attend` by torch's varlen_attn."""
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    from retrieval.encoders.ragged_model import keywords_of

    grouped = {"enable_gqa": True} if "enable_gqa" in keywords_of(varlen_attn) else {}  # PyTorch 2.11 needs no telling
    out, lse = varlen_attn(
        q, k, v, queries.starts, keys.starts, queries.longest, keys.longest,
        return_aux=AuxRequest(lse=True), window_size=(-1, 0) if causal else (-1, -1), **grouped,
    )  # fmt: skip
    return out, lse if lse.shape == q.shape[:2] else lse.T


def contestants(problem: Problem, interpreted: bool) -> Iterator[tuple[str, Callable[[], torch.Tensor], bool]]:
    """(name, forward, whether it has gradients)"""
    from kernels.gpu.block_attention import block_attention

    q, k, v = problem[2:5]
    yield "blocks", lambda: block_attention(q, k, v, problem.layout)[0], True
    if interpreted:
        return
    batched = [side.transpose(0, 1)[None] for side in (q, k, v)]
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.attention.flex_attention import flex_attention

    def causal() -> torch.Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return torch.nn.functional.scaled_dot_product_attention(*batched, is_causal=True, enable_gqa=True)[
                0
            ].transpose(0, 1)

    yield "causal", causal, True
    torch.compiler.reset()  # else a few shapes later it gives up
    compiled, mask = torch.compile(flex_attention, dynamic=False), flex_mask(problem.blocks, "cuda")
    yield "flex", lambda: compiled(*batched, block_mask=mask, enable_gqa=True)[0].transpose(0, 1), True
    yield "varlen", three_calls(varlen, problem), False


def measured(
    name: str, forward: Callable[[], torch.Tensor], problem: Problem, backward: bool, interpreted: bool
) -> dict[str, Any]:
    """{"ms", "peak_bytes"}, or why there is none of a contestant other than block attention."""
    inputs = list(problem[2:5])
    for side in inputs:
        side.requires_grad_(backward)
    try:
        out = forward()  # compiles
        call = (lambda: torch.autograd.grad(out, inputs, problem.of_out, retain_graph=True)) if backward else forward
        return {"ms": median_ms(call, interpreted), "peak_bytes": peak_bytes(call, interpreted)}
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return {"out_of_memory": True}
    except (RuntimeError, NotImplementedError) as error:  # a contestant that this version or card does not have
        if name == "blocks":
            raise
        return {"failed": str(error).splitlines()[0][:200]}


def compare(arguments: argparse.Namespace, facts: dict[str, Any], problem: Problem) -> None:
    """Every contestant, forward and backward."""
    ours: dict[str, float] = {}
    for name, forward, has_gradient in contestants(problem, arguments.interpret):
        for step in ("forward", "backward") if has_gradient else ("forward",):
            found = measured(name, forward, problem, step == "backward", arguments.interpret)
            if "ms" in found:
                ours.setdefault(step, found["ms"])  # block attention is the first
                found["times_blocks"] = found["ms"] / ours[step]
                if arguments.bandwidth_tbs and arguments.peak_tflops:
                    floor = floor_ms(problem, step == "backward", arguments.bandwidth_tbs, arguments.peak_tflops)
                    found |= {"floor_ms": floor, "share_of_floor": floor / found["ms"]}
            record(arguments.json, {"contestant": name, "step": step, **facts, **found})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument(
        "--bandwidth-tbs", type=float, help="of the card's memory, in 10^12 bytes a second, for the floor"
    )
    parser.add_argument("--peak-tflops", type=float, help="of the card in dense bfloat16, for the floor")
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument("--interpret", action="store_true", help="run tiny sizes on Triton's interpreter")
    arguments = parser.parse_args()
    if arguments.interpret:
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    elif not torch.cuda.is_available():
        sys.exit("This machine has no CUDA device that torch can use: run on one that has, or give --interpret.")
    device = "cpu" if arguments.interpret else "cuda"
    prompts = [PromptBlocks(INSTRUCTION, [length] * documents, LAST) for documents, length in SHAPES]
    heads_of = {name: HEADS[name] for name in arguments.heads}
    if arguments.interpret:
        prompts, heads_of = [PromptBlocks(7, [20, 5, 31], 6)], {"tiny": (2, 1, 64)}
    for (name, heads), blocks in itertools.product(heads_of.items(), prompts):
        problem = make_problem(blocks, heads, device)
        errors = largest_errors(problem)
        refuse_wrong_results(errors)
        facts = {
            "model": name,
            "heads": heads,
            "documents": len(blocks.documents),
            "document_tokens": blocks.documents[0],
        }
        compare(arguments, {**facts, "tokens": tokens_of(blocks), "errors": errors, **environment(device)}, problem)


if __name__ == "__main__":
    main()
