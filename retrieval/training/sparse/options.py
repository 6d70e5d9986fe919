"""What the training of a sparse encoder is told, beside the options of any training."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from index.errors import WinnowError

Regulariser = Literal["flops", "idf-flops", "l1", "masked-flops", "df-flops"]
Together = Literal["min-max", "mean"]
POSITIVE = ("answers", "queries_a_document", "temperature", "distillation_temperature", "teacher_scale")
MAYBE_POSITIVE = ("document_terms", "query_terms")  # None: not steered


@dataclass(frozen=True)
class SparseOptions:
    """Checked when made; raises WinnowError.

    answers                   of a batch: documents that answer queries, whose negatives come with them
    negatives                 mined ones of each answer
    queries_a_document        at most, of each document of a batch that answers any
    contrastive               weight of the contrastive loss, see `losses`
    distillation, margin_mse  weights of the losses on what the teachers say together
    temperature               of the contrastive loss
    distillation_temperature  of the KL divergence
    teacher_weights           of each teacher; empty: all alike
    teachers_together         min-max: each teacher's scores of a query from 0 to 1, their mean, times teacher_scale (`losses.ensemble`);
                              mean: of the scores as they are, as DiSCo and MarginMSE have them
    teacher_scale             largest score of the teachers together, of min-max
    regulariser               see `regularisers`
    regulariser_threshold     terms of masked-flops
    document_weight           of documents' regulariser; where it is steered, where that begins
    document_terms            wanted in a document; None: the weight follows its schedule
    query_weight, query_terms   the same of queries that a model encodes
    sparsity_warmup           part of the run in which the weights rise
    sparsity_response         part of the run in which steering corrects a number of terms
    anti_zero                 weight of the loss against weights that all vanish
    query_learning_rate       of queries' term weights, where they are learned
    """

    answers: int = 16
    negatives: int = 3
    queries_a_document: int = 2
    contrastive: float = 1.0
    distillation: float = 1.0
    margin_mse: float = 0.0
    temperature: float = 1.0
    distillation_temperature: float = 1.0
    teacher_weights: tuple[float, ...] = ()
    teachers_together: Together = "min-max"
    teacher_scale: float = 30.0
    regulariser: Regulariser = "flops"
    regulariser_threshold: int = 0
    document_weight: float = 0.01
    document_terms: float | None = 128
    query_weight: float = 0.01
    query_terms: float | None = None
    sparsity_warmup: float = 0.3
    sparsity_response: float = 0.1
    anti_zero: float = 0.0
    query_learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if self.regulariser not in get_args(Regulariser):
            raise WinnowError(
                f"the regulariser is {self.regulariser!r:.40}; it must be {', '.join(get_args(Regulariser))}."
            )
        if self.teachers_together not in get_args(Together):
            raise WinnowError(
                f"teachers_together is {self.teachers_together!r:.40}; it must be {', '.join(get_args(Together))}."
            )
        for field in fields(self):
            value: Any = getattr(self, field.name)
            if field.name in ("regulariser", "teacher_weights", "teachers_together"):
                continue
            if value is None and field.name in MAYBE_POSITIVE:
                continue
            above = field.name in (*POSITIVE, *MAYBE_POSITIVE)
            if not is_number(value) or (value <= 0 if above else value < 0):
                least = "above 0" if above else "0 or more"
                raise WinnowError(f"{field.name} of sparse training is {value!r:.40}; it must be a number, {least}.")
            if field.type == "int" and not isinstance(value, int):
                raise WinnowError(f"{field.name} of sparse training is {value!r:.40}; it must be a whole number.")
        for weight in self.teacher_weights:
            if not is_number(weight) or weight < 0:
                raise WinnowError(f"teacher_weights has {weight!r:.40}; they must be numbers, 0 or more.")
        if self.teacher_weights and not any(self.teacher_weights):
            raise WinnowError(f"teacher_weights are {list(self.teacher_weights)}; give one above 0.")
        if self.sparsity_warmup > 1:
            raise WinnowError(f"sparsity_warmup is {self.sparsity_warmup}; it is a part of the run, so give 0 to 1.")
        if not self.contrastive and not self.distillation and not self.margin_mse:
            raise WinnowError("the weights of all losses are 0; give one of contrastive, distillation, margin_mse.")
        for name, steered in (("document", self.document_terms), ("query", self.query_terms)):
            if steered is not None and not getattr(self, f"{name}_weight"):
                raise WinnowError(
                    f"{name}_weight is 0 and {name}_terms is {steered}; a weight that is steered begins above 0."
                )

    def check_teachers(self, number: int) -> None:
        """Raises WinnowError where there are teachers that nothing learns from, or none that it should."""
        if (self.distillation or self.margin_mse) and not number:
            raise WinnowError(
                f"distillation is {self.distillation}, margin_mse {self.margin_mse}, and there are 0 teachers; name one, or set both to 0."
            )
        if number and not (self.distillation or self.margin_mse):
            raise WinnowError(f"there are {number} teachers, and distillation and margin_mse are 0; give one a weight.")
        if self.teacher_weights and len(self.teacher_weights) != number:
            raise WinnowError(
                f"there are {len(self.teacher_weights)} teacher_weights for {number} teachers; give each one."
            )


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
