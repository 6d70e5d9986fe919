"""How fast are linear layers here, PyTorch's and ours? GFLOP/s of each at the shapes of MiniLM and BERT, one JSON line.

python benchmarks/linear_rate.py
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import torch
from sparse_search import environment

from kernels.cpu.linear import linear

TOKENS = 2048
SHAPES = ((384, 1536), (1536, 384), (768, 3072), (3072, 768))  # inputs, outputs
REPEATS = 8


def seconds(call: Callable[[], object]) -> float:
    """Of the fastest call."""
    best = float("inf")
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return best


@torch.inference_mode()
def main() -> None:
    rates: dict[str, dict[str, int]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        for inputs, outputs in SHAPES:
            rows, weight = torch.randn(TOKENS, inputs, dtype=dtype), torch.randn(outputs, inputs, dtype=dtype)
            ours, operations = linear(weight), 2 * TOKENS * inputs * outputs
            rates[f"{inputs} to {outputs}, {str(dtype).removeprefix('torch.')}"] = {
                "pytorch": round(operations / seconds(lambda a=rows, w=weight: torch.nn.functional.linear(a, w)) / 1e9),
                "ours": round(operations / seconds(lambda a=rows, layer=ours: layer(a)) / 1e9),
            }
    print(json.dumps({"gflops": rates, "threads": torch.get_num_threads(), **environment()}))


if __name__ == "__main__":
    main()
