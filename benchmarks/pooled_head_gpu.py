"""How fast is the pooled head on a GPU, and in how much memory, beside the whole table of logits? One JSON line a measurement.

    python benchmarks/pooled_head_gpu.py --peak-tflops 990 --json OUT
    python benchmarks/pooled_head_gpu.py --peak-tflops 990 --json OUT --sweep      which blocks are fastest, forward only
    python benchmarks/pooled_head_gpu.py --interpret --json OUT                    no GPU: tiny, for its correctness alone

Texts of 128 to 256 tokens in bfloat16. Contestants: `fused` (kernels/gpu/pooled_head.py), `naive` (padded hidden @ weight.T,
then the maximum) and `compiled` (torch.compile of naive). Before anything is timed a sample of the fused results is
compared with float64. Times are medians of CUDA events with a cold L2 cache. `tflops` counts the multiplications and
additions that the forward needs for the real tokens, in every line, so that more is always faster; `share_of_peak`
is of the forward. `gradient_density` is the share of (text, term) pairs whose gradient is not 0; None is forward only.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from protocol import record

SHAPES = {"MiniLM": (384, 30_522), "BERT-base": (768, 30_522), "decoder": (2_048, 151_936)}  # width, vocabulary
TINY_SHAPES = {"tiny": (24, 50)}
SHORTEST, LONGEST = 128, 256  # tokens of a text
TOLERANCE = 1e-3  # of the largest value: float32 sums of bfloat16 products; gradients are rounded to bfloat16
ROUNDED_TOLERANCE = 1e-2


class Problem(NamedTuple):
    hidden: torch.Tensor  # [tokens, width]
    starts: torch.Tensor  # int64 [texts + 1], on the CPU
    weight: torch.Tensor  # [vocabulary, width]
    bias: torch.Tensor  # [vocabulary]
    padded: torch.Tensor  # [texts, longest, width], what naive takes in place of hidden
    is_padding: torch.Tensor  # bool [texts, longest]


def make_problem(lengths: list[int], width: int, vocabulary: int, device: str) -> Problem:
    """Random numbers whose logits have a standard deviation of about 1."""
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device).to(torch.bfloat16)

    hidden, weight, bias = random(sum(lengths), width), random(vocabulary, width) / width**0.5, random(vocabulary)
    padded = torch.nn.utils.rnn.pad_sequence(list(hidden.split(lengths)), batch_first=True)
    is_padding = torch.arange(max(lengths))[None, :] >= torch.tensor(lengths)[:, None]
    starts = torch.tensor([0, *itertools.accumulate(lengths)])
    return Problem(hidden, starts, weight, bias, padded, is_padding.to(device))


def draw_lengths(texts: int, shortest: int, longest: int) -> list[int]:
    return torch.randint(shortest, longest + 1, (texts,), generator=torch.Generator().manual_seed(0)).tolist()


def naive(padded: torch.Tensor, is_padding: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The whole table of logits, then the maximum over each text's tokens: [texts, vocabulary]."""
    logits = (padded @ weight.T).masked_fill(is_padding[:, :, None], float("-inf"))
    return logits.amax(1) + bias


def flops(tokens: int, width: int, vocabulary: int) -> int:
    """Multiplications and additions of the forward."""
    return 2 * tokens * width * vocabulary


def sparse_gradient(texts: int, vocabulary: int, density: float, device: str) -> torch.Tensor:
    generator = torch.Generator(device).manual_seed(1)
    values = torch.randn(texts, vocabulary, generator=generator, device=device)
    return values * (torch.rand(texts, vocabulary, generator=generator, device=device) < density)


def largest_errors(problem: Problem, density: float, sample: int = 8) -> dict[str, float]:
    """Of the fused results on a few texts, terms and tokens, against float64, as shares of the largest value there."""
    from kernels.gpu.pooled_head import pooled_head, pooled_head_max

    hidden, starts, weight, bias = problem[:4]
    pooled, winner = pooled_head(hidden, starts, weight, bias)
    gradient = sparse_gradient(*pooled.shape, density, str(hidden.device))
    inputs = [tensor.clone().requires_grad_() for tensor in (hidden, weight)]
    of_hidden, of_weight = torch.autograd.grad(pooled_head_max(inputs[0], starts, inputs[1], bias), inputs, gradient)
    generator = torch.Generator().manual_seed(2)
    texts, terms, tokens = (
        torch.randint(count, (sample,), generator=generator).tolist() for count in (*pooled.shape, len(hidden))
    )
    errors: dict[str, list[float]] = {"pooled": [], "winner": [], "of_hidden": [], "of_weight": []}
    for text in texts:
        begin, end = starts[text : text + 2].tolist()
        logits = hidden[begin:end].double() @ weight.double().T
        exact, of_winner = logits.amax(0), logits.gather(0, winner[text][None].long() - begin)[0]
        errors["pooled"].append(error_of(pooled[text], exact + bias.double()))
        errors["winner"].append(error_of(of_winner, exact))
    for token in tokens:
        exact = torch.where(winner == token, gradient, 0.0).double().sum(0) @ weight.double()
        errors["of_hidden"].append(error_of(of_hidden[token], exact))
    for term in terms:
        exact = gradient[:, term].double() @ hidden[winner[:, term].long()].double()
        errors["of_weight"].append(error_of(of_weight[term], exact))
    return {name: max(values) for name, values in errors.items()}


def error_of(actual: torch.Tensor, exact: torch.Tensor) -> float:
    """NaN where anything is NaN."""
    return float((actual.double() - exact).abs().max() / exact.abs().max().clamp(min=1e-6))


def refuse_wrong_results(errors: dict[str, float]) -> None:
    for name, error in errors.items():
        limit = ROUNDED_TOLERANCE if name.startswith("of_") else TOLERANCE
        if not error <= limit:
            sys.exit(
                f"{name} of the fused head is off by {error:.2g} of its largest value, more than {limit}: nothing was timed."
            )


def contestants(
    problem: Problem, interpreted: bool
) -> Iterator[tuple[str, Callable[[], torch.Tensor], list[torch.Tensor]]]:
    """(name, forward, the tensors it has gradients in)"""
    from kernels.gpu.pooled_head import pooled_head_max

    hidden, starts, weight, bias, padded, is_padding = problem
    yield "fused", lambda: pooled_head_max(hidden, starts, weight, bias), [hidden, weight, bias]
    yield "naive", lambda: naive(padded, is_padding, weight, bias), [padded, weight, bias]
    if not interpreted:
        torch.compiler.reset()  # else a few shapes later it gives up and runs naive as it is
        compiled = torch.compile(naive, dynamic=False)
        yield "compiled", lambda: compiled(padded, is_padding, weight, bias), [padded, weight, bias]


def median_ms(call: Callable[[], Any], interpreted: bool) -> float:
    if interpreted:
        started = time.perf_counter()
        call()
        return (time.perf_counter() - started) * 1e3
    from triton.testing import do_bench

    return float(do_bench(call, warmup=100, rep=300, return_mode="median"))


def peak_bytes(call: Callable[[], Any], interpreted: bool) -> int | None:
    """Of the device's memory, beyond what was taken before the call."""
    if interpreted:
        return None
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    return torch.cuda.max_memory_allocated() - before


def measured(
    forward: Callable[[], torch.Tensor], inputs: list[torch.Tensor], gradient: torch.Tensor | None, interpreted: bool
) -> dict[str, Any]:
    """{"ms", "peak_bytes"}, or {"out_of_memory"}; without a gradient the forward alone."""
    for tensor in inputs:
        tensor.requires_grad_(gradient is not None)

    def call() -> None:
        pooled = forward()
        if gradient is not None:
            torch.autograd.grad(pooled, inputs, gradient.to(pooled.dtype))

    try:
        call()  # compiles
        return {"ms": median_ms(call, interpreted), "peak_bytes": peak_bytes(call, interpreted)}
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return {"out_of_memory": True}


def speed(ms: float, work: int, peak_tflops: float | None) -> dict[str, float]:
    tflops = work / ms / 1e9
    return {"tflops": tflops} if peak_tflops is None else {"tflops": tflops, "share_of_peak": tflops / peak_tflops}


def compare(arguments: argparse.Namespace, names: dict[str, Any], problem: Problem) -> None:
    """Every contestant, forward and with each density of gradient."""
    work = flops(*problem.hidden.shape, len(problem.weight))
    for density in [None, *arguments.gradient_density]:
        shape = len(problem.starts) - 1, len(problem.weight)
        gradient = None if density is None else sparse_gradient(*shape, density, str(problem.hidden.device))
        for contestant, forward, inputs in contestants(problem, arguments.interpret):
            facts = measured(forward, inputs, gradient, arguments.interpret)
            if "ms" in facts:
                facts |= speed(facts["ms"], work, arguments.peak_tflops)
            record(arguments.json, {"contestant": contestant, **names, "gradient_density": density, **facts})


def sweep(arguments: argparse.Namespace, names: dict[str, Any], problem: Problem) -> None:
    """The forward for each choice of blocks and chunks that fits the device."""
    from triton.runtime.errors import OutOfResources

    from kernels.gpu.pooled_head import Blocks, pooled_head_triton

    work = flops(*problem.hidden.shape, len(problem.weight))
    sizes = [(256, 128, 8), (256, 64, 8), (128, 256, 8), (128, 128, 8), (128, 128, 4), (128, 64, 4)]
    if arguments.interpret:
        sizes = [(32, 16, 4)]
    for (terms, tokens, warps), stages, chunk in itertools.product(sizes, (3, 4), (512, 1024, 2048)):
        blocks = Blocks(terms, tokens, 16 if arguments.interpret else 64, warps, stages)
        call = lambda b=blocks, c=chunk: pooled_head_triton(*problem[:4], blocks=b, chunk_tokens=c)  # noqa: E731
        try:
            ms = median_ms(call, arguments.interpret)
        except OutOfResources:
            continue
        facts = {"ms": ms, **speed(ms, work, arguments.peak_tflops)}
        record(arguments.json, {"contestant": "fused", **names, **blocks._asdict(), "chunk_tokens": chunk, **facts})


def environment(device: str) -> dict[str, Any]:
    import triton

    try:
        asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
        commit = asked.stdout.strip()
    except FileNotFoundError:
        commit = ""
    machine = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, interpreted"
    versions = {"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__}
    return {"commit": commit, "machine": machine, **versions, "seed": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--peak-tflops", type=float, help="of the chip in dense bfloat16, for share_of_peak")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--texts", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--gradient-density", type=float, nargs="*", default=[0.01, 0.5])
    parser.add_argument("--sweep", action="store_true", help="try blocks instead of comparing contestants")
    parser.add_argument("--interpret", action="store_true", help="run tiny sizes on Triton's interpreter")
    arguments = parser.parse_args()
    if arguments.interpret:
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    elif not torch.cuda.is_available():
        sys.exit("This machine has no CUDA device that torch can use: run on one that has, or give --interpret.")
    device = "cpu" if arguments.interpret else "cuda"
    shapes = TINY_SHAPES if arguments.interpret else {name: SHAPES[name] for name in arguments.shapes}
    for (name, (width, vocabulary)), texts in itertools.product(shapes.items(), arguments.texts):
        lengths = draw_lengths(*((3, 2, 9) if arguments.interpret else (texts, SHORTEST, LONGEST)))
        problem = make_problem(lengths, width, vocabulary, device)
        errors = largest_errors(problem, density=0.1)
        refuse_wrong_results(errors)
        names = {"shape": name, "width": width, "vocabulary": vocabulary, "texts": len(lengths), "tokens": sum(lengths)}
        facts = {**names, "errors": errors, **environment(device)}
        (sweep if arguments.sweep else compare)(arguments, facts, problem)


if __name__ == "__main__":
    main()
