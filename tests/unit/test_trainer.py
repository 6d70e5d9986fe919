"""The trainer on a line: resuming, the order of examples, rates, precision, losses that are no numbers."""

import math
import random

import numpy as np
import pytest
import torch
from trainer_for_tests import OPTIONS, Counted, Line, untimed

from index.errors import WinnowError
from retrieval.training.options import TrainingOptions
from retrieval.training.run_folder import TrainingError
from retrieval.training.trainer import Losses, train


@pytest.mark.parametrize("fail_at", [1, 9, 12, 13, 30, 50])
def test_an_interrupted_run_that_is_resumed_equals_one_that_was_not(tmp_path, fail_at):
    whole, again = Line(), Line()
    ended = train(whole, OPTIONS, tmp_path / "whole", progress=False)
    with pytest.raises(KeyboardInterrupt):
        train(Line(fail_at), OPTIONS, tmp_path / "cut", progress=False)
    torch.manual_seed(99)  # what another process begins with
    resumed = train(again, OPTIONS, tmp_path / "cut", resume=True, progress=False)
    assert torch.equal(whole.model.weight, again.model.weight)
    assert torch.equal(whole.model.bias, again.model.bias)
    assert untimed(tmp_path / "whole") == untimed(tmp_path / "cut")
    assert resumed[1:] == ended[1:]
    assert (ended.model / "weight.txt").read_text() == (resumed.model / "weight.txt").read_text()
    assert [path.name for path in (tmp_path / "cut" / "run").glob("checkpoint*")] == ["checkpoint-00000025"]


def test_the_model_of_the_best_evaluation_is_kept(tmp_path):
    task = Line()
    ended = train(task, OPTIONS, tmp_path / "run", progress=False)
    evaluations = {
        line["step"]: line["evaluation"]["closeness"] for line in untimed(tmp_path / "run") if "evaluation" in line
    }
    assert list(evaluations) == [0, 4, 8, 12, 16, 20, 24, 25]
    assert ended.first == evaluations[0]
    assert ended.best == max(evaluations.values()) == evaluations[ended.best_step]
    assert -abs(float((ended.model / "weight.txt").read_text()) - 3) == ended.best


def test_of_equal_evaluations_the_first_model_is_kept(tmp_path):
    class Judged(Line):
        def evaluate(self):
            self.judged = getattr(self, "judged", -1) + 1
            return {"closeness": (0.5, 0.75, 0.875, 0.875, 0.625)[self.judged]}

        def save(self, folder):
            (folder / "number.txt").write_text(str(self.judged))

    options = TrainingOptions(steps=4, accumulation=1, evaluate_every=1)
    ended = train(Judged(), options, tmp_path / "run", progress=False)
    assert ended[1:] == (2, 0.5, 0.875)
    assert (ended.model / "number.txt").read_text() == "2"


def test_without_evaluation_the_last_model_is_kept(tmp_path):
    task = Line()
    ended = train(task, TrainingOptions(steps=3, evaluate_every=0), tmp_path / "run", progress=False)
    assert ended.best_step is ended.best is ended.first is None
    assert float((ended.model / "weight.txt").read_text()) == task.model.weight.item()


def test_every_example_is_seen_once_an_epoch_in_an_order_of_its_own(tmp_path):
    seen = []

    class Seen(Line):
        def losses(self, number, epoch):
            seen.append((epoch, number))
            return super().losses(number, epoch)

    train(Seen(), TrainingOptions(steps=7, accumulation=2, evaluate_every=0), tmp_path / "run", progress=False)
    assert sorted(seen) == [(epoch, number) for epoch in range(2) for number in range(7)]
    for epoch in range(2):  # runs made before had it, and are to be made again
        order = np.random.default_rng([0, epoch]).permutation(7).tolist()
        assert [number for of, number in seen if of == epoch] == order


@pytest.mark.parametrize("seed", [7, 2**40 + 1])
def test_noise_is_the_seeds_own(tmp_path, seed):
    drawn = []

    class Drawn(Line):
        def losses(self, number, epoch):
            drawn.append(torch.rand(1).item())
            return super().losses(number, epoch)

    options = TrainingOptions(steps=1, accumulation=1, evaluate_every=0, seed=seed)
    train(Drawn(), options, tmp_path / "run", progress=False)
    torch.manual_seed(seed)
    assert drawn == [torch.rand(1).item()]


def test_an_evaluation_is_reported_with_the_mean_loss_since_the_one_before(tmp_path):
    said = []
    train(Line(), OPTIONS, tmp_path / "run", progress=False, report=said.append)
    log = untimed(tmp_path / "run")
    losses = {line["step"]: line["loss"] for line in log if "loss" in line}
    measured = {line["step"]: line["evaluation"] for line in log if "evaluation" in line}
    bounds = [0, 4, 8, 12, 16, 20, 24, 25]
    assert said[0] == f"step 0: closeness {measured[0]['closeness']:.4f}, bias {measured[0]['bias']:.4f}"
    for line, first, last in zip(said[1:], bounds[:-1], bounds[1:], strict=True):
        mean = sum(losses[step] for step in range(first + 1, last + 1)) / (last - first)
        assert line.startswith(f"step {last}: loss {mean:.4f}, closeness {measured[last]['closeness']:.4f}")


def test_the_rate_grows_then_falls():
    options = TrainingOptions(steps=110, warmup=10, learning_rate=1.0)
    assert [options.rate(step) for step in (0, 4, 9, 10, 60)] == pytest.approx([0.1, 0.5, 1, 1, 0.5])
    assert options.rate(109) < 0.001
    linear = TrainingOptions(steps=110, warmup=10, learning_rate=1.0, schedule="linear")
    assert [linear.rate(step) for step in (10, 35, 85)] == pytest.approx([1, 0.75, 0.25])


def test_gradients_are_averaged_and_clipped(tmp_path):
    class Steep(Line):
        def losses(self, number, epoch):
            return Losses(self.model.weight.sum() * (1 + 2 * (self.calls_so_far() % 2)), {}, 1)

        def calls_so_far(self):
            self.calls += 1
            return self.calls

    train(
        Steep(),
        TrainingOptions(steps=1, accumulation=2, max_gradient_norm=0.5, evaluate_every=0),
        tmp_path / "run",
        progress=False,
    )
    assert untimed(tmp_path / "run")[0]["gradient_norm"] == pytest.approx(2)  # of 3 and 1


def test_a_loss_that_is_no_number_ends_the_run_before_the_weights_are_changed(tmp_path):
    class Broken(Line):
        def losses(self, number, epoch):
            found = super().losses(number, epoch)
            return found._replace(total=found.total * (math.nan if self.calls == 18 else 1))

    task = Broken()
    with pytest.raises(TrainingError, match="the loss of step 9 is nan"):
        train(task, OPTIONS, tmp_path / "run", progress=False)
    assert task.model.weight.isfinite().all()
    assert [path.name for path in (tmp_path / "run" / "run").glob("checkpoint*")] == ["checkpoint-00000006"]
    assert (tmp_path / "run" / "model" / "weight.txt").is_file()
    assert untimed(tmp_path / "run")[-1]["step"] == 8


def test_options_are_checked():
    for changes, message in (
        ({"steps": 0}, "the steps of a training run is 0; it must be above 0"),
        ({"learning_rate": math.nan}, "the learning rate .* is nan"),
        ({"warmup": -1}, "the warmup .* is -1; it must be 0 or more"),
        ({"schedule": "sine"}, "the schedule .* is 'sine'; it must be cosine, linear, constant"),
        ({"precision": "half"}, "the precision .* is 'half'"),
    ):
        with pytest.raises(WinnowError, match=message):
            TrainingOptions(**changes)


@pytest.mark.parametrize("fail_at", [13, 30])
def test_buffers_survive_a_resume(tmp_path, fail_at):
    whole, again = Counted(), Counted()
    train(whole, OPTIONS, tmp_path / "whole", progress=False)
    with pytest.raises(KeyboardInterrupt):
        train(Counted(fail_at), OPTIONS, tmp_path / "cut", progress=False)
    train(again, OPTIONS, tmp_path / "cut", resume=True, progress=False)
    assert whole.model.kept[0] == again.model.kept[0] == 50
    assert torch.equal(whole.model.scale, again.model.scale)
    assert all(torch.equal(value, again.model.state_dict()[name]) for name, value in whole.model.state_dict().items())
    assert untimed(tmp_path / "whole") == untimed(tmp_path / "cut")


def test_noise_of_all_three_random_states_goes_on_where_it_was(tmp_path):
    class Noisy(Line):
        def losses(self, number, epoch):
            found = super().losses(number, epoch)
            return found._replace(total=found.total * (1 + random.random() + np.random.random()))  # noqa: NPY002

    train(Noisy(), OPTIONS, tmp_path / "whole", progress=False)
    with pytest.raises(KeyboardInterrupt):
        train(Noisy(30), OPTIONS, tmp_path / "cut", progress=False)
    train(Noisy(), OPTIONS, tmp_path / "cut", resume=True, progress=False)
    assert untimed(tmp_path / "whole") == untimed(tmp_path / "cut")


def test_a_run_that_has_ended_ends_again_without_a_step(tmp_path):
    ended = train(Line(), OPTIONS, tmp_path / "run", progress=False)
    again = Line()
    assert train(again, OPTIONS, tmp_path / "run", resume=True, progress=False) == ended
    assert again.calls == 0


def test_weights_have_learning_rates_of_their_own(tmp_path):
    def trained(folder, resume=False, **rates):
        task = Line()
        task.learning_rates = rates
        before = task.model.weight.item(), task.model.bias.item()
        options = TrainingOptions(steps=1, learning_rate=0.25, warmup=0, evaluate_every=0)
        train(task, options, tmp_path / folder, resume=resume, progress=False)
        return abs(task.model.weight.item() - before[0]), abs(task.model.bias.item() - before[1])

    # the first step of AdamW is the learning rate, whatever the gradient
    assert trained("a") == pytest.approx((0.25, 0.25), rel=1e-3)
    assert trained("b", wei=0.5) == pytest.approx((0.5, 0.25), rel=1e-3)
    assert trained("c", wei=0.5, weight=0.125, w=2.0) == pytest.approx((0.125, 0.25), rel=1e-3)
    with pytest.raises(
        TrainingError, match=r"holds a run with learning_rates \{'wei': 0.5\}, this one has \{'wei': 1.0\}"
    ):
        trained("b", resume=True, wei=1.0)
    with pytest.raises(
        TrainingError, match="is given for table, with which no trained weight begins; the first is weight"
    ):
        trained("d", table=0.5)
    with pytest.raises(TrainingError, match="the learning rate of wei is -1; it must be above 0"):
        trained("e", wei=-1)


def test_own_learning_rates_follow_the_schedule():
    options = TrainingOptions(steps=110, warmup=10, learning_rate=1.0)
    assert [options.rate(step, 3.0) for step in (0, 9, 60)] == pytest.approx([0.3, 3, 1.5])


def test_large_matrices_decay_and_vectors_do_not(tmp_path):
    class Still(Line):
        def losses(self, number, epoch):
            return Losses(self.model(torch.zeros(1)).sum() * 0, {}, 1)

    task = Still()
    before = task.model.weight.item(), task.model.bias.item()
    options = TrainingOptions(steps=1, learning_rate=0.5, warmup=0, weight_decay=0.5, evaluate_every=0)
    train(task, options, tmp_path / "run", progress=False)
    assert task.model.weight.item() == pytest.approx(before[0] * (1 - 0.5 * 0.5))
    assert task.model.bias.item() == before[1]


def test_matrix_products_are_in_bfloat16_of_losses_and_evaluations(tmp_path):
    seen = []

    class Typed(Line):
        def losses(self, number, epoch):
            seen.append(self.model(torch.ones(1)).dtype)
            return super().losses(number, epoch)

        def evaluate(self):
            seen.append(self.model(torch.ones(1)).dtype)
            return super().evaluate()

    options = TrainingOptions(steps=1, accumulation=1, precision="bfloat16", evaluate_every=1)
    train(Typed(), options, tmp_path / "run", progress=False)
    assert seen == [torch.bfloat16] * 3
