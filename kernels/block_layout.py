"""Which keys each query token sees in block-sparse attention, as a table of segments: never a mask of tokens by tokens.

One rule covers BlockRank's attention (arXiv:2510.05396, section 4.1), prompts packed end to end, cached documents and plain causal
attention: a segment sees one range of keys completely, and its own tokens causally.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch


class BlockLayout(NamedTuple):
    """Segment s holds the query rows starts[s] to starts[s + 1]. Row i of it, counted from 0, sees all keys from prefix[s, 0] up to but
    without prefix[s, 1], and of its own keys own[s] to own[s] + i.

    There may be more keys than queries: those of documents that were computed before. A segment has at least one row, and its own
    keys are not in its prefix.
    """

    starts: torch.Tensor  # int32 [segments + 1], from 0 to the number of query rows
    own: torch.Tensor  # int32 [segments]
    prefix: torch.Tensor  # int32 [segments, 2]; empty where both are equal
    longest: int  # query rows of the longest segment
    longest_prefix: int  # keys

    @classmethod
    def of(
        cls,
        lengths: Sequence[int],
        own: Sequence[int],
        prefix: Sequence[tuple[int, int]],
        device: torch.device | str = "cpu",
    ) -> BlockLayout:
        """From what is said of each segment: its query rows, its first own key, its prefix."""
        rows = torch.tensor(lengths, dtype=torch.int32)
        starts = torch.nn.functional.pad(rows.cumsum(0, dtype=torch.int32), (1, 0))
        return cls(
            starts.to(device),
            torch.tensor(own, dtype=torch.int32, device=device),
            torch.tensor(prefix, dtype=torch.int32, device=device).reshape(-1, 2),
            max(lengths, default=0),
            max((end - start for start, end in prefix), default=0),
        )


class PromptBlocks(NamedTuple):
    """Lengths in tokens of a prompt: the instruction, which all see; documents, which see it and themselves; the last block, which sees
    everything."""

    instruction: int
    documents: Sequence[int]
    last: int


def prompt_layout(prompts: Sequence[PromptBlocks], device: torch.device | str = "cpu") -> BlockLayout:
    """Whole prompts end to end; queries and keys are the same rows. A document or an instruction may be empty."""
    lengths, own, prefix, start = [], [], [], 0
    for instruction, documents, last in prompts:
        ends = [start + instruction]
        for length in documents:
            ends.append(ends[-1] + length)
        seen = [(start, start), *[(start, ends[0])] * len(documents), (start, ends[-1])]
        for (begin, end), sees in zip(pairwise([start, *ends, ends[-1] + last]), seen, strict=True):
            if end > begin:
                lengths.append(end - begin)
                own.append(begin)
                prefix.append(sees)
        start = ends[-1] + last
    return BlockLayout.of(lengths, own, prefix, device)


def causal_layout(lengths: Sequence[int], device: torch.device | str = "cpu") -> BlockLayout:
    """Texts end to end, each with plain causal attention."""
    lengths = [length for length in lengths if length]
    starts = torch.tensor([0, *lengths]).cumsum(0).tolist()[:-1]
    return BlockLayout.of(lengths, starts, [(start, start) for start in starts], device)


class HostLayout(NamedTuple):
    """A layout whose numbers have been checked, as int64 arrays."""

    starts: np.ndarray
    own: np.ndarray
    prefix: np.ndarray


def checked(layout: BlockLayout, num_rows: int, num_keys: int) -> HostLayout:
    """The layout on the host, which waits for the device; ValueError where it does not fit so many query rows and keys."""
    host = HostLayout(*(side.cpu().numpy().astype(np.int64) for side in layout[:3]))
    starts, own, (first, end) = host.starts, host.own, host.prefix.T
    lengths = np.diff(starts)
    if not len(lengths) or starts[0] != 0 or starts[-1] != num_rows or (lengths < 1).any():
        raise ValueError(
            f"the layout's starts are {shown(starts)}; they must rise from 0 to the {num_rows} rows of q, each segment with "
            "at least one row: make the layout of the lengths that were packed."
        )
    wrong = (own < 0) | (own + lengths > num_keys) | (first < 0) | (end > num_keys) | (first > end)
    wrong |= (first < end) & (first < own + lengths) & (own < end)
    if wrong.any():
        at = int(wrong.argmax())
        raise ValueError(
            f"segment {at} of the layout has the own keys {own[at]} to {own[at] + lengths[at]} and the prefix {first[at]} to {end[at]}; "
            f"both must lie within the {num_keys} keys and apart from each other: make the layout for these keys."
        )
    return host


def shown(numbers: np.ndarray) -> str:
    listed = ", ".join(map(str, numbers[:8]))
    return f"{listed}, ... {numbers[-1]}" if len(numbers) > 8 else f"[{listed}]"
