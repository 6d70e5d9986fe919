"""Which encoder a name or a saved description stands for. A new family adds one line to each table."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from index.errors import IndexFormatError, WinnowError
from index.options import WeightImpacts
from retrieval.encoders.protocol import SparseEncoder

DEFAULT_MODEL = "mini"
CHECKPOINT_FILES = ("config.json", "modules.json", "adapter_config.json")


Options = Mapping[str, Any]


def bm25(impacts: WeightImpacts | None, options: Options) -> SparseEncoder:
    from retrieval.encoders.bm25 import BM25Encoder

    if options:
        raise WinnowError(f"bm25 has no options; leave {', '.join(sorted(options))} out.")
    if impacts is not None:
        raise WinnowError(f"bm25 stores term counts as they are; leave impacts={impacts!r} out.")
    return BM25Encoder()


def mini(impacts: WeightImpacts | None, options: Options) -> SparseEncoder:
    from retrieval.encoders.mini import mini
    from retrieval.encoders.wishes import Wishes

    wishes = Wishes.of(options)
    if wishes != Wishes(wishes.document, {**wishes.document}, device=wishes.device):
        raise WinnowError(
            "mini has one checkpoint and queries without a model; leave out all options but those of documents and device."
        )
    encoder = mini(impacts, **wishes.document)
    encoder.document.device = wishes.device
    return encoder


def vectors(impacts: WeightImpacts | None, options: Options) -> SparseEncoder:
    from retrieval.encoders.given_vectors import GivenVectors, GivenVectorsOptions

    if options:
        raise WinnowError(f"vectors has no options; leave {', '.join(sorted(options))} out.")
    return GivenVectors(None if impacts is None else GivenVectorsOptions(impacts))


def read_bm25(path: Path, description: dict[str, Any]) -> SparseEncoder:
    from retrieval.encoders.bm25 import BM25Encoder

    return BM25Encoder.read(path, description)


def read_learned(path: Path, description: dict[str, Any]) -> SparseEncoder:
    from retrieval.encoders.learned import LearnedSparseEncoder

    return LearnedSparseEncoder.read(path, description)


def read_first_mini(path: Path, description: dict[str, Any]) -> SparseEncoder:
    from retrieval.encoders.mini import read_first_release

    return read_first_release(path, description)


def read_vectors(path: Path, description: dict[str, Any]) -> SparseEncoder:
    from retrieval.encoders.given_vectors import GivenVectors

    return GivenVectors.read(path, description)


MODELS: dict[str, Callable[[WeightImpacts | None, Options], SparseEncoder]] = {
    "bm25": bm25,
    "mini": mini,
    "vectors": vectors,
}
WITHOUT_OPTIONS = ("bm25", "vectors")
FAMILIES: dict[str, Callable[[Path, dict[str, Any]], SparseEncoder]] = {
    "bm25": read_bm25,
    "learned": read_learned,
    "inference-free": read_first_mini,
    "vectors": read_vectors,
}


def is_checkpoint(folder: str | Path) -> bool:
    """Whether a folder holds a model's files."""
    path = Path(folder)
    if not os.path.isdir(path):  # which, unlike Path's, takes names that no file can have
        return False
    return any((path / name).is_file() for name in CHECKPOINT_FILES) or any(path.glob("*.gguf"))


def load_encoder(name: str, impacts: WeightImpacts | None = None, options: Options | None = None) -> SparseEncoder:
    """The encoder called `name`: one of MODELS, of the registry, a checkpoint's folder or its name on the hub.

    impacts  how it has weights stored
    options  what the user says of it, see `wishes.Wishes`

    Raises ModelError for an unknown name, and for a checkpoint that is no sparse encoder.
    """
    if name in MODELS:
        return MODELS[name](impacts, options or {})
    from retrieval.encoders.checkpoints import load_checkpoint

    return load_checkpoint(name, impacts, options or {})


def read_encoder(path: Path, description: dict[str, Any]) -> SparseEncoder:
    """The encoder that wrote `description` and its files under `path`."""
    if description["family"] not in FAMILIES:
        raise IndexFormatError(
            f"{path} was built with an encoder of the family {description['family']!r}, which this release does not "
            "know; update winnow-ir."
        )
    return FAMILIES[description["family"]](path, description)
