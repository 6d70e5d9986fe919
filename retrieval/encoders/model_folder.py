"""The folder of a model: written whole or not at all, and never over anything else."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from index.errors import WinnowError
from index.files import created, make_folders, write_all, write_file
from index.placing import whole

CHUNK = 1 << 24  # bytes
OF_A_MODEL = re.compile(
    r"[a-z_]*config[a-z_]*\.json|modules\.json|tokenizer\.json|special_tokens_map\.json|added_tokens\.json|vocab\.(txt|json)|merges\.txt"
    r"|(model|pytorch_model)[-a-z0-9]*\.(safetensors|bin)|(model|pytorch_model)[a-z.]*\.index\.json|idf\.json|README\.md|.*\.model"
)


def write_whole(folder: Path, fill: Callable[[Path], None]) -> None:
    """A folder that `fill` has filled, which is new, or in the place of another model.

    Raises WinnowError where the folder holds something else, StorageError where the disk cannot take it.
    """
    folder = Path(os.path.realpath(folder))
    check_replaceable(folder)
    make_folders(folder.parent)
    whole(folder, fill)


def check_replaceable(folder: Path) -> None:
    """Raises WinnowError unless the folder is not there, empty, or such a model."""
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise WinnowError(f"{folder} is not a folder; give a new or empty folder for the model.")
    names = os.listdir(folder)
    if names and not {"modules.json", "config_sentence_transformers.json"} <= set(names):
        raise WinnowError(f"{folder} holds {min(names)!r} and is no model of this kind; give a new or empty folder.")
    for path in sorted(folder.rglob("*")):  # it would be gone
        if path.is_symlink() or not (path.is_dir() or OF_A_MODEL.fullmatch(path.name)) or path.name.startswith("."):
            raise WinnowError(
                f"{folder} holds {str(path.relative_to(folder))!r:.80}, which is not of a model; give a new or empty folder."
            )


def copy_file(source: Path, target: Path) -> None:
    with open(source, "rb") as file, created(target) as descriptor:
        while chunk := file.read(CHUNK):
            write_all(descriptor, chunk, target)


def write_json(path: Path, content: Any) -> None:
    write_file(path, json.dumps(content, indent=2, ensure_ascii=False).encode())
