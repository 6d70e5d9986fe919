"""From a checkpoint, whatever project saved it, to a dense encoder.

What a checkpoint's files say counts, then what is known of its name (`registry`), and above both what the user says. How a
plain model's hidden states become one vector is asked for where nobody says it: a guess would change every ranking.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, cast

from index.dense.options import Similarity
from index.errors import ModelError, WinnowError
from index.options import WeightImpacts
from retrieval.encoders import prompt_reps
from retrieval.encoders.dense.encoder import DENSE, DenseEncoder
from retrieval.encoders.dense.files import Found, FoundSide, is_dense_folder, read_found
from retrieval.encoders.dense.layers import Layer, read_layer
from retrieval.encoders.dense.options import POOLINGS, DenseOptions, DenseWishes
from retrieval.encoders.dense.registry import KNOWN, MINILM
from retrieval.encoders.dense.side import DenseSide
from retrieval.encoders.minilm import FINGERPRINT, HUB_NAME, REVISION
from retrieval.encoders.model_files import ModelFiles, checkpoint_folder, commit_of
from retrieval.encoders.options import check_choice, check_whole
from retrieval.encoders.plain_checkpoints import count_positions
from retrieval.encoders.registry import KNOWN as SPARSE
from retrieval.encoders.tokens import read_tokenizer

PROMPT_REPS: dict[str, Any] = {"pooling": "last", "special_tokens": False}


def look_at(name: str, given: Mapping[str, Any]) -> tuple[bool, Mapping[str, Any]]:
    """(Whether a name stands for a dense model: it says so, is known as one, or its modules are those of one; the options, with the
    commit that was looked at where they say no revision, so that the same one is read.)"""
    if name.startswith(DENSE):
        return True, given
    if not os.path.isdir(name) and (name in SPARSE or name in KNOWN or name in MINILM):
        return name not in SPARSE, given
    revision = given.get("revision")
    try:
        folder = checkpoint_folder(name, revision if isinstance(revision, str) else None)
        commit = commit_of(folder) if revision is None else None
        return is_dense_folder(folder), given if commit is None else {**given, "revision": commit}
    except ModelError:  # which is told by whoever reads it as a sparse model
        return False, given


def load_dense(asked: str, impacts: WeightImpacts | None, given: Mapping[str, Any]) -> DenseEncoder:
    """The encoder of a folder, of a name on the hub, or of a name in the registry, with or without `dense:` before it. Raises ModelError."""
    name, wishes = asked.removeprefix(DENSE), DenseWishes.of(given)
    if name in MINILM and not os.path.isdir(name) and (name != HUB_NAME or wishes.revision is None):
        return load_minilm(asked, impacts, given)
    check_no_impacts(asked, impacts)
    known = None if os.path.isdir(name) else KNOWN.get(name)
    if known is not None:
        known.tell_licence()
        name = known.hub_name
    found = read_found(name, wishes)
    if wishes.query_model is not None:
        found = found._replace(query=read_found(wishes.query_model, wishes.alone()).query)
    return as_encoder(asked, found, wishes, DenseWishes.of({} if known is None else known.options))


def load_minilm(asked: str, impacts: WeightImpacts | None, given: Mapping[str, Any]) -> DenseEncoder:
    """all-MiniLM-L6-v2, whatever lies in a folder of its name."""
    check_no_impacts(asked, impacts)
    wishes = DenseWishes.of(given)
    return as_encoder(asked, minilm(asked, wishes), wishes, DenseWishes())


def check_no_impacts(asked: str, impacts: WeightImpacts | None) -> None:
    if impacts is not None:
        raise WinnowError(f"{asked} has dense vectors, which have no impacts; leave impacts={impacts!r} out.")


def minilm(asked: str, wishes: DenseWishes) -> Found:
    """all-MiniLM-L6-v2, whose modules are written here: a package of it may lack their files."""
    told = [
        option for option in ("revision", "query_model", "base_model", "trust_remote_code") if getattr(wishes, option)
    ]
    if told:
        raise WinnowError(f"{asked} has one checkpoint; leave {told[0]} out.")
    files = ModelFiles(HUB_NAME, REVISION, fingerprint=FINGERPRINT)
    options = {"pooling": "mean", "max_length": 256}
    side = FoundSide(files, [("Normalize", files)], options, read_tokenizer(files.folder), 384)
    return Found(side, side)


def as_encoder(name: str, found: Found, wishes: DenseWishes, presumed: DenseWishes) -> DenseEncoder:
    """presumed  what the registry says of the name: where neither files nor user do"""
    document = as_side(name, found.document, wishes.document, presumed.document, "passage")
    query = as_side(name, found.query, wishes.query, presumed.query, "query")
    for side in (document, query):
        side.device = wishes.device
    if document.width != query.width:
        raise ModelError(
            f"{name} makes vectors of {document.width} numbers of documents and of {query.width} of queries; they cannot be compared."
        )
    similarity = wishes.similarity or found.similarity or presumed.similarity or "cosine"
    if similarity not in ("cosine", "dot"):
        raise ModelError(
            f"{name} compares vectors by {similarity!r:.40}; known are cosine and dot, so give similarity= one of them if its vectors "
            "allow that."
        )
    check_choice("normalize", wishes.normalize, (True, False))
    dimension = wishes.truncate_dim if wishes.truncate_dim is not None else found.truncate_dim
    if dimension is not None:
        check_whole("truncate_dim", dimension, document.width)
    options = wishes.index_options(dimension or document.width, cast(Similarity, similarity))
    return DenseEncoder(name, document, query, options, normalize=wishes.normalize)


def as_side(
    name: str, found: FoundSide, wished: Mapping[str, Any], presumed: Mapping[str, Any], kind: str
) -> DenseSide:
    """kind  what a prompt calls the texts

    Raises ModelError where nobody says what the pooling is, or a text is to be longer than the model has positions.
    """
    options, modules = {**presumed, **found.options, **wished}, list(found.modules)
    if options.get("method") == "promptreps":
        options, modules = {**found.options, **PROMPT_REPS, **wished}, [("Normalize", found.files)]
        if not {"prefix", "suffix"} <= wished.keys():
            options |= {**prompt_reps.prompt_of(name, found.files, found.tokenizer, kind), **wished}
    if "pooling" not in options:
        raise ModelError(
            f"{name} does not say how a text's hidden states become one vector; give pooling= one of {', '.join(POOLINGS)}, as it was trained; "
            "or load it as a sparse encoder, without dense: before its name."
        )
    made = DenseOptions(**options)
    width, layers = found.width * len(made.modes), list[Layer]()
    for module, files in modules:
        layer, width = read_layer(name, module, files, width)
        layers += [] if layer is None else [layer]
    side = DenseSide(found.files, layers, made, found.tokenizer, width, is_table=found.is_table)
    positions = None if found.is_table else count_positions(found.files)
    if positions is not None and side.tokens.longest > positions:
        raise ModelError(
            f"max_length is {made.max_length}, but {name} has {positions} positions, the prompt included; give fewer."
        )
    return side
