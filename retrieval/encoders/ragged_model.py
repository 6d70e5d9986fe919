"""A transformers model on texts packed end to end, without padding, up to its vocabulary projection if it has one.

Any architecture of the library whose attention goes through its attention interface can be run so: the texts are one sequence,
each counts its own positions, and attention sees one text at a time. Loading compares it with the library's own way.
"""

from __future__ import annotations

import inspect
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, groupby, pairwise
from typing import Any, Literal, get_args

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.activations import GELUActivation

from index.errors import ModelError, WinnowWarning
from kernels.cpu.linear import InferenceLinear, is_supported
from kernels.cpu.pooled_head import Head

RAGGED = "ragged"
FLASH_DTYPES = (torch.float16, torch.bfloat16)
FLASH_SIZE, FLASH_STEP = 256, 8  # numbers of a head: at most, and a multiple of
FLASH_CAPABILITY = 8, 0  # of a GPU, at least: Ampere
# what architectures of the library call a linear layer and the activation that follows it
WITH_GELU = (("dense", "intermediate_act_fn"), ("dense", "transform_act_fn"), ("lin1", "activation"))
# large batches are filled up to whole steps of tokens by a text that nobody reads: for a number of tokens that it has seen, oneDNN has
# its code, and the process memory of the right size
STEP, STEPS_FROM = 128, 1024
LENGTHS = (3, 17)  # of the texts that a model is checked with
# packed: end to end; padded: in a table, where attention is of a kind that cannot see one text at a time; alone: one text at a time
Layout = Literal["packed", "padded", "alone"]
MOST_PADDING = 1.25
packed = threading.local()  # .starts of the texts under way in this thread, .bidirectional


def ragged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within each text: query [1, heads, tokens, size] -> [1, tokens, heads, size]."""
    causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal) and not packed.bidirectional
    if query.is_cuda and flash_takes(query) and (varlen_attn := find_varlen()) is not None:
        return flash_attention(varlen_attn, query, key, value, scaling, causal, sliding_window), None
    parts, num_tokens = [], 0
    for length, texts in groupby(b - a for a, b in pairwise(packed.starts)):  # texts of one length in one call
        count = sum(1 for _ in texts)
        span = slice(num_tokens, num_tokens + count * length)
        mask = None
        if sliding_window is not None and length > sliding_window:
            mask = band(length, sliding_window, causal, query.device)
        q, k, v = (side[0, :, span].unflatten(1, (count, length)).transpose(0, 1) for side in (query, key, value))
        found = scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            scale=scaling,
            is_causal=causal and mask is None,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        parts.append(found.transpose(1, 2).flatten(0, 1))
        num_tokens = span.stop
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[None], None


def flash_takes(query: torch.Tensor) -> bool:
    """Whether FlashAttention computes such heads on their GPU."""
    size = query.shape[-1]
    return (
        query.dtype in FLASH_DTYPES
        and size <= FLASH_SIZE
        and size % FLASH_STEP == 0
        and torch.cuda.get_device_capability(query.device) >= FLASH_CAPABILITY
    )


@lru_cache(maxsize=1)
def find_varlen() -> Callable[..., torch.Tensor] | None:
    """PyTorch's attention of texts end to end; None where this PyTorch has none that takes a scale and a window (2.11 is the first)."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    found: Callable[..., torch.Tensor] = varlen_attn
    return found if {"scale", "window_size"} <= keywords_of(found) else None


@lru_cache(maxsize=8)
def keywords_of(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def flash_attention(
    varlen_attn: Callable[..., torch.Tensor],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    causal: bool,
    sliding_window: int | None,
) -> torch.Tensor:
    """The same on a GPU, in one call for all texts: [1, tokens, heads, size]."""
    left = -1 if sliding_window is None else sliding_window - 1
    starts = torch.tensor(packed.starts, dtype=torch.int32, device=query.device)
    longest = max(b - a for a, b in pairwise(packed.starts))
    q, k, v = (side[0].transpose(0, 1).contiguous() for side in (query, key, value))
    # of PyTorch 2.13. Those before take fewer heads of keys unasked, and never split
    options = {
        "enable_gqa": q.shape[1] != k.shape[1],
        "num_splits": 1,  # else what a text is encoded with may change the order of sums
    }
    found: torch.Tensor = varlen_attn(
        q,
        k,
        v,
        starts,
        starts,
        longest,
        longest,
        scale=scaling,
        window_size=(left, 0 if causal else left),
        **{name: one for name, one in options.items() if name in keywords_of(varlen_attn)},
    )
    return found[None]


def band(length: int, window: int, causal: bool, device: torch.device) -> torch.Tensor:
    """bool [length, length]: which tokens see which."""
    positions = torch.arange(length, device=device)
    distance = positions[:, None] - positions
    sees = distance.abs() < window
    return sees & (distance >= 0) if causal else sees


AttentionInterface.register(RAGGED, ragged_attention)


class SlowModelWarning(WinnowWarning):
    """A model cannot be run as fast as others."""


class RaggedModel:
    """Token ids to the inputs of the vocabulary projection; of a model without one, to its last hidden states."""

    def __init__(self, model: PreTrainedModel, *, trained: bool = False):
        """`model` is changed: its projection is taken off, and unless it is to be trained, its linear layers are replaced by faster ones
        without gradients."""
        self.model = model
        self.bidirectional = False  # lets a decoder's tokens see those after them
        self.layout: Layout = "packed"
        padding = getattr(model.config, "pad_token_id", None)
        self.padding = padding if isinstance(padding, int) else 0
        self.first_position = first_position(model)
        self.extra = {"use_cache": False} if hasattr(model.config, "use_cache") else {}
        take_off(model, model.get_output_embeddings())
        take_off(model, getattr(model, "pooler", None))  # of one position, and nobody asks for it
        if not trained:
            replace_linear_layers(model)
        self.own_attention = model.config._attn_implementation
        model.set_attn_implementation(RAGGED)

    @classmethod
    def checked(
        cls, model: PreTrainedModel, head: Head | None, name: str, *, bidirectional: bool = False, trained: bool = False
    ) -> RaggedModel:
        """After a comparison with the library's own way, text by text, on a few tokens: of all logits, or without a head of the hidden
        states.

        Raises ModelError where even one text at a time comes out otherwise: such a model does more to its logits than project.
        """
        model.eval().requires_grad_(trained)
        num_ids = len(model.get_input_embeddings().weight) if head is None else head.num_terms
        ids, starts = torch.arange(sum(LENGTHS)) * 31 % num_ids, [0, *accumulate(LENGTHS)]
        padding = getattr(model.config, "pad_token_id", None)
        ids[ids == padding] = (31 * sum(LENGTHS)) % num_ids  # whose positions some architectures count otherwise
        with torch.inference_mode():
            expected = torch.cat([model(input_ids=ids[None, a:b].to(model.device))[0][0] for a, b in pairwise(starts)])
            if head is not None and expected.shape[1] != head.num_terms:
                expected = every_logit(expected, head)
        ragged = cls(model, trained=trained)
        if not expected.isfinite().all():
            raise ModelError(
                f"{name} gives {'logits' if head else 'vectors'} that are no finite numbers; its weights are damaged, or too large "
                f"for {expected.dtype}: give dtype='float32'."
            )
        for ragged.layout in get_args(Layout) if packs(model.config) else ("alone",):
            if ragged.layout != "packed":
                model.set_attn_implementation(ragged.own_attention)
            with torch.inference_mode():
                hidden = ragged.hidden(ids, starts, most_padding=sum(LENGTHS))
                found = hidden if head is None else every_logit(hidden, head)
            if is_close(found, expected):
                break
        else:
            reason = (
                "comes out otherwise in faster layers"
                if head is None
                else "does more to its logits than a projection and a bias"
            )
            raise ModelError(f"{name} ({type(model).__name__}) {reason}; it cannot be used as an encoder here.")
        if ragged.layout != "packed" and bidirectional:
            raise ModelError(f"{name} has an attention of its own, which cannot be made bidirectional; leave it out.")
        if ragged.layout == "alone":
            warnings.warn(
                f"{name} cannot be run on packed texts: one text at a time is slower.", SlowModelWarning, stacklevel=2
            )
        ragged.bidirectional = bidirectional
        return ragged

    def hidden(
        self,
        ids: torch.Tensor,
        starts: Sequence[int],
        most_padding: float = MOST_PADDING,
        types: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[tokens, width] of texts end to end, differentiable in the model's weights; text t is ids[starts[t] : starts[t + 1]].

        most_padding  of texts that are padded: how many times as long as the first the others may be
        types         int64 [tokens]: which text of a pair a token is of, for models that are told
        """
        device = self.model.device
        if self.layout == "alone":
            spans = list(pairwise(starts))
            return torch.cat([self.model(**self.inputs(ids[None, a:b], cut(types, a, b)))[0][0] for a, b in spans])
        if self.layout == "padded":
            return torch.cat([self.padded(ids, texts, types) for texts in of_like_length(starts, most_padding)])
        filling = -len(ids) % STEP if len(ids) >= STEPS_FROM else 0
        packed.starts = [*starts, len(ids) + filling] if filling else starts
        packed.bidirectional = self.bidirectional
        positions = torch.cat(
            [*(torch.arange(b - a) for a, b in pairwise(starts)), torch.zeros(filling, dtype=torch.int64)]
        )
        positions, num_tokens = positions + self.first_position, len(ids)
        ids = torch.nn.functional.pad(ids, (0, filling))[None]
        types = None if types is None else torch.nn.functional.pad(types, (0, filling))[None]
        found: torch.Tensor = self.model(position_ids=positions.to(device)[None], **self.inputs(ids, types))[0]
        return found[0, :num_tokens]

    def padded(self, ids: torch.Tensor, starts: Sequence[int], types: torch.Tensor | None) -> torch.Tensor:
        """[tokens, width] of these texts alone, in one padded batch: the library's own way."""
        lengths = torch.diff(torch.tensor(starts))
        is_read = torch.arange(int(lengths.max())) < lengths[:, None]

        def table(side: torch.Tensor | None, padding: int) -> torch.Tensor | None:
            if side is None:
                return None
            filled = torch.full(is_read.shape, padding)
            filled[is_read] = side[starts[0] : starts[-1]]
            return filled

        device = self.model.device
        inputs = self.inputs(table(ids, self.padding), table(types, 0))
        found = self.model(attention_mask=is_read.long().to(device), **inputs)[0]
        hidden: torch.Tensor = found[is_read.to(device)]
        return hidden

    def inputs(self, ids: torch.Tensor | None, types: torch.Tensor | None) -> dict[str, Any]:
        """What the model is called with beside positions and masks; both [texts, tokens]."""
        given = {"input_ids": ids, "token_type_ids": types}
        return {name: side.to(self.model.device) for name, side in given.items() if side is not None} | self.extra


def cut(side: torch.Tensor | None, start: int, stop: int) -> torch.Tensor | None:
    """[1, tokens] of one text."""
    return None if side is None else side[None, start:stop]


def of_like_length(starts: Sequence[int], most: float) -> Iterator[Sequence[int]]:
    """The starts and the end of texts that follow each other, none longer than `most` times the first of them."""
    first = 0
    for text, (start, end) in enumerate(pairwise(starts)):
        if end - start > most * (starts[first + 1] - starts[first]):
            yield starts[first : text + 1]
            first = text
    yield starts[first:]


def packs(config: Any) -> bool:
    """Whether a few short texts tell that the model can be packed: not where its attention or its positions change with length."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = flat_values(rope) if isinstance(rope, dict) else set()
    layers = set(getattr(config, "layer_types", None) or ())
    is_chunked = getattr(config, "attention_chunk_size", None) is not None or "chunked_attention" in layers
    return not is_chunked and not kinds & {"dynamic", "longrope"}


def flat_values(nested: dict[str, Any]) -> set[Any]:
    """All texts in a dictionary of dictionaries."""
    found: set[Any] = set()
    for value in nested.values():
        found |= flat_values(value) if isinstance(value, dict) else {value} if isinstance(value, str) else set()
    return found


def every_logit(hidden: torch.Tensor, head: Head) -> torch.Tensor:
    """[tokens, terms]: only for a few tokens."""
    return torch.cat([tile(hidden) for tile in head.tiles], 1)


def is_close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Within what the precision explains."""
    margin = 1e-4 if expected.dtype == torch.float32 else 0.1
    return bool((found - expected).abs().max() <= margin * expected.abs().max().clamp(min=1e-3))


def take_off(model: torch.nn.Module, module: torch.nn.Module | None) -> None:
    """Let a part of the model pass on what it is given."""
    if module is None:
        return
    name = next(name for name, part in model.named_modules() if part is module)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, torch.nn.Identity())


def replace_linear_layers(model: torch.nn.Module) -> None:
    """By faster ones; a GELU that follows one is computed with it."""
    for part in [
        part for part in model.modules() if type(part) is not torch.nn.Linear
    ]:  # the old ones are let go one by one
        for name, layer in list(part.named_children()):
            if type(layer) is torch.nn.Linear and is_supported(layer.weight):
                following = next((after for first, after in WITH_GELU if name == first and is_gelu(part, after)), None)
                setattr(part, name, InferenceLinear(layer.weight, layer.bias, gelu=following is not None))
                if following is not None:
                    setattr(part, following, torch.nn.Identity())


def is_gelu(part: torch.nn.Module, name: str) -> bool:
    return (
        isinstance(getattr(part, name, None), GELUActivation | torch.nn.GELU)
        and getattr(getattr(part, name), "approximate", "none") == "none"
    )


def first_position(model: torch.nn.Module) -> int:
    """The number of a text's first position: RoBERTa's kin begin after the number that stands for padding."""
    for part in model.modules():
        if hasattr(part, "create_position_ids_from_input_ids"):
            return int(part.padding_idx) + 1
    return 0
