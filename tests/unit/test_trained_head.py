"""The fused head with gradients on a processor, against float64 arithmetic entry by entry."""

from itertools import pairwise

import pytest
import torch
from heads_for_tests import LargestTensor, brute_force_gradients, brute_force_pooled, packed, starts_of

from kernels.cpu.trained_head import pooled_head_max

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTHS = {"one token": [1], "several": [3, 1, 17, 2], "alike": [5, 5, 5]}


def some_gradient(texts, vocabulary, share=0.4, seed=3):
    """float32 [texts, vocabulary], most of it exactly 0, as behind a relu."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(texts, vocabulary, generator=generator)
    return values * (torch.rand(texts, vocabulary, generator=generator) < share)


def leaves(*tensors):
    return [None if tensor is None else tensor.clone().requires_grad_() for tensor in tensors]


def check(lengths, vocabulary=37, width=16, dtype=torch.float32, bias=True, atol=1e-5, gradient=None):
    hidden, starts, weight, offsets = packed(lengths, vocabulary, width, dtype, bias=bias)
    given = leaves(hidden, weight, offsets)
    found = pooled_head_max(given[0], starts.tolist(), given[1], given[2])
    expected, winner = brute_force_pooled(hidden, starts, weight, offsets)
    assert (found.dtype, found.shape) == (torch.float32, expected.shape)
    torch.testing.assert_close(found.double(), expected, atol=20 * atol, rtol=atol)
    gradient = some_gradient(*found.shape) if gradient is None else gradient
    found.backward(gradient)
    expected = brute_force_gradients(gradient, winner, hidden, weight)
    for leaf, one in zip(given, expected, strict=True):
        if leaf is not None:
            assert leaf.grad.dtype == dtype
            torch.testing.assert_close(leaf.grad.double(), one, atol=20 * atol, rtol=atol)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("vocabulary", [1, 37, 1024, 1025])  # a tile is 1,024 terms
def test_values_and_gradients_are_those_of_the_definition(lengths, vocabulary):
    check(lengths, vocabulary)


def test_without_bias():
    check([3, 1, 17, 2], bias=False)


def test_a_text_and_a_term_without_any_gradient():
    gradient = some_gradient(4, 37)
    gradient[1], gradient[:, 5] = 0, 0
    check([3, 1, 17, 2], gradient=gradient)


@pytest.mark.parametrize("gradient", [torch.zeros(3, 37), torch.ones(3, 37)], ids=["nowhere", "everywhere"])
def test_a_gradient_that_is_0_nowhere_or_everywhere(gradient):
    check([4, 2, 1], gradient=gradient)


def test_a_gradient_that_autograd_expands():
    hidden, starts, weight, _ = packed([3, 2], 9, 4)
    given = leaves(hidden, weight)
    pooled_head_max(given[0], starts.tolist(), given[1]).sum().backward()
    _, winner = brute_force_pooled(hidden, starts, weight, None)
    expected = brute_force_gradients(torch.ones(2, 9), winner, hidden, weight)
    torch.testing.assert_close(given[0].grad.double(), expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(given[1].grad.double(), expected[1], atol=1e-5, rtol=1e-5)


def test_of_equal_logits_the_first_token_takes_all_of_the_gradient():
    hidden = torch.tensor([[1.0, 0.0], [2.0, 0.0], [2.0, 5.0], [2.0, 0.0], [-1.0, 1.0], [-1.0, 1.0]])
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    given = leaves(hidden, weight)
    found = pooled_head_max(given[0], [0, 4, 6], given[1])
    assert found.tolist() == [[2, 5], [-1, 1]]
    found.backward(torch.tensor([[10.0, 20.0], [30.0, 40.0]]))
    # text 0: term 0 from token 1, term 1 from token 2; text 1: both from token 4
    assert given[0].grad.tolist() == [[0, 0], [10, 0], [0, 20], [0, 0], [30, 40], [0, 0]]
    assert given[1].grad.tolist() == [
        [10 * 2 + 30 * -1, 10 * 0 + 30 * 1],
        [20 * 2 + 40 * -1, 20 * 5 + 40 * 1],
    ]


def test_a_term_that_several_texts_win_gets_the_gradient_of_each():
    hidden, weight = torch.tensor([[1.0], [3.0], [7.0]]), torch.tensor([[1.0], [1.0]])
    given = leaves(hidden, weight)
    pooled_head_max(given[0], [0, 2, 3], given[1]).backward(torch.tensor([[2.0, 4.0], [8.0, 0.0]]))
    assert given[1].grad.tolist() == [[2 * 3 + 8 * 7], [4 * 3]]
    assert given[0].grad.tolist() == [[0], [2 + 4], [8]]  # two terms go to token 1


@pytest.mark.parametrize("token", [0, 3, 4])
def test_nan_in_a_text_is_nan_of_that_text_alone(token):
    hidden, starts, weight, bias = packed([4, 3], 37, 16)
    hidden[token, 2] = torch.nan
    given = leaves(hidden, weight, bias)
    found = pooled_head_max(given[0], starts.tolist(), given[1], given[2])
    text = int(token >= 4)
    assert found[text].isnan().all()
    assert found[1 - text].isfinite().all()
    found[text, 5].backward()
    assert given[0].grad.isfinite().all()  # a row of the weight, at one of the text's tokens
    assert given[0].grad[starts[text] : starts[text + 1]].any(1).sum() == 1
    assert given[1].grad[5].isnan().any()


def test_a_weight_that_is_not_trained_gets_no_gradient_and_the_rest_the_same():
    hidden, starts, weight, bias = packed([3, 1, 17], 37, 16)
    one, other = leaves(hidden, weight, bias), leaves(hidden, None, None)
    gradient = some_gradient(3, 37)
    pooled_head_max(one[0], starts.tolist(), one[1], one[2]).backward(gradient)
    pooled_head_max(other[0], starts.tolist(), weight, bias).backward(gradient)
    assert torch.equal(one[0].grad, other[0].grad)
    assert weight.grad is None
    assert bias.grad is None


def test_where_nothing_is_trained_nothing_is_kept():
    hidden, starts, weight, bias = packed([3, 1], 37, 16)
    assert not pooled_head_max(hidden, starts.tolist(), weight, bias).requires_grad


def test_products_in_bfloat16_are_added_up_in_float32():
    check([3, 1, 17, 2], dtype=torch.bfloat16, bias=False, atol=1e-2)
    hidden, starts, weight, _ = packed([64] * 8, 3, 4, torch.bfloat16)
    given = hidden.requires_grad_(), weight.float().requires_grad_()
    pooled_head_max(given[0], starts.tolist(), given[1]).sum().backward()
    assert given[0].grad.dtype == torch.bfloat16
    assert given[1].grad.dtype == torch.float32  # in which the weights are kept
    _, winner = brute_force_pooled(hidden, starts, weight, None)
    expected = brute_force_gradients(torch.ones(8, 3), winner, hidden, weight)[1]
    torch.testing.assert_close(given[1].grad.double(), expected, atol=1e-5, rtol=1e-5)


def test_gradients_are_the_same_from_run_to_run():
    hidden, starts, weight, bias = packed([9] * 20, 1500, 32)
    gradient = some_gradient(20, 1500)
    found = []
    for _ in range(2):
        given = leaves(hidden, weight, bias)
        pooled_head_max(given[0], starts.tolist(), given[1], given[2]).backward(gradient)
        found.append([leaf.grad for leaf in given])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_it_is_differentiable_once():
    hidden, starts, weight, _ = packed([3, 2], 9, 4)
    [hidden] = leaves(hidden)
    [slope] = torch.autograd.grad(
        pooled_head_max(hidden, starts.tolist(), weight).square().sum(), hidden, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_the_table_of_all_logits_never_exists():
    lengths, vocabulary, width = [64] * 32, 6000, 8
    hidden, starts, weight, bias = packed(lengths, vocabulary, width)
    given = leaves(hidden, weight, bias)
    gradient = some_gradient(len(lengths), vocabulary, share=0.05)
    with LargestTensor() as seen:
        found = pooled_head_max(given[0], starts.tolist(), given[1], given[2])
        found.backward(gradient)
    table = sum(lengths) * vocabulary * 4
    tile = sum(lengths) * 1024 * 4
    assert seen.bytes <= tile < table / 5


def test_nothing_but_the_inputs_is_kept_between_forward_and_backward():
    hidden, starts, weight, bias = packed([64] * 8, 2000, 8)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.data_ptr()) or tensor, lambda x: x):
        given = leaves(hidden, weight, bias)
        pooled_head_max(given[0], starts.tolist(), given[1], given[2])
    assert set(kept) <= {given[0].data_ptr(), given[1].data_ptr()}
    assert kept


def test_gradients_are_those_of_dense_autograd_in_float64():
    hidden, starts, weight, bias = packed([7, 30, 1, 12], 333, 24, seed=11)
    ours, dense = leaves(hidden, weight, bias), leaves(hidden.double(), weight.double(), bias.double())
    gradient = some_gradient(4, 333)
    pooled_head_max(ours[0], starts.tolist(), ours[1], ours[2]).backward(gradient)
    bounds = starts_of([7, 30, 1, 12]).tolist()
    logits = dense[0] @ dense[1].T + dense[2]
    table = torch.stack([logits[a:b].max(0).values for a, b in pairwise(bounds)])
    table.backward(gradient.double())
    for one, other in zip(ours, dense, strict=True):
        torch.testing.assert_close(one.grad.double(), other.grad, atol=1e-4, rtol=1e-5)
