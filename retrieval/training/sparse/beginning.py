"""The encoder that training begins with, and what of it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from index.errors import ModelError, WinnowError
from retrieval.encoders.checkpoints import as_side, load_checkpoint
from retrieval.encoders.learned import LearnedSparseEncoder, QuerySide
from retrieval.encoders.minilm import FINGERPRINT, minilm_folder
from retrieval.encoders.model_files import ModelFiles
from retrieval.encoders.model_reading import read_model
from retrieval.encoders.neural_side import NeuralSide
from retrieval.encoders.options import NeuralOptions
from retrieval.encoders.plain_checkpoints import Side, count_positions
from retrieval.encoders.term_weights import CollectionIdf, TermWeights
from retrieval.encoders.tokens import read_tokenizer, special_terms
from retrieval.encoders.wishes import Wishes
from retrieval.training.sparse.model import QueryTable, SparseModel, SparseTowers
from retrieval.training.sparse.recipe import ModelOptions
from retrieval.training.sparse.tied_head import tied_head_start

MINILM = "minilm"
OF_A_NAME = {
    "base_model",
    "query_model",
    "revision",
    "trust_remote_code",
}  # options of a model that is found by its name
OF_ONE_MODEL = (
    "activation",
    "threshold",
    "special_terms",
    "bidirectional",
)  # options that a model's weights are learned for


def beginning(options: ModelOptions) -> LearnedSparseEncoder:
    """The encoder as it is before training; its weights are not read yet. Raises ModelError, WinnowError."""
    if options.head == "own" and options.start == MINILM:
        raise WinnowError("model.start is minilm, which has no head of its own; give head = 'tied'.")
    if options.head == "own":
        encoder = load_checkpoint(options.start, None, {**options.encoder, **queries_as_said(options)})
    else:
        encoder = headless(options)
    if (dtype := encoder.document.options.dtype) != "float32":
        raise WinnowError(f"dtype is {dtype}; weights are trained in float32, see training.precision.")
    check_queries(options, encoder)
    return encoder


def headless(options: ModelOptions) -> LearnedSparseEncoder:
    """Of an encoder that gets a tied head. Raises ModelError, WinnowError."""
    folder = minilm_folder() if options.start == MINILM else Path(options.start)
    if not folder.is_dir():
        raise ModelError(f"{options.start!r:.80} is no folder; with head = 'tied', start is one, or 'minilm'.")
    if foreign := sorted(set(options.encoder) & OF_A_NAME):
        raise WinnowError(f"model.encoder has {foreign[0]}, which does nothing with head = 'tied'; leave it out.")
    wishes = Wishes.of(options.encoder)
    files = ModelFiles(str(folder), fingerprint=FINGERPRINT if options.start == MINILM else None)
    tokenizer = read_tokenizer(folder)
    most = min(NeuralOptions().max_length, count_positions(files) or NeuralOptions().max_length)
    found = Side(files, {"activation": "log1p", "max_length": most})
    document = as_side(options.start, found, wishes.document, {}, tokenizer, "passage")
    query: QuerySide = CollectionIdf(special_terms(tokenizer))
    if options.queries != "table":
        query = as_side(options.start, found, wishes.query, {}, tokenizer, "query")
    return LearnedSparseEncoder(options.start, tokenizer, files.num_terms(), document, query)


def check_queries(options: ModelOptions, encoder: LearnedSparseEncoder) -> None:
    """Raises WinnowError where queries would be trained otherwise than they are encoded afterwards."""
    query, document = encoder.query, encoder.document
    if isinstance(query, TermWeights) and (query.prefix or query.top_k):
        raise WinnowError(
            f"queries of {options.start} have the prefix {query.prefix!r:.40} and top_k {query.top_k}; a table is trained without, so leave "
            "them out, or give query_prefix = ''."
        )
    if options.queries != "siamese":
        return
    assert isinstance(query, NeuralSide)
    for name in OF_ONE_MODEL:
        one, other = getattr(document.options, name), getattr(query.options, name)
        if one != other:
            raise WinnowError(
                f"{name} is {one!r:.40} of documents and {other!r:.40} of queries; a siamese model has one, so give queries = 'model'."
            )
    if document.files != query.files:
        raise WinnowError(f"{options.start} has a model for queries of its own; give queries = 'model'.")


def queries_as_said(options: ModelOptions) -> dict[str, Any]:
    if options.queries != "table":
        return {"queries": "model"}
    return {"queries": "table" if options.query_weights == "checkpoint" else "binary"}


def build(options: ModelOptions, began_as: LearnedSparseEncoder, idf: np.ndarray) -> SparseTowers:
    """What is trained."""
    document = tower(options, began_as.document, began_as.tokenizer, trained=not options.frozen_documents)
    if options.queries == "table":
        query: SparseModel | QueryTable = QueryTable(starting_weights(options, began_as, idf), learned=options.learned)
    elif options.queries == "siamese":
        query = document
    else:
        assert isinstance(began_as.query, NeuralSide)
        query = tower(options, began_as.query, began_as.tokenizer, trained=True)
    return SparseTowers(document, query)


def tower(options: ModelOptions, side: NeuralSide, tokenizer: Tokenizer, *, trained: bool) -> SparseModel:
    side.files.check_fingerprint()
    if options.head == "tied":
        module = tied_head_start(side.files, tokenizer, options.threshold)
    else:
        module = read_model(side.files, "float32", with_head=True)
    dropout = options.dropout if trained else 0.0  # what is frozen encodes as it will
    model = SparseModel(module, options.start, side.options, side.forbidden, dropout)
    model.tokens_at_once = options.tokens_at_once or None
    model.requires_grad_(trained)
    if trained and options.lora:
        model.add_lora(options.lora)
    return model


def starting_weights(options: ModelOptions, began_as: LearnedSparseEncoder, idf: np.ndarray) -> np.ndarray:
    """float32 [terms], of queries without a model."""
    if options.query_weights == "checkpoint":
        if not isinstance(began_as.query, TermWeights):
            raise ModelError(f"{options.start} has no query token weights; give query_weights = 'idf' or 'ones'.")
        return began_as.query.weights
    weights = idf.copy() if options.query_weights == "idf" else np.ones_like(idf)
    weights[special_terms(began_as.tokenizer)] = 0
    return weights
