"""Folders of sentence-transformers' SparseEncoder, read so that vectors equal the library's (release 6.2).

The class names in modules.json moved between releases, so only their last part counts. One difference is meant: a text without
tokens of its own has an empty vector here, there one of the special tokens alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, normalizers

from index.errors import ModelError
from retrieval.encoders.model_files import ModelFiles, brief, inside, read_json
from retrieval.encoders.options import LONGEST_TEXT
from retrieval.encoders.plain_checkpoints import (
    DEFAULT_LENGTH,
    Checkpoint,
    Side,
    check_alike,
    count_positions,
    read_query_weights,
    tokenizer_limit,
)
from retrieval.encoders.term_weights import TermWeights
from retrieval.encoders.tokens import read_tokenizer
from retrieval.encoders.wishes import Wishes

ACTIVATIONS = {"relu": "log1p", "log1p_relu": "log1p_log1p"}
DOCUMENT_ROUTES = ("document", "passage", "corpus", "doc")
ROUTERS = ("Router", "Asym")
TRANSFORMERS = ("Transformer", "MLMTransformer")
STATIC = "SparseStaticEmbedding"
UNKNOWN_SETTINGS = (
    "processing_kwargs",
    "query_expansion",
    "tokenizer_args",
    "processor_kwargs",
    "config_args",
    "config_kwargs",
)  # would change vectors in ways that are not known here

Modules = Sequence[tuple[str, str]]  # kind and folder of each


def read_modules(name: str, folder: Path, wishes: Wishes) -> Checkpoint:
    """The encoder that modules.json describes. Raises ModelError for modules that are no sparse encoder over a vocabulary."""
    modules = listed_modules(folder)
    routes: dict[str, Modules] = {"query": modules, "document": modules}
    if modules and modules[0][0] in ROUTERS:
        if len(modules) > 1:
            raise ModelError(
                f"{name} has {modules[1][0]} after its Router; a sparse encoder over a vocabulary has nothing there."
            )
        routes = read_routes(folder, modules[0][1])
    route = next((route for route in DOCUMENT_ROUTES if route in routes), None)
    if route is None or "query" not in routes:
        raise ModelError(
            f"{name} has the routes {', '.join(routes)}; a sparse encoder needs one for query and one for document."
        )
    document, tokenizer = read_side(name, folder, routes[route], "document", wishes)
    query, query_tokenizer = read_side(name, folder, routes["query"], "query", wishes)
    if not isinstance(document, Side):
        raise ModelError(f"{name} encodes documents by a table of token weights; give a model for them.")
    check_alike(name, tokenizer, f"the query side of {name}", query_tokenizer, special=isinstance(query, Side))
    return Checkpoint(document, query, tokenizer)


def listed_modules(folder: Path) -> Modules:
    """What modules.json lists. Raises ModelError."""
    path = folder / "modules.json"
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        return [(last_part(module["type"]), str(module["path"])) for module in listed]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path} is no list of modules ({brief(error, 100)}); get the checkpoint again.") from error


def last_part(dotted: str) -> str:
    """The name of a class; of one that has another name today, that one."""
    name = dotted.rpartition(".")[2]
    return STATIC if name == "IDF" else name


def read_routes(folder: Path, part: str) -> dict[str, Modules]:
    """The modules of each route; folders as seen from that of the checkpoint. Raises ModelError."""
    path = inside(folder, part) / "router_config.json"
    config = read_json(path if path.is_file() else path.with_name("config.json"))  # Asym, before it was called Router
    try:
        types = {module: last_part(dotted) for module, dotted in config["types"].items()}
        return {
            route: [(types[module], str(Path(part) / module)) for module in modules]
            for route, modules in config["structure"].items()
        }
    except (KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{path} does not describe routes ({brief(error, 100)}); get the checkpoint again.") from error


def shared_options(folder: Path, side: str) -> dict[str, Any]:
    """Prompt and number of terms kept."""
    config = shared_config(folder)
    found: dict[str, Any] = {"prefix": side_prompt(folder, config, side)}
    return found if config.get("max_active_dims") is None else {**found, "top_k": config["max_active_dims"]}


def shared_config(folder: Path) -> dict[str, Any]:
    """What holds of the whole model."""
    path = folder / "config_sentence_transformers.json"
    return read_json(path) if path.is_file() else {}


def side_prompt(folder: Path, config: dict[str, Any], side: str) -> str:
    """The text before each text of a side. Raises ModelError."""
    prompts = config.get("prompts") or {}
    # the library looks for a prompt called passage or corpus only where there is none called document, and there always is
    found = (prompts.get(side) or "") if isinstance(prompts, dict) else None
    if not isinstance(found, str):
        raise ModelError(
            f"{folder / 'config_sentence_transformers.json'} has the prompts {prompts!r:.60}; they must be texts by name."
        )
    return found


def read_side(
    name: str, folder: Path, modules: Modules, side: str, wishes: Wishes
) -> tuple[Side | TermWeights, Tokenizer]:
    """One route. Raises ModelError for modules that do not make a sparse encoder."""
    kinds = [kind for kind, _ in modules]
    shared = shared_options(folder, side)
    if kinds == [STATIC]:
        path = inside(folder, modules[0][1])
        tokenizer = read_tokenizer(path)
        table = TermWeights(static_weights(folder, path, tokenizer))
        return table.but({**shared, "max_length": tokenizer_limit(path)}), tokenizer
    if len(kinds) < 2 or kinds[0] not in TRANSFORMERS or kinds[1] != "SpladePooling" or kinds[2:] not in ([], [STATIC]):
        raise ModelError(
            f"{name} has the modules {', '.join(kinds) or 'of none'}; a sparse encoder over a vocabulary has a Transformer and "
            f"SpladePooling, or {STATIC}."
        )
    (_, transformer), (_, pooling), *rest = modules
    files = wishes.files(name, transformer)
    tokenizer = read_tokenizer(files.folder)
    own_weights = static_weights(folder, inside(folder, rest[0][1]), tokenizer) if rest else None
    found = {
        "special_tokens": True,  # the library always adds them
        **shared,
        **transformer_options(files, tokenizer, side, "fill-mask", is_usual=kinds[0] == "MLMTransformer"),
        **pooling_options(inside(folder, pooling)),
        "own_terms": own_weights is not None,
    }
    return Side(files, found, own_weights), tokenizer


def transformer_options(
    files: ModelFiles, tokenizer: Tokenizer, side: str, wanted: str, *, is_usual: bool
) -> dict[str, Any]:
    """The length of texts; a tokenizer that is to lower case does so from now on. Raises ModelError.

    wanted    what the module must be made for: fill-mask (logits), feature-extraction (hidden states)
    is_usual  whether it is, unless its file says otherwise
    """
    path = next(iter(sorted(files.folder.glob("sentence_*_config.json"))), files.folder / "sentence_bert_config.json")
    config = read_json(path) if path.is_file() else {}
    task = config.get("transformer_task", wanted if is_usual else "feature-extraction")
    if task != wanted:
        what = "weights of terms" if wanted == "fill-mask" else "hidden states"
        raise ModelError(f"{path} has the transformer_task {task!r:.60}, which gives no {what}; it must be {wanted!r}.")
    unknown = [setting for setting in UNKNOWN_SETTINGS if config.get(setting)]
    if unknown:
        raise ModelError(f"{path} has {unknown[0]}, which is not known here; give a checkpoint without it.")
    if config.get("do_lower_case") and not lowers(tokenizer.normalizer):
        own = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
    told = config.get("max_seq_length") or tokenizer_limit(files.folder)
    limits = [limit for limit in (told, count_positions(files)) if isinstance(limit, int)]
    longest = min([*limits, LONGEST_TEXT]) if limits else DEFAULT_LENGTH
    return {"max_length": config.get(f"{side}_length") or longest}


def lowers(normalizer: Any) -> bool:
    """Whether a normalizer of the tokenizers library has a step that lower-cases, as the library looks for one."""
    steps: Any = normalizer if isinstance(normalizer, normalizers.Sequence) else [normalizer]
    return any(isinstance(step, normalizers.Lowercase) for step in steps)


def pooling_options(folder: Path) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    activation, pooling = config.get("activation_function", "relu"), config.get("pooling_strategy", "max")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ModelError(f"{folder} has the activation {activation!r:.60}; known are {', '.join(ACTIVATIONS)}.")
    if pooling not in ("max", "sum"):
        raise ModelError(f"{folder} has the pooling {pooling!r:.60}; known are max, sum.")
    return {"pooling": pooling, "activation": ACTIVATIONS[activation]}


def static_weights(root: Path, folder: Path, tokenizer: Tokenizer) -> np.ndarray:
    """float32 [terms] of a SparseStaticEmbedding. A file that it names is looked for beside it, then in the checkpoint's root; never
    elsewhere. Raises ModelError."""
    config = read_json(folder / "config.json")
    num_terms = tokenizer.get_vocab_size(with_added_tokens=True)
    if str(config.get("path") or "").endswith(".json"):
        name = Path(str(config["path"])).name
        path = folder / name if (folder / name).is_file() else root / name
        return TermWeights.from_tokens(read_query_weights(path), tokenizer, num_terms, str(path)).weights
    weights = read_tensor(folder, "weight")
    if weights.shape != (num_terms,):
        raise ModelError(
            f"{folder} has query weights of shape {weights.shape}, its tokenizer {num_terms} tokens; they are of different models."
        )
    return weights.astype(np.float32)


def read_tensor(folder: Path, name: str) -> np.ndarray:
    """One tensor of a folder's weights, safetensors or a pickle of tensors. Raises ModelError."""
    try:
        if (folder / "model.safetensors").is_file():
            from safetensors.numpy import load_file

            return np.asarray(load_file(folder / "model.safetensors")[name])
        import torch

        weights = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
        return np.asarray(weights[name].float().numpy())
    except Exception as error:  # both libraries raise their own
        raise ModelError(
            f"{folder} has no tensor {name!r} that can be read ({brief(error, 100)}); get the checkpoint again."
        ) from error
