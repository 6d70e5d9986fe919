import numpy as np
import pytest
import torch
from heads_for_tests import LargestTensor, brute_force_logits, brute_force_summed, packed, starts_of
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.gpu import summed_head as module
from kernels.gpu.pooled_head import DTYPES
from kernels.gpu.summed_head import summed_head, summed_head_reference

ROUNDED = {
    torch.float32: (1e-4, 1e-5),
    torch.float16: (1e-2, 1e-2),
    torch.bfloat16: (5e-2, 1e-1),
}  # and sums of rounded


def close(actual, expected, rtol=1e-5, atol=1e-5):
    torch.testing.assert_close(actual.detach().cpu().double(), expected.detach().cpu().double(), rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("lengths", "vocabulary", "width"),
    [([1], 1, 1), ([16], 16, 16), ([17], 17, 17), ([1, 5, 55, 1, 2], 21, 29), ([1] * 32, 3, 4)],
)
def test_kernel_equals_brute_force(lengths, vocabulary, width, dtype, device):
    arguments = packed(lengths, vocabulary, width, dtype, device)
    close(summed_head(*arguments), brute_force_summed(*arguments))


@settings(max_examples=10)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    vocabulary=st.integers(1, 19),
    width=st.integers(1, 18),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_split_into_texts_adds_up_the_right_tokens(lengths, vocabulary, width, seed, device):
    arguments = packed(lengths, vocabulary, width, device=device, seed=seed, bias=bool(seed % 2))
    close(summed_head(*arguments), brute_force_summed(*arguments))


def test_strided_arguments_are_read_where_they_are(device):
    hidden, starts, weight, bias = packed([5, 17, 2], 40, 44, device=device)
    arguments = hidden[:, ::2], starts.int(), weight[::2, :22], bias[::2]
    close(summed_head(*arguments), brute_force_summed(*arguments))


def test_the_bias_comes_before_the_relu(device):
    hidden, weight = torch.tensor([[1.0], [3.0]], device=device), torch.ones(1, 1, device=device)
    summed = summed_head(hidden, starts_of([2], device), weight, torch.tensor([-2.0], device=device))
    assert summed.item() == pytest.approx(0 + np.log(1 + (3.0 - 2.0)))


def test_a_nan_is_not_summed_as_zero(device):
    hidden, starts, weight, bias = packed([5, 17], 20, 16, device=device)
    hidden[4, 3] = float("nan")
    summed = summed_head(hidden, starts, weight, bias)
    assert summed[0].isnan().all()
    assert not summed[1].isnan().any()


@pytest.mark.parametrize("logits_at_once", [1, 42 * 8, 1 << 24])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_are_those_of_autograd(dtype, with_bias, logits_at_once, device, monkeypatch):
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", logits_at_once)
    hidden, starts, weight, bias = packed([1, 5, 33, 3], 35, 21, dtype, device, bias=with_bias)
    inputs = [tensor.requires_grad_() for tensor in (hidden, weight, bias) if tensor is not None]
    gradient = torch.randn(4, 35, generator=torch.Generator().manual_seed(1)).to(device)
    gradients = torch.autograd.grad(summed_head(hidden, starts, weight, bias), inputs, gradient)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    expected = torch.autograd.grad(summed_head_reference(exact[0], starts, *exact[1:]), exact, gradient.double())
    for tensor, actual, right in zip(inputs, gradients, expected, strict=True):
        assert actual.dtype == tensor.dtype
        close(actual, right, *ROUNDED[dtype])


def test_the_reference_is_the_brute_force(device):
    arguments = packed([1, 9, 4], 7, 5, torch.float64)
    torch.testing.assert_close(summed_head_reference(*arguments), brute_force_summed(*arguments))
    assert any((table < 0).any() for table in brute_force_logits(*arguments))


def test_no_table_of_tokens_by_vocabulary_is_made(device, monkeypatch):
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", 80 * 4)
    hidden, starts, weight, bias = packed([40, 40], 50, 3, device=device)
    with LargestTensor() as largest:
        summed_head(hidden.requires_grad_(), starts, weight.requires_grad_(), bias).sum().backward()
    assert largest.bytes == 80 * 4 * 4  # a tile of 4 terms; the table would be 80 * 50 * 4


def test_arguments_are_checked(device):
    hidden, starts, weight, _ = packed([2], 3, 4, device=device)
    with pytest.raises(ValueError, match="make it run from 0 to the 2 tokens"):
        summed_head(hidden, starts + 1, weight)
