"""Writes a learned sparse encoder as a folder that sentence-transformers 6.2 opens as a SparseEncoder with equal vectors.

One model for both sides is one tower; otherwise a Router has a route for each, which share what they have in common. Weights in 8 bits are
written as the float32 that they stand for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from index.errors import ModelError
from index.files import make_folder, write_file
from retrieval.encoders.model_files import EIGHT_BIT, ModelFiles, brief
from retrieval.encoders.model_folder import copy_file, write_json, write_whole
from retrieval.encoders.neural_side import NeuralSide
from retrieval.encoders.options import NeuralOptions
from retrieval.encoders.sentence_transformers import ACTIVATIONS, STATIC
from retrieval.encoders.term_weights import CollectionIdf, TermWeights

if TYPE_CHECKING:
    from retrieval.encoders.learned import LearnedSparseEncoder

CLASSES = {
    "Router": "sentence_transformers.base.modules.router.Router",
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "SpladePooling": "sentence_transformers.sparse_encoder.modules.splade_pooling.SpladePooling",
    STATIC: "sentence_transformers.sparse_encoder.modules.sparse_static_embedding.SparseStaticEmbedding",
}
# options that the format has a place for; all others must be as they are unless told
EXPRESSIBLE = {"activation", "pooling", "max_length", "prefix", "own_terms", "top_k"}
NO_LIMIT = 10**30  # what transformers writes for a tokenizer without one


def write_model(encoder: LearnedSparseEncoder, folder: Path) -> None:
    """Write the encoder to a new folder, or in the place of another such model.

    Raises ModelError where the format cannot say what the encoder does or its files cannot be had, WinnowError where the folder holds
    something else, StorageError where the disk cannot take it.
    """
    check_expressible(encoder)
    write_whole(folder, lambda partial: write_modules(encoder, partial))


def check_expressible(encoder: LearnedSparseEncoder) -> None:
    """Raises ModelError that names the first thing which the format has no place for."""
    query = encoder.query
    if isinstance(query, CollectionIdf):
        raise cannot_be_written(encoder.name, "queries weighed by the collection that is searched")
    sides = {"document": encoder.document, **({"query": query} if isinstance(query, NeuralSide) else {})}
    for name, side in sides.items():
        for option, value, usual in options_beyond(side.options):
            raise cannot_be_written(encoder.name, f"{option} = {value!r} of the {name} side (only {usual!r})")
        if side.options.pooling not in ("max", "sum"):
            raise cannot_be_written(encoder.name, f"the pooling {side.options.pooling} (only max, sum)")
        if side.files.base is not None or side.files.gguf is not None or side.files.trust_remote_code:
            raise cannot_be_written(encoder.name, "an adapter, a GGUF file or code of its own")
        if not side.files.architecture.endswith("ForMaskedLM"):
            raise cannot_be_written(encoder.name, f"a {side.files.architecture} (only ...ForMaskedLM)")
    num_tokens = encoder.tokenizer.get_vocab_size(with_added_tokens=True)
    if num_tokens != encoder.num_terms and (
        isinstance(query, TermWeights) or any(s.options.own_terms for s in sides.values())
    ):
        raise cannot_be_written(
            encoder.name,
            f"token weights where the model has {encoder.num_terms} terms and the tokenizer {num_tokens} tokens",
        )
    kept = (encoder.document.options.top_k, query.top_k if isinstance(query, TermWeights) else query.options.top_k)
    if kept[0] != kept[1]:
        raise cannot_be_written(
            encoder.name, f"top_k = {kept[0]} for documents and {kept[1]} for queries (only one number)"
        )


def cannot_be_written(name: str, what: str) -> ModelError:
    return ModelError(
        f"{name} cannot be saved for sentence-transformers, whose format has no place for {what}; load it with other options, or "
        "save a Retriever instead."
    )


def options_beyond(options: NeuralOptions) -> Iterator[tuple[str, Any, Any]]:
    """(name, value, the only value that can be written) of each option that the format has no place for."""
    usual = asdict(NeuralOptions())
    for name, value in asdict(options).items():
        if name not in EXPRESSIBLE and value != usual[name]:
            yield name, value, usual[name]


def write_modules(encoder: LearnedSparseEncoder, folder: Path) -> None:
    """All files of the model into an empty folder."""
    document, query = encoder.document, encoder.query
    assert not isinstance(query, CollectionIdf)
    if isinstance(query, NeuralSide) and is_one_tower(document, query):
        write_transformer(folder, encoder, {"document": document, "query": query})
        write_pooling(folder / "1_SpladePooling", document, encoder.num_terms)
        modules = [("Transformer", ""), ("SpladePooling", "1_SpladePooling")]
    else:
        write_routes(folder, encoder)
        modules = [("Router", "")]
    listed = [
        {"idx": number, "name": str(number), "path": path, "type": CLASSES[kind]}
        for number, (kind, path) in enumerate(modules)
    ]
    query_prefix = query.prefix if isinstance(query, TermWeights) else query.options.prefix
    shared = {
        "model_type": "SparseEncoder",
        "prompts": {"query": query_prefix, "document": document.options.prefix},
        "default_prompt_name": None,
        "similarity_fn_name": "dot",
    }
    top_k = document.options.top_k
    write_json(folder / "modules.json", listed)
    write_json(
        folder / "config_sentence_transformers.json", shared if top_k is None else {**shared, "max_active_dims": top_k}
    )


def is_one_tower(document: NeuralSide, query: NeuralSide) -> bool:
    """Whether the sides differ in nothing but prompt and length."""
    alike = replace(query.options, prefix=document.options.prefix, max_length=document.options.max_length)
    return have_one_model(document, query) and alike == document.options and not alike.own_terms


def have_one_model(one: NeuralSide, other: NeuralSide) -> bool:
    return one.files.folder == other.files.folder


def write_routes(folder: Path, encoder: LearnedSparseEncoder) -> None:
    """A Router: modules in folders of their own, a transformer that both sides use only once."""
    document, query = encoder.document, encoder.query
    routes = {"query": [], "document": write_route(folder, encoder, "document", document)}
    if isinstance(query, TermWeights):
        static = f"query_0_{STATIC}"
        write_static(folder / static, encoder, query.weights, query.max_length)
        routes["query"] = [static]
    elif isinstance(query, NeuralSide):
        routes["query"] = write_route(folder, encoder, "query", query)
    write_json(
        folder / "router_config.json",
        {
            "types": {module: CLASSES[module.split("_")[2]] for modules in routes.values() for module in modules},
            "structure": routes,
            "parameters": {"default_route": "document", "allow_empty_key": True, "route_mappings": {}},
        },
    )


def write_route(folder: Path, encoder: LearnedSparseEncoder, name: str, side: NeuralSide) -> list[str]:
    """The modules of a side with a model."""
    both = {"document": encoder.document, **({"query": encoder.query} if isinstance(encoder.query, NeuralSide) else {})}
    sharing = {each: one for each, one in both.items() if have_one_model(one, side)}
    transformer = f"{'document' if 'document' in sharing else name}_0_Transformer"
    if not (folder / transformer).exists():
        make_folder(folder / transformer)
        write_transformer(folder / transformer, encoder, sharing)
    modules = [transformer, f"{name}_1_SpladePooling"]
    write_pooling(folder / modules[1], side, encoder.num_terms)
    if side.options.own_terms:
        modules.append(f"{name}_2_{STATIC}")
        ones = np.ones(encoder.num_terms, np.float32)
        write_static(folder / modules[2], encoder, ones if side.own_weights is None else side.own_weights, None)
    return modules


def write_transformer(folder: Path, encoder: LearnedSparseEncoder, sides: Mapping[str, NeuralSide]) -> None:
    """sides  those that use it"""
    files = next(iter(sides.values())).files
    files.check_fingerprint()
    weights = files.weight_files()
    if not weights:
        raise ModelError(f"{files.folder} holds no weights (model.safetensors); the checkpoint is not complete.")
    config = {name: value for name, value in files.config.items() if name not in ("auto_map", "torch_dtype")}
    write_json(folder / "config.json", {**config, "dtype": "float32"})  # what ours computes in, whatever is stored
    if weights[0].stem == EIGHT_BIT:
        write_restored(weights[0], folder / "model.safetensors")
    else:
        for path in [*weights, *files.folder.glob(f"*{weights[0].suffix}.index.json")]:
            copy_file(path, folder / path.name)
    lengths = {side.options.max_length for side in sides.values()}
    write_tokenizer(folder, encoder, files, max(lengths))
    module: dict[str, Any] = {
        "transformer_task": "fill-mask",
        "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
        "module_output_name": "token_embeddings",
    }
    if len(lengths) > 1:
        module |= {f"{name}_length": side.options.max_length for name, side in sides.items()}
    write_json(folder / "sentence_bert_config.json", module)


def write_restored(path: Path, target: Path) -> None:
    """Weights in 8 bits as any library reads weights."""
    from safetensors.torch import save

    from retrieval.encoders.eight_bit import unpacked

    write_file(target, save(unpacked(path), {"format": "pt"}))


def write_pooling(folder: Path, side: NeuralSide, num_terms: int) -> None:
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    make_folder(folder)
    write_json(
        folder / "config.json",
        {
            "pooling_strategy": side.options.pooling,
            "activation_function": names[side.options.activation],
            "embedding_dimension": num_terms,
        },
    )


def write_static(folder: Path, encoder: LearnedSparseEncoder, weights: np.ndarray, max_length: int | None) -> None:
    from safetensors.numpy import save

    make_folder(folder)
    write_json(folder / "config.json", {"frozen": True})
    write_file(folder / "model.safetensors", save({"weight": np.ascontiguousarray(weights, np.float32)}))
    write_tokenizer(folder, encoder, encoder.document.files, max_length or NO_LIMIT)


def write_tokenizer(folder: Path, encoder: LearnedSparseEncoder, files: ModelFiles, max_length: int) -> None:
    """The encoder's tokenizer, of a class that changes nothing of it, with the special tokens that the checkpoint names."""
    from transformers import AutoTokenizer

    try:
        own = AutoTokenizer.from_pretrained(files.folder, trust_remote_code=False)
    except Exception as error:  # whatever the library meets in the files
        raise ModelError(f"{files.folder} has no tokenizer that transformers can read ({brief(error)}).") from error
    write_file(folder / "tokenizer.json", encoder.tokenizer.to_str().encode())
    write_json(
        folder / "tokenizer_config.json",
        {
            **own.special_tokens_map,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": max_length,
            "model_input_names": own.model_input_names,
        },
    )
