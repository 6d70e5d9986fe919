"""A transformers decoder on prompts of blocks, BlockRank's attention (arXiv:2510.05396).

The architecture's own code runs unpatched: attention reaches us through the library's attention interface, with the pass under way as a
keyword. Loading compares it with the library's own attention under a dense mask, and refuses what would not be exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from index.errors import ModelError
from kernels.block_attention import seen
from kernels.block_layout import PromptBlocks, prompt_layout
from retrieval.encoders.model_files import ModelFiles
from retrieval.encoders.model_reading import on_device, read_model
from retrieval.encoders.ragged_model import is_close, packs, replace_linear_layers
from retrieval.rerankers.block_pass import BLOCKS, Finished, InParts, Keep, Pass, Prompt, Watch

ON_PROCESSOR, ON_GPU = 2_048, 16_384  # tokens in a layer at once: what a processor's caches hold, what fills a GPU
CHECKED = PromptBlocks(5, (3, 7, 1), 4)  # lengths of the prompt that a model is checked with


class BlockModel:
    """A decoder without its vocabulary projection. `model` is changed: its attention is ours."""

    def __init__(self, model: PreTrainedModel, name: str):
        self.model, self.name = model, name
        self.layers = layers_of(model, name)
        self.tokens_together = ON_PROCESSOR
        self.window: int | None = None  # positions that a token may be from those it sees; None: any
        self.extra = {"use_cache": False} if hasattr(model.config, "use_cache") else {}
        self.num_positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        for i, layer in enumerate(self.layers):
            self.layers[i] = InParts(layer)
        model.set_attn_implementation(BLOCKS)

    @classmethod
    def load(cls, files: ModelFiles, num_layers: int | None, dtype: str, device: str) -> BlockModel:
        """For inference, only as far as so many layers. Raises ModelError for what is no decoder, or cannot be exact."""
        blocks = cls.checked(read_model(files, dtype, with_head=False), files.name)
        blocks.model.eval().requires_grad_(False)
        if num_layers is not None:
            del blocks.layers[num_layers:]
        blocks.put_on(device)
        replace_linear_layers(blocks.model)
        return blocks

    def put_on(self, device: str) -> None:
        """Raises ModelError for a device that is not there."""
        on_device(self.model, self.name, device)
        self.tokens_together = ON_GPU if self.model.device.type == "cuda" else ON_PROCESSOR

    @classmethod
    def checked(cls, model: PreTrainedModel, name: str) -> BlockModel:
        """After a comparison with the library's own attention under a dense mask. Raises ModelError where they differ."""
        if not packs(model.config):
            raise ModelError(
                f"{name} has positions or an attention that change with the length of a prompt, so that no document can be computed by "
                "itself; give another decoder."
            )
        prompt = checked_prompt(len(model.get_input_embeddings().weight))
        is_training = model.training
        model.eval()
        with torch.no_grad():
            try:
                model.set_attn_implementation("eager")
                expected = with_dense_mask(model, prompt)
                check_finite(expected, name)
                check_causal(model, prompt, name)
            except (TypeError, ValueError, RuntimeError) as error:  # it takes no such mask, or no positions
                if isinstance(error, ModelError):
                    raise
                raise ModelError(f"{name} ({type(model).__name__}) {ANOTHER_ATTENTION}") from error
            blocks = cls(model, name)
            watch = Counting(len(blocks.layers))
            try:
                passing = blocks.start(prompt, watch)
                found = blocks.run(passing)
            except (
                TypeError,
                ValueError,
                RuntimeError,
            ) as error:  # the keyword has not come through, or heads are of another kind
                if isinstance(error, ModelError):
                    raise
                raise ModelError(f"{name} ({type(model).__name__}) {ANOTHER_ATTENTION}") from error
        blocks.window = smallest_window(model.config, passing.smallest_window)
        if watch.seen != list(range(len(blocks.layers))) or found is None or not is_close(found, expected):
            raise ModelError(f"{name} ({type(model).__name__}) {ANOTHER_ATTENTION}")
        model.train(is_training)
        return blocks

    def forward(
        self, prompt: Prompt, watch: Watch, *, keep: Keep | None = None, causal: bool = False
    ) -> torch.Tensor | None:
        """Let `watch` see what it is there for; [tokens, width], the last hidden states of all that is computed, if it asks for all layers.

        keep    is given keys and values of the documents that are computed
        causal  lets every token see all before it, as the architecture does by itself; all is then computed at once

        Raises ModelError for a prompt that goes past the model's positions or its window.
        """
        self.check_positions(prompt, causal=causal)
        return self.run(self.start(prompt, watch, keep, causal=causal))

    @torch.inference_mode()
    def infer(self, prompt: Prompt, watch: Watch, *, keep: Keep | None = None, causal: bool = False) -> None:
        """The same without gradients."""
        self.forward(prompt, watch, keep=keep, causal=causal)

    def start(self, prompt: Prompt, watch: Watch, keep: Keep | None = None, *, causal: bool = False) -> Pass:
        together = 1 << 62 if torch.is_grad_enabled() else self.tokens_together  # parts are computed in place
        return Pass(prompt, watch, self.model.device, together, keep, causal=causal)

    def run(self, passing: Pass) -> torch.Tensor | None:
        ids, positions = (torch.from_numpy(side)[None].to(self.model.device) for side in passing.rows())
        try:
            hidden: torch.Tensor = self.model(input_ids=ids, position_ids=positions, blocks=passing, **self.extra)[0]
        except Finished:
            return None
        return hidden[0]

    def check_positions(self, prompt: Prompt, *, causal: bool) -> None:
        last = prompt.num_tokens if causal else prompt.last_position + len(prompt.last)
        if self.num_positions is not None and last > self.num_positions:
            raise ModelError(
                f"the prompt ends at position {last:,}, {self.name} has {self.num_positions:,}; give fewer or shorter documents, or a "
                "lower last_position."
            )
        if self.window is not None and last > self.window:
            raise ModelError(
                f"{self.name} has a sliding window of {self.window:,} positions and the prompt ends at {last:,}, so its last block could "
                "not see all documents; lower last_position, or give a model without a window."
            )


class Counting:
    """Sees all layers to their ends."""

    needs_sums = False

    def __init__(self, num_layers: int):
        self.last_layer = num_layers  # which never comes
        self.seen: list[int] = []  # each layer once, unless an architecture attends in another way

    def see(self, layer: int, queries: torch.Tensor, keys: torch.Tensor, lse: Any, scale: float) -> None:
        self.seen.append(layer)


ANOTHER_ATTENTION = (
    "comes out otherwise with attention of blocks, or has an attention of its own that cannot be replaced; give a decoder such as Mistral, "
    "Llama or Qwen."
)


def layers_of(model: PreTrainedModel, name: str) -> torch.nn.ModuleList:
    """The decoder's layers. Raises ModelError where they cannot be told."""
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    for part in model.modules():
        if isinstance(part, torch.nn.ModuleList) and len(part) == count:
            return part
    raise ModelError(
        f"{name} ({type(model).__name__}) has no list of {count} layers; give a decoder such as Mistral, Llama or Qwen."
    )


def checked_prompt(num_ids: int) -> Prompt:
    """A few tokens in blocks."""
    ids = np.arange(1, 1 + CHECKED.instruction + sum(CHECKED.documents) + CHECKED.last) * 31 % num_ids
    instruction, *documents, last = np.split(ids, np.cumsum([CHECKED.instruction, *CHECKED.documents]))
    return Prompt(instruction, documents, last, CHECKED.instruction + max(CHECKED.documents))


def smallest_window(config: Any, seen: int | None) -> int | None:
    """Positions that a token may be from those it sees, as attention was told; or as the configuration says, which some architectures
    put into a mask alone."""
    config = config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    has_windows = any("sliding" in kind for kind in kinds) if kinds else getattr(config, "use_sliding_window", True)
    told = getattr(config, "sliding_window", None) if has_windows else None
    return min((window for window in (seen, told) if isinstance(window, int)), default=None)


def check_finite(hidden: torch.Tensor, name: str) -> None:
    if not hidden.isfinite().all():
        remedy = "get the checkpoint again" if hidden.dtype == torch.float32 else "give dtype='float32'"
        raise ModelError(
            f"{name} gives hidden states that are no finite numbers; its weights are damaged, or too large for {hidden.dtype}: {remedy}."
        )


def check_causal(model: PreTrainedModel, prompt: Prompt, name: str) -> None:
    """Raises ModelError where a token changes with those after it: an encoder."""
    ids = torch.from_numpy(np.concatenate([prompt.instruction, prompt.last]))[None].to(model.device)
    if getattr(model.config, "is_encoder_decoder", False) or not is_close(
        model(input_ids=ids[:, :-1])[0], model(input_ids=ids)[0][:, :-1]
    ):
        raise ModelError(
            f"{name} ({type(model).__name__}) is no decoder: its tokens see those after them; give a causal language model such as Mistral, "
            "Llama or Qwen."
        )


def with_dense_mask(model: PreTrainedModel, prompt: Prompt) -> torch.Tensor:
    """[tokens, width]: hidden states by the library's own attention, with a mask of tokens by tokens."""
    layout = prompt_layout(
        [PromptBlocks(len(prompt.instruction), [len(ids) for ids in prompt.documents], len(prompt.last))]
    )
    sees = seen(layout, prompt.num_tokens).to(model.device)[None, None]
    mask = torch.zeros(sees.shape, dtype=model.dtype, device=model.device).masked_fill(
        ~sees, torch.finfo(model.dtype).min
    )
    passing = Pass(prompt, Counting(0), model.device, 1 << 62, None, causal=False)
    ids, positions = (torch.from_numpy(side)[None].to(model.device) for side in passing.rows())
    found: torch.Tensor = model(input_ids=ids, position_ids=positions, attention_mask=mask)[0][0]
    return found
