"""Checkpoints as transformers saves them, and what holds of every kind: how long a text may be, which tokenizers agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from index.errors import ModelError
from retrieval.encoders.encoder_file import read_encoder_file
from retrieval.encoders.model_files import ModelFiles, brief, read_json
from retrieval.encoders.options import LONGEST_TEXT
from retrieval.encoders.term_weights import TermWeights
from retrieval.encoders.tokens import TOKENIZER_FILES, read_tokenizer, special_terms
from retrieval.encoders.wishes import Wishes

DEFAULT_LENGTH = 512  # tokens, unless the files say less
QUERY_WEIGHTS = ("idf.json", "query_token_weights.txt")
PROBE = "Café Ünï İstanbul naïve 東京 don't 3.14 A-B_c  x\ty [MASK] \u00ad\u200b \ufb01n"  # where tokenizers differ


class Side(NamedTuple):
    """A model and what its files say of how it encodes."""

    files: ModelFiles
    options: dict[str, Any]
    own_weights: np.ndarray | None = None


class Checkpoint(NamedTuple):
    """What was found: the side of documents, and of queries a model, a table of token weights, or nothing."""

    document: Side
    query: Side | TermWeights | None
    tokenizer: Tokenizer


def read_plain(name: str, folder: Path, wishes: Wishes) -> Checkpoint:
    """A masked or causal language model as transformers saves it, perhaps with OpenSearch's query weights, with a second model for
    queries in the folder `query`, as naver's trainer leaves it, and with a file that says how both encode (`encoder_file`).
    Raises ModelError."""
    files = wishes.files(name)
    has_query_model = (folder / "query" / "config.json").is_file()
    table = next((folder / one for one in QUERY_WEIGHTS if (folder / one).is_file()), None)
    said = read_encoder_file(folder, has_table=table is not None and not has_query_model)
    of_document, of_query = said or ({}, {})
    options = {**defaults(files), **of_document}
    tokenizer = read_tokenizer(tokenizer_folder(files))
    if has_query_model:
        query_files = wishes.files(name, "query")
        query = Side(query_files, {**defaults(query_files), **of_query})
        if has_tokenizer(query.files.folder):
            check_alike(name, tokenizer, f"{name}/query", read_tokenizer(query.files.folder))
        return Checkpoint(Side(files, options), query, tokenizer)
    if table is not None:
        weights = TermWeights.from_tokens(read_query_weights(table), tokenizer, files.num_terms(), str(table))
        if said is None:
            weights.weights[special_terms(tokenizer)] = 0  # idf.json has 1 for them, but OpenSearch's documents 0
            options["special_terms"] = False
        return Checkpoint(Side(files, options), weights.but(of_query), tokenizer)
    same = None if said is None else Side(files, {**defaults(files), **of_query})
    return Checkpoint(Side(files, options), same, tokenizer)


def check_alike(name: str, tokenizer: Tokenizer, other_name: str, other: Tokenizer, *, special: bool = True) -> None:
    """Raises ModelError where two tokenizers number their tokens differently or cut a text otherwise.

    special  whether they must add the same special tokens too
    """
    if tokenizer.get_vocab() != other.get_vocab():
        raise ModelError(
            f"{other_name} has another vocabulary ({other.get_vocab_size()} tokens) than {name} ({tokenizer.get_vocab_size()}); "
            "their terms are not the same."
        )
    for each in (tokenizer, other):
        each.no_padding()
        each.no_truncation()
    read, other_read = (each.encode(PROBE, add_special_tokens=special).ids for each in (tokenizer, other))
    if read != other_read:
        raise ModelError(
            f"{other_name} tokenizes otherwise than {name} (upper case, accents or special tokens); an encoder has one tokenizer "
            "for both sides."
        )


def tokenizer_folder(files: ModelFiles) -> Path:
    """An adapter may come without a tokenizer of its own."""
    return files.folder if has_tokenizer(files.folder) or files.base is None else files.base.folder


def has_tokenizer(folder: Path) -> bool:
    return any((folder / file).is_file() for file in TOKENIZER_FILES)


def read_query_weights(path: Path) -> dict[str, Any]:
    """{token: weight} of OpenSearch's idf.json, or of lines with a token, a tab and a weight. Raises ModelError."""
    if path.suffix == ".json":
        return read_json(path)
    try:  # no splitlines: it would split at characters that are tokens
        pairs = [line.rpartition("\t") for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
        return {token: float(weight) for token, _, weight in pairs}
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} has a line that is not a token, a tab and a number ({brief(error, 100)}); get the checkpoint again."
        ) from error


def defaults(files: ModelFiles) -> dict[str, Any]:
    """What holds of any checkpoint of this kind: how long a text may be, and that decoders do without special tokens."""
    options: dict[str, Any] = {"max_length": longest_text(files)}
    return options if is_masked(files) else {**options, "special_tokens": False}


def is_masked(files: ModelFiles) -> bool:
    return files.architecture.endswith("ForMaskedLM")


def longest_text(files: ModelFiles) -> int:
    """Tokens, by the tokenizer's own limit and by the positions that the model has."""
    limit = tokenizer_limit(tokenizer_folder(files))
    return min(DEFAULT_LENGTH, limit or DEFAULT_LENGTH, count_positions(files) or DEFAULT_LENGTH)


def tokenizer_limit(folder: Path) -> int | None:
    """The most tokens that the tokenizer is told to give; None where it has no limit, which transformers writes as 10**30."""
    path = folder / "tokenizer_config.json"
    limit = read_json(path).get("model_max_length") if path.is_file() else None
    return int(limit) if isinstance(limit, int | float) and 1 <= limit <= LONGEST_TEXT else None


def count_positions(files: ModelFiles) -> int | None:
    """The most tokens that the model has positions for."""
    positions = files.config.get("max_position_embeddings")
    if not isinstance(positions, int) or positions < 1:
        return None
    padding = files.config.get("pad_token_id")
    offset = (padding if isinstance(padding, int) else 0) + 1
    begins_late = files.config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet", "xlm-roberta-xl")
    return positions - offset if begins_late else positions
