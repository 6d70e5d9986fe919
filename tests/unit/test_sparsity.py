"""Regularisers of sparse encoders against arithmetic that is written out, their weight against a simulated encoder, and the watch."""

from math import exp, log, nan

import numpy as np
import pytest
import torch

from retrieval.training.run_folder import TrainingError
from retrieval.training.sparse.regularisers import (
    CollapseWatch,
    SparsityWeight,
    anti_zero,
    df_flops,
    flops,
    idf_flops,
    l1,
    masked_flops,
    mean_terms,
)

# three texts of a vocabulary of four terms; the second is empty
WEIGHTS = torch.tensor([[1.0, 0.0, 2.0, 0.5], [0.0, 0.0, 0.0, 0.0], [2.0, 0.0, 0.0, 1.0]])
IDF = torch.tensor([0.5, 3.0, 4.0, 2.0])
FREQUENCY = torch.tensor([10, 0, 1, 5])


def test_flops_is_the_sum_of_squared_means_over_texts():
    assert flops(WEIGHTS).item() == pytest.approx((3 / 3) ** 2 + (2 / 3) ** 2 + (1.5 / 3) ** 2, rel=1e-6)


def test_flops_is_sentence_transformers():
    from sentence_transformers.sparse_encoder.losses import FlopsLoss

    drawn = torch.rand(5, 7, generator=torch.Generator().manual_seed(8)).sub(0.5).relu()
    assert flops(drawn).item() == pytest.approx(FlopsLoss(None).compute_loss_from_embeddings(drawn).item(), rel=1e-6)
    theirs = FlopsLoss(None, threshold=3).compute_loss_from_embeddings(drawn).item()
    assert 0 < theirs < flops(drawn).item()
    assert masked_flops(drawn, 3).item() == pytest.approx(theirs, rel=1e-6)


def test_l1_is_the_mean_over_texts_of_their_sums():
    assert l1(WEIGHTS).item() == pytest.approx((3.5 + 0 + 3.0) / 3, rel=1e-6)


def test_masked_flops_leaves_out_texts_of_at_most_threshold_terms_but_counts_them():
    # the first text has 3 terms, the third 2
    assert masked_flops(WEIGHTS, 2).item() == pytest.approx((1 / 3) ** 2 + (2 / 3) ** 2 + (0.5 / 3) ** 2, rel=1e-6)
    assert masked_flops(WEIGHTS, 1).item() == pytest.approx(flops(WEIGHTS).item(), rel=1e-6)
    weights = WEIGHTS.clone().requires_grad_()
    loss = masked_flops(weights, 3)
    loss.backward()
    assert loss.item() == 0
    assert weights.grad.abs().sum() == 0


def test_idf_flops_divides_means_by_idf():
    expected = (1 / 0.5) ** 2 + (2 / 3 / 4.0) ** 2 + (0.5 / 2.0) ** 2
    assert idf_flops(WEIGHTS, IDF).item() == pytest.approx(expected, rel=1e-6)


def test_idf_flops_of_what_terms_add_to_scores_is_flops_of_weights():
    assert idf_flops(WEIGHTS * IDF, IDF).item() == pytest.approx(flops(WEIGHTS).item(), rel=1e-6)


def test_df_flops_weighs_means_by_a_logistic_function_of_their_share():
    # x^(log_alpha 2) is 1 for x = 1; 2^(log2(1/10) / log2(alpha)) for x = 1/10, which is 2 with alpha = 1/10; a term of no document: a = 0
    half = 1 / (1 + ((1 / 2) ** (log(2) / log(0.1)) - 1) ** 10)
    expected = (1 * 1) ** 2 + (0.5 * 2 / 3) ** 2 + (half * 0.5) ** 2
    assert df_flops(WEIGHTS, FREQUENCY, 10).item() == pytest.approx(expected, rel=1e-5)
    assert half > 0.999
    gentle = 1 / (1 + ((1 / 2) ** (log(2) / log(0.2)) - 1) ** 2)
    tenth = 1 / (1 + ((1 / 10) ** (log(2) / log(0.2)) - 1) ** 2)
    expected = (1 * 1) ** 2 + (tenth * 2 / 3) ** 2 + (gentle * 0.5) ** 2
    assert df_flops(WEIGHTS, FREQUENCY, 10, alpha=0.2, beta=2).item() == pytest.approx(expected, rel=1e-5)


def test_anti_zero_is_the_sum_of_inverse_squares_of_the_sums_of_a_batch():
    queries = torch.tensor([[0.5, 0.0], [1.0, 0.5]])
    assert anti_zero(queries, WEIGHTS).item() == pytest.approx(1 / 2.01**2 + 1 / 6.51**2, rel=1e-6)


def test_anti_zero_of_texts_without_terms_is_finite_and_pulls_up():
    none = torch.zeros(2, 4, requires_grad=True)
    loss = anti_zero(none, none)
    loss.backward()
    assert loss.item() == pytest.approx(2 / 0.01**2, rel=1e-5)
    assert torch.equal(none.grad, torch.full((2, 4), none.grad[0, 0].item()))
    assert none.grad[0, 0].item() == pytest.approx(-2 * 2 / 0.01**3, rel=1e-5)


@pytest.mark.parametrize(
    "regulariser",
    [
        flops,
        l1,
        lambda w: masked_flops(w, 2),
        lambda w: idf_flops(w, IDF.double()),
        lambda w: df_flops(w, FREQUENCY, 10, beta=1.5),
        lambda w: anti_zero(w[:1], w[1:]),
    ],
    ids=["flops", "l1", "masked flops", "idf flops", "df flops", "anti zero"],
)
def test_gradients_of_regularisers_are_those_of_finite_differences(regulariser):
    weights = torch.rand(3, 4, generator=torch.Generator().manual_seed(8), dtype=torch.float64) + 0.1
    assert torch.autograd.gradcheck(regulariser, weights.requires_grad_())
    empty = torch.zeros(3, 4, requires_grad=True)
    regulariser(empty).backward()
    assert empty.grad.isfinite().all()


def test_mean_terms_counts_weights_that_are_not_0():
    assert mean_terms(WEIGHTS) == (3 + 0 + 2) / 3


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: flops(WEIGHTS[0]), r"weights are of shape \[4\]"),
        (lambda: l1(WEIGHTS[:0]), r"weights are of shape \[0, 4\]"),
        (lambda: l1(-WEIGHTS), "weight of term 0 in text 0 of the batch is -1"),
        (lambda: masked_flops(WEIGHTS, -1), "threshold of masked FLOPS is -1"),
        (lambda: idf_flops(WEIGHTS, IDF[:3]), r"the IDF are of shape \[3\], the weights of \[3, 4\]"),
        (lambda: idf_flops(WEIGHTS, IDF - 0.5), "the IDF of term 0 is 0; it must be above 0"),
        (lambda: idf_flops(WEIGHTS, IDF / 0), "the IDF of term 0 is inf"),
        (lambda: idf_flops(-WEIGHTS, IDF), "weight of term 0 in text 0"),
        (lambda: df_flops(WEIGHTS, FREQUENCY[:2], 10), r"document frequencies are of shape \[2\]"),
        (lambda: df_flops(WEIGHTS, FREQUENCY, 9), r"such as \[10\] cannot be of 9 documents"),
        (lambda: df_flops(WEIGHTS, FREQUENCY * 0, 0), "of 0 documents"),
        (lambda: df_flops(WEIGHTS, FREQUENCY, 10, alpha=1), "alpha and beta of DF-FLOPS are 1 and 10"),
        (lambda: df_flops(WEIGHTS, FREQUENCY, 10, beta=0), "alpha and beta of DF-FLOPS are 0.1 and 0"),
        (lambda: df_flops(-WEIGHTS, FREQUENCY, 10), "weight of term 0 in text 0"),
        (lambda: anti_zero(WEIGHTS, -WEIGHTS), "weight of term 0 in text 0"),
        (lambda: anti_zero(-WEIGHTS, WEIGHTS), "weight of term 0 in text 0"),
        (lambda: SparsityWeight(-0.1, 5), "the weight of a sparsity weight is -0.1; it must be 0 or more"),
        (lambda: SparsityWeight(0, 5, terms=10), "the weight of a sparsity weight is 0; it must be above 0"),
        (lambda: SparsityWeight(nan, 5), "the weight of a sparsity weight is nan"),
        (lambda: SparsityWeight(1, -5), "the warm-up of a sparsity weight is -5"),
        (lambda: SparsityWeight(1, 5, terms=0), "the number of terms of a sparsity weight is 0"),
        (lambda: SparsityWeight(1, 5, terms=9, response=0), "response of a sparsity weight is 0; it must be 1 or more"),
        (lambda: SparsityWeight(1, 5, terms=9, smoothing=0), "smoothing of a sparsity weight is 0"),
        (lambda: SparsityWeight(1, 5).update(nan, 3), "texts of step 3 have nan terms"),
        (lambda: CollapseWatch("documents", 0), "a watch over 0 terms"),
        (lambda: CollapseWatch("documents", 10, patience=0), "a patience of 0"),
    ],
)
def test_bad_input_of_regularisers_is_told(call, told):
    with pytest.raises(TrainingError, match=told):
        call()


def test_the_schedule_is_quadratic_up_to_the_end_of_the_warm_up_and_constant_after():
    weight = SparsityWeight(0.08, warmup=4)
    values = []
    for step in range(6):
        values.append(weight.value)
        weight.update(1000.0, step)
    assert values == pytest.approx([0, 0.08 / 16, 0.08 * 4 / 16, 0.08 * 9 / 16, 0.08, 0.08], rel=1e-12)
    assert SparsityWeight(0.08, warmup=0).value == 0.08
    assert SparsityWeight(0, warmup=2).value == 0


class SimulatedEncoder:
    """Terms follow the weight as (needed / weight)^slope, with a lag, at most `first`; what is seen has noise of 10 %."""

    def __init__(self, slope=0.5, lag=200, needed=0.05, first=3000.0, wanted=150.0):
        self.slope, self.lag, self.needed, self.first, self.wanted = slope, lag, needed, first, wanted
        self.log_terms = log(first)
        self.random = np.random.default_rng(8)

    def step(self, weight):
        aim = min(self.first, self.wanted * (self.needed / weight) ** self.slope) if weight > 0 else self.first
        self.log_terms += (log(aim) - self.log_terms) / self.lag
        return exp(self.log_terms + 0.1 * self.random.standard_normal())


def run(weight, encoder, steps, first=0):
    """True terms [steps] and values [steps]."""
    terms, values = [], []
    for step in range(first, first + steps):
        values.append(weight.value)
        weight.update(encoder.step(weight.value), step)
        terms.append(exp(encoder.log_terms))
    return np.array(terms), np.array(values)


@pytest.mark.parametrize("lag", [20, 200])
@pytest.mark.parametrize("slope", [0.3, 1.0])
@pytest.mark.parametrize("times", [10, 1, 0.1])
def test_a_steered_weight_reaches_the_wanted_terms_from_far_and_stays(times, slope, lag):
    encoder = SimulatedEncoder(slope=slope, lag=lag)
    weight = SparsityWeight(encoder.needed * times, warmup=500, terms=150)
    terms, values = run(weight, encoder, 5000)
    assert np.abs(terms[2500:] / 150 - 1).max() < 0.1
    assert terms.min() > 150 / 3  # a start 10 times too high does not empty texts on the way
    assert values[-1] == pytest.approx(encoder.needed, rel=0.2)
    # no waves: once there, values do not swing about the needed one
    assert np.ptp(np.log(values[3000:])) < 0.3


def test_a_slower_encoder_is_reached_in_waves_that_die():
    encoder = SimulatedEncoder(slope=1.0, lag=500)
    terms, _ = run(SparsityWeight(0.005, warmup=500, terms=150), encoder, 5000)
    assert np.abs(terms[3000:] / 150 - 1).max() < 0.1


def test_a_steered_weight_follows_an_encoder_that_changes():
    encoder = SimulatedEncoder()
    weight = SparsityWeight(0.05, warmup=500, terms=150)
    run(weight, encoder, 3000)
    encoder.needed = 0.15
    terms, values = run(weight, encoder, 4000, first=3000)
    assert np.abs(terms[2500:] / 150 - 1).max() < 0.1
    assert values[-1] == pytest.approx(0.15, rel=0.2)


def test_nothing_winds_up_while_the_schedule_lasts():
    weight = SparsityWeight(0.05, warmup=1000, terms=150)
    for step in range(1000):  # far too many terms all the while
        weight.update(20000.0, step)
    assert weight.value == pytest.approx(0.05, rel=1e-9)
    weight.update(20000.0, 1000)
    assert weight.value == pytest.approx(0.05 * exp(1.5 / 200), rel=1e-6)


def test_the_schedule_ends_early_where_terms_are_down_to_those_wanted():
    weight = SparsityWeight(5.0, warmup=1000, terms=150, smoothing=1)
    for step in range(100):
        weight.update(1000.0, step)
    assert weight.value == pytest.approx(5.0 * 0.1**2)
    weight.update(140.0, 100)
    assert weight.value == pytest.approx(5.0 * 0.101**2)
    weight.update(140.0, 101)
    assert weight.value == pytest.approx(5.0 * 0.101**2 * exp(log(140 / 150) / 200))
    weight.update(120.0, 102)
    assert weight.value == pytest.approx(
        5.0 * 0.101**2 * exp(log(140 / 150) / 200) * exp(log(120 / 140) + log(120 / 150) / 200)
    )


def test_the_schedule_does_not_begin_while_there_are_fewer_terms_than_wanted():
    weight = SparsityWeight(0.05, warmup=10, terms=150, smoothing=1)
    for step in range(50):
        weight.update(100.0, step)
    assert weight.value == 0
    for step in range(50, 60):
        weight.update(400.0, step)
    assert weight.value == pytest.approx(0.05)


@pytest.mark.parametrize(("seen", "bound"), [(0.0, 0.05 / 1000), (3000.0, 0.05 * 1000)])
def test_a_weight_at_its_bound_leaves_it_at_once(seen, bound):
    weight = SparsityWeight(0.05, warmup=0, terms=150)
    for step in range(3000):
        weight.update(seen, step)
    assert weight.value == pytest.approx(bound)
    for step in range(3000, 3100):
        weight.update(150.0, step)
    assert abs(log(weight.value / bound)) > 1


def test_a_resumed_weight_goes_on_the_same():
    encoder = SimulatedEncoder()
    seen = [encoder.step(0.01 + 0.0001 * step) for step in range(900)]
    whole, resumed = (SparsityWeight(0.05, warmup=300, terms=150) for _ in range(2))
    expected = []
    for step, terms in enumerate(seen):
        whole.update(terms, step)
        expected.append(whole.value)
    for cut in (1, 100, 600):
        stopped, resumed = (SparsityWeight(0.05, warmup=300, terms=150) for _ in range(2))
        for step in range(cut):
            stopped.update(seen[step], step)
        resumed.load_state_dict(stopped.state_dict())
        found = []
        assert resumed.value == expected[cut - 1]
        for step in range(cut, 900):
            resumed.update(seen[step], step)
            found.append(resumed.value)
        assert found == expected[cut:]
    assert not list(whole.parameters())


def test_texts_without_terms_end_the_run_with_the_weight_to_lower():
    watch = CollapseWatch("documents", 30522, patience=3)
    for step, terms in enumerate([0.0, 0.5, 1.0, 0.9, 0.9]):
        watch.update(terms, 0.08, step)
    with pytest.raises(TrainingError) as told:
        watch.update(0.2, 0.08, 5)
    assert str(told.value) == (
        "documents had 0.2 of 30,522 terms on average at step 6 and fewer than 1 in each of 3 steps: the sparsity weight of documents, "
        "now 0.08, is too high; train anew with a lower one, or a longer warm-up of it."
    )


def test_texts_of_all_terms_end_the_run_after_the_warm_up_with_the_weight_to_raise():
    watch = CollapseWatch("queries", 1000, patience=2, warmup=10)
    for step in range(11):
        watch.update(900.0, 0.0, step)
    with pytest.raises(
        TrainingError,
        match=r"more than half .* sparsity weight of queries, now 0, is too low; train anew with a higher",
    ):
        watch.update(501.0, 0.0, 11)
    for step in range(50):
        watch.update(500.0, 1.0, step + 12)


def test_texts_without_terms_are_not_blamed_on_a_weight_of_0():
    watch = CollapseWatch("queries", 1000, patience=1)
    with pytest.raises(TrainingError, match=r"the sparsity weight of queries is 0, .* lower learning rate"):
        watch.update(0.0, 0.0, 0)


def test_a_resumed_watch_goes_on_counting():
    watch, resumed = CollapseWatch("documents", 100, patience=2), CollapseWatch("documents", 100, patience=2)
    watch.update(0.0, 1.0, 0)
    resumed.load_state_dict(watch.state_dict())
    with pytest.raises(TrainingError):
        resumed.update(0.0, 1.0, 1)
