"""From a recipe to a task: the model as it begins, the examples, the teachers, all that is computed once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from index.errors import ModelError, WinnowError
from retrieval.encoders.checkpoints import as_side, load_checkpoint
from retrieval.encoders.learned import LearnedSparseEncoder, QuerySide, TokenCounts
from retrieval.encoders.minilm import FINGERPRINT, minilm_folder
from retrieval.encoders.model_files import ModelFiles
from retrieval.encoders.model_reading import on_device, read_model
from retrieval.encoders.neural_side import NeuralSide
from retrieval.encoders.options import NeuralOptions
from retrieval.encoders.plain_checkpoints import Side, count_positions
from retrieval.encoders.term_weights import CollectionIdf, TermWeights
from retrieval.encoders.tokens import read_tokenizer, special_terms
from retrieval.encoders.wishes import Wishes
from retrieval.training.sparse.examples import Examples
from retrieval.training.sparse.model import QueryTable, SparseModel, SparseTowers, collection_idf
from retrieval.training.sparse.recipe import ModelOptions, Recipe
from retrieval.training.sparse.saving import write_towers
from retrieval.training.sparse.start import tied_head_start
from retrieval.training.sparse.task import HeldOut, SparseTask
from retrieval.training.sparse.teachers import Teacher, teacher_of

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
TEXTS_TOGETHER = 1000  # tokenized at a time


def prepare(recipe: Recipe, *, cache: str | Path, device: str | None = None, progress: bool = True) -> SparseTask:
    """Raises WinnowError for whatever does not fit.

    cache   a folder in which teachers keep what they have computed
    device  as PyTorch calls it; None: a CUDA device where there is one
    """
    data = recipe.data
    examples = Examples.read(data.folder, data.split, data.negatives or None)
    held_out = None
    if recipe.training.evaluate_every:
        if not data.held_out:
            raise WinnowError(
                f"training.evaluate_every is {recipe.training.evaluate_every}, and data.held_out names no split; name one, or set it to 0."
            )
        held_out = hold_out(Examples.read(data.folder, data.held_out), data.others, recipe.training.seed, examples)
    began_as = beginning(recipe.model)
    counts = TokenCounts(began_as.num_terms)
    for first in range(0, len(examples.documents), TEXTS_TOGETHER):
        counts.add(began_as.document.tokens.own(examples.documents[first : first + TEXTS_TOGETHER]))
    idf = collection_idf(counts.frequency, len(examples.documents))
    torch.manual_seed(recipe.training.seed)  # adapters begin at random
    towers = build(recipe.model, began_as, idf)
    on_device(towers, recipe.model.start, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    reads = began_as.document.tokens
    query_reads = began_as.query.tokens if isinstance(began_as.query, NeuralSide) else reads
    if data.max_length:
        if data.max_length > reads.longest:
            raise WinnowError(
                f"data.max_length is {data.max_length}, and {recipe.model.start} reads {reads.longest} tokens; give fewer, or more to the encoder."
            )
        options = replace(began_as.document.options, max_length=data.max_length)
        reads = began_as.document.reads(began_as.tokenizer, options)
    return SparseTask(
        towers,
        (reads, query_reads),
        examples,
        recipe.loss,
        teachers=[
            teacher(recipe, number, examples, Path(cache), progress=progress) for number in range(len(recipe.teachers))
        ],
        held_out=held_out,
        idf=idf,
        write_model=lambda towers, folder: write_towers(towers, began_as, folder),
        seed=recipe.training.seed,
        steps=recipe.training.steps * recipe.training.accumulation,
        of_model=of_model(recipe, began_as),
    )


def of_model(recipe: Recipe, began_as: LearnedSparseEncoder) -> dict[str, Any]:
    """All of the recipe that a task does not know itself."""
    found = {**asdict(recipe.model), "weights": began_as.document.files.found_fingerprint}
    if recipe.data.max_length:
        found["document_tokens"] = recipe.data.max_length
    if any(one.options for one in recipe.teachers):
        found["teacher_options"] = [one.options for one in recipe.teachers]
    return found


def hold_out(judged: Examples, others: int, seed: int, examples: Examples) -> HeldOut:
    """Their answers, and so many other documents drawn by the seed. Raises WinnowError where a query is trained on too."""
    if shared := sorted(set(judged.query_ids) & set(examples.query_ids)):
        raise WinnowError(
            f"{len(shared):,} queries, {shared[0]!r:.60} first, are both trained and evaluated on; keep them in one split."
        )
    answers = sorted({document for positives in judged.positives for document in positives.tolist()})
    rest = np.setdiff1d(np.arange(len(judged.documents)), answers)
    drawn = np.random.default_rng([seed, len(rest)]).permutation(rest)[:others].tolist()
    number_of = {document: place for place, document in enumerate(answers)}
    return HeldOut(
        judged.queries,
        [judged.documents[document] for document in [*answers, *drawn]],
        [[number_of[document] for document in positives.tolist()] for positives in judged.positives],
    )


def beginning(options: ModelOptions) -> LearnedSparseEncoder:
    """The encoder as it is before training; its weights are not read yet. Raises ModelError, WinnowError."""
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


def teacher(recipe: Recipe, number: int, examples: Examples, cache: Path, *, progress: bool) -> Teacher:
    """All that it says of the examples, from the cache or computed."""
    told = recipe.teachers[number]
    return teacher_of(
        told.name,
        queries=dict(zip(examples.query_ids, examples.queries, strict=True)),
        documents=dict(zip(examples.document_ids, examples.documents, strict=True)),
        pairs=lambda: pairs_of(examples),
        cache=cache,
        options=told.options,
        progress=progress,
    )


def pairs_of(examples: Examples) -> Iterable[tuple[str, str]]:
    """(query id, document id) of every answer and negative."""
    for query, *found in zip(examples.query_ids, examples.positives, examples.negatives, strict=True):
        for document in np.concatenate(found).tolist():
            yield query, examples.document_ids[document]
