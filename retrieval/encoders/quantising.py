"""A checkpoint with 8 bits a weight: the files of its folder, whatever library saved it, and its models as `eight_bit` has them."""

from __future__ import annotations

import re
from pathlib import Path

from safetensors import SafetensorError

from index.errors import ModelError
from index.files import make_folders, write_file
from retrieval.encoders import eight_bit
from retrieval.encoders.model_files import ModelFiles, brief, read_json
from retrieval.encoders.model_folder import OF_A_MODEL, copy_file, write_whole
from retrieval.encoders.model_reading import read_tensors
from retrieval.encoders.plain_checkpoints import QUERY_WEIGHTS

OF_WEIGHTS = re.compile(r".*\.(safetensors|bin|index\.json)")


def quantise(checkpoint: str | Path, folder: str | Path) -> None:
    """Write a checkpoint's folder to another one, new or empty, with the weights of its models in 8 bits.

    A model is what a config.json with `architectures` belongs to. Everything else that loading reads is copied as it is, tables of query
    weights too; what is not of a model (states of an optimiser, logs) is left behind. The folder loads as the checkpoint did.

    Raises ModelError for a checkpoint without a model, of weights that are no safetensors, or not finite; WinnowError where the folder
    holds something else; StorageError where the disk cannot take it.
    """
    source = Path(checkpoint)
    models = [path.parent for path in sorted(source.rglob("config.json")) if read_json(path).get("architectures")]
    if not models:
        raise ModelError(f"{source} has no model (a config.json with architectures); give the folder of a checkpoint.")

    def fill(partial: Path) -> None:
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            is_known = OF_A_MODEL.fullmatch(path.name) or path.name in QUERY_WEIGHTS
            if is_known and not (path.parent in models and OF_WEIGHTS.fullmatch(path.name)):
                make_folders((partial / path.relative_to(source)).parent)
                copy_file(path, partial / path.relative_to(source))
        for model in models:
            write_file(partial / model.relative_to(source) / eight_bit.FILE, packed_model(model))

    write_whole(Path(folder), fill)


def packed_model(folder: Path) -> bytes:
    """The weights of one model. Raises ModelError."""
    files = ModelFiles(str(folder))
    paths = files.weight_files()
    if not paths or paths[0].suffix != ".safetensors" or (folder / "adapter_config.json").is_file():
        found = f"has {paths[0].name}" if paths else "has no weights"
        raise ModelError(f"{folder} {found}; 8 bits are made of model.safetensors, so save the whole model as that.")
    try:
        return eight_bit.packed(read_tensors(files))
    except (SafetensorError, OSError, KeyError) as error:
        raise ModelError(
            f"the weights of {folder} cannot be read ({brief(error)}); get the checkpoint again."
        ) from error
