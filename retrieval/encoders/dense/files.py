"""Files of dense models: folders of sentence-transformers, and checkpoints as transformers saves them.

The class names in modules.json moved between releases, so only their last part counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open
from tokenizers import Tokenizer

from index.errors import ModelError
from retrieval.encoders.dense.layers import pooling_of
from retrieval.encoders.dense.options import DenseWishes
from retrieval.encoders.model_files import ModelFiles, brief, checkpoint_folder, commit_of
from retrieval.encoders.options import LONGEST_TEXT
from retrieval.encoders.plain_checkpoints import longest_text, tokenizer_folder
from retrieval.encoders.sentence_transformers import (
    DOCUMENT_ROUTES,
    ROUTERS,
    Modules,
    listed_modules,
    read_routes,
    shared_config,
    side_prompt,
    transformer_options,
)
from retrieval.encoders.tokens import read_tokenizer

STATIC = "StaticEmbedding"
SPARSE_KINDS = ("Splade", "Sparse")  # what the names of sparse modules begin with
WIDTHS = ("hidden_size", "d_model", "dim", "n_embd")  # what configurations call the width of hidden states


class FoundSide(NamedTuple):
    """What files say of one side."""

    files: ModelFiles
    modules: Sequence[tuple[str, ModelFiles]]  # after the pooling, by kind
    options: dict[str, Any]
    tokenizer: Tokenizer
    width: int  # of hidden states
    is_table: bool = False


class Found(NamedTuple):
    """What files say of a dense model."""

    document: FoundSide
    query: FoundSide
    similarity: Any = None
    truncate_dim: Any = None


def is_dense_folder(folder: Path) -> bool:
    """Whether modules.json has a Pooling, or a table of token vectors, and nothing sparse. Raises ModelError where it cannot be read."""
    if not (folder / "modules.json").is_file():
        return False
    modules = listed_modules(folder)
    routes = [read_routes(folder, part) for kind, part in modules if kind in ROUTERS]
    routed = [module for found in routes for route in found.values() for module in route]
    kinds = {kind for kind, _ in (*modules, *routed)}
    return bool(kinds & {"Pooling", STATIC}) and not any(kind.startswith(SPARSE_KINDS) for kind in kinds)


def read_found(name: str, wishes: DenseWishes) -> Found:
    """What the files of a checkpoint say. Raises ModelError."""
    folder = checkpoint_folder(name, wishes.revision, code=wishes.trust_remote_code)
    wishes = replace(wishes, revision=wishes.revision or commit_of(folder))  # all parts of one commit, asked for once
    if (folder / "modules.json").is_file():
        return read_modules(name, folder, wishes)
    files = wishes.files(name)
    options = {"max_length": longest_text(files)}
    side = FoundSide(files, [], options, read_tokenizer(tokenizer_folder(files)), hidden_width(files))
    return Found(side, side)


def read_modules(name: str, folder: Path, wishes: DenseWishes) -> Found:
    """What modules.json describes. Raises ModelError for modules that are no dense encoder."""
    config = shared_config(folder)
    document: list[tuple[str, str]] = []
    query: list[tuple[str, str]] = []
    for kind, part in listed_modules(folder):
        if kind not in ROUTERS:
            document.append((kind, part))
            query.append((kind, part))
            continue
        routes = read_routes(folder, part)
        route = next((route for route in DOCUMENT_ROUTES if route in routes), None)
        if route is None or "query" not in routes:
            raise ModelError(
                f"{name} has the routes {', '.join(routes)}; a dense encoder needs one for query and one for document."
            )
        document += routes[route]
        query += routes["query"]
    return Found(
        read_side(name, document, "document", wishes, side_prompt(folder, config, "document")),
        read_side(name, query, "query", wishes, side_prompt(folder, config, "query")),
        config.get("similarity_fn_name"),
        config.get("truncate_dim"),
    )


def read_side(name: str, modules: Modules, side: str, wishes: DenseWishes, prompt: str) -> FoundSide:
    """One route. Raises ModelError for modules that do not make one vector of a text."""
    kinds = [kind for kind, _ in modules]
    sparse = next((kind for kind in kinds if kind.startswith(SPARSE_KINDS)), None)
    if sparse is not None:
        raise ModelError(f"{name} has the module {sparse}, so it is a sparse encoder; leave dense: out.")
    shared = {"prefix": prompt} if prompt else {}
    if kinds[:1] == [STATIC]:
        files = wishes.files(name, modules[0][1])
        tokenizer = read_tokenizer(files.folder)
        limit = (tokenizer.truncation or {}).get("max_length", LONGEST_TEXT)
        found = {**shared, "pooling": "mean", "special_tokens": False, "max_length": limit}
        rest = following(name, modules[1:], wishes)
        return FoundSide(files, rest, found, tokenizer, table_width(files), is_table=True)
    if kinds[:2] != ["Transformer", "Pooling"]:
        raise ModelError(
            f"{name} has the modules {', '.join(kinds) or 'of none'}; a dense encoder has a Transformer and a Pooling, or {STATIC}."
        )
    files = wishes.files(name, modules[0][1])
    tokenizer = read_tokenizer(tokenizer_folder(files))
    pooling, width = pooling_of(wishes.files(name, modules[1][1]), hidden_width(files))
    length = transformer_options(files, tokenizer, side, "feature-extraction", is_usual=True)
    return FoundSide(files, following(name, modules[2:], wishes), {**shared, **length, **pooling}, tokenizer, width)


def following(name: str, modules: Modules, wishes: DenseWishes) -> list[tuple[str, ModelFiles]]:
    return [(kind, wishes.files(name, part)) for kind, part in modules]


def hidden_width(files: ModelFiles) -> int:
    """Raises ModelError where the configuration does not say."""
    inner = files.config.get("text_config")
    for config in (files.config, inner if isinstance(inner, dict) else {}):
        for name in WIDTHS:
            if isinstance(config.get(name), int):
                return int(config[name])
    raise ModelError(
        f"{files.folder / 'config.json'} does not say how wide hidden states are ({', '.join(WIDTHS)}); get the checkpoint again."
    )


def table_width(files: ModelFiles) -> int:
    """Of a table of token vectors. Raises ModelError."""
    paths = files.weight_files()
    try:
        with safe_open(paths[0], "np") as stored:
            name = next(name for name in ("embedding.weight", "embeddings") if name in stored.keys())  # noqa: SIM118
            return int(stored.get_slice(name).get_shape()[1])
    except Exception as error:  # whatever the library meets; no file, or no such tensor
        raise ModelError(
            f"{files.folder} has no table of token vectors (embedding.weight, in safetensors) that can be read ({brief(error, 100)}); get the "
            "checkpoint again."
        ) from error
