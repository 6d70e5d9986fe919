import numpy as np
import pytest
import torch
from heads_for_tests import (
    LargestTensor,
    brute_force_gradients,
    brute_force_logits,
    brute_force_pooled,
    packed,
    starts_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.gpu import pooled_head as module
from kernels.gpu.pooled_head import pooled_head, pooled_head_max, pooled_head_reference

TOLERANCE = {"rtol": 1e-5, "atol": 1e-4}  # float32 sums of a few dozen products of the given numbers, in another order
ROUNDED = {torch.float32: (1e-4, 1e-5), torch.float16: (2e-3, 2e-3), torch.bfloat16: (1.6e-2, 1.6e-2)}  # gradients' own


def close(actual, expected, rtol, atol):
    torch.testing.assert_close(actual.detach().cpu().double(), expected.detach().cpu().double(), rtol=rtol, atol=atol)


def check_pooled(hidden, starts, weight, bias):
    """The values, and that each winner lies in its text and has the largest logit, up to rounding."""
    pooled, winner = pooled_head(hidden, starts, weight, bias)
    assert (pooled.dtype, winner.dtype) == (torch.float32, torch.int32)
    close(pooled, brute_force_pooled(hidden, starts, weight, bias)[0], **TOLERANCE)
    for text, (logits, start) in enumerate(
        zip(brute_force_logits(hidden, starts, weight, bias), starts.tolist(), strict=False)
    ):
        place = winner[text].cpu().numpy() - start
        assert ((place >= 0) & (place < len(logits))).all()
        np.testing.assert_allclose(logits[place, np.arange(len(weight))], logits.max(0), **TOLERANCE)


def a_block():
    return module.HALF_BLOCKS


# sizes, relative to a block: a text's lengths and the vocabulary and the width
SIZES = [
    pytest.param(lambda b: ([1], 1, 1), id="smallest"),
    pytest.param(lambda b: ([b.tokens], b.terms, b.width), id="exactly one block"),
    pytest.param(lambda b: ([b.tokens + 1], b.terms + 1, b.width + 1), id="one past a block"),
    pytest.param(lambda b: ([b.tokens - 1, 1, b.tokens], b.terms, 2 * b.width), id="texts end with blocks"),
    pytest.param(lambda b: ([1, 5, 3 * b.tokens + 7, 1, 1, 2], b.terms + 5, 2 * b.width - 3), id="odd"),
    pytest.param(lambda b: ([1] * (2 * b.tokens), 3, 4), id="many texts in a block"),
]


@pytest.mark.parametrize("dtype", module.DTYPES, ids=str)
@pytest.mark.parametrize("sizes", SIZES)
def test_kernel_equals_brute_force(sizes, dtype, device):
    check_pooled(*packed(*sizes(a_block()), dtype, device))


def test_without_a_bias_nothing_is_added(device):
    check_pooled(*packed([3, 20], 20, 16, device=device, bias=False))


def test_logits_below_zero_are_not_raised_to_zero_by_padding(device):
    hidden, starts, weight, _ = packed([3, 18, 1], 18, 5, device=device)
    hidden, weight = hidden.abs() + 1, -weight.abs() - 1
    assert (pooled_head(hidden, starts, weight)[0] < -4).all()  # width 5, each product at most -1
    check_pooled(hidden, starts, weight, None)


def test_of_equal_logits_the_earliest_token_wins(device):
    lengths = [1, 40, 7, 16]
    hidden, weight = torch.ones(sum(lengths), 3, device=device), torch.ones(20, 3, device=device)
    pooled, winner = pooled_head(hidden, starts_of(lengths, device), weight)
    assert winner.tolist() == [[start] * 20 for start in (0, 1, 1 + 40, 1 + 40 + 7)]
    assert (pooled == 3.0).all()


def test_strided_arguments_are_read_where_they_are(device):
    hidden, starts, weight, bias = packed([5, 17, 2], 40, 44, device=device)
    check_pooled(hidden[:, ::2], starts.int(), weight[::2, :22], bias[::2])
    check_pooled(hidden[:, :40], starts, weight.T.contiguous().T[:, 4:], bias)


def test_starts_may_stay_on_the_cpu(device):
    hidden, starts, weight, bias = packed([5, 17, 2], 20, 16, device=device)
    on_device, on_cpu = pooled_head(hidden, starts, weight, bias), pooled_head(hidden, starts.cpu(), weight, bias)
    assert all(torch.equal(a, b) for a, b in zip(on_device, on_cpu, strict=True))


def test_rows_more_than_2_to_the_31_numbers_apart(device):
    if device != "cpu":
        pytest.skip("takes 6 GiB of address space, which a GPU would have to fill")
    far = torch.from_numpy(np.empty(3 * 2**30 + 16, np.float16)).as_strided((4, 16), (2**30, 1))
    hidden, starts, weight, _ = packed([2, 3], 4, 16, torch.float16)
    far.copy_(weight)
    check_pooled(hidden, starts, far, None)
    gradient = torch.ones(2, 4)
    winner = pooled_head(hidden, starts, weight)[1]
    expected = brute_force_gradients(gradient, winner, hidden, weight)[0]
    close(module.hidden_gradient_triton(gradient, winner, hidden, starts, far), expected, *ROUNDED[torch.float16])
    far.copy_(weight)  # now as the rows of hidden
    check_pooled(far, starts_of([1, 3]), hidden, None)


@pytest.mark.parametrize("token", [0, 4, 17, 21])
def test_nan_in_a_text_makes_its_terms_nan_and_no_others(token, device):
    hidden, starts, weight, bias = packed([5, 17], 20, 16, device=device)
    hidden[token, 3] = float("nan")
    pooled, winner = pooled_head(hidden, starts, weight, bias)
    assert pooled.isnan().all(1).tolist() == [token < 5, token >= 5]
    assert pooled.isnan().any(1).tolist() == [token < 5, token >= 5]
    assert ((winner[0] >= 0) & (winner[0] < 5)).all()
    assert ((winner[1] >= 5) & (winner[1] < 22)).all()


def test_logits_of_minus_infinity_have_a_winner_in_their_text(device):
    hidden, starts, weight, _ = packed([2, 17], 5, 1, device=device)
    hidden[2:], weight[:] = float("-inf"), 1.0
    pooled, winner = pooled_head(hidden, starts, weight)
    assert (pooled[1] == float("-inf")).all()
    assert (winner[1] == 2).all()


def test_no_texts_give_no_rows(device):
    hidden, _, weight, bias = packed([3], 4, 2, device=device)
    pooled, winner = pooled_head(hidden[:0], starts_of([], device), weight, bias)
    assert pooled.shape == winner.shape == (0, 4)


def test_the_reference_is_the_brute_force(device):
    arguments = packed([1, 9, 4], 7, 5, torch.float64)
    pooled, winner = pooled_head_reference(*arguments)
    expected, expected_winner = brute_force_pooled(*arguments)
    torch.testing.assert_close(pooled, expected)
    assert torch.equal(winner, expected_winner)


@settings(max_examples=20)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    vocabulary=st.integers(1, 19),
    width=st.integers(1, 18),
    dtype=st.sampled_from(module.DTYPES),
    seed=st.integers(0, 2**32 - 1),
    density=st.sampled_from([0.0, 0.1, 1.0]),
    entries_at_once=st.sampled_from([1, 40, 1 << 22]),
)
def test_whole_numbers_are_pooled_and_given_gradients_exactly(
    lengths, vocabulary, width, dtype, seed, density, entries_at_once, device
):
    rng = np.random.default_rng(seed)
    hidden, weight, bias = (
        torch.tensor(rng.integers(-2, 3, shape)).to(device, dtype)
        for shape in ((sum(lengths), width), (vocabulary, width), (vocabulary,))
    )
    starts = starts_of(lengths, device)
    pooled, winner = pooled_head(hidden, starts, weight, bias)
    expected, expected_winner = brute_force_pooled(hidden, starts, weight, bias)
    assert torch.equal(pooled.cpu().double(), expected)
    assert torch.equal(winner.cpu(), expected_winner)
    gradient = torch.tensor(rng.integers(-2, 3, pooled.shape) * (rng.random(pooled.shape) < density), device=device)
    inputs = [tensor.requires_grad_() for tensor in (hidden, weight, bias)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ENTRIES_AT_ONCE", entries_at_once)
        gradients = torch.autograd.grad(pooled_head_max(hidden, starts, weight, bias), inputs, gradient.float())
    for actual, exact in zip(gradients, brute_force_gradients(gradient, winner, hidden, weight), strict=True):
        assert actual.dtype == dtype
        assert torch.equal(actual.cpu(), exact.to(dtype))


@pytest.mark.parametrize("dtype", module.DTYPES, ids=str)
def test_gradients_are_those_of_autograd(dtype, device):
    arguments = packed([1, 5, 33, 3], 35, 21, dtype, device)
    gradient = torch.randn(4, 35, generator=torch.Generator().manual_seed(1)).relu().to(device)
    inputs = [arguments[i].requires_grad_() for i in (0, 2, 3)]
    gradients = torch.autograd.grad(pooled_head_max(*arguments), inputs, gradient)
    hidden, weight, bias = (tensor.detach().double().requires_grad_() for tensor in inputs)
    logits = (hidden @ weight.T).split([1, 5, 33, 3])
    pooled = torch.stack([table.max(0).values for table in logits]) + bias
    expected = torch.autograd.grad(pooled, (hidden, weight, bias), gradient.double())
    for actual, exact in zip(gradients, expected, strict=True):
        close(actual, exact, *ROUNDED[dtype])


def test_gradients_are_slopes(device):
    """Finite differences of a smooth loss behind a relu, along one random direction for each input."""
    arguments = packed([4, 18], 20, 8, device=device, seed=3)
    places = {0: "hidden", 2: "weight", 3: "bias"}
    inputs = [arguments[i].requires_grad_() for i in places]
    loss = lambda given: (pooled_head_max(*given).relu() ** 2).sum()  # noqa: E731
    gradients = torch.autograd.grad(loss(arguments), inputs)
    for place, gradient in zip(places, gradients, strict=True):
        direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(place)).to(device)
        with torch.no_grad():
            step = 1e-3 * direction
            ahead, behind = (
                loss([a if i != place else a + way * step for i, a in enumerate(arguments)]) for way in (1, -1)
            )
        slope = (ahead - behind).item() / 2e-3
        assert slope == pytest.approx((gradient * direction).sum().item(), rel=1e-2), places[place]


def test_a_gradient_of_zeros_gives_zeros_and_an_expanded_one_counts_every_term(device):
    hidden, starts, weight, bias = packed([2, 20], 20, 8, device=device)
    inputs = [tensor.requires_grad_() for tensor in (hidden, weight, bias)]
    pooled = pooled_head_max(hidden, starts, weight, bias)
    zeros = torch.autograd.grad(pooled, inputs, torch.zeros_like(pooled), retain_graph=True)
    assert all((gradient == 0).all() for gradient in zeros)
    _, winner = pooled_head(hidden, starts, weight, bias)
    expected = brute_force_gradients(torch.ones(2, 20), winner, hidden, weight)
    for actual, exact in zip(torch.autograd.grad(pooled.sum(), inputs), expected, strict=True):
        close(actual, exact, *ROUNDED[torch.float32])


def test_strided_arguments_have_the_gradients_of_contiguous_ones(device):
    hidden, starts, weight, bias = packed([5, 17, 2], 40, 44, device=device)
    arguments = [hidden[:, ::2], starts, weight.T.contiguous().T[::2, 22:], bias[::2]]
    copies = [tensor.contiguous() for tensor in arguments]
    gradients = []
    for each in (arguments, copies):
        inputs = [each[i].requires_grad_() for i in (0, 2, 3)]
        gradients.append(torch.autograd.grad(pooled_head_max(*each).square().sum(), inputs))
    for strided, contiguous in zip(*gradients, strict=True):  # other blocks add up in another order
        close(strided, contiguous, *ROUNDED[torch.float32])


@pytest.mark.parametrize("wanted", [0, 2, 3])
def test_gradients_nobody_asked_for_are_not_made(wanted, device, monkeypatch):
    arguments = packed([2, 20], 20, 8, device=device)
    arguments[wanted].requires_grad_()
    for place, launcher in {0: "hidden_gradient_triton", 2: "weight_gradient_triton"}.items():
        if place != wanted:
            monkeypatch.delattr(module, launcher)
    pooled_head_max(*arguments).sum().backward()
    assert [tensor.grad is not None for tensor in arguments] == [place == wanted for place in range(4)]


def test_without_gradients_the_values_are_the_same_and_no_winner_is_written(device, monkeypatch):
    arguments = packed([2, 20], 20, 8, device=device)
    pooled, _ = pooled_head(*arguments)
    arguments[0].requires_grad_()
    with_gradient = pooled_head_max(*arguments)
    launch, outputs = module.launch_over_tiles, []
    monkeypatch.setattr(module, "launch_over_tiles", lambda *args: (outputs.append(args[5]), launch(*args)))
    with torch.no_grad():
        without = pooled_head_max(*arguments)
    assert torch.equal(pooled, with_gradient)
    assert torch.equal(pooled, without)
    assert outputs[0][1] is None


def test_values_and_gradients_are_the_same_from_run_to_run(device):
    hidden, starts, weight, bias = packed([30, 7, 1, 18], 50, 24, device=device)
    inputs = [tensor.requires_grad_() for tensor in (hidden, weight, bias)]
    runs = []
    for _ in range(2):
        pooled = pooled_head_max(hidden, starts, weight, bias)
        runs.append([pooled, *torch.autograd.grad(pooled.square().sum(), inputs)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_no_table_of_tokens_by_vocabulary_is_made(device):
    hidden, starts, weight, bias = packed([40, 40], 50, 3, device=device)
    with LargestTensor() as largest:
        pooled = pooled_head_max(hidden.requires_grad_(), starts, weight.requires_grad_(), bias)
        pooled.sum().backward()
    assert largest.bytes == 80 * 3 * 4  # hidden itself; the table would be 80 * 50 * 4


H, W = torch.zeros(4, 3), torch.zeros(5, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((H[0], [0, 4], W), r"hidden has shape \(3,\) and weight \(5, 3\): give"),
        ((H, [0, 4], W[:, :2]), r"hidden has shape \(4, 3\) and weight \(5, 2\): give"),
        ((H, [0, 4], W, torch.zeros(4)), r"bias has shape \(4,\): give one number a term, \(5,\)"),
        ((H, [0, 4], W.half()), r"float32, torch.float16: cast all"),
        ((H.double(), [0, 4], W.double()), r"float64, torch.float64: cast all"),
        ((H, [0, 4], W, torch.zeros(5).half()), r"float32, torch.float32, torch.float16: cast all"),
        ((H, [0, 4], W.to("meta")), r"are on .*, meta: move all to one CUDA device"),
        ((H, [0, 3], W), r"from 0 to 3: make it run from 0 to the 4 tokens"),
        ((H, [1, 4], W), r"from 1 to 4: make it run from 0 to the 4 tokens"),
        ((H, [0, 2, 2, 4], W), r"text 1 runs from token 2 to 2: give each text at least one token"),
        ((H, [0, 3, 2, 4], W), r"text 1 runs from token 3 to 2"),
        ((H, [], W), r"starts is torch.int64 \(0,\): give int32 or int64"),
        ((H, [0.0, 4.0], W), r"starts is torch.float32 \(2,\)"),
    ],
)
@pytest.mark.parametrize("call", [pooled_head, pooled_head_max])
def test_arguments_that_do_not_fit_are_told_in_one_sentence(call, arguments, message, device):
    hidden, starts, *rest = arguments
    starts = torch.tensor(starts, dtype=None if starts else torch.int64)
    with pytest.raises(ValueError, match=message) as told:
        call(hidden.to(device), starts, *(tensor if tensor.is_meta else tensor.to(device) for tensor in rest))
    assert str(told.value).endswith(".")
