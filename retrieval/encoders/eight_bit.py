"""Weights in 8 bits: a quarter of a checkpoint's bytes, read back as float32.

`model-8bit.safetensors` stands for model.safetensors. It is a safetensors file whose metadata are

    format   winnow-8bit
    version  1
    sha256   of all bytes after the header, in hexadecimal

and that holds of each matrix `X` of floating point, [rows, columns],

    X.int8        int8 [rows, columns]: whole steps, from -127 to 127
    X.int8.scale  float32 [rows]: the step of each row, 0 for a row of zeros

so that X = X.int8 * X.int8.scale. A row's step is its largest magnitude / 127 and steps are rounded to the nearest, so no weight is off by
more than half a step of its row. All other tensors have their own names, those of floating point as float32. The file has a name of its own
because libraries that look for model.safetensors would take steps for weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from index.errors import ModelError
from retrieval.encoders.model_files import EIGHT_BIT, brief
from retrieval.encoders.safetensors_files import tensors_of

FILE = f"{EIGHT_BIT}.safetensors"
FORMAT, VERSION = "winnow-8bit", "1"
STEPS, SCALE = ".int8", ".int8.scale"
MOST_STEPS = 127
SMALLEST_SCALE = torch.finfo(torch.float32).tiny  # a smaller one would have few digits, or be 0
CHUNK = 1 << 20  # bytes


def packed(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """The file's bytes, the same for the same tensors.

    Raises ModelError for a weight that is no finite float32, and for a name that the format needs.
    """
    stored: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith((STEPS, SCALE)):
            raise ModelError(
                f"the checkpoint has a tensor {name!r:.80}, which weights in 8 bits need; give it another name."
            )
        if not tensor.is_floating_point():
            stored[name] = tensor.contiguous()
            continue
        weights = tensor.float().contiguous()
        bad = weights[~weights.isfinite()]
        if len(bad):
            raise ModelError(
                f"{name} has the weight {bad[0]}; only finite numbers have 8 bits, so give a sound checkpoint."
            )
        if weights.ndim == 2:
            stored[name + STEPS], stored[name + SCALE] = steps_of(weights)
        else:
            stored[name] = weights
    return with_metadata(save(stored))


def steps_of(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(int8 [rows, columns], float32 [rows]) of float32 [rows, columns]."""
    if weights.shape[1] == 0:
        return weights.to(torch.int8), torch.zeros(len(weights))
    largest = weights.abs().amax(1)
    scale = torch.where(largest > 0, (largest / MOST_STEPS).clamp(min=SMALLEST_SCALE), 0.0)
    divisor = torch.where(scale > 0, scale, 1.0).double()  # float64: rounding the quotient must not move it past a half
    return (weights.double() / divisor[:, None]).round().to(torch.int8), scale


def with_metadata(plain: bytes) -> bytes:
    """The file with our metadata. (The library would write them in another order each time.)"""
    size = int.from_bytes(plain[:8], "little")
    data = memoryview(plain)[8 + size :]
    metadata = {"format": FORMAT, "version": VERSION, "sha256": hashlib.sha256(data).hexdigest()}
    header = json.dumps({"__metadata__": metadata, **json.loads(plain[8 : 8 + size])}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return b"".join((len(header).to_bytes(8, "little"), header, data))


def unpacked(path: Path) -> dict[str, torch.Tensor]:
    """The weights, float32, by the names of the checkpoint. Raises ModelError for a file that is damaged, newer, or of another kind."""
    check_file(path)
    tensors = tensors_of(path)
    for name in [name for name in tensors if name.endswith(STEPS)]:
        steps, scale = tensors.pop(name), tensors.pop(name + SCALE.removeprefix(STEPS), None)
        own = name.removesuffix(STEPS)
        if steps.dtype != torch.int8 or steps.ndim != 2 or own in tensors:
            raise ModelError(f"{path} has {name} as {steps.dtype} {tuple(steps.shape)}; get the checkpoint again.")
        if scale is None or scale.dtype != torch.float32 or scale.shape != steps.shape[:1]:
            raise ModelError(
                f"{path} has no scale for each of the {len(steps)} rows of {own}; get the checkpoint again."
            )
        tensors[own] = steps.float().mul_(scale[:, None])
    return tensors


def check_file(path: Path) -> None:
    """Raises ModelError for a file that is not what `packed` gives, or has changed since."""
    try:
        with safe_open(path, "pt") as checked:
            told = checked.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read ({brief(error)}); get the checkpoint again.") from error
    if told.get("format") != FORMAT:
        raise ModelError(
            f"{path} is of the format {told.get('format')!r:.40}, it must be {FORMAT!r}; write it with retrieval.encoders.quantising."
        )
    if told.get("version") != VERSION:
        raise ModelError(
            f"{path} is of version {told.get('version')!r:.20}, this release reads {VERSION}; update winnow-ir."
        )
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != told.get("sha256"):
        raise ModelError(
            f"{path} is damaged: its weights have sha256 {digest.hexdigest()[:12]}..., they were written with "
            f"{told.get('sha256', 'none')[:12]}...; get the checkpoint again."
        )
