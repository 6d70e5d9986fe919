"""A decoder on prompts of blocks with gradients: masses of documents at the score layer, logits of an answer, LoRA, saving.

BlockRank, Gupta et al., arXiv:2510.05396, section 4.3. In attention mode there is no vocabulary projection, and the layers above the
score layer are dropped: nothing of them is computed, trained or saved. In full mode the last block goes through all layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file

from index.errors import WinnowError
from index.files import told
from retrieval.encoders.model_files import ModelFiles
from retrieval.encoders.model_reading import on_device, read_model
from retrieval.rerankers.block_model import BlockModel, layers_of
from retrieval.rerankers.block_pass import InParts, Prompt
from retrieval.rerankers.block_rank import MassWatch
from retrieval.rerankers.settings import BlockRankSettings
from retrieval.training.adapters import add_lora, merged_weights

Mode = Literal["attention", "full"]


class RankingModel:
    """See the module. `module` holds all that is trained and saved.

    Raises ModelError for a score layer that the model has not.
    """

    def __init__(self, module: Any, settings: BlockRankSettings, mode: Mode, name: str):
        """`module` is changed. A model of ...ForCausalLM in full mode, else one without projection."""
        self.module, self.settings, self.mode, self.name = module, settings, mode, name
        body = module.base_model if mode == "full" else module
        layers = layers_of(body, name)
        settings.check_layers(len(layers), name)
        if mode == "attention":
            drop_layers(body, layers, settings.score_layer + 1)
        self.blocks = BlockModel.checked(body, name)
        self.head = module.get_output_embeddings() if mode == "full" else None

    @classmethod
    def load(
        cls,
        files: ModelFiles,
        settings: BlockRankSettings,
        mode: Mode,
        *,
        device: str = "cpu",
        lora_rank: int = 0,
        frozen_layers: int = 0,
    ) -> RankingModel:
        """In float32.

        lora_rank      of adapters that are trained instead of the weights; 0: none
        frozen_layers  at the bottom, which are left as they are, embeddings too; no gradients are computed below

        Raises ModelError, and WinnowError for numbers that the model has not.
        """
        module = read_model(files, "float32", with_head=mode == "full")
        model = cls(module, settings, mode, files.name)
        module.requires_grad_(True)
        if lora_rank:
            add_lora(module, model.blocks.layers, lora_rank, files.name)
        if frozen_layers:
            model.freeze(frozen_layers)
        on_device(module, files.name, device)
        model.blocks.put_on(device)
        return model

    def freeze(self, count: int) -> None:
        """Leave embeddings and the first `count` layers as they are. Raises WinnowError unless some are left to train."""
        layers = self.blocks.layers
        if not 0 <= count < len(layers):
            raise WinnowError(f"{count} of {len(layers)} layers are to be frozen; leave one to train at least.")
        self.module.get_input_embeddings().requires_grad_(False)
        for layer in layers[:count]:
            layer.requires_grad_(False)

    def checkpoint_gradients(self) -> None:
        """Keep a layer's input alone of what its gradients need, and compute the rest again (not reentrant: else the masses, which leave
        a layer beside its output, would have no gradients)."""
        enable = getattr(self.module, "activation_checkpointing_enable", None)  # the name it has now
        (enable or self.module.gradient_checkpointing_enable)({"use_reentrant": False})
        if self.mode == "attention":  # its end is told by an exception, which must not reach what computes again
            self.blocks.layers[self.settings.score_layer].layer.gradient_checkpointing = False

    def masses(
        self, prompt: Prompt, rows: np.ndarray, answer: slice | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(float32 [documents]: ln of the masses, float [answer, terms]: logits of the answer's tokens if it is asked for).

        rows    int64: of the signal tokens in the last block
        answer  of the last block's tokens, those to be predicted; in full mode
        """
        lengths = [len(ids) for ids in prompt.documents]
        starts = torch.tensor([0, *accumulate(lengths)])
        end = None if answer is None else len(self.blocks.layers)  # which never comes
        watch = MassWatch(starts, self.settings.score_layer, rows, end)
        hidden = self.blocks.forward(prompt, watch)
        assert watch.log_mass is not None
        if answer is None:
            return watch.log_mass, None
        assert hidden is not None
        assert self.head is not None
        before = hidden[len(hidden) - len(prompt.last) :][answer.start - 1 : answer.stop - 1]
        return watch.log_mass, self.head(before)

    def save(self, folder: Path) -> None:
        """Fills a folder with a checkpoint of transformers: LoRA merged, no adapter; and with blockrank.json."""
        config = self.module.config
        config.architectures, config.dtype = [type(self.module).__name__], torch.float32
        config.save_pretrained(folder)
        tensors = {name: value.detach().cpu().contiguous() for name, value in unwrapped_weights(self.module)}
        if getattr(config, "tie_word_embeddings", False):
            own = {id(p) for p in self.module.get_input_embeddings().parameters()}
            tied = [name for name, p in self.module.named_parameters(remove_duplicate=False) if id(p) in own]
            for name in tied[1:]:
                tensors.pop(name, None)
        path = folder / "model.safetensors"
        with told(path):
            save_file(tensors, path, metadata={"format": "pt"})
        self.settings.save(folder)


def drop_layers(body: Any, layers: torch.nn.ModuleList, count: int) -> None:
    """All after the first `count`."""
    del layers[count:]
    config = body.config.get_text_config()
    config.num_hidden_layers = count
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:count]


def unwrapped_weights(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """`merged_weights` as they are called without the wrappers that compute layers in parts."""
    parts = [f"{name}." for name, part in module.named_modules() if isinstance(part, InParts)]
    for name, value in merged_weights(module):
        for part in parts:
            if name.startswith(f"{part}layer."):
                name = part + name[len(part) + len("layer.") :]
        yield name, value
