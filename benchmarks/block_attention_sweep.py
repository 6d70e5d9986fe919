"""Which blocks are fastest for each kernel of block attention on this GPU? One JSON line a choice, and the best of each kernel last.

    python benchmarks/block_attention_sweep.py --json OUT

Kernels run from a CUDA graph, so that only the device's time counts, over the shapes of block_attention_gpu.py; bfloat16. Every choice is first
compiled by several processes at once, which only fill Triton's cache. A choice that does not fit the device is left out.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from block_attention_gpu import HEADS, INSTRUCTION, LAST, Problem, make_problem
from pooled_head_gpu import environment
from protocol import record

from kernels.block_layout import PromptBlocks
from kernels.gpu import block_attention as module
from kernels.gpu import block_gradients
from kernels.gpu.block_attention import Blocks

SHAPES = (100, 80), (500, 160)
CHOICES = {  # rows, keys, warps, stages
    "forward": [(64, 128), (32, 64, 128), (4, 8), (2, 3, 4)],
    "queries": [(64, 128), (32, 64), (4, 8), (1, 2, 3)],
    "keys": [(32, 64, 128), (64, 128), (4, 8), (1, 2, 3)],
}


class Fixed:
    """Tables by layout alone: a graph is captured on a stream of its own, where nothing can be copied from the host."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make, self.made = make, {}

    def __call__(self, layout: Any, *sizes: int) -> Any:
        key = (id(layout.starts), *sizes)
        if key not in self.made:
            self.made[key] = self.make(layout, *sizes)
        return self.made[key]


def problems(heads: str) -> list[Problem]:
    shapes = [PromptBlocks(INSTRUCTION, [tokens] * count, LAST) for count, tokens in SHAPES]
    return [make_problem(blocks, HEADS[heads], "cuda") for blocks in shapes]


def calls(problem: Problem) -> dict[str, Callable[[], Any]]:
    """Each kernel alone, with what it needs computed before."""
    q, k, v, of_out = problem[2:]
    layout, scale = problem.layout, q.shape[2] ** -0.5
    out, lse = module.block_attention_triton(q, k, v, layout, scale)
    delta = block_gradients.delta_triton(out, of_out, torch.zeros_like(lse))
    return {
        "forward": lambda: module.block_attention_triton(q, k, v, layout, scale),
        "queries": lambda: block_gradients.query_gradient_triton(q, k, v, of_out, lse, delta, layout, scale),
        "keys": lambda: block_gradients.key_gradients_triton(q, k, v, of_out, lse, delta, layout, scale),
    }


def choices(columns: int, kernels: list[str]) -> Iterator[tuple[str, Blocks]]:
    for kernel in kernels:
        yield kernel, getattr(module.BLOCKS[True, columns], kernel)
        for rows, keys, warps, stages in itertools.product(*CHOICES[kernel]):
            yield kernel, Blocks(rows, keys, warps, stages)


def with_blocks(columns: int, kernel: str, blocks: Blocks, call: Callable[[], Any]) -> Any:
    before = module.BLOCKS[True, columns]
    module.BLOCKS[True, columns] = before._replace(**{kernel: blocks})
    try:
        return call()
    finally:
        module.BLOCKS[True, columns] = before


def compile_share(arguments: argparse.Namespace, share: int) -> None:
    problem = problems(arguments.heads)[0]
    columns, every = problem.q.shape[2], calls(problem)
    for number, (kernel, blocks) in enumerate(choices(columns, arguments.kernels)):
        if number % arguments.processes == share:
            try:
                with_blocks(columns, kernel, blocks, every[kernel])
            except Exception as error:  # told when it is measured
                print(kernel, blocks, type(error).__name__)


def measure(arguments: argparse.Namespace) -> None:
    from triton.testing import do_bench_cudagraph

    best: dict[str, tuple[float, Blocks]] = {}
    present: dict[str, list[float]] = {}
    shapes = problems(arguments.heads)
    columns, every = shapes[0].q.shape[2], [calls(problem) for problem in shapes]
    for kernel, blocks in choices(columns, arguments.kernels):
        try:
            ms = [
                with_blocks(
                    columns, kernel, blocks,
                    lambda of=of, kernel=kernel: (of[kernel](), do_bench_cudagraph(of[kernel], rep=15, return_mode="median"))[1],
                )
                for of in every
            ]  # fmt: skip
        except Exception as error:
            print(kernel, blocks, type(error).__name__, str(error)[:80])
            continue
        record(arguments.json, {"kernel": kernel, "heads": arguments.heads, **blocks._asdict(), "ms": ms})
        now = present.setdefault(kernel, ms)  # the blocks that are in use come first
        share = sum(a / b for a, b in zip(ms, now, strict=True)) / len(ms)
        if kernel not in best or share < best[kernel][0]:
            best[kernel] = share, blocks
    found = {kernel: {"share_of_present": share, **blocks._asdict()} for kernel, (share, blocks) in best.items()}
    record(arguments.json, {"kind": "best blocks", "heads": arguments.heads, "best": found, **environment("cuda")})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--heads", choices=HEADS, default="Mistral-7B")
    parser.add_argument("--kernels", nargs="+", choices=CHOICES, default=list(CHOICES))
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 1) - 2), help="that compile")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="lines are appended")
    parser.add_argument("--share", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    module.query_tiles_of = block_gradients.query_tiles_of = Fixed(module.query_tiles_of.make)
    block_gradients.key_tiles_of = Fixed(block_gradients.key_tiles_of.make)
    if arguments.share is not None:
        compile_share(arguments, arguments.share)
        return
    command = [sys.executable, *sys.argv]
    shares = [subprocess.Popen([*command, "--share", str(share)]) for share in range(arguments.processes)]
    for share in shares:
        share.wait()
    measure(arguments)


if __name__ == "__main__":
    main()
