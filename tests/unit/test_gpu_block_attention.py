"""Block attention's Triton kernels without a GPU: run by Triton's interpreter in a process of its own, and compiled for sm_90."""

import json
import os
import re
import subprocess
import sys

import block_attention_gpu as benchmark
import pytest
import torch
from blocks_for_tests import dense_attention, prompts
from conftest import ROOT

from kernels.block_layout import PromptBlocks

triton = pytest.importorskip("triton", reason="NOT RUN: the GPU kernels need Triton, which is not installed here")

from ahead_of_time import SHARED_MEMORY, compiled, recorded, spilled_bytes  # noqa: E402

from kernels.gpu import block_attention, block_gradients  # noqa: E402

MODULES = block_attention, block_gradients
# of 16-bit heads of 128 numbers: on an H100 these blocks took half the time of those before, which spilled nothing (docs/results.md)
SPILLED = {"_key_gradients_kernel": 96}
MATRIX_KERNELS = {"_forward_kernel", "_query_gradient_kernel", "_key_gradients_kernel"}


def test_the_kernels_pass_their_tests_on_the_interpreter():
    """In a process of its own, as Triton reads TRITON_INTERPRET when it is imported."""
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/gpu/test_block_attention.py", "-p", "no:cacheprovider"],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert re.search(r"\d\d passed", finished.stdout)
    assert "skipped" not in finished.stdout


# every entry of the table of blocks; a group of 4 is one tile of a descriptor, of 3 or 7 it is as many
COMPILED = [
    *[(dtype, size, group) for dtype in (torch.float32, torch.bfloat16) for size in (64, 128) for group in (1, 3, 4)],
    (torch.float32, 96, 8), (torch.float16, 96, 8), (torch.float16, 128, 7),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "size", "group"), COMPILED)
def test_compiled_for_sm_90_next_to_nothing_spills_and_shared_memory_suffices(
    dtype, size, group, monkeypatch, tmp_path
):
    if triton.knobs.runtime.interpret:
        pytest.skip("NOT RUN: TRITON_INTERPRET is set, so there is nothing to compile")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    launches = recorded(MODULES, monkeypatch)
    segments = prompts((110, [80] * 20, 70))  # long enough for pieces that are merged
    q, k = (torch.ones(segments.rows, heads, size, dtype=dtype) for heads in (2 * group, 2))
    layout = segments.layout()
    out, lse = block_attention.block_attention_triton(q, k, k, layout, 0.1)
    block_gradients.gradients_triton(q, k, k, out, lse, out, lse, layout, 0.1, (True, True, True))
    names = [kernel.fn.__name__ for kernel, _, _ in launches]
    assert [name for name in names if name != "_merge_kernel"] == [
        "_forward_kernel", "_delta_kernel", "_query_gradient_kernel", "_key_gradients_kernel",
    ]  # fmt: skip
    assert names.count("_merge_kernel") == 4  # out, dq, dk, dv
    for kernel, arguments, options in launches:
        result, report = compiled(kernel, arguments, options)
        is_measured = dtype != torch.float32 and size > 64
        most = SPILLED.get(kernel.fn.__name__, 0) if is_measured else 0
        assert spilled_bytes(report) <= most, (kernel.fn.__name__, report)
        assert result.metadata.shared <= SHARED_MEMORY
        if kernel.fn.__name__ in MATRIX_KERNELS:
            assert "cp.async.bulk.tensor" in result.asm["ptx"]  # tiles come by TMA
            if dtype != torch.float32:
                assert "wgmma.mma_async" in result.asm["ptx"]  # the matrix units of sm_90
                assert "mma.sync" not in result.asm["ptx"]


def test_every_kernel_is_among_those_compiled():
    kernels = {name for module in MODULES for name in vars(module) if name.endswith("_kernel")}
    assert kernels == {*MATRIX_KERNELS, "_delta_kernel", "_merge_kernel"}


@pytest.mark.skipif(triton.knobs.runtime.interpret, reason="NOT RUN: with TRITON_INTERPRET the CPU is a device")
def test_on_the_cpu_the_kernels_say_where_to_go():
    q = torch.ones(4, 2, 64)
    with pytest.raises(
        ValueError, match=r"are on cpu, cpu, .*: move all to one CUDA device, or use the backend 'cpu'\."
    ):
        block_attention.block_attention(q, q, q, prompts((4, [], 0)).layout())


# the benchmark

TINY = PromptBlocks(7, [20, 5, 31], 6)


def test_the_benchmark_counts_the_pairs_and_bytes_of_the_mask():
    assert benchmark.pairs(TINY) == prompts((7, [20, 5, 31], 6)).mask().sum()
    problem = benchmark.make_problem(TINY, (6, 2, 64), "cpu")
    tokens = 7 + 20 + 5 + 31 + 6
    # 2 bytes a number: q, out, k, v, and 4 of each log-sum-exp; twice the tensors for the gradients
    assert benchmark.work(problem, backward=False) == (
        4 * 6 * 64 * benchmark.pairs(TINY), 2 * 64 * tokens * (6 + 6 + 2 + 2) + 4 * 6 * tokens,
    )  # fmt: skip
    operations, num_bytes = benchmark.work(problem, backward=True)
    assert (operations, num_bytes) == (10 * 6 * 64 * benchmark.pairs(TINY), 2 * 64 * tokens * 32 + 4 * 6 * tokens)
    assert benchmark.floor_ms(problem, True, 1e9, 1e-9) == pytest.approx(operations)  # 1e-9 TFLOPS are 1000 a second
    assert benchmark.floor_ms(problem, True, 1e-9, 1e9) == pytest.approx(num_bytes)


def test_the_benchmarks_ranges_and_blocks_are_those_of_the_mask():
    mask = prompts((7, [20, 5, 31], 6)).mask()
    for token, line in enumerate(mask):
        assert [key for keys in benchmark.seen_by(TINY, token) for key in keys] == line.nonzero()[:, 0].tolist()
    for key, line in enumerate(mask.T):
        assert [row for rows in benchmark.seeing(TINY, key) for row in rows] == line.nonzero()[:, 0].tolist()
    some, every = benchmark.flex_blocks(TINY, side=8)
    padded = torch.nn.functional.pad(mask, (0, 3, 0, 3)).reshape(9, 8, 9, 8)
    assert torch.equal(some, padded.any(3).any(1))
    assert torch.equal(every, padded.all(3).all(1))


def test_the_mask_that_flex_attention_gets_is_that_of_the_blocks():
    blocks = PromptBlocks(140, [200, 60, 150], 70)
    mask = prompts((140, [200, 60, 150], 70)).mask()
    flex = benchmark.flex_mask(blocks, "cpu")
    rows, keys = torch.arange(len(mask))[:, None], torch.arange(len(mask))[None, :]
    assert torch.equal(flex.mask_mod(0, 0, rows, keys), mask)
    some, every = benchmark.flex_blocks(blocks)
    assert torch.equal(flex.to_dense()[0, 0].bool(), some)
    assert every.any()
    for block in range(len(every)):  # those that flex does not ask mask_mod about
        full = flex.full_kv_indices[0, 0, block, : flex.full_kv_num_blocks[0, 0, block]]
        assert full.tolist() == every[block].nonzero()[:, 0].tolist()


def test_three_calls_are_the_attention_of_the_blocks():
    problem = benchmark.make_problem(TINY, (4, 2, 64), "cpu")
    q, k, v = (side.double() for side in problem[2:5])
    problem = problem._replace(q=q, k=k, v=v)

    def attend(q, k, v, queries, keys, causal):
        """Sequence by sequence, by the definition."""
        found = []
        for number in range(len(queries.starts) - 1):
            (a, b), (c, d) = queries.starts[number : number + 2], keys.starts[number : number + 2]
            assert b - a <= queries.longest
            mask = torch.ones(b - a, d - c, dtype=torch.bool)
            found.append(dense_attention(q[a:b], k[c:d], v[c:d], mask.tril() if causal else mask, 0.125))
        return tuple(torch.cat(sides) for sides in zip(*found, strict=True))

    expected, _ = dense_attention(q, k, v, prompts((7, [20, 5, 31], 6)).mask(), 0.125)
    torch.testing.assert_close(benchmark.three_calls(attend, problem)(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("errors", [{"out": 0.02}, {"out": 0.0, "dk": 0.1}, {"lse": float("nan")}])
def test_wrong_results_are_not_timed(errors):
    benchmark.refuse_wrong_results({"out": 0.009, "lse": 0.0, "dq": 0.009})
    with pytest.raises(SystemExit, match=r"of block attention is off by .* nothing was timed"):
        benchmark.refuse_wrong_results(errors)


def run_benchmark(json_file, *arguments):
    command = [sys.executable, "benchmarks/block_attention_gpu.py", "--json", json_file, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


def test_the_benchmark_runs_on_the_interpreter_and_finds_the_kernels_right(tmp_path):
    finished = run_benchmark(tmp_path / "out.json", "--interpret", "--bandwidth-tbs", "1e-6", "--peak-tflops", "1")
    assert finished.returncode == 0, finished.stderr
    lines = [json.loads(line) for line in (tmp_path / "out.json").read_text().splitlines()]
    assert [(line["contestant"], line["step"]) for line in lines] == [("blocks", "forward"), ("blocks", "backward")]
    for line in lines:
        assert "interpreted" in line["machine"]
        assert line["share_of_floor"] == pytest.approx(line["floor_ms"] / line["ms"])
        assert line["errors"]["lse"] < 1e-6


@pytest.mark.skipif(torch.cuda.is_available(), reason="NOT RUN: this machine has a GPU")
def test_without_a_gpu_the_benchmark_says_so(tmp_path):
    finished = run_benchmark(tmp_path / "out.json")
    assert finished.returncode == 1
    assert finished.stderr.strip().splitlines() == [
        "This machine has no CUDA device that torch can use: run on one that has, or give --interpret."
    ]
    assert not (tmp_path / "out.json").exists()
