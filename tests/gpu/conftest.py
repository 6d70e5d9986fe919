"""On a GPU these tests run the compiled kernels; with TRITON_INTERPRET=1, before Triton is imported, the same kernels on the CPU.

tests/unit/test_gpu_pooled_head.py and test_gpu_block_attention.py run them the second way, in a process of their own.
"""

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if INTERPRETED:
    collect_ignore_glob = ["test_real_sizes.py"]  # takes minutes there
elif not torch.cuda.is_available():
    collect_ignore_glob = ["test_*.py"]  # needs CUDA or TRITON_INTERPRET=1


@pytest.fixture(scope="session")
def device():
    return "cpu" if INTERPRETED else "cuda"


@pytest.fixture(scope="session", autouse=True)
def small_blocks():
    """Blocks as small as a matrix instruction, chunks of one block: a few dozen tokens then cross every kind of border.

    On a GPU the real blocks stay, with chunks of one block. Long ranges of block attention are cut early everywhere.
    """
    from kernels.gpu import block_attention, block_tiles, pooled_head, summed_head

    with pytest.MonkeyPatch.context() as patch:
        if INTERPRETED:
            small = pooled_head.Blocks(terms=16, tokens=16, width=16, warps=4, stages=2)
            patch.setattr(pooled_head, "HALF_BLOCKS", small)
            patch.setattr(pooled_head, "FLOAT_BLOCKS", small)
            patch.setattr(pooled_head, "STRIDED_BLOCKS", small)
            patch.setattr(summed_head, "HALF_BLOCKS", small)
            small_kernels = block_attention.Kernels(*[block_attention.Blocks(16, 16, warps=4, stages=2)] * 3)
            patch.setattr(block_attention, "BLOCKS", dict.fromkeys(block_attention.BLOCKS, small_kernels))
        patch.setattr(block_tiles, "PREFIX_CUT", block_tiles.Cut(24, 48, wanted=2))
        patch.setattr(block_tiles, "ROWS_CUT", block_tiles.Cut(24, 48, wanted=2))
        patch.setattr(pooled_head, "CHUNK_TOKENS", (pooled_head.HALF_BLOCKS.tokens,))
        yield


@pytest.fixture(scope="session", autouse=True)
def uninitialised_memory_is_nan():
    """A kernel that forgets part of its output fails instead of passing by luck."""

    def poisoned(make):
        def call(*args, **kwargs):
            tensor = make(*args, **kwargs)
            return tensor.fill_(float("nan") if tensor.is_floating_point() else -(2**30))

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", poisoned(torch.empty))
        patch.setattr(torch, "empty_like", poisoned(torch.empty_like))
        yield
