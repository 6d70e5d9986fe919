"""From a recipe to a task: the model as it begins, the examples, the teachers, all that is computed once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer

from index.errors import ModelError, WinnowError
from kernels.cpu.sparse import SparseRows
from retrieval.encoders.checkpoints import load_checkpoint
from retrieval.encoders.learned import LearnedSparseEncoder, QuerySide, TokenCounts
from retrieval.encoders.minilm import FINGERPRINT, minilm_folder
from retrieval.encoders.model_files import ModelFiles
from retrieval.encoders.model_reading import on_device, read_model
from retrieval.encoders.neural_side import NeuralSide
from retrieval.encoders.options import NeuralOptions
from retrieval.encoders.term_weights import TABLE_OPTIONS, CollectionIdf, TermWeights
from retrieval.encoders.tokens import read_tokenizer, special_terms
from retrieval.encoders.wishes import Wishes
from retrieval.training.sparse.examples import Examples
from retrieval.training.sparse.frozen import FrozenDocuments, encoded, kept_rows
from retrieval.training.sparse.model import QueryTable, SparseModel, SparseTowers, collection_idf
from retrieval.training.sparse.recipe import ModelOptions, Recipe
from retrieval.training.sparse.rewrites import REWRITES, Rewritten, Talk, split
from retrieval.training.sparse.saving import write_towers
from retrieval.training.sparse.start import tied_head_start
from retrieval.training.sparse.task import HeldOut, SparseTask, digest
from retrieval.training.sparse.teacher_cache import Texts
from retrieval.training.sparse.teachers import Teacher, teacher_of

MINILM = "minilm"
TEXTS_TOGETHER = 1000  # tokenized at a time


class Material(NamedTuple):
    """What is learned from."""

    examples: Examples
    held_out: HeldOut | None
    teachers: list[Teacher]
    frozen: FrozenDocuments | None
    described: dict[str, Any]  # what they depend on beside the examples


def prepare(recipe: Recipe, *, cache: str | Path, device: str | None = None, progress: bool = True) -> SparseTask:
    """Raises WinnowError for whatever does not fit.

    cache   a folder in which teachers, and documents that are not trained, keep what was computed
    device  as PyTorch calls it; None: a CUDA device where there is one
    """
    data = recipe.data
    if recipe.training.evaluate_every and not (data.dialogues_held_out if data.conversations else data.held_out):
        name = "dialogues_held_out" if data.conversations else "held_out"
        raise WinnowError(
            f"training.evaluate_every is {recipe.training.evaluate_every}, and data.{name} names nothing; give it, or set it to 0."
        )
    source = Talk.read(data) if data.conversations else Examples.read(data.folder, data.split, data.negatives or None)
    documents = list(source.passages.values()) if isinstance(source, Talk) else source.documents
    began_as = beginning(recipe.model)
    counts = TokenCounts(began_as.num_terms)
    for first in range(0, len(documents), TEXTS_TOGETHER):
        counts.add(began_as.document.tokens.own(documents[first : first + TEXTS_TOGETHER]))
    idf = collection_idf(counts.frequency, len(documents))
    torch.manual_seed(recipe.training.seed)  # adapters begin at random
    towers = build(recipe.model, began_as, idf)
    on_device(towers, recipe.model.start, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    start = Start(recipe, began_as, towers, idf, Path(cache), progress)
    material = start.of_conversations(source) if isinstance(source, Talk) else start.of_judged(source)
    query_reader = began_as.query.tokens if isinstance(began_as.query, NeuralSide) else began_as.document.tokens
    return SparseTask(
        towers,
        (began_as.document.tokens, query_reader),
        material.examples,
        recipe.loss,
        teachers=material.teachers,
        held_out=material.held_out,
        frozen=material.frozen,
        idf=idf,
        write_model=lambda towers, folder: write_towers(towers, began_as, folder),
        seed=recipe.training.seed,
        steps=recipe.training.steps,
        of_model={**asdict(recipe.model), "weights": began_as.document.files.found_fingerprint, **material.described},
    )


@dataclass(frozen=True)
class Start:
    """The model as it begins, which some of what it learns from depends on."""

    recipe: Recipe
    encoder: LearnedSparseEncoder
    towers: SparseTowers
    idf: np.ndarray
    cache: Path
    progress: bool

    def of_judged(self, examples: Examples) -> Material:
        """Queries with documents that answer them."""
        data, held_out, frozen = self.recipe.data, None, None
        if self.recipe.training.evaluate_every:
            judged = Examples.read(data.folder, data.held_out)
            held_out = hold_out(judged, data.others, self.recipe.training.seed, examples)
        queries = dict(zip(examples.query_ids, examples.queries, strict=True))
        documents = dict(zip(examples.document_ids, examples.documents, strict=True))
        if self.recipe.model.frozen_documents:
            sides = Texts.of("queries", queries), Texts.of("documents", documents)
            rows = kept_rows(*self.named, sides, {"documents": self.read_documents}, self.cache, self.progress)
            frozen = FrozenDocuments(sides[1].texts, rows["documents"], self.encoder.num_terms)
        teachers = [
            teacher_of(
                told.name,
                queries=queries,
                documents=documents,
                pairs=lambda: pairs_of(examples),
                cache=self.cache,
                options=told.options,
                progress=self.progress,
            )
            for told in self.recipe.teachers
        ]
        return Material(examples, held_out, teachers, frozen, {})

    def of_conversations(self, talk: Talk) -> Material:
        """Conversations with what their rewrites find."""
        data = self.recipe.data
        own, (name, identity) = self.own_queries(), self.named
        encoders = self.read_by(own), self.read_documents
        identity |= {"queries": of_queries(own)}
        rewritten = Rewritten.of(
            talk, name, identity, encoders, self.encoder.num_terms, self.cache, progress=self.progress
        )
        found = rewritten.examples(data.found)
        examples, held_out = split(found, talk, data.dialogues_held_out, data.others, self.recipe.training.seed)
        first_of = {one.conversation_id: one.rewrites[0] for one in talk.conversations}
        teachers = [
            rewritten.teacher(told.name)
            if told.name.partition(":")[0] == REWRITES
            else teacher_of(
                told.name,
                queries={one: first_of[one] for one in examples.query_ids},
                documents=talk.passages,
                pairs=lambda: pairs_of(examples),
                cache=self.cache,
                options=told.options,
                progress=self.progress,
            )
            for told in self.recipe.teachers
        ]
        return Material(
            examples, held_out, teachers, rewritten.frozen, {"rewrites": digest(sorted(talk.rewrites().items()))}
        )

    @property
    def named(self) -> tuple[str, dict[str, Any]]:
        """(the name of the start, all that its vectors of documents depend on)"""
        model, side = self.recipe.model, self.encoder.document
        return model.start, {
            "weights": side.files.found_fingerprint,
            "head": [model.head, model.threshold] if model.head == "tied" else model.head,
            "options": asdict(side.options),
            "tokenizer": hashlib.sha256(self.encoder.tokenizer.to_str().encode()).hexdigest(),
        }

    def read_documents(self, texts: Sequence[str]) -> SparseRows:
        """As the documents' side is before training."""
        rows: SparseRows = encoded(self.towers.document, self.encoder.document.tokens, texts)
        return rows

    def read_by(self, own: NeuralSide | TermWeights) -> Callable[[Sequence[str]], SparseRows]:
        """Queries by one side of the encoder; by a model: as the query side is before training."""
        if isinstance(own, NeuralSide):
            return lambda texts: encoded(self.towers.query, own.tokens, texts)
        name, terms = self.encoder.name, self.encoder.num_terms
        by_table = LearnedSparseEncoder(name, self.encoder.tokenizer, terms, self.encoder.document, own)
        return by_table.encode_queries

    def own_queries(self) -> NeuralSide | TermWeights:
        """How the encoder that training begins with reads queries: its own table or model, else the table that the recipe names."""
        model = self.recipe.model
        if model.head == "own" and model.queries == "model":
            own = load_checkpoint(model.start, None, model.encoder).query
            assert not isinstance(own, CollectionIdf)  # no checkpoint has it
            return own
        return TermWeights(starting_weights(model, self.encoder, self.idf))


def of_queries(own: NeuralSide | TermWeights) -> Any:
    """What the vectors of queries depend on beside the start, as JSON has it."""
    if isinstance(own, NeuralSide):
        return [own.files.found_fingerprint, asdict(own.options)]
    return [hashlib.sha256(own.weights.tobytes()).hexdigest(), {name: getattr(own, name) for name in TABLE_OPTIONS}]


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
        if encoder.document.options.dtype != "float32":
            raise WinnowError(
                f"dtype is {encoder.document.options.dtype}; weights are trained in float32, see training.precision."
            )
        return encoder
    folder = minilm_folder() if options.start == MINILM else Path(options.start)
    files = ModelFiles(str(folder), fingerprint=FINGERPRINT if options.start == MINILM else None)
    tokenizer = read_tokenizer(folder)
    wishes = Wishes.of(options.encoder)
    if wishes != Wishes(wishes.document, wishes.query, of_queries=wishes.of_queries):
        raise WinnowError(
            "model.encoder of a tied head names another model or how queries are made; give options of encoding alone, see docs/models.md."
        )
    side, of_queries = (
        NeuralSide(files, NeuralOptions(**{"activation": "log1p", **own}), tokenizer)
        for own in (wishes.document, wishes.query)
    )
    query: QuerySide = CollectionIdf(special_terms(tokenizer)) if options.queries == "table" else of_queries
    return LearnedSparseEncoder(options.start, tokenizer, files.num_terms(), side, query)


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
    model = SparseModel(module, options.start, side.options, side.forbidden, options.dropout)
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


def pairs_of(examples: Examples) -> Iterable[tuple[str, str]]:
    """(query id, document id) of every answer and negative."""
    for query, *found in zip(examples.query_ids, examples.positives, examples.negatives, strict=True):
        for document in np.concatenate(found).tolist():
            yield query, examples.document_ids[document]
