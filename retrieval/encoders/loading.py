"""Which encoder a name or a saved description stands for. A new family adds one line to each table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from index.errors import IndexFormatError, ModelError, WinnowError
from index.options import WeightImpacts
from retrieval.encoders.protocol import SparseEncoder

DEFAULT_MODEL = "mini"


def bm25(impacts: WeightImpacts | None) -> SparseEncoder:
    from retrieval.encoders.bm25 import BM25Encoder

    if impacts is not None:
        raise WinnowError(f"bm25 stores term counts as they are; leave impacts={impacts!r} out.")
    return BM25Encoder()


def mini(impacts: WeightImpacts | None) -> SparseEncoder:
    from retrieval.encoders.inference_free import InferenceFreeEncoder

    return InferenceFreeEncoder.mini(impacts)


def read_bm25(path: Path, description: dict[str, Any]) -> SparseEncoder:
    from retrieval.encoders.bm25 import BM25Encoder

    return BM25Encoder.read(path, description)


def read_inference_free(path: Path, description: dict[str, Any]) -> SparseEncoder:
    from retrieval.encoders.inference_free import InferenceFreeEncoder

    return InferenceFreeEncoder.read(path, description)


MODELS: dict[str, Callable[[WeightImpacts | None], SparseEncoder]] = {"bm25": bm25, "mini": mini}
FAMILIES: dict[str, Callable[[Path, dict[str, Any]], SparseEncoder]] = {
    "bm25": read_bm25,
    "inference-free": read_inference_free,
}


def check_name(name: str) -> None:
    """Raises ModelError for a name that is none of MODELS."""
    if name not in MODELS:
        raise ModelError(
            f"{name!r} is neither a folder with an index nor a known model; the models are {', '.join(sorted(MODELS))}."
        )


def load_encoder(name: str, impacts: WeightImpacts | None = None) -> SparseEncoder:
    """The encoder called `name`; `impacts` is how it has weights stored. Raises ModelError for an unknown name."""
    check_name(name)
    return MODELS[name](impacts)


def read_encoder(path: Path, description: dict[str, Any]) -> SparseEncoder:
    """The encoder that wrote `description` and its files under `path`."""
    if description["family"] not in FAMILIES:
        raise IndexFormatError(
            f"{path} was built with an encoder of the family {description['family']!r}, which this release does not "
            "know; update winnow-ir."
        )
    return FAMILIES[description["family"]](path, description)
