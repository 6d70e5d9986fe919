"""From a checkpoint, whatever project saved it, to an encoder.

What a checkpoint's files say counts, then what is known of its name (`registry`), and above both what the user says. One log or
two, where nobody says it, is asked for: a guess would change every ranking.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tokenizers import Tokenizer

from index.errors import ModelError, WinnowError
from index.options import WeightImpacts
from retrieval.encoders import prompt_reps
from retrieval.encoders.learned import LearnedSparseEncoder, QuerySide
from retrieval.encoders.model_files import checkpoint_folder, commit_of
from retrieval.encoders.neural_side import NeuralSide
from retrieval.encoders.options import NeuralOptions
from retrieval.encoders.plain_checkpoints import (
    QUERY_WEIGHTS,
    Checkpoint,
    Side,
    check_alike,
    count_positions,
    read_plain,
)
from retrieval.encoders.registry import KNOWN
from retrieval.encoders.sentence_transformers import read_modules
from retrieval.encoders.term_weights import TABLE_OPTIONS, TermWeights
from retrieval.encoders.wishes import Wishes

OF_A_HEAD = ("activation", "pooling")


def load_checkpoint(name: str, impacts: WeightImpacts | None, given: Mapping[str, Any]) -> LearnedSparseEncoder:
    """The encoder of a folder, of a name on the hub, or of a name in the registry. Raises ModelError."""
    known = None if os.path.isdir(name) else KNOWN.get(name)
    wishes, presumed = Wishes.of(given), Wishes.of({} if known is None else known.options)
    if known is not None:
        known.tell_licence()
    checkpoint = read_checkpoint(name if known is None else known.hub_name, wishes)
    return as_encoder(name, checkpoint, wishes, presumed, impacts)


def read_checkpoint(name: str, wishes: Wishes) -> Checkpoint:
    """What the files of a checkpoint say. Raises ModelError."""
    folder = checkpoint_folder(name, wishes.revision, code=wishes.trust_remote_code)
    wishes = replace(wishes, revision=wishes.revision or commit_of(folder))  # all parts of one commit, asked for once
    is_of_modules = (folder / "modules.json").is_file()
    return read_modules(name, folder, wishes) if is_of_modules else read_plain(name, folder, wishes)


def as_encoder(
    name: str, checkpoint: Checkpoint, wishes: Wishes, presumed: Wishes, impacts: WeightImpacts | None
) -> LearnedSparseEncoder:
    """presumed  what the registry says of the name: where neither files nor user do"""
    tokenizer = checkpoint.tokenizer
    document = as_side(name, checkpoint.document, wishes.document, presumed.document, tokenizer, "passage")
    num_terms = document.files.num_terms()
    query = query_side(name, checkpoint, wishes, presumed, num_terms)
    for side in (document, query):
        if isinstance(side, NeuralSide):
            side.device = wishes.device
    return LearnedSparseEncoder(name, tokenizer, num_terms, document, query, impacts or "u8")


def query_side(name: str, checkpoint: Checkpoint, wishes: Wishes, presumed: Wishes, num_terms: int) -> QuerySide:
    found, tokenizer = checkpoint.query, checkpoint.tokenizer
    other = wishes.query_model or (presumed.query_model if found is None and wishes.queries is None else None)
    if other is not None:
        found = other_model(name, other, checkpoint, wishes)
    own = None if found is None else "table" if isinstance(found, TermWeights) else "model"
    wanted = wishes.queries or own or presumed.queries or "model"
    if wanted == "model":
        side = found if isinstance(found, Side) else checkpoint.document
        neural = as_side(name, side, wishes.query, presumed.query, tokenizer, "query")
        if neural.files.num_terms() > num_terms:
            raise ModelError(
                f"{neural.files.name} has {neural.files.num_terms():,} terms for queries, {name} {num_terms:,} for documents; they are "
                "of different vocabularies."
            )
        return neural
    foreign = sorted(wishes.of_queries - set(TABLE_OPTIONS))
    if foreign:
        raise WinnowError(
            f"query_{foreign[0]} is an option of a model, and {name} has queries without one; leave it out, or give "
            "queries='model'."
        )
    if wanted == "binary":
        return TermWeights.binary(tokenizer, num_terms).but(wishes.query)
    if not isinstance(found, TermWeights):
        raise ModelError(
            f"{name} has no query token weights ({' or '.join(QUERY_WEIGHTS)}); give queries='binary' or 'model'."
        )
    return found.but(wishes.query)


def other_model(name: str, other: str, checkpoint: Checkpoint, wishes: Wishes) -> Side | TermWeights:
    """The queries' side of another checkpoint, which must have the same terms. What its files leave open is as with documents."""
    found = read_checkpoint(other, wishes.alone())
    is_table = isinstance(found.query, TermWeights)
    check_alike(name, checkpoint.tokenizer, other, found.tokenizer, special=not is_table)
    if isinstance(found.query, TermWeights):
        return found.query
    side = found.query or found.document
    shared = {
        option: checkpoint.document.options[option] for option in OF_A_HEAD if option in checkpoint.document.options
    }
    return side._replace(options={**shared, **side.options})


def as_side(
    name: str,
    side: Side,
    wished: Mapping[str, Any],
    presumed: Mapping[str, Any],
    tokenizer: Tokenizer,
    kind: str,
) -> NeuralSide:
    """kind  what a prompt calls the texts

    Raises ModelError where nobody says what the activation is, or a text is to be longer than the model has positions.
    """
    options = {**presumed, **side.options, **wished}
    if options.get("method") == "promptreps":
        options = {**side.options, **prompt_reps.SETTINGS, **wished}
        if not {"prefix", "suffix"} <= wished.keys():
            options |= {**prompt_reps.prompt_of(name, side.files, tokenizer, kind), **wished}
    if "activation" not in options:
        raise ModelError(
            f"{name} does not say how logits become weights; give activation='log1p' (one logarithm: SPLADE, OpenSearch v1 and v2) or "
            "'log1p_log1p' (two: OpenSearch v3)."
        )
    made = prompt_reps.side_of(side.files, NeuralOptions(**options), tokenizer, side.own_weights)
    positions = count_positions(side.files)
    if positions is not None and made.tokens.longest > positions:
        raise ModelError(
            f"max_length is {made.options.max_length}, but {name} has {positions} positions, the prompt included; give fewer."
        )
    return made
