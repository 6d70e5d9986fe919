"""Tensors of a safetensors file, each in memory of its own: what replaces one can let it go. (The library maps the whole file, which then
stays in memory beside the layers made from it.)"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open

STORED_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of one file, by name. Raises SafetensorError for a header that is none, OSError for a file that cannot be read."""
    tensors = {}
    with safe_open(path, "pt") as checked:  # the library's own reading of the header, with its checks
        names = set(checked.keys())
    with open(path, "rb", buffering=0) as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        for name in names:
            begin, end = header[name]["data_offsets"]
            data = torch.empty(end - begin, dtype=torch.uint8)
            file.seek(8 + size + begin)
            if end > begin and file.readinto(data.numpy()) != end - begin:
                raise OSError(f"{path} ends within {name}")
            tensors[name] = data.view(STORED_DTYPES[header[name]["dtype"]]).view(header[name]["shape"])
    return tensors
