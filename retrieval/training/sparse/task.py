"""What a sparse encoder learns in a batch: its documents and queries, their losses, and how good it is on held-out queries.

A batch is some answers with mined negatives of each. Every query of the batch is compared with every document of it, so the hard
negatives of one query are also those of others; and documents that came as negatives bring queries of their own, which cost little.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from retrieval.encoders.tokens import TextReader
from retrieval.training.run_folder import TrainingError
from retrieval.training.sparse.examples import Examples, plain
from retrieval.training.sparse.frozen import FrozenDocuments
from retrieval.training.sparse.losses import (
    contrastive_loss,
    ensemble,
    kl_distillation_loss,
    margin_mse_loss,
    mean_of_teachers,
)
from retrieval.training.sparse.model import QueryTable, SparseTowers
from retrieval.training.sparse.options import SparseOptions
from retrieval.training.sparse.regularisers import CollapseWatch, SparsityWeight, anti_zero, mean_terms
from retrieval.training.sparse.sparsity import Sparsity
from retrieval.training.sparse.teachers import Teacher
from retrieval.training.trainer import Losses

CUTOFF = 10
TEXTS_AT_ONCE = 64  # of an evaluation


class Batch(NamedTuple):
    """By number of the examples."""

    queries: list[int]
    documents: list[int]
    positives: torch.Tensor  # bool [queries, documents]


class HeldOut(NamedTuple):
    """Queries that are not trained on, and the documents they are searched in: their answers, and others."""

    queries: list[str]
    documents: list[str]
    answers: list[list[int]]  # of each query

    @classmethod
    def of(cls, examples: Examples, queries: Sequence[int], others: int, seed: int) -> HeldOut:
        """These queries, by number, with their answers and so many other documents drawn by the seed."""
        answers = sorted({document for query in queries for document in examples.positives[query].tolist()})
        rest = np.setdiff1d(np.arange(len(examples.documents)), answers)
        drawn = np.random.default_rng([seed, len(rest)]).permutation(rest)[:others].tolist()
        place_of = {document: place for place, document in enumerate(answers)}
        return cls(
            [examples.queries[query] for query in queries],
            [examples.documents[document] for document in [*answers, *drawn]],
            [[place_of[document] for document in examples.positives[query].tolist()] for query in queries],
        )


class SparseTask:
    """A `retrieval.training.trainer.Task`, whose example is a batch."""

    measure = f"nDCG@{CUTOFF}"
    shown = ("loss", "terms", "weight", "query_terms")

    def __init__(
        self,
        towers: SparseTowers,
        reads: tuple[TextReader, TextReader],
        examples: Examples,
        options: SparseOptions,
        *,
        teachers: Sequence[Teacher] = (),
        held_out: HeldOut | None = None,
        frozen: FrozenDocuments | None = None,
        idf: np.ndarray | None = None,
        write_model: Callable[[SparseTowers, Path], None] = lambda towers, folder: None,
        seed: int = 0,
        steps: int = 1000,
        of_model: dict[str, Any] | None = None,
    ):
        """
        reads        how texts become tokens, of documents and of queries
        teachers     know the examples by their ids; with their weights in `options.teacher_weights`
        frozen       the documents' vectors, where their side is not trained; it is not regularised then either
        idf          float32 [terms], of the IDF-aware regulariser
        write_model  fills an empty folder
        steps        batches of the run, which the warm-up of sparsity is a part of
        of_model     what tells the model from others, for `describe`

        Raises WinnowError.
        """
        options.check_teachers(len(teachers))
        self.towers, self.reads, self.examples, self.options = towers, reads, examples, options
        self.teachers, self.held_out, self.write_model = teachers, held_out, write_model
        self.frozen = frozen
        self.seed, self.of_model = seed, of_model or {}
        self.has_query_model = not isinstance(towers.query, QueryTable)
        self.sparsity = self.regularised(idf, steps)
        self.model = torch.nn.ModuleDict({"towers": towers, "sparsity": self.sparsity})
        has_learned_table = isinstance(towers.query, QueryTable) and towers.query.table.requires_grad
        self.learning_rates = {"towers.query.table": options.query_learning_rate} if has_learned_table else {}
        self.of_document: dict[int, list[int]] = {}
        for query, positives in enumerate(examples.positives):
            for document in positives.tolist():
                self.of_document.setdefault(document, []).append(query)
        self.answers = np.array(sorted(self.of_document), np.int64)
        self.answered = examples.answered_by_text()

    def regularised(self, idf: np.ndarray | None, steps: int) -> torch.nn.ModuleDict:
        """`Sparsity` of each side that a model encodes and that is trained."""
        options, num_terms = self.options, self.towers.document.num_terms
        warmup, response = (round(steps * part) for part in (options.sparsity_warmup, options.sparsity_response))
        sides = {}
        if self.frozen is None:
            sides["document"] = ("documents", options.document_weight, options.document_terms)
        if self.has_query_model:
            sides["query"] = ("queries", options.query_weight, options.query_terms)
        return torch.nn.ModuleDict(
            {
                side: Sparsity(
                    options.regulariser,
                    SparsityWeight(weight, warmup, terms, response=max(1, response)),
                    CollapseWatch(texts, num_terms, warmup=warmup),
                    idf,
                    num_terms,
                    options.regulariser_threshold,
                )
                for side, (texts, weight, terms) in sides.items()
            }
        )

    def __len__(self) -> int:
        """Batches of an epoch: each answer is once the reason for one."""
        return -(-len(self.answers) // self.options.answers)

    def batch(self, number: int, epoch: int) -> Batch:
        """Which queries and documents; drawn by the seed and the two numbers."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.answers)
        size = self.options.answers
        rng = np.random.default_rng([self.seed, epoch, number])
        documents: dict[int, None] = {}
        for answer in order[number * size : (number + 1) * size].tolist():
            documents[answer] = None
            negatives = self.examples.negatives[int(rng.choice(self.of_document[answer]))]
            for negative in rng.permutation(negatives)[: self.options.negatives].tolist():
                documents[negative] = None
        queries: dict[int, None] = {}
        for document in documents:
            of_it = self.of_document.get(document, [])
            for place in rng.permutation(len(of_it))[: self.options.queries_a_document].tolist():
                queries[of_it[place]] = None
        texts = [plain(self.examples.documents[document]) for document in documents]
        answers = [self.answered[plain(self.examples.queries[query])] for query in queries]
        positives = torch.tensor([[text in own for text in texts] for own in answers], dtype=torch.bool)
        return Batch(list(queries), list(documents), positives)

    def losses(self, number: int, epoch: int) -> Losses:
        """Of one batch. Raises TrainingError where all weights vanish, or do not."""
        batch = self.batch(number, epoch)
        texts = self.examples
        document_weights, read = self.documents([texts.documents[d] for d in batch.documents])
        queries = self.reads[1].of([texts.queries[q] for q in batch.queries])
        query_weights = self.towers.query(queries)
        with torch.autocast(document_weights.device.type, enabled=False):
            scores = query_weights @ document_weights.T
            total, parts = self.of_scores(scores, batch)
            sides = {"document": document_weights, "query": query_weights}
            for side, sparsity in self.sparsity.items():
                regulariser, told = sparsity(sides[side])
                total = total + regulariser
                parts |= {name if side == "document" else f"query_{name}": value for name, value in told.items()}
            if self.options.anti_zero:
                total = total + self.options.anti_zero * anti_zero(query_weights, document_weights)
        if self.has_query_model:
            read += sum(len(one.ids) for one in queries)
        return Losses(total, parts, read)

    def documents(self, texts: Sequence[str]) -> tuple[torch.Tensor, int]:
        """(float32 [texts, terms], how many tokens were read for them)"""
        if self.frozen is not None:
            return self.frozen.of(texts).to(self.towers.document.device), 0
        tokens = self.reads[0].of(texts)
        return self.towers.document(tokens), sum(len(one.ids) for one in tokens)

    def of_scores(self, scores: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        """(the losses of ranking together, each alone)."""
        options = self.options
        positives = batch.positives.to(scores.device)
        found: dict[str, tuple[float, torch.Tensor]] = {}
        if options.contrastive:
            loss = contrastive_loss(scores, positives, options.temperature)
            found["contrastive"] = options.contrastive, loss
        if self.teachers:
            targets = self.targets(batch).to(scores.device)
            if options.distillation:
                loss = kl_distillation_loss(scores, targets, options.distillation_temperature)
                found["distillation"] = options.distillation, loss
            if options.margin_mse:
                found["margin_mse"] = options.margin_mse, margin_mse_loss(scores, targets, positives)
        total = torch.stack([weight * loss for weight, loss in found.values()]).sum()
        return total, {name: loss.item() for name, (_, loss) in found.items()}

    def targets(self, batch: Batch) -> torch.Tensor:
        """What the teachers say together, float32 [queries, documents]."""
        queries = [self.examples.query_ids[query] for query in batch.queries]
        documents = [self.examples.document_ids[document] for document in batch.documents]
        found = [teacher.scores(queries, documents) for teacher in self.teachers]
        weights = self.options.teacher_weights or None
        if self.options.teachers_together == "mean":
            return mean_of_teachers(found, weights)
        return ensemble(found, weights, self.options.teacher_scale)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Means over the held-out queries; of documents with equal scores those that answer come last."""
        if self.held_out is None:
            raise TrainingError("there are 0 queries to evaluate on; hold some out, or evaluate every 0 steps.")
        held_out = self.held_out
        queries = [self.of_texts(1, held_out.queries[i : i + TEXTS_AT_ONCE]) for i in places(held_out.queries)]
        query_weights, terms, scores = torch.cat(queries), [], []
        for first in places(held_out.documents):
            weights = self.of_texts(0, held_out.documents[first : first + TEXTS_AT_ONCE])
            terms.append(mean_terms(weights) * len(weights))
            with torch.autocast(weights.device.type, enabled=False):
                scores.append((query_weights @ weights.T).cpu())
        table = torch.cat(scores, 1)
        if not table.isfinite().all():
            raise TrainingError(
                "scores of held-out queries are no finite numbers; train anew with a lower learning rate."
            )
        gained = [ndcg(row, answers) for row, answers in zip(table.numpy(), held_out.answers, strict=True)]
        found = {self.measure: float(np.mean(gained)), "terms": sum(terms) / len(held_out.documents)}
        return found | ({"query_terms": mean_terms(query_weights)} if self.has_query_model else {})

    def of_texts(self, side: int, texts: Sequence[str]) -> torch.Tensor:
        """float32 [texts, terms], of documents (0) or queries (1)."""
        weights: torch.Tensor = self.towers.query(self.reads[1].of(texts)) if side else self.documents(texts)[0]
        return weights.float()

    def save(self, folder: Path) -> None:
        self.write_model(self.towers, folder)

    def describe(self) -> dict[str, Any]:
        examples = (self.examples.queries, self.examples.documents, self.examples.positives, self.examples.negatives)
        return {
            **asdict(self.options),
            **self.of_model,
            "examples": f"{len(self.examples):,}, {digest(*examples)}",
            "held_out": "none" if self.held_out is None else digest(*self.held_out),
            "teachers": [teacher.name for teacher in self.teachers],
            "taught": digest(self.targets(self.batch(0, 0)).nan_to_num(-1.0).numpy()) if self.teachers else "nothing",
        }


def places(texts: Sequence[str]) -> range:
    return range(0, len(texts), TEXTS_AT_ONCE)


def ndcg(scores: np.ndarray, answers: Sequence[int]) -> float:
    """Of one query, all its answers alike good, and last among equal scores; `scores` float32 [documents]."""
    order = np.lexsort((np.isin(np.arange(len(scores)), answers), -scores))[:CUTOFF]
    discounts = 1 / np.log2(np.arange(2, CUTOFF + 2))
    return float(discounts[: len(order)][np.isin(order, answers)].sum() / discounts[: len(answers)].sum())


def digest(*lists: Sequence[Any]) -> str:
    """A checksum of texts and numbers."""
    found = hashlib.sha256()
    for values in lists:
        found.update(
            json.dumps([value.tolist() if isinstance(value, np.ndarray) else value for value in values]).encode()
        )
    return found.hexdigest()[:16]
