"""LoRA while training: adapters put in, and merged into the weights when a model is saved."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from index.errors import ModelError, WinnowError

ADAPTER = "default"  # peft's name of the only one


def add_lora(module: torch.nn.Module, layers: torch.nn.Module, rank: int, name: str) -> None:
    """Adapters on all linear layers within `layers` of a model (Hu et al., arXiv:2106.09685); the rest is not trained.

    Raises ModelError without peft, WinnowError for a rank below 1.
    """
    try:
        import peft
    except ImportError as error:
        raise ModelError("LoRA needs peft; pip install 'winnow-ir[train]'.") from error
    if rank < 1:
        raise WinnowError(f"the rank of LoRA is {rank}; it must be 1 or more, or 0 for training without.")
    names = sorted({part.rpartition(".")[2] for part, one in layers.named_modules() if type(one) is torch.nn.Linear})
    if not names:
        raise ModelError(f"{name} has 0 linear layers that LoRA knows; train without it.")
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=names)
    peft.inject_adapter_in_model(config, module, adapter_name=ADAPTER)
    for parameter_name, parameter in module.named_parameters():
        parameter.requires_grad_("lora_" in parameter_name)


def merged_weights(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights as the architecture calls them, adapters added to those that they change; the module stays as it is."""
    adapted = {name: part for name, part in module.named_modules() if hasattr(part, "get_delta_weight")}
    for name, value in module.state_dict().items():
        if ".lora_" in name:
            continue
        owner = name.removesuffix(".base_layer.weight")
        if owner != name and owner in adapted:
            value = value + adapted[owner].get_delta_weight(ADAPTER)
        yield name.replace(".base_layer.", "."), value
