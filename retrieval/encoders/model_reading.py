"""From a checkpoint's files to a model of transformers, with its vocabulary projection or without, or one sentence that says why not."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers.utils import logging

from index.errors import ModelError
from retrieval.encoders import eight_bit
from retrieval.encoders.model_files import ModelFiles, brief
from retrieval.encoders.safetensors_files import tensors_of

ENCODERS_ALONE = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}  # by model_type


def read_model(files: ModelFiles, dtype: str, *, with_head: bool, classifies: bool = False) -> Any:
    """The transformers model, in evaluation mode; without a head, what is left of any architecture. Raises ModelError.

    dtype       what it computes in, as PyTorch calls it
    classifies  the head is one over classes, not over a vocabulary
    """
    if files.base is not None:
        return with_adapter(files, dtype, with_head=with_head)
    wanted = classifier_class(files) if classifies else model_class(files, with_head=with_head)
    arguments = {
        "dtype": getattr(torch, dtype),
        "trust_remote_code": files.trust_remote_code,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # they are told below, with their numbers
    }
    if files.gguf is not None:
        arguments["gguf_file"] = files.gguf
    else:
        check_weights(files)
    try:
        with quiet():
            if own_class := class_for_tensors(files, with_head=with_head):
                config = transformers.AutoConfig.from_pretrained(files.folder)
                model, report = own_class.from_pretrained(
                    None, config=config, state_dict=read_tensors(files), **arguments
                )
            else:
                model, report = wanted.from_pretrained(files.folder, **arguments)
    except ImportError as error:
        raise ModelError(f"{files.name} needs a package that is not installed ({brief(error)}).") from error
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # whatever the library meets in the files
        raise ModelError(f"{files.name} cannot be loaded ({type(error).__name__}: {brief(error)}).") from error
    for key, stored, expected in sorted(report["mismatched_keys"]):
        raise ModelError(
            f"{files.name} has {key} of shape {tuple(stored)}, its config.json asks for {tuple(expected)}; get the checkpoint again."
        )
    is_unused = () if with_head else ("pooler.",)
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(is_unused))
    if missing:
        raise ModelError(
            f"{files.name} lacks {len(missing)} of the weights of {type(model).__name__}, {missing[0]} first; it was saved "
            f"{'without its head, or ' if with_head else ''}for another architecture."
        )
    return model


def class_for_tensors(files: ModelFiles, *, with_head: bool) -> Any | None:
    """The class of transformers that takes tensors as they are read; None where the library is to find the weights itself."""
    weights = {path.name for path in files.weight_files()}
    has_tensors = any(name.endswith(".safetensors") for name in weights)
    is_packed = eight_bit.FILE in weights  # which the library would not find
    if not has_tensors or (files.trust_remote_code and not is_packed):
        return None
    if not with_head and (files.config.get("is_encoder_decoder") or not files.architecture.endswith("Model")):
        return base_class(files) if is_packed else None
    return getattr(transformers, files.architecture, None)


def base_class(files: ModelFiles) -> Any:
    """The class of transformers of a model's layers alone; of an encoder and a decoder only the encoder."""
    if name := ENCODERS_ALONE.get(files.config.get("model_type", "")):
        return getattr(transformers, name)
    return transformers.MODEL_MAPPING[type(transformers.AutoConfig.from_pretrained(files.folder))]


def read_tensors(files: ModelFiles) -> dict[str, torch.Tensor]:
    """All tensors of the safetensors files; of those with 8 bits a weight, the weights. Raises ModelError where these are not sound."""
    tensors: dict[str, torch.Tensor] = {}
    for path in files.weight_files():
        tensors |= eight_bit.unpacked(path) if path.name == eight_bit.FILE else tensors_of(path)
    return tensors


def check_weights(files: ModelFiles) -> None:
    if not files.weight_files():
        raise ModelError(f"{files.folder} holds no weights (model.safetensors); the checkpoint is not complete.")


def model_class(files: ModelFiles, *, with_head: bool) -> Any:
    """The class of transformers that reads the checkpoint; without a head, of an encoder and a decoder only the encoder."""
    if not with_head:
        return getattr(transformers, ENCODERS_ALONE.get(files.config.get("model_type", ""), "AutoModel"))
    if files.gguf is not None:
        return transformers.AutoModelForCausalLM
    architecture = files.architecture or "model of a class that config.json does not name"
    if architecture.endswith("ForMaskedLM"):
        return transformers.AutoModelForMaskedLM
    if architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return transformers.AutoModelForCausalLM
    raise ModelError(
        f"{files.name} is a {architecture}, which has no vocabulary head; a sparse encoder is a ...ForMaskedLM or ...ForCausalLM."
    )


def classifier_class(files: ModelFiles) -> Any:
    """The class of transformers that reads a checkpoint with a head over classes."""
    if files.architecture.endswith("ForSequenceClassification"):
        return transformers.AutoModelForSequenceClassification
    raise ModelError(
        f"{files.name} is a {files.architecture or 'model of a class that config.json does not name'}, which does not score pairs of texts; "
        "a cross-encoder is a ...ForSequenceClassification."
    )


def with_adapter(files: ModelFiles, dtype: str, *, with_head: bool) -> Any:
    """The base model with a LoRA adapter merged into it."""
    assert files.base is not None
    try:
        import peft
    except ImportError as error:
        raise ModelError(f"{files.name} is an adapter, which needs peft; pip install 'winnow-ir[train]'.") from error
    path = files.folder / "adapter_model.safetensors"
    if not path.is_file():
        raise ModelError(f"{files.folder} has no adapter_model.safetensors; save the adapter as safetensors.")
    base = read_model(files.base, dtype, with_head=with_head)
    untie(base)
    try:
        with warnings.catch_warnings():  # what does not fit is told below, as an error
            warnings.simplefilter("ignore")
            adapted = peft.PeftModel.from_pretrained(base, files.folder)
        with safe_open(path, "pt") as stored:
            amiss = sorted(unmatched(set(stored.keys()), adapted))
        if not amiss:
            return adapted.merge_and_unload(safe_merge=True)
        reason = f"{len(amiss)} weights are in one of them alone, {amiss[0]} first"
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {brief(error)}"
    raise ModelError(
        f"the adapter {files.name} does not fit {files.base.name} ({reason}); give the base_model it was made for."
    )


def unmatched(stored: set[str], adapted: Any) -> set[str]:
    """The adapter's weights that its file or the adapted model lacks; peft itself only warns, if that. A file may also hold embeddings."""
    import peft

    taken = set(peft.get_peft_model_state_dict(adapted, save_embedding_layers=False))  # else it asks the hub
    return (taken - stored) | {name for name in stored - taken if "lora_" in name}


def untie(model: Any) -> None:
    """A projection of its own: merging into one that is tied would change the input embeddings too."""
    head = model.get_output_embeddings()
    if head is not None and head.weight is model.get_input_embeddings().weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)


def on_device(model: Any, name: str, device: str) -> Any:
    """The model, which is moved. Raises ModelError for a device that is not there."""
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"{name} cannot be put on the device {device!r:.40} ({brief(error)}); give another."
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without the library's progress bars and reports; ours shows documents, theirs would break into it."""
    level = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()


def projection_of(model: Any, files: ModelFiles) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias of the vocabulary projection."""
    layer = model.get_output_embeddings()
    if not isinstance(layer, torch.nn.Linear):
        raise ModelError(
            f"{files.name} ({type(model).__name__}) has no projection to a vocabulary; give a masked or causal language model."
        )
    return layer.weight, layer.bias
