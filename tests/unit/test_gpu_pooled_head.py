"""The Triton kernels without a GPU: run by Triton's interpreter in a process of its own, and compiled for sm_90 ahead of time."""

import json
import os
import re
import subprocess
import sys

import pooled_head_gpu
import pytest
import torch
from conftest import ROOT

triton = pytest.importorskip("triton", reason="NOT RUN: the GPU kernels need Triton, which is not installed here")

from ahead_of_time import NO_SPILLS, SHARED_MEMORY, compiled, recorded  # noqa: E402

from kernels.gpu import pooled_head, summed_head  # noqa: E402


def test_the_kernels_pass_their_tests_on_the_interpreter():
    """In a process of its own, as Triton reads TRITON_INTERPRET when it is imported."""
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/gpu", "--ignore-glob=*/test_block_attention.py", "-p", "no:cacheprovider"],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert re.search(r"\d\d passed", finished.stdout)
    assert "skipped" not in finished.stdout


# ahead of time


def tensors(dtype, width, step=1, tokens=256, vocabulary=512):
    """(hidden, starts, weight, bias) whose every `step`th column counts."""
    hidden, weight = torch.ones(tokens, width * step, dtype=dtype), torch.ones(vocabulary, width * step, dtype=dtype)
    return hidden[:, ::step], torch.tensor([0, tokens]), weight[:, ::step], torch.ones(vocabulary, dtype=dtype)


def launch_pooled(hidden, starts, weight, bias):
    pooled_head.pooled_head_triton(hidden, starts, weight, bias)


def launch_encoding(hidden, starts, weight, bias):
    pooled_head.pooled_head_triton(hidden, starts.int(), weight, None, with_winner=False)


def launch_backward(hidden, starts, weight, bias):
    gradient, winner = torch.ones(1, len(weight)), torch.zeros(1, len(weight), dtype=torch.int32)
    pooled_head.hidden_gradient_triton(gradient, winner, hidden, starts, weight)
    pooled_head.weight_gradient_triton(gradient, winner, hidden, weight)


def launch_summed(hidden, starts, weight, bias):
    summed_head.summed_head_triton(hidden, starts, weight, bias)


@pytest.mark.parametrize("launch", [launch_pooled, launch_encoding, launch_backward, launch_summed])
@pytest.mark.parametrize(("width", "step"), [(768, 1), (33, 1), (33, 2)], ids=["768", "odd width", "strided"])
@pytest.mark.parametrize("dtype", pooled_head.DTYPES, ids=str)
def test_compiled_for_sm_90_nothing_spills_and_shared_memory_suffices(
    dtype, width, step, launch, monkeypatch, tmp_path
):
    if triton.knobs.runtime.interpret:
        pytest.skip("NOT RUN: TRITON_INTERPRET is set, so there is nothing to compile")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    launches = recorded((pooled_head, summed_head), monkeypatch)
    launch(*tensors(dtype, width, step))
    assert launches
    for kernel, arguments, options in launches:
        result, report = compiled(kernel, arguments, options)
        assert NO_SPILLS in report, report
        assert result.metadata.shared <= SHARED_MEMORY
        if launch != launch_backward:
            assert (options["BLOCK_WIDTH"] > pooled_head.STRIDED_BLOCKS.width) == (width == 768)
            # the interpreter's maximum keeps a NaN also where the device's would not
            assert "max.NaN.f32" in result.asm["ptx"]
            assert "wgmma.mma_async" in result.asm["ptx"]  # the matrix units of sm_90
            assert ("cp.async.cg" in result.asm["ptx"]) == (width == 768)  # tiles fetched ahead, 16 bytes at a time


def test_every_kernel_is_among_those_compiled():
    kernels = {name for module in (pooled_head, summed_head) for name in vars(module) if name.endswith("_kernel")}
    assert kernels == {
        "_pooled_head_kernel",
        "_hidden_gradient_kernel",
        "_weight_gradient_kernel",
        "_summed_head_kernel",
    }


@pytest.mark.skipif(triton.knobs.runtime.interpret, reason="NOT RUN: with TRITON_INTERPRET the CPU is a device")
def test_on_the_cpu_the_kernels_say_where_to_go():
    hidden, starts, weight, bias = tensors(torch.float32, 4, tokens=2, vocabulary=3)
    with pytest.raises(
        ValueError, match=r"are on cpu, cpu, cpu: move all to one CUDA device, or use kernels\.cpu on the CPU\."
    ):
        pooled_head.pooled_head(hidden, starts, weight, bias)


# the benchmark


def run_benchmark(json_file, *arguments):
    command = [sys.executable, "benchmarks/pooled_head_gpu.py", "--json", json_file, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


def test_the_benchmark_runs_on_the_interpreter_and_finds_the_kernel_right(tmp_path):
    tiny = "--interpret", "--texts", "3", "--peak-tflops", "2"
    finished = run_benchmark(tmp_path / "out.json", *tiny, "--gradient-density", "0.5")
    assert finished.returncode == 0, finished.stderr
    lines = [json.loads(line) for line in (tmp_path / "out.json").read_text().splitlines()]
    assert [(line["contestant"], line["gradient_density"]) for line in lines] == [
        ("fused", None), ("naive", None), ("fused", 0.5), ("naive", 0.5),
    ]  # fmt: skip
    for line in lines:
        work = 2 * line["tokens"] * 24 * 50  # width, vocabulary
        assert line["tflops"] == pytest.approx(work / (line["ms"] / 1e3) / 1e12)
        assert line["share_of_peak"] == pytest.approx(line["tflops"] / 2)
        assert "interpreted" in line["machine"]
    assert lines[0]["errors"]["pooled"] < 1e-6
    finished = run_benchmark(tmp_path / "sweep.json", *tiny, "--sweep")
    assert finished.returncode == 0, finished.stderr
    settings = [json.loads(line) for line in (tmp_path / "sweep.json").read_text().splitlines()]
    assert len({(s["terms"], s["tokens"], s["stages"], s["chunk_tokens"]) for s in settings}) == 2 * 3


def test_naive_is_the_maximum_over_real_tokens_alone():
    problem = pooled_head_gpu.make_problem([2, 5, 1], 4, 6, "cpu")
    assert problem.starts.tolist() == [0, 2, 7, 8]
    weight, bias = -problem.weight.abs(), torch.zeros(6)
    pooled = pooled_head_gpu.naive(problem.padded.abs(), problem.is_padding, weight, bias)
    expected, _ = pooled_head.pooled_head_reference(problem.hidden.abs(), problem.starts, weight)
    assert (pooled < 0).all()
    torch.testing.assert_close(pooled, expected.to(pooled.dtype), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("errors", [{"pooled": 2e-3}, {"pooled": 0.0, "of_weight": 0.1}, {"winner": float("nan")}])
def test_wrong_results_are_not_timed(errors):
    pooled_head_gpu.refuse_wrong_results({"pooled": 9e-4, "winner": 0.0, "of_hidden": 9e-3})
    with pytest.raises(SystemExit, match=r"of the fused head is off by .* nothing was timed"):
        pooled_head_gpu.refuse_wrong_results(errors)


@pytest.mark.skipif(torch.cuda.is_available(), reason="NOT RUN: this machine has a GPU")
def test_without_a_gpu_the_benchmark_says_so(tmp_path):
    finished = run_benchmark(tmp_path / "out.json")
    assert finished.returncode == 1
    assert finished.stderr.strip().splitlines() == [
        "This machine has no CUDA device that torch can use: run on one that has, or give --interpret."
    ]
    assert not (tmp_path / "out.json").exists()
