"""Keys and values of a document's block, and how they are stored: as the model computed them, in bfloat16, or in 8 bits.

8 bits are symmetric with a float32 scale for each vector of a layer, token and head: a stored number is the nearest of 255 steps of
1/127 of the vector's largest, so it is off by at most half a step. A document's states depend on nothing of other documents
(BlockRank, arXiv:2510.05396, section 4.1), so they may be used in any list.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch

from index.errors import ModelError, WinnowError

Precision = Literal["same", "bf16", "int8"]
STEPS = 127  # on each side of zero
DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class DocumentStates(NamedTuple):
    """What others see of a document's block, up to the score layer."""

    keys: torch.Tensor  # [layers + 1, tokens, kv_heads, size]: of layers 0 to the score layer, after rotation
    values: torch.Tensor  # [layers, tokens, kv_heads, size]: of layers 0 up to but without the score layer


class StoredStates(NamedTuple):
    """DocumentStates as they are kept; `dtype` is that of the states they were made of."""

    keys: torch.Tensor  # int8 or a floating dtype, shaped as those of DocumentStates
    values: torch.Tensor
    key_scales: torch.Tensor | None  # float32 [layers + 1, tokens, kv_heads] of int8
    value_scales: torch.Tensor | None
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors())

    def tensors(self) -> list[torch.Tensor]:
        """In the order in which files hold them: the widest numbers first, so that all are aligned."""
        given = (self.key_scales, self.value_scales, self.keys, self.values)
        return [tensor for tensor in given if tensor is not None]

    def to(self, device: torch.device | str) -> StoredStates:
        scales = [None if tensor is None else tensor.to(device) for tensor in (self.key_scales, self.value_scales)]
        return StoredStates(self.keys.to(device), self.values.to(device), scales[0], scales[1], self.dtype)


def check_precision(precision: str) -> None:
    if precision not in get_args(Precision):
        raise WinnowError(f"the precision is {precision!r}; it must be one of {', '.join(get_args(Precision))}.")


def check_states(states: DocumentStates, num_tokens: int) -> None:
    """ModelError unless the tensors are what a document of so many tokens has, all numbers finite."""
    keys, values = states
    fits = (
        keys.ndim == values.ndim == 4
        and keys.shape[1:] == values.shape[1:]
        and keys.shape[0] == values.shape[0] + 1
        and keys.shape[1] == num_tokens
        and keys.dtype == values.dtype
    )
    if not fits or keys.dtype not in DTYPES.values():
        raise ModelError(
            f"keys {list(keys.shape)} {keys.dtype} and values {list(values.shape)} {values.dtype} are no states of a document of "
            f"{num_tokens:,} tokens; give floating [layers + 1, tokens, kv_heads, size] and [layers, tokens, kv_heads, size]."
        )
    if not (keys.isfinite().all() and values.isfinite().all()):
        raise ModelError(
            f"the states of a document of {num_tokens:,} tokens hold NaN or infinity; compute in float32 or bfloat16, or repair "
            "the model."
        )


def stored(states: DocumentStates, precision: Precision) -> StoredStates:
    """Copies that share no memory with `states`. Raises ModelError for numbers that bfloat16 or float32 cannot hold."""
    keys, values = states = DocumentStates(*(side.detach() for side in states))
    if precision == "int8":
        (key_codes, key_scales), (value_codes, value_scales) = quantised(keys), quantised(values)
        return StoredStates(key_codes, value_codes, key_scales, value_scales, keys.dtype)
    dtype = torch.bfloat16 if precision == "bf16" else keys.dtype
    copied = DocumentStates(*(side.to(dtype, copy=True, memory_format=torch.contiguous_format) for side in states))
    if dtype != keys.dtype and not all(side.isfinite().all() for side in copied):
        raise too_large(states, precision)
    return StoredStates(*copied, None, None, keys.dtype)


def restored(states: StoredStates, dtype: torch.dtype | None, device: torch.device | str | None) -> DocumentStates:
    """In the dtype they were made of and where they lie, unless told. They may share memory with `states`: not to be changed."""
    dtype = states.dtype if dtype is None else dtype
    kept = states if device is None else states.to(device)
    keys, values = (
        (codes if scales is None else codes * scales[..., None]).to(dtype)
        for codes, scales in ((kept.keys, kept.key_scales), (kept.values, kept.value_scales))
    )
    return DocumentStates(keys, values)


def quantised(side: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 codes in the shape of `side`, and the float32 scale of each of its last dimension: what a step of a code is worth."""
    exact = side.to(torch.float32)
    scales = exact.abs().amax(-1) / STEPS
    if not scales.isfinite().all():
        raise too_large(DocumentStates(side, side), "int8")
    steps = torch.where(scales > 0, scales, 1)  # a vector of zeros
    codes = (exact / steps[..., None]).round().clamp(-STEPS, STEPS)
    return codes.to(torch.int8), scales


def too_large(states: DocumentStates, precision: str) -> ModelError:
    largest = max(side.abs().max().item() for side in states)
    return ModelError(
        f"a document's states reach {largest:g}, which {precision} cannot hold; use the precision 'same'."
    )
