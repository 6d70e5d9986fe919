"""Which encoder a name or a saved description stands for. A new family adds one line to each table."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from index.errors import IndexFormatError, ModelError, WinnowError
from index.manifest import is_index
from index.options import WeightImpacts
from index.segment import made
from retrieval.encoders.protocol import Encoder, SparseEncoder

if TYPE_CHECKING:
    from retrieval.encoders.dense.encoder import DenseEncoder

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


def winnow_mini(impacts: WeightImpacts | None, options: Options) -> SparseEncoder:
    from retrieval.encoders.checkpoints import load_checkpoint

    if options.get("revision") is not None:
        raise WinnowError(f"winnow-mini comes with the package; leave revision={options['revision']!r:.60} out.")
    return load_checkpoint("winnow-mini", impacts, options)


def minilm(impacts: WeightImpacts | None, options: Options) -> DenseEncoder:
    from retrieval.encoders.dense.checkpoints import load_minilm

    return load_minilm("minilm", impacts, options)


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


def read_dense(path: Path, description: dict[str, Any]) -> DenseEncoder:
    from retrieval.encoders.dense.encoder import DenseEncoder

    return DenseEncoder.read(path, description)


def read_first_mini(path: Path, description: dict[str, Any]) -> SparseEncoder:
    from retrieval.encoders.mini import read_first_release

    return read_first_release(path, description)


def read_vectors(path: Path, description: dict[str, Any]) -> SparseEncoder:
    from retrieval.encoders.given_vectors import GivenVectors

    return GivenVectors.read(path, description)


MODELS: dict[str, Callable[[WeightImpacts | None, Options], Encoder]] = {
    "bm25": bm25,
    "mini": mini,
    "minilm": minilm,
    "vectors": vectors,
    "winnow-mini": winnow_mini,
}
WITHOUT_OPTIONS = ("bm25", "vectors")
SPARSE = "sparse:"  # before a model's name: read it as a sparse one
SEVERAL = "several"  # the family of the encoders of a retriever with several arms
FAMILIES: dict[str, Callable[[Path, dict[str, Any]], Encoder]] = {
    "bm25": read_bm25,
    "dense": read_dense,
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


def load_encoder(name: str, impacts: WeightImpacts | None = None, options: Options | None = None) -> Encoder:
    """The encoder called `name`: one of MODELS, of the registries, a checkpoint's folder or its name on the hub, with `dense:` or
    `sparse:` before it where it is to be read as such although its files do not say so.

    impacts  how it has weights stored
    options  what the user says of it, see `wishes.Wishes`

    Raises ModelError for an unknown name, and for a checkpoint that is no encoder, or none of the kind that is asked for.
    """
    if name.startswith(SPARSE):
        return load_sparse(name, impacts, options or {})
    if name in MODELS:
        return MODELS[name](impacts, options or {})
    from retrieval.encoders.checkpoints import load_checkpoint
    from retrieval.encoders.dense.checkpoints import load_dense, look_at

    is_dense, options = look_at(name, options or {})
    return (load_dense if is_dense else load_checkpoint)(name, impacts, options)


def load_sparse(asked: str, impacts: WeightImpacts | None, options: Options) -> Encoder:
    """The encoder of a name with `sparse:` before it, which is no part of what the encoder is called. Raises ModelError."""
    name = asked.removeprefix(SPARSE)
    if name in MODELS:
        encoder = MODELS[name](impacts, options)
        if encoder.kind != "sparse":
            raise ModelError(f"{asked!r:.80} is asked for, and {name} is a dense model; leave {SPARSE} out.")
        return encoder
    from retrieval.encoders.checkpoints import load_checkpoint

    return load_checkpoint(name, impacts, options)


def load_encoders(
    names: str | Sequence[str], impacts: WeightImpacts | None = None, options: Options | None = None
) -> tuple[Encoder, ...]:
    """The encoders of these names, or of a text with `+` between them, or of one name.

    impacts, options  of one encoder as `load_encoder` takes them; of several, both by name: {"mini": {"impacts": "f32"}}
    """
    each, options = split_names(names) if isinstance(names, str) else list(names), options or {}
    if len(each) == 1:
        return (load_encoder(each[0], impacts, options),)
    if impacts is not None:
        raise WinnowError(
            f"impacts={impacts!r} is of no one of {', '.join(each)}; give it by model, as in {each[-1]}={{'impacts': ...}}."
        )
    for name, own in options.items():
        if name not in each or not isinstance(own, Mapping):
            raise WinnowError(
                f"the option {name}={own!r:.40} is of none of the models {', '.join(each)}; give options by model, as in "
                f"{each[-1]}={{...}}."
            )
    return tuple(of_own_options(name, dict(options.get(name, {}))) for name in each)


def of_own_options(name: str, own: dict[str, Any]) -> Encoder:
    return load_encoder(name, own.pop("impacts", None), own)


def split_names(names: str) -> list[str]:
    """The names of several models, which a `+` parts; one that has a `+` of its own, a checkpoint's folder or a registry's, is whole.

    >>> split_names("bm25+splade++-selfdistil")
    ['bm25', 'splade++-selfdistil']
    """
    if os.path.exists(names) and not is_index(names):
        return [names]
    pieces, found = names.split("+"), list[str]()
    while pieces:
        lengths = range(len(pieces), 1, -1)
        longest = next((length for length in lengths if is_one_name("+".join(pieces[:length]))), 1)
        found.append("+".join(pieces[:longest]))
        del pieces[:longest]
    return found


def is_one_name(name: str) -> bool:
    """Whether a text with a `+` is the name of one model."""
    from retrieval.encoders.dense.encoder import DENSE
    from retrieval.encoders.dense.registry import KNOWN as KNOWN_DENSE
    from retrieval.encoders.registry import KNOWN

    bare = name.removeprefix(DENSE).removeprefix(SPARSE)
    return bare in KNOWN or bare in KNOWN_DENSE or is_checkpoint(bare)


def write_encoders(encoders: Sequence[Encoder], path: Path) -> dict[str, Any]:
    """Write what `read_encoders` needs besides the returned description: of several, each into a folder of its own."""
    if len(encoders) == 1:
        return encoders[0].write(path)
    return {"family": SEVERAL, "encoders": [one.write(made(path / str(i))) for i, one in enumerate(encoders)]}


def read_encoders(path: Path, description: dict[str, Any]) -> tuple[Encoder, ...]:
    """The encoders that wrote `description` and their files under `path`."""
    if description["family"] != SEVERAL:
        return (read_encoder(path, description),)
    return tuple(read_encoder(path / str(i), one) for i, one in enumerate(description["encoders"]))


def read_encoder(path: Path, description: dict[str, Any]) -> Encoder:
    """The encoder that wrote `description` and its files under `path`."""
    if description["family"] not in FAMILIES:
        raise IndexFormatError(
            f"{path} was built with an encoder of the family {description['family']!r}, which this release does not "
            "know; update winnow-ir."
        )
    return FAMILIES[description["family"]](path, description)
