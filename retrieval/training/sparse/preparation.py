"""From a recipe to a task: the model as it begins, the examples, the teachers, all that is computed once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from index.errors import WinnowError
from kernels.cpu.sparse import SparseRows
from retrieval.encoders.checkpoints import load_checkpoint
from retrieval.encoders.learned import LearnedSparseEncoder, TokenCounts
from retrieval.encoders.model_reading import on_device
from retrieval.encoders.neural_side import NeuralSide
from retrieval.encoders.term_weights import TABLE_OPTIONS, CollectionIdf, TermWeights
from retrieval.encoders.tokens import TextReader
from retrieval.encoders.weighted_terms import inverse_document_frequency
from retrieval.training.sparse.beginning import beginning, build, starting_weights
from retrieval.training.sparse.examples import Examples
from retrieval.training.sparse.frozen import FrozenDocuments, encoded, kept_rows
from retrieval.training.sparse.model import SparseTowers
from retrieval.training.sparse.recipe import Recipe, TeacherOptions
from retrieval.training.sparse.rewrites import REWRITES, Rewritten, Talk, split
from retrieval.training.sparse.saving import write_towers
from retrieval.training.sparse.task import HeldOut, SparseTask, digest
from retrieval.training.sparse.teacher_cache import Texts
from retrieval.training.sparse.teachers import Teacher, teacher_of

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
    idf = inverse_document_frequency(counts.frequency, len(documents)).astype(np.float32)
    torch.manual_seed(recipe.training.seed)  # adapters begin at random
    towers = build(recipe.model, began_as, idf)
    on_device(towers, recipe.model.start, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    start = Start(recipe, began_as, towers, idf, Path(cache), progress)
    material = start.of_conversations(source) if isinstance(source, Talk) else start.of_judged(source)
    return SparseTask(
        towers,
        readers(recipe, began_as),
        material.examples,
        recipe.loss,
        teachers=material.teachers,
        held_out=material.held_out,
        frozen=material.frozen,
        idf=idf,
        write_model=lambda towers, folder: write_towers(towers, began_as, folder),
        seed=recipe.training.seed,
        steps=recipe.training.steps * recipe.training.accumulation,
        of_model={**of_model(recipe, began_as), **material.described},
    )


def readers(recipe: Recipe, began_as: LearnedSparseEncoder) -> tuple[TextReader, TextReader]:
    """How documents and queries become tokens while training. Raises WinnowError."""
    reads, asked = began_as.document.tokens, recipe.data.max_length
    query_reads = began_as.query.tokens if isinstance(began_as.query, NeuralSide) else reads
    if asked:
        if asked > reads.longest:
            raise WinnowError(
                f"data.max_length is {asked}, and {recipe.model.start} reads {reads.longest} tokens; give fewer, or more to the encoder."
            )
        options = replace(began_as.document.options, max_length=asked)
        reads = began_as.document.reads(began_as.tokenizer, options)
    return reads, query_reads


def of_model(recipe: Recipe, began_as: LearnedSparseEncoder) -> dict[str, Any]:
    """All of the recipe that a task does not know itself."""
    found = {**asdict(recipe.model), "weights": began_as.document.files.found_fingerprint}
    if recipe.data.max_length:
        found["document_tokens"] = recipe.data.max_length
    if any(one.options for one in recipe.teachers):
        found["teacher_options"] = [one.options for one in recipe.teachers]
    return found


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
        teachers = [self.teacher(told, queries, documents, examples) for told in self.recipe.teachers]
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
        queries = {one: first_of[one] for one in examples.query_ids}
        teachers = [
            rewritten.teacher(told.name)
            if told.name.partition(":")[0] == REWRITES
            else self.teacher(told, queries, talk.passages, examples)
            for told in self.recipe.teachers
        ]
        return Material(
            examples, held_out, teachers, rewritten.frozen, {"rewrites": digest(sorted(talk.rewrites().items()))}
        )

    def teacher(
        self, told: TeacherOptions, queries: Mapping[str, str], documents: Mapping[str, str], examples: Examples
    ) -> Teacher:
        """One that is asked of these texts; a cross-encoder of answers and negatives alone."""
        return teacher_of(
            told.name,
            queries=queries,
            documents=documents,
            pairs=lambda: pairs_of(examples),
            cache=self.cache,
            options=told.options,
            progress=self.progress,
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
    return HeldOut.of(judged, range(len(judged)), others, seed)


def pairs_of(examples: Examples) -> Iterable[tuple[str, str]]:
    """(query id, document id) of every answer and negative."""
    for query, *found in zip(examples.query_ids, examples.positives, examples.negatives, strict=True):
        for document in np.concatenate(found).tolist():
            yield query, examples.document_ids[document]
