"""Block-sparse attention and the mass of documents against their definitions, written as loops over rows and heads in float64."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from kernels.block_attention import block_attention
from kernels.block_layout import BlockLayout, PromptBlocks, causal_layout, prompt_layout
from kernels.cpu import block_attention as cpu
from kernels.document_mass import log_document_mass

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTHS = st.sampled_from([1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 200]) | st.integers(1, 200)
TOLERANCES = {torch.float64: 1e-12, torch.float32: 5e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}  # of the largest
PROMPTS = st.lists(
    st.builds(
        PromptBlocks,
        instruction=st.sampled_from([0, 1, 16, 23]) | st.integers(0, 60),
        documents=st.lists(st.just(0) | LENGTHS, max_size=4),
        last=st.sampled_from([1, 16, 19]),
    ),
    min_size=1,
    max_size=2,
)
HEADS = st.sampled_from([(1, 1), (2, 1), (6, 2), (4, 1), (8, 8), (8, 1)])


def seen_in_prompts(prompts):
    """For each row, the keys it sees."""
    rows, start = [], 0
    for instruction, documents, last in prompts:
        before = list(range(start, start + instruction))
        rows += [before[: i + 1] for i in range(instruction)]
        first = start + instruction
        for length in documents:
            rows += [before + list(range(first, first + i + 1)) for i in range(length)]
            first += length
        rows += [list(range(start, first + i + 1)) for i in range(last)]
        start = first + last
    return rows


def definition(q, k, v, seen, scale, of_out, of_lse):
    """Output, log-sum-exp, and the gradients of sum(out * of_out) + sum(lse * of_lse) for q, k and v; float64 arrays."""
    q, k, v, of_out, of_lse = (side.detach().double().numpy() for side in (q, k, v, of_out, of_lse))
    group = q.shape[1] // k.shape[1]
    out, lse = np.zeros_like(q), np.zeros(q.shape[:2])
    of_q, of_k, of_v = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for row, keys in enumerate(seen):
        for head in range(q.shape[1]):
            own = head // group
            logits = k[keys, own] @ q[row, head] * scale
            largest = logits.max()
            lse[row, head] = largest + np.log(np.exp(logits - largest).sum())
            p = np.exp(logits - lse[row, head])
            out[row, head] = p @ v[keys, own]
            of_p = v[keys, own] @ of_out[row, head]
            of_logits = p * (of_p - p @ of_p + of_lse[row, head])
            of_q[row, head] = of_logits @ k[keys, own] * scale
            of_k[keys, own] += np.outer(of_logits, q[row, head]) * scale
            of_v[keys, own] += np.outer(p, of_out[row, head])
    return out, lse, of_q, of_k, of_v


def random_sides(seed, tokens, keys, heads, size, dtype, strided=False, magnitude=1.0):
    """q, k, v, and the gradients of the output and the log-sum-exp; `strided` ones lie in one tensor with something between."""
    generator = torch.Generator().manual_seed(seed)

    def side(rows, heads):
        numbers = torch.randn(rows, heads, size, generator=generator, dtype=torch.float64)
        if not strided:
            return numbers.to(dtype)
        return (
            torch.full((heads, rows, 2 * size), torch.nan, dtype=dtype)[..., :size]
            .copy_(numbers.transpose(0, 1))
            .transpose(0, 1)
        )

    q, k, v = side(tokens, heads[0]) * magnitude, side(keys, heads[1]), side(keys, heads[1])
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    return q, k, v, side(tokens, heads[0]), torch.randn(tokens, heads[0], generator=generator, dtype=exact)


def assert_is_definition(sides, layout, seen, scale):
    q, k, v, of_out, of_lse = sides
    inputs = [side.detach().requires_grad_() for side in (q, k, v)]
    out, lse = block_attention(*inputs, layout, scale)
    assert (out.dtype, out.shape, lse.shape) == (q.dtype, q.shape, q.shape[:2])
    assert lse.dtype == (torch.float64 if q.dtype == torch.float64 else torch.float32)
    grads = torch.autograd.grad((out, lse), inputs, (of_out, of_lse))
    used = q.shape[-1] ** -0.5 if scale is None else scale
    names = ("output", "log-sum-exp", "gradient of q", "gradient of k", "gradient of v")
    expected = definition(q, k, v, seen, used, of_out, of_lse)
    for name, found, right in zip(names, (out, lse, *grads), expected, strict=True):
        error = np.abs(found.detach().double().numpy() - right).max()
        assert error <= TOLERANCES[q.dtype] * max(1, np.abs(right).max()), f"{name} is off by {error}"


@settings(max_examples=60)
@given(
    prompts=PROMPTS,
    heads=HEADS,
    size=st.sampled_from([8, 64, 96]),
    dtype=st.sampled_from(list(TOLERANCES)),
    strided=st.booleans(),
    scale=st.sampled_from([None, 0.3]),
    magnitude=st.sampled_from([0.5, 2.0]),
    seed=st.integers(0, 1 << 30),
)
def test_prompts_see_what_they_should(prompts, heads, size, dtype, strided, scale, magnitude, seed):
    seen = seen_in_prompts(prompts)
    sides = random_sides(seed, len(seen), len(seen), heads, size, dtype, strided, magnitude)
    assert_is_definition(sides, prompt_layout(prompts), seen, scale)


def one_prefix_key_less(monkeypatch, layout):
    return layout._replace(prefix=layout.prefix - torch.tensor([0, 1]) * (layout.prefix[:, 1:] > layout.prefix[:, :1]))


def causal_mask_off_by_one(monkeypatch, layout):
    right = cpu.causal_parts

    def wrong(layout):
        return (part._replace(keys=(part.keys + 1).clamp(max=part.keys.max())) for part in right(layout))

    monkeypatch.setattr(cpu, "causal_parts", wrong)
    return layout


def no_scale(monkeypatch, layout):
    right = cpu.flash
    monkeypatch.setattr(cpu, "flash", lambda q, k, v, scale, **more: right(q, k, v, 1.0, **more))
    return layout


def no_scale_in_gradients(monkeypatch, layout):
    right = cpu.gradients

    def wrong(of_rows, k, v, scale, real):
        of_q, of_k, of_v = right(of_rows, k, v, scale, real)
        return of_q, of_k / scale, of_v

    monkeypatch.setattr(cpu, "gradients", wrong)
    return layout


def heads_of_another_group(monkeypatch, layout):
    right = cpu.flash
    monkeypatch.setattr(cpu, "flash", lambda q, k, v, *more, **named: right(q, k.flip(2), v.flip(2), *more, **named))
    return layout


PLANTED = [one_prefix_key_less, causal_mask_off_by_one, no_scale, no_scale_in_gradients, heads_of_another_group]


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_seen(plant, monkeypatch):
    prompts = [PromptBlocks(5, [3, 17], 4)]
    seen = seen_in_prompts(prompts)
    sides = random_sides(1, len(seen), len(seen), (4, 2), 8, torch.float32)
    assert_is_definition(sides, prompt_layout(prompts), seen, None)
    with pytest.raises(AssertionError, match="is off by"):
        assert_is_definition(sides, plant(monkeypatch, prompt_layout(prompts)), seen, None)


@settings(max_examples=40)
@given(
    segments=st.lists(
        st.tuples(LENGTHS, st.integers(0, 40), st.booleans(), st.integers(0, 70)), min_size=1, max_size=5
    ),
    heads=HEADS,
    dtype=st.sampled_from([torch.float64, torch.float32]),
    data=st.data(),
)
def test_keys_may_lie_elsewhere_and_be_more_than_the_queries(segments, heads, dtype, data):
    """Keys: for each segment a gap, then its own ones, with its prefix before or after them."""
    own, prefix, seen, end = [], [], [], 0
    for length, gap, is_behind, others in segments:
        begin = end + gap
        first = begin if is_behind else begin + others
        own.append(first)
        prefix.append((begin + length, begin + length + others) if is_behind else (begin, begin + others))
        seen += [[*range(*prefix[-1]), *range(first, first + i + 1)] for i in range(length)]
        end = begin + length + others
    if len(segments) > 1 and data.draw(st.booleans()):  # one prefix for all, as of an instruction computed before
        others = data.draw(st.integers(1, 30))
        own, end = [first + others for first in own], end + others
        prefix = [(0, others)] * len(segments)
        rows = [(first, i) for first, (length, *_) in zip(own, segments, strict=True) for i in range(length)]
        seen = [[*range(others), *range(first, first + i + 1)] for first, i in rows]
    layout = BlockLayout.of([length for length, *_ in segments], own, prefix)
    sides = random_sides(data.draw(st.integers(0, 1 << 30)), len(seen), end + 3, heads, 8, dtype)
    assert_is_definition(sides, layout, seen, None)


@pytest.mark.parametrize("size", [8, 64, 96, 128])
@pytest.mark.parametrize("length", [1, 15, 16, 17, 63, 64, 65])
def test_one_text_is_plain_causal_attention(length, size):
    q, k, v, *_ = random_sides(length, length, length, (4, 4), size, torch.float32)
    out, _ = block_attention(q, k, v, causal_layout([length]))
    heads_first = [side.transpose(0, 1)[None] for side in (q, k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention(*heads_first, is_causal=True)[0].transpose(0, 1)
    torch.testing.assert_close(out, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("heads", [(1, 1), (4, 2)])
def test_gradients_are_those_of_finite_differences(heads):
    layout = prompt_layout([PromptBlocks(2, [3, 1], 2), PromptBlocks(0, [17], 1)])
    q, k, v, *_ = random_sides(0, 26, 26, heads, 4, torch.float64)
    inputs = [side.requires_grad_() for side in (q, k, v)]
    assert torch.autograd.gradcheck(lambda *sides: block_attention(*sides, layout), inputs)
    assert torch.autograd.gradcheck(lambda q, k: block_attention(q, k, v.detach(), layout)[1], inputs[:2])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("side", ["q", "k", "v"])
def test_what_is_not_a_number_stays_in_its_document(bad, side):
    lengths = [16, 5, 16, 40]
    blocks = PromptBlocks(7, lengths, 3)
    layout = prompt_layout([blocks])
    sides = dict(zip("qkv", random_sides(1, 87, 87, (4, 2), 8, torch.float32)[:3], strict=True))
    clean, _ = block_attention(**sides, layout=layout)
    starts = np.cumsum([7, *lengths])
    second = slice(starts[1], starts[2])
    others = np.r_[0 : starts[1], starts[2] : starts[4]]
    sides[side][second] = bad
    out, lse = block_attention(**sides, layout=layout)
    assert torch.equal(out[others], clean[others])
    assert lse[others].isfinite().all()

    alone = prompt_layout([blocks._replace(last=0)])  # the last block sees all documents, so that it may be anything
    inputs = [each[: starts[4]].detach().requires_grad_() for each in sides.values()]
    out, lse = block_attention(*inputs, alone)
    of_out, of_lse = torch.ones_like(out), torch.ones_like(lse)
    grads = torch.autograd.grad((out, lse), inputs, (of_out, of_lse))
    documents = others[others >= 7]  # all documents add to the gradients of the instruction's keys
    for grad in grads:
        assert grad[documents].isfinite().all()
    assert grads[0][:7].isfinite().all()


def test_permuted_documents_have_permuted_outputs_and_masses():
    lengths, order = [16, 5, 33, 1, 64], [3, 0, 4, 2, 1]
    q, k, v, *_ = random_sides(2, 20 + sum(lengths) + 6, 20 + sum(lengths) + 6, (6, 2), 16, torch.float32)
    starts = np.cumsum([20, *lengths])
    documents = [slice(start, end) for start, end in pairwise(starts)]
    moved = np.r_[(slice(0, 20), *(documents[d] for d in order), slice(starts[-1], len(q)))]
    out, lse = block_attention(q, k, v, prompt_layout([PromptBlocks(20, lengths, 6)]))
    layout = prompt_layout([PromptBlocks(20, [lengths[d] for d in order], 6)])
    permuted, permuted_lse = block_attention(q[moved], k[moved], v[moved], layout)
    torch.testing.assert_close(permuted, out[moved], atol=2e-6, rtol=0)
    torch.testing.assert_close(permuted_lse, lse[moved], atol=2e-6, rtol=0)
    middle = slice(20, starts[-1])
    mass = log_document_mass(q[-2:], k[middle], torch.from_numpy(starts - 20))
    found = log_document_mass(q[-2:], k[moved][middle], torch.tensor([0, *(lengths[d] for d in order)]).cumsum(0))
    torch.testing.assert_close(found, mass[order], atol=2e-6, rtol=0)


def test_documents_in_parts_equal_documents_at_once():
    """The instruction's keys stand before each part; the last block is merged from parts by the log-sum-exp."""
    lengths = [16, 5, 33, 1, 64, 20]
    total = 9 + sum(lengths) + 4
    q, k, v, *_ = random_sides(3, total, total, (4, 2), 16, torch.float64)
    whole, whole_lse = block_attention(q, k, v, prompt_layout([PromptBlocks(9, lengths, 4)]))
    starts = np.cumsum([9, *lengths]).tolist()
    for first, end in ((0, 2), (2, 6)):
        rows = slice(starts[first], starts[end])
        keys = np.r_[0:9, rows]
        own = [start - starts[first] + 9 for start in starts[first:end]]
        layout = BlockLayout.of(lengths[first:end], own, [(0, 9)] * (end - first))
        out, lse = block_attention(q[rows], k[keys], v[keys], layout)
        torch.testing.assert_close(out, whole[rows], atol=1e-13, rtol=0)
        torch.testing.assert_close(lse, whole_lse[rows], atol=1e-13, rtol=0)
    # a row of the last block: its own keys alone, and all before it as a prefix of rows of no other keys
    last = slice(starts[-1], total)
    own_out, own_lse = block_attention(q[last], k[last], v[last], causal_layout([4]))
    merged = torch.stack([own_lse]), torch.stack([own_out])
    for begin, end in ((0, 50), (50, starts[-1])):
        scores = torch.einsum("thd,khd->thk", q[last], k[begin:end].repeat_interleave(2, 1)) / 4
        part = scores.logsumexp(2)
        values = torch.einsum("thk,khd->thd", scores.softmax(2), v[begin:end].repeat_interleave(2, 1))
        merged = torch.cat([merged[0], part[None]]), torch.cat([merged[1], values[None]])
    weights = merged[0].softmax(0)
    torch.testing.assert_close((weights[..., None] * merged[1]).sum(0), whole[last], atol=1e-13, rtol=0)
    torch.testing.assert_close(merged[0].logsumexp(0), whole_lse[last], atol=1e-13, rtol=0)


class LargestTensor(TorchDispatchMode):
    """Elements of the largest storage that any operation gives."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for each in found if isinstance(found, tuple | list) else [found]:
            if isinstance(each, torch.Tensor):
                self.elements = max(self.elements, each.untyped_storage().nbytes() // each.element_size())
        return found


def largest_tensor(documents):
    blocks = PromptBlocks(50, [40] * documents, 20)
    tokens = 70 + 40 * documents
    q, k, v, *_ = random_sides(0, tokens, tokens, (4, 2), 8, torch.float32)
    with LargestTensor() as largest:
        inputs = [side.requires_grad_() for side in (q, k, v)]
        out, lse = block_attention(*inputs, prompt_layout([blocks]))
        torch.autograd.grad((out, lse), inputs, (torch.ones_like(out), torch.ones_like(lse)))
    return largest.elements, tokens


def test_no_tensor_of_tokens_by_tokens_is_made():
    few, tokens = largest_tensor(98)
    assert tokens == 3990
    assert few < tokens**2 / 10
    many, _ = largest_tensor(2 * 98)
    assert many < 2.1 * few


def masses(q, k, starts, scale):
    """The published formula: softmax over all document tokens, mean over heads and rows, sum over the tokens of a document."""
    q, k = (side.detach().double().numpy() for side in (q, k))
    group, token_mass = q.shape[1] // k.shape[1], np.zeros(len(k))
    for row in q:
        for head, query in enumerate(row):
            logits = k[:, head // group] @ query * scale
            p = np.exp(logits - logits.max())
            token_mass += p / p.sum() / (q.shape[0] * q.shape[1])
    return np.array([token_mass[start:end].sum() for start, end in pairwise(starts)])


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any),
    rows=st.integers(1, 3),
    heads=HEADS,
    dtype=st.sampled_from(list(TOLERANCES)),
    scale=st.sampled_from([None, 0.7]),
    seed=st.integers(0, 1 << 30),
)
def test_masses_are_those_of_the_published_formula(lengths, rows, heads, dtype, scale, seed):
    starts = np.cumsum([0, *lengths])
    q, k, *_ = random_sides(seed, rows, starts[-1], heads, 8, dtype)
    found = log_document_mass(q, k, torch.from_numpy(starts), scale)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    np.testing.assert_allclose(found.exp().double(), masses(q, k, starts, scale or 8**-0.5), rtol=tolerance, atol=1e-30)
    assert (found[torch.tensor(lengths) == 0] == -torch.inf).all()
    assert abs(found.exp().sum() - 1) < 1e-5


def test_the_only_document_has_all_the_mass():
    q, k, *_ = random_sides(0, 2, 30, (4, 2), 8, torch.float32)
    torch.testing.assert_close(log_document_mass(q, k, torch.tensor([0, 30])), torch.zeros(1), atol=1e-6, rtol=0)


def test_logarithms_of_masses_too_small_for_a_number_are_right_and_have_gradients():
    q = torch.ones(1, 1, 1, requires_grad=True)
    k = torch.tensor([2000.0, 1000, 1000, -5000]).reshape(4, 1, 1).requires_grad_()
    found = log_document_mass(q, k, torch.tensor([0, 1, 3, 4]), scale=1.0)
    np.testing.assert_allclose(found.detach(), [0, -1000 + np.log(2), -7000], rtol=1e-6, atol=1e-6)
    of_q, of_k = torch.autograd.grad(found[1], (q, k))
    np.testing.assert_allclose(of_k.flatten(), [-1, 0.5, 0.5, 0])  # of ln(m1): p given document 1 less p
    np.testing.assert_allclose(of_q.flatten(), [1000 - 2000])


def test_gradients_of_masses_are_those_of_finite_differences_also_beside_a_document_without_tokens():
    q, k, *_ = random_sides(4, 2, 9, (4, 2), 3, torch.float64)
    starts, there = torch.tensor([0, 4, 4, 5, 9]), [0, 2, 3]
    inputs = [side.requires_grad_() for side in (q, k)]
    assert torch.autograd.gradcheck(lambda q, k: log_document_mass(q, k, starts)[there], inputs)


def test_layouts_that_do_not_fit_are_refused():
    q = torch.zeros(10, 2, 8)
    for layout in (
        causal_layout([5]),
        causal_layout([12]),
        BlockLayout.of([10], [3], [(0, 0)]),
        BlockLayout.of([10], [0], [(0, 4)]),
    ):
        with pytest.raises(ValueError, match="the layout"):
            block_attention(q, q, q, layout)
    assert prompt_layout([]).longest == 0
    assert causal_layout([0, 3]).starts.tolist() == [0, 3]
