import pytest
import torch
from blocks_for_tests import Segments, dense_attention, prompts, random_sides
from heads_for_tests import LargestTensor
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.block_attention import block_attention as any_backend
from kernels.gpu import block_attention as module
from kernels.gpu import block_gradients, block_tiles
from kernels.gpu.block_attention import DTYPES, block_attention

# of the largest number of each result: sums of rounded products, and the rounding of the result itself
TOLERANCE = {torch.float32: 3e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
NAN = float("nan")


def largest_errors(actual, exact):
    """As shares of the largest number; NaN where anything is NaN."""
    return [
        ((a.detach().double() - e.detach()).abs().max() / e.detach().abs().max().clamp(min=1e-3)).item()
        for a, e in zip(actual, exact, strict=True)
    ]


def results(attention, sides, seed=1, spoiled=slice(0)):
    """[out, lse, dq, dk, dv] for random gradients of out, NaN in the rows `spoiled`, and of lse."""
    out, lse = attention(*sides)
    generator = torch.Generator().manual_seed(seed)
    of_out, of_lse = (torch.randn(side.shape, generator=generator).to(side.device) for side in (out, lse))
    of_out[spoiled] = NAN
    of_out = of_out.to(sides[0].dtype)  # what the kernel is given, the definition is given
    gradients = torch.autograd.grad([out, lse], sides, [of_out.to(out.dtype), of_lse.to(lse.dtype)])
    return [out, lse, *gradients]


def check(segments, sides, device, scale=None):
    """Output, log-sum-exp and all gradients against the definition."""
    layout = segments.layout(device)
    actual = results(lambda *given: block_attention(*given, layout, scale), sides)
    dtype = sides[0].dtype
    assert [side.dtype for side in actual] == [dtype, torch.float32, dtype, dtype, dtype]
    exact = [side.detach().double().requires_grad_() for side in sides]
    mask, scale = segments.mask(len(sides[1])), sides[0].shape[2] ** -0.5 if scale is None else scale
    expected = results(lambda *given: dense_attention(*given, mask, scale), exact)
    # the log-sum-exp is float32 whatever the inputs are
    limits = [TOLERANCE[dtype], TOLERANCE[torch.float32], *[TOLERANCE[dtype]] * 3]
    for name, error, limit in zip(
        ("out", "lse", "dq", "dk", "dv"), largest_errors(actual, expected), limits, strict=True
    ):
        assert error <= limit, f"{name} is off by {error:.2g} of its largest number"
    return actual


CACHED = Segments([(3, 40, (0, 0)), (5, 43, (7, 31)), (1, 48, (31, 32)), (6, 49, (2, 49))])
CASES = [
    pytest.param(prompts((1, [], 0)), id="one token"),
    pytest.param(prompts((0, [5, 1], 0)), id="no instruction"),
    pytest.param(prompts((7, [], 5)), id="no documents"),
    pytest.param(prompts((16, [16, 32], 16)), id="whole tiles"),
    pytest.param(prompts((17, [15, 1, 33], 19)), id="one past a tile"),
    pytest.param(prompts((5, [3, 18], 4), (2, [21], 3)), id="two prompts"),
    pytest.param(prompts((9, [30, 31, 29, 28], 7)), id="long prefix in pieces"),
    pytest.param(CACHED, id="cached keys"),
]


@pytest.mark.parametrize(
    ("group", "kv_heads", "size", "dtype"), [(3, 2, 64, torch.float32), (4, 1, 96, torch.bfloat16)]
)
@pytest.mark.parametrize("segments", CASES)
def test_kernels_equal_the_definition(segments, group, kv_heads, size, dtype, device):
    check(segments, random_sides(segments, group, kv_heads, size, dtype, device), device)


@pytest.mark.parametrize("size", module.SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("group", "kv_heads"), [(1, 2), (2, 1), (8, 1), (6, 1)])
def test_all_kinds_of_heads(group, kv_heads, dtype, size, device):
    segments = prompts((5, [7, 2], 3))
    check(segments, random_sides(segments, group, kv_heads, size, dtype, device), device)


@settings(max_examples=4)
@given(
    instruction=st.integers(1, 200),
    documents=st.lists(st.integers(1, 200), max_size=4),
    last=st.integers(1, 80),
    group=st.sampled_from([1, 2, 3, 4]),
    dtype=st.sampled_from([torch.float32, torch.float16]),
)
def test_random_lengths_in_blocks_of_the_real_sizes(instruction, documents, last, group, dtype, device):
    segments = prompts((instruction, documents, last))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCKS", REAL_BLOCKS)
        check(segments, random_sides(segments, group, 1, 64, dtype, device), device)


# this file is imported before anything is replaced
REAL_BLOCKS = module.BLOCKS
REAL_CUTS = {"PREFIX_CUT": block_tiles.PREFIX_CUT, "ROWS_CUT": block_tiles.ROWS_CUT}


def test_the_scale_is_the_callers(device):
    segments = prompts((6, [20], 3))
    check(segments, random_sides(segments, 2, 1, 64, device=device), device, scale=-0.3)


def test_large_logits_do_not_overflow(device):
    segments = prompts((6, [40], 3))
    sides = random_sides(segments, 2, 1, 64, device=device)
    out, lse = block_attention(*sides, segments.layout(device), 100.0)
    expected = dense_attention(*sides, segments.mask(), 100.0)
    assert lse.abs().max() > 2_000  # e to that overflows
    assert max(largest_errors([lse], expected[1:])) <= 1e-6
    assert max(largest_errors([out], expected[:1])) <= 2e-3  # the error of a logit is the relative error of its weight


def test_keys_that_no_row_sees_get_gradients_of_zero(device):
    sides = random_sides(CACHED, 2, 1, 64, device=device, num_keys=90)
    with torch.no_grad():
        sides[1][60:], sides[2][:2] = NAN, NAN  # keys 0 and 1 are before every prefix
    layout = CACHED.layout(device)
    gradients = results(lambda *given: block_attention(*given, layout), sides)
    assert not torch.cat([side.flatten() for side in gradients]).isnan().any()
    for gradient in gradients[3:]:
        assert (gradient[:2] == 0).all()
        assert (gradient[55:] == 0).all()
        assert (gradient[2:40].abs().amax((1, 2)) > 0).all()


# a NaN


def rows_of(segments, number):
    start = sum(rows for rows, _, _ in segments[:number])
    return slice(start, start + segments[number][0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("side", [0, 1, 2])
def test_a_nan_in_one_document_reaches_that_document_and_the_last_block_only(side, dtype, device):
    segments = prompts((18, [9, 17, 5], 3), (2, [4], 1))
    sides = random_sides(segments, 2, 1, 64, dtype, device)
    clean = block_attention(*sides, segments.layout(device))
    sides[side].data[rows_of(segments, 2)] = NAN
    spoiled = block_attention(*sides, segments.layout(device))
    for before, after in zip(clean, spoiled, strict=True):
        for number in range(len(segments)):
            rows = rows_of(segments, number)
            if number == 2:
                assert after[rows].isnan().all() or side > 0
            elif number == 4 and side > 0:  # the last block; of a value that is NaN the log-sum-exp does not hear
                assert after[rows].isnan().all() or (side == 2 and after.ndim == 2)
            else:
                assert torch.equal(before[rows], after[rows])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("side", [0, 1, 2, 3], ids=["q", "k", "v", "dout"])
def test_a_nan_in_one_document_does_not_reach_the_gradients_of_the_others(side, dtype, device):
    """Without a last block, whose gradients reach all documents; the instruction's keys do hear of the NaN."""
    segments = prompts((18, [9, 17, 5], 0))
    sides = random_sides(segments, 2, 1, 64, dtype, device)
    layout = segments.layout(device)
    attention = lambda *given: block_attention(*given, layout)  # noqa: E731
    clean = results(attention, sides)
    if side < 3:
        sides[side].data[rows_of(segments, 2)] = NAN
    spoiled = results(attention, sides, spoiled=rows_of(segments, 2) if side == 3 else slice(0))
    for before, after in zip(clean[2:], spoiled[2:], strict=True):
        for number in (1, 3):
            rows = rows_of(segments, number)
            assert torch.equal(before[rows], after[rows])
    spoiled_here = [gradient[rows_of(segments, 2)].isnan().any().item() for gradient in spoiled[2:]]
    assert spoiled_here == [True, True, side != 2]  # the gradient of a value does not depend on values
    assert spoiled[3][rows_of(segments, 0)].isnan().all()
    assert torch.equal(clean[2][rows_of(segments, 0)], spoiled[2][rows_of(segments, 0)])


# how the arguments lie in memory


def test_strided_arguments_are_read_where_they_are_or_copied(device):
    segments = prompts((17, [9, 20], 5))
    plain = random_sides(segments, 2, 2, 64, device=device)
    expected = check(segments, plain, device)

    def behind_each_other(side):  # as a model has it: [heads, tokens, size], the tokens of a head together
        return side.transpose(0, 1).contiguous().transpose(0, 1)

    def within(side):  # as one product of the weights of q, k and v has it
        return torch.cat([side + 1, side, side + 2], 2)[:, :, 64:128]

    def unaligned(side):  # no descriptor can be made of it
        return torch.nn.functional.pad(side, (1, 2))[:, :, 1:65]

    def spread(side):  # not even the numbers of a row lie side by side
        return side.transpose(0, 2).contiguous().transpose(0, 2)

    for move in (behind_each_other, within, unaligned, spread):
        sides = [move(side.detach()).requires_grad_() for side in plain]
        assert not sides[0].is_contiguous()
        layout = segments.layout(device)
        for actual, right in zip(results(lambda *s, to=layout: block_attention(*s, to), sides), expected, strict=True):
            assert torch.equal(actual, right)


def test_one_head_with_any_stride_is_read(device):
    segments = prompts((5, [20], 5))
    sides = [side.detach() for side in random_sides(segments, 2, 1, 64, device=device)]
    odd = [side.as_strided(side.shape, (side.stride(0), 7, 1)) for side in sides[1:]]
    layout = segments.layout(device)
    assert torch.equal(block_attention(*sides, layout)[0], block_attention(sides[0], *odd, layout)[0])


def test_an_expanded_gradient_is_read(device):
    segments = prompts((5, [20], 5))
    sides = random_sides(segments, 2, 1, 64, device=device)
    layout = segments.layout(device)
    found = torch.autograd.grad(block_attention(*sides, layout)[0].sum(), sides)
    exact = [side.detach().double().requires_grad_() for side in sides]
    expected = torch.autograd.grad(dense_attention(*exact, segments.mask(), 0.125)[0].sum(), exact)
    for actual, right in zip(found, expected, strict=True):
        torch.testing.assert_close(actual.double(), right, rtol=1e-4, atol=1e-5)


def test_only_the_gradients_that_are_wanted_are_computed(device):
    segments = prompts((5, [20], 5))
    sides = random_sides(segments, 2, 1, 64, device=device)
    layout = segments.layout(device)
    every = torch.autograd.grad(block_attention(*sides, layout)[1].sum(), sides[:2])
    for wanted in (0, 1):
        one = [side.detach().requires_grad_(number == wanted) for number, side in enumerate(sides)]
        assert torch.equal(torch.autograd.grad(block_attention(*one, layout)[1].sum(), one[wanted])[0], every[wanted])
    assert not any(side.requires_grad for side in block_attention(*(side.detach() for side in sides), layout))


# what must not matter


def test_neither_other_prompts_in_the_batch_nor_another_run_change_a_bit(device):
    first, second = (9, [30, 31, 29, 28], 7), (17, [5, 40], 3)
    together = prompts(first, second)
    sides = random_sides(together, 2, 1, 64, torch.float16, device)
    layout = together.layout(device)
    both = results(lambda *given: block_attention(*given, layout), sides)
    again = results(lambda *given: block_attention(*given, together.layout(device)), sides)
    assert all(torch.equal(a, b) for a, b in zip(both, again, strict=True))
    split = prompts(first).rows
    for block, rows in ((first, slice(0, split)), (second, slice(split, None))):
        alone = block_attention(*(side[rows].detach() for side in sides), prompts(block).layout(device))
        assert all(torch.equal(a, b[rows]) for a, b in zip(alone, both[:2], strict=True))


def test_the_backends_agree(device):
    """Their gradients too; "cpu" is what heads are computed with that this kernel does not take."""
    segments = prompts((9, [30, 1, 28], 7))
    sides = random_sides(segments, 3, 1, 64, device=device)
    layout = segments.layout(device)
    found = {
        name: results(lambda *given, by=name: any_backend(*given, layout, backend=by), sides)
        for name in ("triton", "cpu", "reference")
    }
    for name in ("cpu", "reference"):
        for actual, expected in zip(found["triton"], found[name], strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("group", "size"), [(2, 32), (1, 80), (1, 256), (32, 64)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_other_heads_are_computed_without_this_kernel(group, size, dtype, device):
    segments = prompts((5, [7, 20], 3))
    sides = random_sides(segments, group, 1, size, dtype, device)
    assert not module.takes_heads(*sides[:2])
    layout = segments.layout(device)
    actual = results(lambda *given: any_backend(*given, layout), sides)
    exact = [side.detach().double().requires_grad_() for side in sides]
    expected = results(lambda *given: dense_attention(*given, segments.mask(), size**-0.5), exact)
    assert max(largest_errors(actual, expected)) <= 2 * TOLERANCE[dtype]


def test_nothing_of_tokens_by_tokens_is_made(device):
    """What the launchers make around the kernels, which themselves take memory from nobody."""
    segments = prompts((3, [4] * 200, 3))
    q, k, v = (side.detach() for side in random_sides(segments, 1, 1, 64, torch.float16, device))
    layout = segments.layout(device)
    with pytest.MonkeyPatch.context() as patch, LargestTensor() as largest:
        patch.setattr(module, "BLOCKS", REAL_BLOCKS)
        for cut, real in REAL_CUTS.items():
            patch.setattr(block_tiles, cut, real)
        for place in (module, block_gradients):
            for name in [name for name in vars(place) if name.endswith("_kernel")]:
                patch.setattr(place, name, Nothing())
        out, lse = module.block_attention_triton(q, k, v, layout, 0.125)
        block_gradients.gradients_triton(q, k, v, out, lse, out, lse, layout, 0.125, (True, True, True))
    assert largest.bytes < segments.rows**2


class Nothing:
    """A kernel that does nothing."""

    def __getitem__(self, grid):
        return lambda *arguments, **options: None


# arguments that do not fit

Q, K = torch.ones(4, 2, 64), torch.ones(4, 1, 64)
LAYOUT = prompts((4, [], 0)).layout()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((Q[0], K, K), r"shapes \(2, 64\), \(4, 1, 64\) and \(4, 1, 64\): give \[tokens"),
        ((Q, K, K[:3]), r"and \(3, 1, 64\): give \[tokens"),
        ((Q[:, :, :32], K[:, :, :32], K[:, :, :32]), r"heads have 32 numbers: this kernel takes 64, 96, 128; use the backend 'cpu'"),
        ((Q, K, K.half()), r"are torch.float32, torch.float32, torch.float16: cast all"),
        ((Q.double(), K.double(), K.double()), r"are torch.float64, .* cast all to one of float32"),
        ((Q, K, K.to("meta")), r"meta, .*: move all to one CUDA device, or use the backend 'cpu'"),
        ((Q, torch.ones(4, 3, 64), torch.ones(4, 3, 64)), r"q has 2 heads and k 3: give a multiple of k's, at most 16 times"),
        ((Q.repeat(1, 16, 1), K, K), r"q has 32 heads and k 1: .* at most 16 times"),
        ((Q[:3], K, K), r"rise from 0 to the 3 rows of q"),
        ((Q, K[:3], K[:3]), r"must lie within the 3 keys"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_told_in_one_sentence(arguments, message, device):
    layout = type(LAYOUT)(*(side.to(device) for side in LAYOUT[:3]), *LAYOUT[3:])
    with pytest.raises(ValueError, match=message) as told:
        block_attention(*(side if side.is_meta else side.to(device) for side in arguments), layout)
    assert str(told.value).endswith(".")
