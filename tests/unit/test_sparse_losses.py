"""Losses of sparse encoders, against arithmetic that is written out and against sentence-transformers' own."""

from math import exp, log, nan

import pytest
import torch

from retrieval.training.run_folder import TrainingError
from retrieval.training.sparse.losses import (
    contrastive_loss,
    ensemble,
    kl_distillation_loss,
    margin_mse_loss,
    mean_of_teachers,
)

# queries x documents: query 0 has the positives 0 and 2, query 1 the positive 1
SCORES = torch.tensor([[2.0, 1.0, 0.5, -1.0], [0.0, 3.0, 1.0, 2.0]])
POSITIVES = torch.tensor([[True, False, True, False], [False, True, False, False]])
TARGETS = torch.tensor([[5.0, 2.0, nan, 1.0], [nan, 4.0, 3.0, 0.0]])
DRAWN = torch.Generator().manual_seed(8)
MASKED = torch.tensor([[True, False, True, True, False], [False, True, False, False, False], [False] * 4 + [True]])


def drawn(*shape):
    return torch.randn(*shape, generator=DRAWN, dtype=torch.float64)


def softmax(values):
    return [exp(value) / sum(exp(other) for other in values) for value in values]


def test_contrastive_loss_leaves_other_positives_out_of_the_denominator():
    first = -log(exp(2.0) / (exp(2.0) + exp(1.0) + exp(-1.0)))
    third = -log(exp(0.5) / (exp(0.5) + exp(1.0) + exp(-1.0)))
    second_query = -log(exp(3.0) / (exp(0.0) + exp(3.0) + exp(1.0) + exp(2.0)))
    expected = ((first + third) / 2 + second_query) / 2
    assert contrastive_loss(SCORES, POSITIVES).item() == pytest.approx(expected, rel=1e-6)


def test_contrastive_loss_divides_scores_by_its_temperature():
    scores, positives = torch.tensor([[0.2, 0.1]]), torch.tensor([[True, False]])
    assert contrastive_loss(scores, positives, 0.05).item() == pytest.approx(log(1 + exp(-2.0)), rel=1e-5)


def test_a_query_without_negatives_adds_nothing_to_the_contrastive_loss():
    one = torch.tensor([[3.0]], requires_grad=True)
    loss = contrastive_loss(one, torch.tensor([[True]]))
    loss.backward()
    assert loss.item() == 0
    assert one.grad.item() == 0
    all_positive = torch.tensor([[3.0, -2.0]], requires_grad=True)
    loss = contrastive_loss(all_positive, torch.ones(1, 2, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert all_positive.grad.tolist() == [[0, 0]]


def test_margin_mse_takes_every_known_pair_of_a_positive_and_a_negative():
    # query 0: positive 0 against 1 and 3 (its positive 2 is unknown); query 1: positive 1 against 2 and 3
    expected = ((1.0 - 3.0) ** 2 + (3.0 - 4.0) ** 2 + (2.0 - 1.0) ** 2 + (1.0 - 4.0) ** 2) / 4
    assert margin_mse_loss(SCORES, TARGETS, POSITIVES).item() == pytest.approx(expected, rel=1e-6)


def test_margin_mse_pairs_each_of_several_positives():
    targets = torch.tensor([[5.0, 2.0, 4.0, nan]])
    expected = ((1.0 - 3.0) ** 2 + (-0.5 - 2.0) ** 2) / 2
    assert margin_mse_loss(SCORES[:1], targets, POSITIVES[:1]).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "targets",
    [
        pytest.param([[5.0, nan, 4.0, nan]], id="no negative known"),
        pytest.param([[nan, 1.0, nan, 2.0]], id="no positive known"),
        pytest.param([[nan] * 4], id="nothing known"),
    ],
)
def test_margin_mse_of_no_known_pair_is_0_with_a_gradient_of_0(targets):
    scores = SCORES[:1].clone().requires_grad_()
    loss = margin_mse_loss(scores, torch.tensor(targets), POSITIVES[:1])
    loss.backward()
    assert loss.item() == 0
    assert scores.grad.tolist() == [[0.0] * 4]


def test_kl_distillation_is_over_what_the_teacher_knows_of_each_row():
    total = 0.0
    for teacher, student in (([5.0, 2.0, 1.0], [2.0, 1.0, -1.0]), ([4.0, 3.0, 0.0], [3.0, 1.0, 2.0])):
        p, q = (softmax([value / 2 for value in side]) for side in (teacher, student))
        total += sum(a * log(a / b) for a, b in zip(p, q, strict=True))
    assert kl_distillation_loss(SCORES, TARGETS, 2.0).item() == pytest.approx(2**2 * total / 2, rel=1e-5)


def test_rows_of_one_known_document_are_not_in_the_mean_of_kl_distillation():
    more = torch.cat([TARGETS, torch.tensor([[nan, 1.0, nan, nan], [nan] * 4])])
    scores = torch.cat([SCORES, torch.tensor([[9.0, -7.0, 3.0, 1.0], [1.0, 2.0, 3.0, 4.0]])]).requires_grad_()
    loss = kl_distillation_loss(scores, more)
    loss.backward()
    assert loss.item() == pytest.approx(kl_distillation_loss(SCORES, TARGETS).item(), rel=1e-6)
    assert scores.grad[2:].tolist() == [[0.0] * 4] * 2
    assert scores.grad[0, 2] == 0  # unknown
    assert scores.grad[0, 0] != 0


@pytest.mark.parametrize("targets", [[[nan] * 4], [[nan, 2.0, nan, nan]]], ids=["nothing known", "one document known"])
def test_kl_distillation_of_rows_that_order_nothing_is_0_with_a_gradient_of_0(targets):
    scores = SCORES[:1].clone().requires_grad_()
    loss = kl_distillation_loss(scores, torch.tensor(targets))
    loss.backward()
    assert loss.item() == 0
    assert scores.grad.tolist() == [[0.0] * 4]


def test_kl_distillation_stays_finite_where_probabilities_underflow():
    scores = torch.tensor([[0.0, 500.0]], requires_grad=True)
    loss = kl_distillation_loss(scores, torch.tensor([[1000.0, 0.0]]))
    loss.backward()
    assert loss.item() == pytest.approx(500)
    assert scores.grad.tolist() == [[-1.0, 1.0]]


@pytest.mark.parametrize(
    "loss",
    [
        lambda scores, targets: contrastive_loss(scores, MASKED, 0.7),
        lambda scores, targets: margin_mse_loss(scores, targets, MASKED),
        lambda scores, targets: kl_distillation_loss(scores, targets, 1.7),
    ],
    ids=["contrastive", "margin MSE", "KL"],
)
def test_gradients_of_losses_are_those_of_finite_differences(loss):
    targets = drawn(3, 5)
    targets[0, 1] = targets[1, 3] = targets[2, :4] = nan
    assert torch.autograd.gradcheck(lambda scores: loss(scores, targets), drawn(3, 5).requires_grad_())


def test_an_ensemble_is_the_scaled_mean_of_normalised_teachers_that_know_the_pair():
    bm25 = torch.tensor([[10.0, 4.0, nan, 6.0], [nan, 3.0, 1.0, nan]])
    dense = torch.tensor([[0.9, 0.1, 0.5, nan], [0.2, 0.4, nan, nan]])
    found = ensemble([bm25, dense], weights=[1, 3], scale=10)
    # bm25 normalised: 1, 0, -, 1/3 and -, 1, 0, -; dense: 1, 0, 1/2, - and 0, 1, -, -
    expected = [[10 * (1 + 3) / 4, 0, 10 / 2, 10 / 3], [0, 10 * (1 + 3) / 4, 0, nan]]
    assert found.numpy() == pytest.approx(torch.tensor(expected).numpy(), abs=2e-4, nan_ok=True)
    assert found.dtype == torch.float32
    alike = ensemble([bm25, dense])
    assert alike[0, 3].item() == pytest.approx(30 / 3, abs=1e-4)
    third = ensemble([torch.tensor([[0.0, 1.0, 0.25]]), torch.tensor([[0.0, 1.0, 0.75]])])
    assert third[0, 2].item() == pytest.approx(30 * (0.25 + 0.75) / 2, abs=1e-4)


def test_an_ensemble_has_the_published_epsilon_where_a_range_is_narrow():
    narrow = torch.tensor([[0.0, 1e-6]])
    assert ensemble([narrow], scale=30)[0, 1].item() == pytest.approx(30 * 1e-6 / (1e-6 + 1e-6), rel=1e-4)


def test_a_teacher_that_orders_nothing_of_a_row_is_not_asked():
    constant = torch.tensor([[2.0, 2.0, nan]])
    one_known = torch.tensor([[nan, nan, -5.0]])
    telling = torch.tensor([[nan, 1.0, 3.0]])
    assert ensemble([constant, one_known])[0].isnan().all()
    together = ensemble([constant, one_known, telling])
    assert together[0].tolist() == pytest.approx([nan, 0, 30], abs=1e-4, nan_ok=True)
    assert ensemble([torch.full((2, 3), nan)]).isnan().all()


def test_a_teacher_of_weight_0_is_as_one_that_is_not_there():
    teacher, other = torch.tensor([[0.0, 1.0, nan]]), torch.tensor([[5.0, 4.0, 3.0]])
    found = ensemble([teacher, other], weights=[1, 0])
    assert found[0].tolist() == pytest.approx([0, 30, nan], abs=1e-4, nan_ok=True)


def test_the_mean_of_teachers_is_of_their_scores_as_they_are():
    one, other = torch.tensor([[10.0, -4.0, nan, nan]]), torch.tensor([[2.0, nan, 0.5, nan]])
    found = mean_of_teachers([one, other], weights=[1, 3])
    assert found[0].tolist() == pytest.approx([(10 + 3 * 2) / 4, -4, 0.5, nan], nan_ok=True)
    assert mean_of_teachers([one, other])[0, 0].item() == 6
    assert mean_of_teachers([one, other], weights=[0, 1])[0].tolist() == pytest.approx([2, nan, 0.5, nan], nan_ok=True)
    assert torch.equal(mean_of_teachers([SCORES]), SCORES)
    with pytest.raises(TrainingError, match="there are 0 teachers"):
        mean_of_teachers([])


@pytest.fixture(scope="module")
def embeddings():
    """Three queries with a positive and two negatives each, as sentence-transformers has them: float64 [3, 6] of each column."""
    return [drawn(3, 6) for _ in range(4)]


def own_documents(embeddings):
    """Scores of each query with its own documents; all others are unknown."""
    return torch.stack([(embeddings[0] * column).sum(1) for column in embeddings[1:]], 1)


def test_kl_distillation_is_sentence_transformers_on_complete_rows(embeddings):
    from sentence_transformers.sparse_encoder.losses import SparseDistillKLDivLoss

    labels = drawn(3, 3)
    theirs = SparseDistillKLDivLoss(None, temperature=2.0).compute_loss_from_embeddings(embeddings, labels)
    assert kl_distillation_loss(own_documents(embeddings), labels, 2.0).item() == pytest.approx(theirs.item(), rel=1e-9)


def test_margin_mse_is_sentence_transformers_on_complete_rows(embeddings):
    from sentence_transformers.sparse_encoder.losses import SparseMarginMSELoss

    labels = drawn(3, 3)
    theirs = SparseMarginMSELoss(None).compute_loss_from_embeddings(embeddings, labels)
    first = torch.tensor([[True, False, False]] * 3)
    assert margin_mse_loss(own_documents(embeddings), labels, first).item() == pytest.approx(theirs.item(), rel=1e-9)


def test_contrastive_loss_is_sentence_transformers_with_one_positive(embeddings):
    from sentence_transformers.sparse_encoder.losses import SparseMultipleNegativesRankingLoss

    theirs = SparseMultipleNegativesRankingLoss(None, scale=4.0).compute_loss_from_embeddings(embeddings, None)
    scores = (
        embeddings[0] @ torch.cat(embeddings[1:]).T
    )  # the positives of all queries, then their first negatives, then the second
    positives = torch.eye(9, dtype=torch.bool)[:3]
    assert contrastive_loss(scores, positives, 0.25).item() == pytest.approx(theirs.item(), rel=1e-9)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: contrastive_loss(SCORES[0], POSITIVES[0]), r"scores are torch.float32 of shape \[4\]"),
        (lambda: contrastive_loss(SCORES.bfloat16(), POSITIVES), "scores are torch.bfloat16 .* give float32"),
        (lambda: contrastive_loss(SCORES[:, :0], POSITIVES[:, :0]), r"of shape \[2, 0\]"),
        (lambda: contrastive_loss(SCORES, POSITIVES[:, :3]), r"positives are of shape \[2, 3\], scores of \[2, 4\]"),
        (lambda: contrastive_loss(SCORES, POSITIVES.long()), "positives are torch.int64"),
        (lambda: contrastive_loss(SCORES, POSITIVES & (SCORES < 3)), "query 1 of the batch has 0 positives"),
        (lambda: contrastive_loss(SCORES, POSITIVES, 0), "temperature of a loss is 0"),
        (lambda: kl_distillation_loss(SCORES, TARGETS, nan), "temperature of a loss is nan"),
        (lambda: kl_distillation_loss(SCORES, TARGETS[:1]), r"targets are of shape \[1, 4\]"),
        (lambda: kl_distillation_loss(SCORES, TARGETS / 0), "score of query 0 and document 0 of the batch is inf"),
        (lambda: margin_mse_loss(SCORES, TARGETS, ~POSITIVES & POSITIVES), "query 0 of the batch has 0 positives"),
        (lambda: margin_mse_loss(SCORES, TARGETS.T, POSITIVES), r"targets are of shape \[4, 2\]"),
        (lambda: ensemble([]), "there are 0 teachers"),
        (lambda: ensemble([TARGETS, TARGETS[:1]]), r"targets are of shape \[1, 4\]"),
        (lambda: ensemble([TARGETS, TARGETS / 0]), "batch is inf"),
        (lambda: ensemble([TARGETS], weights=[1, 2]), "2 weights for 1 teachers"),
        (lambda: ensemble([TARGETS] * 2, weights=[2, -0.5]), r"weights of the teachers are \[2, -0.5\]"),
        (lambda: ensemble([TARGETS], weights=[0]), "not all 0"),
        (lambda: ensemble([TARGETS], scale=0), "scale of an ensemble is 0"),
    ],
)
def test_bad_input_of_losses_is_told(call, told):
    with pytest.raises(TrainingError, match=told):
        call()
