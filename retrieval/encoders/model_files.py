"""Where the files of a model are: a folder, or the Hugging Face hub. Only safetensors, GGUF, or pickles of tensors are read."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from index.errors import ModelError
from index.manifest import sha256_of_file
from retrieval.encoders import minilm
from retrieval.encoders.shipped import SHIPPED, shipped_folder

EIGHT_BIT = "model-8bit"  # see eight_bit.py
WEIGHTS = (
    ("adapter_model", "safetensors"),
    ("model", "safetensors"),
    (EIGHT_BIT, "safetensors"),
    ("pytorch_model", "bin"),
)
PATTERNS = ["*.json", "*.txt", "*.model", "*.safetensors"]  # of files to fetch, in any folder of a checkpoint
PICKLES = "pytorch_model*.bin"  # only where there is nothing else
MOST_TERMS = 1 << 24
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class ModelFiles:
    """A model by name: a path, or a name on the hub with a revision. The files are looked for when they are first needed.

    part         folder within the checkpoint
    base         the model that an adapter changes
    fingerprint  what the weights must have, where they are known; see `found_fingerprint`
    """

    name: str
    revision: str | None = None
    trust_remote_code: bool = False
    part: str = ""
    base: ModelFiles | None = None
    fingerprint: str | None = None

    @cached_property
    def folder(self) -> Path:
        """Raises ModelError where the files cannot be had."""
        try:
            return inside(checkpoint_folder(self.name, self.revision, code=self.trust_remote_code), self.part)
        except ModelError as error:
            if self.fingerprint is None:
                raise
            raise ModelError(
                f"the index was built with the model {self.name}, which cannot be had any more; bring it back, or index all "
                "documents again with another one."
            ) from error

    @cached_property
    def config(self) -> dict[str, Any]:
        """What the checkpoint says of its architecture; of an adapter, what its base does. Raises ModelError."""
        if self.base is not None:
            return self.base.config
        return read_json(self.folder / "config.json") if self.gguf is None else config_within(self.folder, self.gguf)

    @cached_property
    def architecture(self) -> str:
        """The class of transformers that was saved; empty where config.json does not say."""
        named = self.config.get("architectures")
        first = named[0] if isinstance(named, list) and named else ""
        return first if isinstance(first, str) else ""

    @cached_property
    def gguf(self) -> str | None:
        """The name of the one GGUF file that stands for config and weights."""
        found = sorted(path.name for path in self.folder.glob("*.gguf"))
        if (self.folder / "config.json").is_file() or not found:
            return None
        if len(found) > 1:
            raise ModelError(
                f"{self.folder} has {len(found)} GGUF files, {found[0]} and others; keep one in a folder of its own."
            )
        return found[0]

    @cached_property
    def found_fingerprint(self) -> str:
        """`fingerprint_now` when it was first asked for, or the model loaded."""
        return self.fingerprint_now()

    def fingerprint_now(self) -> str:
        """sha256 of the sha256 of all files with weights or the settings that they are computed with, in hexadecimal."""
        settings = (self.folder / name for name in ("config.json", "adapter_config.json"))
        digests = "".join(digest(path) for path in (*self.weight_files(), *filter(Path.is_file, settings)))
        if self.base is not None:
            digests += self.base.fingerprint_now()
        return hashlib.sha256(digests.encode()).hexdigest()

    def weight_files(self) -> list[Path]:
        """Those that transformers would read: one file or the shards of an index, safetensors before pickles; of an adapter, its own."""
        if self.gguf is not None:
            return [self.folder / self.gguf]
        for stem, suffix in WEIGHTS:
            path, index = self.folder / f"{stem}.{suffix}", self.folder / f"{stem}.{suffix}.index.json"
            if path.is_file():
                return [path]
            if index.is_file():
                shards = read_json(index).get("weight_map")
                named = sorted(set(flat(shards))) if isinstance(shards, dict) else []
                return [inside(self.folder, name) for name in named]
        return []

    def num_terms(self) -> int:
        """Rows of the vocabulary projection. Raises ModelError."""
        inner = self.config.get("text_config")
        size = self.config.get("vocab_size", inner.get("vocab_size") if isinstance(inner, dict) else None)
        if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= MOST_TERMS:
            raise ModelError(
                f"{self.folder / 'config.json'} has the vocab_size {size!r:.60}; it must be a whole number from 1 to "
                f"{MOST_TERMS:,}, so get the checkpoint again."
            )
        return size

    def check_code(self) -> None:
        """Raises ModelError where the code that comes with a checkpoint is another repository's, which no revision of ours pins."""
        for name in ("config.json", "tokenizer_config.json"):
            path = self.folder / name
            found = read_json(path).get("auto_map") if path.is_file() else None
            foreign = [where for where in flat(found) if "--" in where]
            if foreign:
                raise ModelError(
                    f"{path} runs the code {foreign[0]!r:.100} of another repository, which could change at any time; copy the "
                    "checkpoint to a folder with that code in it, and name it without the repository."
                )

    def check_fingerprint(self) -> None:
        """Raises ModelError where weights or settings are others than those that an index was built with, or that were here before."""
        now, known = self.fingerprint_now(), self.__dict__.get("found_fingerprint")
        if self.fingerprint is not None and self.fingerprint != now:
            raise ModelError(
                f"the index was built with weights and config {self.fingerprint[:12]}..., {self.name} has "
                f"{now[:12]}...; index all documents again, or bring the old files back."
            )
        if known not in (None, now):
            raise ModelError(
                f"the files of {self.name} have changed since it was loaded; load it anew, and index all documents again."
            )
        self.__dict__["found_fingerprint"] = now

    def describe(self) -> dict[str, Any]:
        """What `read` needs."""
        fingerprint = self.fingerprint or self.found_fingerprint  # which looks for the folder
        return {
            "name": self.name,
            "revision": self.revision or commit_of(self.folder_if_known),
            "trust_remote_code": self.trust_remote_code,
            "part": self.part,
            "base": None if self.base is None else self.base.describe(),
            "fingerprint": fingerprint,
        }

    @property
    def folder_if_known(self) -> Path | None:
        """Without looking for it."""
        return self.__dict__.get("folder")

    @classmethod
    def read(cls, description: dict[str, Any]) -> ModelFiles:
        """An index may come from anybody: that it was built with a checkpoint's code is no leave to run that code here."""
        base = description["base"]
        return cls(**{**description, "trust_remote_code": False, "base": None if base is None else cls.read(base)})


def digest(path: Path) -> str:
    """sha256 of a file, read again only if it has changed."""
    found = path.stat()
    return digest_of(path, found.st_size, found.st_mtime_ns, found.st_ino)


@cache
def digest_of(path: Path, *_: int) -> str:
    return sha256_of_file(path)


def checkpoint_folder(name: str, revision: str | None = None, *, code: bool = False) -> Path:
    """The folder of a checkpoint by path, or by name from the hub or its cache. Raises ModelError.

    code  whether to fetch Python files too
    """
    if (name, revision) == (minilm.HUB_NAME, minilm.REVISION):
        return minilm.minilm_folder()
    if name in SHIPPED:  # whatever lies in a folder of its name here
        return shipped_folder(name)
    path = Path(name)
    if name and os.path.isdir(path):  # unlike Path's, for names that no file can have too
        return path.absolute()
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise ModelError(
            f"{name!r:.80} is neither a folder with an index or a checkpoint nor a known model; known are bm25, mini, minilm, vectors, winnow-mini and those of "
            "docs/models.md."
        )
    return fetched(name, revision, [*PATTERNS, *(["*.py"] if code else [])])


def fetched(name: str, revision: str | None, patterns: list[str]) -> Path:
    """The folder that the hub's library keeps a checkpoint in. Raises ModelError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
        pickles = [str(one.relative_to(folder) / PICKLES) for one in folders_without_weights(folder)]
        if pickles:
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=[*patterns, *pickles]))
        return folder
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelError(
            f"{name} is no folder here, and the hub did not give it ({type(error).__name__}); connect to a network, check the "
            "name, log in if its owners ask for that, or give a folder."
        ) from error


def folders_without_weights(folder: Path) -> list[Path]:
    """Of a checkpoint, those with a transformers model but no safetensors."""
    configs = [path for path in folder.rglob("config.json") if "architectures" in read_json(path)]
    return [path.parent for path in configs if next(path.parent.glob("*.safetensors"), None) is None]


def commit_of(folder: Path | None) -> str | None:
    """The commit of a checkpoint that the hub's library keeps, which it calls a folder by."""
    if folder is None:
        return None
    parts = folder.parts
    found = [after for before, after in pairwise(parts) if before == "snapshots" and COMMIT.fullmatch(after)]
    return found[-1] if found else None


def inside(folder: Path, part: str) -> Path:
    """A folder or file within a checkpoint. Raises ModelError for a name that leads out of it."""
    if Path(part).is_absolute() or ".." in Path(part).parts or "\0" in part:
        raise ModelError(f"{folder} names {part!r:.80}, which is outside of it; get the checkpoint again.")
    return folder / part


def brief(error: BaseException, most: int = 200) -> str:
    """What a library says, on one line and not all of it; of a pickle that is refused not its advice to allow everything."""
    if type(error).__name__ == "UnpicklingError":
        return "a pickle of more than tensors, which could run code"
    return " ".join(str(error).split())[:most]


def flat(value: Any) -> Iterator[str]:
    """All texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from flat(one)


def config_within(folder: Path, gguf: str) -> dict[str, Any]:
    """The configuration that a GGUF file holds. Raises ModelError."""
    from transformers import AutoConfig

    try:
        config: dict[str, Any] = AutoConfig.from_pretrained(folder, gguf_file=gguf).to_dict()
    except ImportError as error:
        raise ModelError(f"{folder / gguf} is a GGUF file, which needs gguf; pip install 'winnow-ir[gguf]'.") from error
    except Exception as error:  # whatever the library meets in the file
        raise ModelError(
            f"{folder / gguf} cannot be read ({type(error).__name__}: {error!s:.200}); get the file again, or give a checkpoint of "
            "safetensors."
        ) from error
    return config


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        what = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({brief(error, 100)})"
        raise ModelError(f"{path} {what}; the checkpoint is not complete.") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds {type(found).__name__} where an object is needed; get the checkpoint again.")
    return found
