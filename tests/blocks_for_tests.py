"""Block-sparse attention by its definition, in float64: the whole table of tokens by keys, row by row."""

import numpy as np
import torch

from kernels.block_layout import BlockLayout


class Segments(list):
    """(rows, first own key, (first key of the prefix, end)) of each segment."""

    def layout(self, device="cpu"):
        return BlockLayout.of(*map(list, zip(*self, strict=True)), device)

    @property
    def rows(self):
        return sum(rows for rows, _, _ in self)

    @property
    def keys(self):
        """As few as the segments need."""
        return max(max(own + rows, end) for rows, own, (_, end) in self)

    def mask(self, num_keys=None):
        """bool [rows, keys]"""
        lines = []
        for rows, own, (first, end) in self:
            for i in range(rows):
                line = np.zeros(num_keys or self.keys, bool)
                line[first:end] = True
                line[own : own + i + 1] = True
                lines.append(line)
        return torch.tensor(np.array(lines))


def prompts(*blocks):
    """Whole prompts end to end from (instruction, [documents], last block), which may be 0."""
    segments, start = Segments(), 0
    for instruction, documents, last in blocks:
        begin, end = start, start + instruction
        if instruction:
            segments.append((instruction, start, (start, start)))
        for length in documents:
            segments.append((length, end, (begin, begin + instruction)))
            end += length
        if last:
            segments.append((last, end, (begin, end)))
        start = end + last
    return segments


def random_sides(segments, group, kv_heads, size, dtype=torch.float32, device="cpu", num_keys=None, seed=0):
    """(q, k, v), which want gradients."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (segments.rows, group * kv_heads, size), *[(num_keys or segments.keys, kv_heads, size)] * 2
    return tuple(torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes)


def dense_attention(q, k, v, mask, scale):
    """(out, lse) in float64, differentiable; of values that no row sees, and NaNs among them, nothing is left."""
    group = q.shape[1] // k.shape[1]
    mask = mask.to(q.device)[:, None]
    keys, values = (side.double().repeat_interleave(group, 1) for side in (k, v))
    logits = torch.einsum("thd,khd->thk", q.double(), keys) * scale
    logits = torch.where(mask, logits, -torch.inf)
    lse = logits.logsumexp(2)
    return torch.einsum("thk,khd->thd", (logits - lse[:, :, None]).exp(), values), lse
