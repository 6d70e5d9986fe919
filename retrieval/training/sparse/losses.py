"""Losses of sparse encoders on what a batch's queries and documents score with each other.

All take a student's scores, float32 [queries, documents]: every query of a batch against all of the batch's documents, its own
positives and hard negatives and those of the others. Which documents a query may be compared with is said by `positives`, and by NaN
where a teacher knows nothing; in each loss a pair that nothing is known of has no part, in its value or its gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy

from retrieval.training.run_folder import TrainingError

EPSILON = 1e-6  # what keeps a teacher's narrow range from dividing by 0, as in arXiv:2411.04403's released code
PRECISE = (torch.float32, torch.float64)  # bfloat16 keeps a score of 20 to an eighth: coarser than many a margin


def contrastive_loss(scores: torch.Tensor, positives: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """A scalar: -ln softmax of a positive among itself and the query's negatives, mean over positives, then over queries.

        loss(q) = mean over p of -ln(exp(s_qp / T) / (exp(s_qp / T) + sum over n of exp(s_qn / T)))

    InfoNCE (van den Oord et al., arXiv:1807.03748) with in-batch and hard negatives n: all documents that are not positive. A
    query's other positives are in no denominator, so they are not pushed apart; with one positive it is cross entropy, and
    sentence-transformers' multiple negatives ranking loss of scale 1 / T. A query without negatives adds 0.

    scores     float32 [queries, documents]
    positives  bool [queries, documents], at least one a query

    Raises TrainingError for shapes that differ and a query without a positive.
    """
    check_scores(scores, positives=positives)
    check_temperature(temperature)
    check_positives(positives)
    query, document = positives.nonzero(as_tuple=True)
    others = positives[query].scatter(1, document[:, None], False)
    logits = (scores[query] / temperature).masked_fill(others, -torch.inf)
    share = 1 / (positives.sum(1) * len(positives)).to(scores.dtype)
    return (cross_entropy(logits, document, reduction="none") * share[query]).sum()


def margin_mse_loss(scores: torch.Tensor, targets: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
    """A scalar: the mean of ((s_qp - s_qn) - (t_qp - t_qn))^2 over all pairs of a positive p and a negative n that the teacher knows.

    MarginMSE (Hofstaetter et al., arXiv:2010.02666): the student learns a teacher's margins, so their scores may differ by a
    constant a query. A negative is every document that is not positive. With one positive in each row and all targets known it is
    sentence-transformers' loss of that name; a query of more pairs counts for more, as there. It is 0 where no pair is known.

    scores     float32 [queries, documents]
    targets    float32 [queries, documents], of a teacher; NaN: unknown
    positives  bool [queries, documents], at least one a query

    Raises TrainingError for shapes that differ, an infinite target and a query without a positive.
    """
    check_scores(scores, targets=targets, positives=positives)
    check_positives(positives)
    known = ~targets.isnan()
    error = torch.where(
        known, scores - targets.detach().nan_to_num(), 0
    )  # a margin's error is the difference of two of these
    query, document = (positives & known).nonzero(as_tuple=True)
    pairs = (known & ~positives)[query]
    squared = (error[query, document][:, None] - error[query]).square()
    return torch.where(pairs, squared, 0).sum() / pairs.sum().clamp(min=1)


def kl_distillation_loss(scores: torch.Tensor, targets: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """A scalar: T^2 KL(softmax(t / T) || softmax(s / T)) over what the teacher knows of a row, mean over the rows of at least 2.

    Distillation of in-batch distributions (Lin et al., arXiv:2010.11386); T^2 keeps the gradient's size as T grows (Hinton et al.,
    arXiv:1503.02531). sentence-transformers' sparse distillation loss has the same value on complete rows, with T = 2 by default;
    OpenSearch's training code has it without T^2. Both know all of every row: here unknown documents are left out of both
    distributions, and a row that orders nothing out of the mean. It is 0 where every row is such.

    scores   float32 [queries, documents]
    targets  float32 [queries, documents], of a teacher; NaN: unknown

    Raises TrainingError for shapes that differ and an infinite target.
    """
    check_scores(scores, targets=targets)
    check_temperature(temperature)
    known = ~targets.isnan()
    rows = known.sum(1) >= 2
    known = known[rows]
    teacher, student = (
        (side[rows] / temperature).masked_fill(~known, -torch.inf).log_softmax(1).masked_fill(~known, 0)
        for side in (targets.detach(), scores)
    )
    divergence = torch.where(known, teacher.exp() * (teacher - student), 0).sum()
    return divergence * temperature**2 / rows.sum().clamp(min=1)


def ensemble(
    targets: Sequence[torch.Tensor], weights: Sequence[float] | None = None, scale: float = 30.0
) -> torch.Tensor:
    """What several teachers say together: float32 [queries, documents], 0 to `scale`; NaN where none knows.

        n_kqd = (t_kqd - min over d of t_kqd) / (max over d of t_kqd - min over d of t_kqd + 1e-6)
        t_qd  = scale * sum over k of w_k n_kqd / sum over k of w_k        over the teachers k that know q, d

    Heterogeneous ensemble distillation (Geng et al., arXiv:2411.04403; also arXiv:2504.14839): a teacher's scores for one query are
    brought to 0 to 1, so that dense, sparse and cross-encoder teachers count alike, and scaled up, so that a softmax over them is
    sharp. There all teachers know all documents. Here the range is of what a teacher knows of a query, and a teacher that gives all
    of it one score (one document known, or no term matched) counts as one that does not know: it orders nothing, and its zeros
    would put the documents that it knows behind those that it does not.

    targets  float32 [queries, documents] of each teacher; NaN: unknown
    weights  of the teachers, 0 or more and not all 0; all alike if None

    Raises TrainingError for no teacher, shapes that differ, an infinite target, and weights or a scale that are not as said.
    """
    weights = check_teachers(targets, weights, scale)
    total = torch.zeros_like(targets[0])
    weight = torch.zeros_like(targets[0])
    for scores, its_weight in zip(targets, weights, strict=True):
        known = ~scores.isnan()
        lowest = scores.masked_fill(~known, torch.inf).amin(1, keepdim=True)
        highest = scores.masked_fill(~known, -torch.inf).amax(1, keepdim=True)
        known &= highest > lowest
        normalised = (scores - lowest) / (highest - lowest + EPSILON)
        total += torch.where(known, its_weight * normalised, 0)
        weight += its_weight * known
    return torch.where(weight > 0, scale * total / weight, torch.nan)


def mean_of_teachers(targets: Sequence[torch.Tensor], weights: Sequence[float] | None = None) -> torch.Tensor:
    """The weighted mean of the scores as they are, over the teachers that know a pair: float32 [queries, documents], NaN where none does.

    Of one teacher, its scores: a student may then have to reach their range. Of several, for teachers on one scale, as the same encoder of
    several rewrites of a query (DiSCo, arXiv:2410.14609). Arguments and errors are those of `ensemble`.
    """
    weights = check_teachers(targets, weights, 1.0)
    known = [its_weight * ~scores.isnan() for scores, its_weight in zip(targets, weights, strict=True)]
    total = sum(own * scores.nan_to_num() for own, scores in zip(known, targets, strict=True))
    weight = torch.stack(known).sum(0)
    return torch.where(weight > 0, total / weight, torch.nan)


def check_scores(scores: torch.Tensor, **others: torch.Tensor) -> None:
    """Raises TrainingError unless all are matrices of one shape and targets are finite or NaN."""
    if scores.ndim != 2 or scores.numel() == 0 or scores.dtype not in PRECISE:
        raise TrainingError(
            f"scores are {scores.dtype} of shape {list(scores.shape)}; give float32 of shape [queries, documents], at least one of each."
        )
    for name, other in others.items():
        if other.shape != scores.shape:
            raise TrainingError(
                f"{name} are of shape {list(other.shape)}, scores of {list(scores.shape)}; give a row for each query of the batch and a "
                "column for each of its documents."
            )
        if name == "targets" and other.isinf().any():
            query, document = other.isinf().nonzero()[0].tolist()
            raise TrainingError(
                f"the teacher's score of query {query} and document {document} of the batch is {other[query, document].item()}; give finite "
                "numbers, and NaN for what a teacher does not know."
            )


def check_positives(positives: torch.Tensor) -> None:
    """Raises TrainingError for a query without one."""
    if positives.dtype != torch.bool:
        raise TrainingError(f"positives are {positives.dtype}; give bool, True where a document answers the query.")
    without = (~positives.any(1)).nonzero()
    if len(without):
        raise TrainingError(
            f"query {without[0].item()} of the batch has 0 positives; give each at least one document that answers it, or leave it out."
        )


def check_temperature(temperature: float) -> None:
    """Raises TrainingError unless it is above 0."""
    if not 0 < temperature < float("inf"):
        raise TrainingError(f"the temperature of a loss is {temperature!r}; it must be a finite number above 0.")


def check_teachers(targets: Sequence[torch.Tensor], weights: Sequence[float] | None, scale: float) -> Sequence[float]:
    """The weights; raises TrainingError as `ensemble` says."""
    if len(targets) == 0:
        raise TrainingError("there are 0 teachers; give an ensemble at least one.")
    check_scores(targets[0], targets=targets[0])
    for other in targets[1:]:
        check_scores(targets[0], targets=other)
    if not 0 < scale < float("inf"):
        raise TrainingError(f"the scale of an ensemble is {scale!r}; it must be a finite number above 0.")
    if weights is None:
        return [1.0] * len(targets)
    if len(weights) != len(targets):
        raise TrainingError(f"there are {len(weights)} weights for {len(targets)} teachers; give each teacher one.")
    if not all(0 <= weight < float("inf") for weight in weights) or not any(weights):
        raise TrainingError(f"the weights of the teachers are {list(weights)}; give numbers of 0 or more, not all 0.")
    return weights
