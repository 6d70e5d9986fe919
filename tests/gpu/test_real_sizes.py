"""Block attention at the sizes that it is for, every number against dense float32 attention, head by head: minutes on the interpreter, so on a GPU
only."""

import pytest
import torch
from blocks_for_tests import prompts, random_sides

from kernels.block_attention import block_attention, seen
from kernels.gpu import block_tiles

REAL_CUTS = {name: getattr(block_tiles, name) for name in ("PREFIX_CUT", "ROWS_CUT")}  # before they are made small
TOLERANCE = {torch.float32: 3e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}  # of the largest number


def largest_errors(segments, sides, device, seed=1):
    """Of out, lse, dq, dk and dv, as shares of the largest number of each."""
    layout, generator = segments.layout(device), torch.Generator().manual_seed(seed)
    out, lse = block_attention(*sides, layout)
    of_out, of_lse = (torch.randn(side.shape, generator=generator).to(side) for side in (out, lse))
    found = [out, lse, *torch.autograd.grad([out, lse], sides, [of_out, of_lse])]
    mask, (_, heads, size), kv_heads = seen(layout, len(sides[1])), sides[0].shape, sides[1].shape[1]
    errors, largest = torch.zeros(5), torch.zeros(5)
    for kv_head in range(kv_heads):
        exact = [side.detach()[:, kv_head].float().requires_grad_() for side in sides[1:]]
        of_keys = [torch.zeros_like(side) for side in exact]
        for head in range(kv_head * (heads // kv_heads), (kv_head + 1) * (heads // kv_heads)):
            queries = sides[0].detach()[:, head].float().requires_grad_()
            logits = (queries @ exact[0].T * size**-0.5).masked_fill(~mask, -torch.inf)
            sums = logits.logsumexp(1)
            rows = (logits - sums[:, None]).exp() @ exact[1]
            given = [of_out[:, head].float(), of_lse[:, head]]
            of_queries, *more = torch.autograd.grad([rows, sums], [queries, *exact], given)
            of_keys = [total + one for total, one in zip(of_keys, more, strict=True)]
            note(errors, largest, slice(0, 3), [side[:, head] for side in found[:3]], [rows, sums, of_queries])
        note(errors, largest, slice(3, 5), [side[:, kv_head] for side in found[3:]], of_keys)
    return errors / largest


def note(errors, largest, places, actual, expected):
    apart = [(a.detach().float() - e.detach()).abs().max().cpu() for a, e in zip(actual, expected, strict=True)]
    errors[places] = torch.maximum(errors[places], torch.stack(apart))  # NaN stays
    largest[places] = torch.maximum(largest[places], torch.stack([e.detach().abs().max().cpu() for e in expected]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT RUN: takes minutes on the interpreter")
@pytest.mark.parametrize(
    ("documents", "tokens", "group", "kv_heads", "size", "dtype"),
    [
        (100, 80, 4, 8, 128, torch.bfloat16),
        (40, 150, 4, 8, 128, torch.float16),
        (30, 150, 3, 2, 128, torch.bfloat16),
        (60, 157, 3, 3, 64, torch.bfloat16),
        (30, 77, 4, 2, 128, torch.float32),
        (30, 77, 3, 3, 64, torch.float32),
    ],
)
def test_every_number_at_real_sizes(documents, tokens, group, kv_heads, size, dtype, device, monkeypatch):
    for name, cut in REAL_CUTS.items():
        monkeypatch.setattr(block_tiles, name, cut)
    segments = prompts((110, [tokens] * documents, 70))
    errors = largest_errors(segments, random_sides(segments, group, kv_heads, size, dtype, device), device)
    assert (errors <= TOLERANCE[dtype]).all(), errors
