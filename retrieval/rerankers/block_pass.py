"""One prompt of blocks on its way through the layers of a transformers decoder: which tokens are computed, what attention sees.

Documents see the instruction and themselves, the last block sees everything (BlockRank, arXiv:2510.05396, section 4.1). A layer works
on its tokens in parts where there are many: whole documents, and the last block at the end. Keys and values are kept of the layer
under way alone, so memory grows with the hidden states of a prompt and not with its layers. Blocks whose keys and values are known
from before are not computed at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from transformers import AttentionInterface

from index.errors import ModelError
from kernels.block_attention import block_attention
from kernels.block_layout import BlockLayout, causal_layout
from retrieval.rerankers.document_states import DocumentStates

BLOCKS = "winnow-blocks"


class Prompt(NamedTuple):
    """Token ids, int64, of each block; of blocks that were computed before, their states instead."""

    instruction: np.ndarray | DocumentStates
    documents: Sequence[np.ndarray | DocumentStates]
    last: np.ndarray
    last_position: int  # of the last block's first token; documents all begin after the instruction

    @property
    def num_tokens(self) -> int:
        return sum(map(num_tokens, (self.instruction, *self.documents, self.last)))


class Watch(Protocol):
    """What is to be learned of a pass; it ends with `last_layer`, which runs only as far as is needed."""

    last_layer: int
    needs_sums: bool  # whether `see` is given the sums of the last layer too

    def see(
        self, layer: int, queries: torch.Tensor, keys: torch.Tensor, lse: torch.Tensor | None, scale: float
    ) -> None:
        """Of each layer, in order.

        queries  [tokens of the last block, heads, size]
        keys     [tokens of all documents, kv_heads, size]
        lse      float32 [tokens of the last block, heads]: logarithms of the sums of exponentials over all that it sees
        scale    of the products of queries and keys
        """
        ...


Keep = Callable[[int, int, torch.Tensor, torch.Tensor], None]
"""Takes a layer, a block, and its keys and values there: [tokens, kv_heads, size]."""


class Part(NamedTuple):
    """Tokens that a layer works on at once: whole blocks."""

    rows: slice  # of the hidden states
    keys: torch.Tensor  # int64: where in all keys of the prompt theirs are
    layout: BlockLayout
    blocks: Sequence[int]
    has_last: bool


class Finished(Exception):
    """A pass has learned all it was made for; what follows in the layer need not run."""


class Pass:
    """Block 0 is the instruction, block d + 1 is document d."""

    def __init__(
        self,
        prompt: Prompt,
        watch: Watch,
        device: torch.device,
        tokens_together: int,
        keep: Keep | None = None,
        *,
        causal: bool = False,
    ):
        self.watch, self.keep, self.causal = watch, keep, causal
        self.blocks = [prompt.instruction, *prompt.documents]
        self.starts = list(accumulate(map(num_tokens, self.blocks), initial=0))  # and where the last block starts
        self.last, self.last_position = prompt.last, prompt.last_position
        self.num_keys = self.starts[-1] + len(prompt.last)
        self.parts = list(self.divided(device, tokens_together))
        self.part = self.parts[0]
        self.layer = -1
        self.smallest_window: int | None = None
        self.keys = self.values = torch.empty(0)

    def computed(self) -> Iterator[tuple[int, np.ndarray]]:
        """The blocks whose states are not known."""
        return ((b, ids) for b, ids in enumerate(self.blocks) if not isinstance(ids, DocumentStates))

    def divided(self, device: torch.device, tokens_together: int) -> Iterator[Part]:
        """The blocks in order, so many tokens at once; none is ever cut."""
        if self.causal:
            every = torch.arange(self.num_keys, device=device)
            yield Part(slice(0, self.num_keys), every, causal_layout([self.num_keys], device), (), True)
            return
        last, row = len(self.blocks), 0
        lengths = {**{b: len(ids) for b, ids in self.computed() if len(ids)}, last: len(self.last)}
        for some in batches(lengths, tokens_together):
            own = [self.starts[b] for b in some]
            sees = [(0, self.starts[-1]) if b == last else (0, self.starts[1]) if b else (0, 0) for b in some]
            keys = torch.cat([torch.arange(self.starts[b], self.starts[b] + lengths[b]) for b in some]).to(device)
            layout = BlockLayout.of([lengths[b] for b in some], own, sees, device)
            blocks = [b for b in some if b != last]
            yield Part(slice(row, row + len(keys)), keys, layout, blocks, some[-1] == last)
            row += len(keys)

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids and positions, int64 [tokens], of what is computed."""
        computed = list(self.computed())
        ids = np.concatenate([*(ids for _, ids in computed), self.last])
        if self.causal:
            return ids, np.arange(len(ids))
        positions = [(self.starts[1] if b else 0) + np.arange(len(own)) for b, own in computed]
        return ids, np.concatenate([*positions, self.last_position + np.arange(len(self.last))])

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        """[tokens, heads, size] of a part. Raises Finished where nothing more is needed of the layer."""
        keys, values = self.of_all(layer, k, v)
        if self.keep is not None:
            for block in self.part.blocks:
                own = slice(self.starts[block], self.starts[block + 1])
                self.keep(layer, block, keys[own], values[own])
        is_last = layer == self.watch.last_layer
        if is_last and not (self.part.has_last and self.watch.needs_sums):
            if self.part.has_last:
                self.show(layer, q, keys, None, scale)
            raise Finished
        out, lse = block_attention(q, keys, values, self.part.layout, scale)
        if self.part.has_last:
            self.show(layer, q, keys, lse, scale)
        if is_last:
            raise Finished
        return out

    def show(self, layer: int, q: torch.Tensor, keys: torch.Tensor, lse: torch.Tensor | None, scale: float) -> None:
        last, documents = slice(-len(self.last), None), slice(self.starts[1], self.starts[-1])
        self.watch.see(layer, q[last], keys[documents], None if lse is None else lse[last], scale)

    def of_all(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the whole prompt, as far as they are known: those of a part and of what came before it."""
        if len(self.part.keys) == self.num_keys:
            return k, v
        if len(self.parts) == 1:
            return self.joined(layer, k, "keys"), self.joined(layer, v, "values")
        if layer != self.layer:
            self.layer = layer
            self.keys, self.values = (side.new_empty((self.num_keys, *side.shape[1:])) for side in (k, v))
            for block, states in enumerate(self.blocks):
                if isinstance(states, DocumentStates):
                    own = slice(self.starts[block], self.starts[block + 1])
                    self.keys[own], self.values[own] = (
                        states.keys[layer],
                        states.values[min(layer, len(states.values) - 1)],
                    )
        self.keys[self.part.keys], self.values[self.part.keys] = k, v
        return self.keys, self.values

    def joined(self, layer: int, computed: torch.Tensor, name: Literal["keys", "values"]) -> torch.Tensor:
        """Known and computed blocks in their order, in one copy. Values of the last layer are not known, and nobody asks for them."""
        pieces, row = [], 0
        for block in self.blocks:
            if isinstance(block, DocumentStates):
                known = getattr(block, name)
                pieces.append(known[min(layer, len(known) - 1)])
            else:
                pieces.append(computed[row : row + len(block)])
                row += len(block)
        return torch.cat([*pieces, computed[row:]])


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    blocks: Pass,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The library's attention function: query [1, heads, tokens, size] -> [1, tokens, heads, size]."""
    for found, what in ((softcap, "caps its attention logits"), (s_aux, "has attention sinks")):
        if found is not None:
            raise ModelError(
                f"{type(module).__name__} {what}, which block attention does not compute; give a decoder such as Mistral, Llama or Qwen."
            )
    if sliding_window is not None:
        blocks.smallest_window = min(sliding_window, blocks.smallest_window or sliding_window)
    # under autocast the library turns queries and keys by their positions in float32
    q, k, v = (side[0].transpose(0, 1).to(value.dtype) for side in (query, key, value))
    scale = q.shape[-1] ** -0.5 if scaling is None else scaling
    layer: int = module.layer_idx
    return blocks.attend(layer, q, k, v, scale)[None], None


AttentionInterface.register(BLOCKS, attention)


class InParts(torch.nn.Module):
    """A layer that works on the parts of a pass one after another, where there are several."""

    def __init__(self, layer: torch.nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, hidden: torch.Tensor, *args: Any, **keywords: Any) -> torch.Tensor:
        passing: Pass | None = keywords.get("blocks")
        if passing is None or len(passing.parts) == 1:
            whole: torch.Tensor = self.layer(hidden, *args, **keywords)
            return whole
        num_rows, is_finished = hidden.shape[1], False
        for part in passing.parts:
            passing.part, rows = part, part.rows
            own = {name: cut(value, rows, num_rows) for name, value in keywords.items()}
            try:  # what a part's tokens were is not needed by those that follow: they see keys and values
                hidden[:, rows] = self.layer(hidden[:, rows], *(cut(one, rows, num_rows) for one in args), **own)
            except Finished:
                is_finished = True
        if is_finished:
            raise Finished
        return hidden

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)  # some architectures ask a layer for its kind


def cut(value: Any, rows: slice, num_rows: int) -> Any:
    """What belongs to some rows, of what a layer is given for all: positions, cosines and sines."""
    if isinstance(value, tuple):
        return tuple(cut(one, rows, num_rows) for one in value)
    if isinstance(value, torch.Tensor) and value.ndim > 1 and value.shape[1] == num_rows:
        return value[:, rows]
    return value


def num_tokens(block: np.ndarray | DocumentStates) -> int:
    return block.keys.shape[1] if isinstance(block, DocumentStates) else len(block)


def batches(lengths: Mapping[int, int], most: int) -> Iterator[list[int]]:
    """Keys in order, so that their values add up to at most so many, but at least one."""
    some: list[int] = []
    total = 0
    for key, length in lengths.items():
        if some and total + length > most:
            yield some
            some, total = [], 0
        some.append(key)
        total += length
    yield some
