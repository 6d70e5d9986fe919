"""The folder of a training run and what is told while it runs: checkpoints, damage, what is refused, the bar, event files."""

import json
import re
import resource
import sys
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file
from trainer_for_tests import OPTIONS, Counted, Line, untimed

from index.errors import LockedError
from retrieval.training.options import TrainingOptions
from retrieval.training.run_folder import TrainingError
from retrieval.training.trainer import train

OTHERS = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "sha256.json")


def test_a_folder_of_something_else_or_of_another_run_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(TrainingError, match="is not empty and holds no training run"):
        train(Line(), OPTIONS, tmp_path / "mine", progress=False)
    train(Line(), OPTIONS, tmp_path / "run", progress=False)
    with pytest.raises(TrainingError, match="holds a training run; resume it"):
        train(Line(), OPTIONS, tmp_path / "run", progress=False)
    other = TrainingOptions(steps=26, learning_rate=0.1, warmup=3, accumulation=2, evaluate_every=4, save_every=6)
    with pytest.raises(TrainingError, match=r"holds a run with steps 25, this one has 26; resume it with the same"):
        train(Line(), other, tmp_path / "run", resume=True, progress=False)


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    class Twice(Line):
        def losses(self, number, epoch):
            with pytest.raises(LockedError, match="run"):
                train(Line(), OPTIONS, tmp_path / "run", resume=True, progress=False)
            return super().losses(number, epoch)

    train(Twice(), OPTIONS, tmp_path / "run", progress=False)


def test_what_a_killed_process_left_is_removed(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(Line(20), OPTIONS, tmp_path / "run", progress=False)
    for left in ("run/run/.checkpoint-00000012.ab.partial", "run/.model.cd.partial", "run/.model.ef.old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "weights.safetensors").write_bytes(b"half")
    train(Line(), OPTIONS, tmp_path / "run", resume=True, progress=False)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["model", "run"]
    assert not list((tmp_path / "run" / "run").glob(".*.partial"))


def test_a_damaged_description_is_told(tmp_path):
    train(Line(), OPTIONS, tmp_path / "run", progress=False)
    (tmp_path / "run" / "run" / "run.json").write_text("[")
    with pytest.raises(TrainingError, match=r"run.json cannot be read"):
        train(Line(), OPTIONS, tmp_path / "run", resume=True, progress=False)


@pytest.mark.parametrize("name", ["model.safetensors", *OTHERS])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_damaged_checkpoint_is_told(tmp_path, name, damage):
    train(Line(), OPTIONS, tmp_path / "run", progress=False)
    path = tmp_path / "run" / "run" / "checkpoint-00000025" / name
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[:-3])
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with pytest.raises(TrainingError, match="checkpoint-00000025 is damaged"):
        train(Line(), OPTIONS, tmp_path / "run", resume=True, progress=False)


def test_a_checkpoint_holds_what_is_trained_and_the_buffers_and_no_code(tmp_path):
    train(Counted(), OPTIONS, tmp_path / "run", progress=False)
    checkpoint = tmp_path / "run" / "run" / "checkpoint-00000025"
    assert set(load_file(checkpoint / "model.safetensors")) == {"weight", "bias", "kept", "alias", "scale"}
    assert {path.name for path in checkpoint.iterdir()} == {"model.safetensors", *OTHERS}
    moments = torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"]
    assert [state["step"].item() for state in moments.values()] == [25, 25]
    written = json.loads((checkpoint / "sha256.json").read_text())
    assert set(written) == {"model.safetensors", *OTHERS} - {"sha256.json"}


def test_the_bar_shows_what_the_task_names_and_the_library_says_nothing(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("retrieval.progress.SECONDS_UNTIL_SHOWN", 0)
    monkeypatch.setattr("retrieval.progress.SECONDS_BETWEEN_LOG_LINES", 0)
    train(Line(), OPTIONS, tmp_path / "silent", progress=False)
    assert capfd.readouterr() == ("", "")
    options = TrainingOptions(steps=2, accumulation=2, evaluate_every=0)
    train(Line(), options, tmp_path / "plain", progress=True)
    losses = [line["loss"] for line in untimed(tmp_path / "plain")]
    said = capfd.readouterr().err
    assert re.search(rf"1/2 steps, \d+:\d+<\d+:\d+, loss={losses[0]:.4g}\)", said)
    assert re.search(rf"2/2 steps, \d+:\d+<\d+:\d+, loss={losses[1]:.4g}\)", said)
    task = Line()
    task.shown = ("x", "not there")
    train(task, options, tmp_path / "own", progress=True)
    [one, other] = [line["x"] for line in untimed(tmp_path / "own")]
    said = capfd.readouterr().err
    assert f", x={one:.4g})" in said
    assert f", x={other:.4g})" in said
    assert "loss" not in said


def test_event_files_have_losses_and_measures_of_the_run_that_was_resumed(tmp_path):
    pytest.importorskip("tensorboard", reason="the package tensorboard is not installed: event files are NOT tested")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = TrainingOptions(**{**asdict(OPTIONS), "tensorboard": True})
    with pytest.raises(KeyboardInterrupt):
        train(Line(9), options, tmp_path / "run", progress=False)  # in step 5, after the checkpoint of step 0
    with pytest.raises(KeyboardInterrupt):
        train(Line(20), options, tmp_path / "run", resume=True, progress=False)  # in step 10, after that of step 6
    train(Line(), options, tmp_path / "run", resume=True, progress=False)
    events = EventAccumulator(str(tmp_path / "run" / "run" / "tensorboard"))
    events.Reload()
    steps = [line for line in untimed(tmp_path / "run") if "loss" in line]
    found = events.Scalars("train/loss")
    assert [one.step for one in found] == list(range(1, 26))
    assert [one.value for one in found] == pytest.approx([line["loss"] for line in steps], rel=1e-6)
    rates = [one.value for one in events.Scalars("train/learning_rate")]
    assert rates == pytest.approx([options.rate(step) for step in range(25)], rel=1e-6)
    assert [one.step for one in events.Scalars("eval/closeness")] == [0, 4, 8, 12, 16, 20, 24, 25]


def test_whether_event_files_are_written_is_no_part_of_what_a_run_is(tmp_path):
    train(Line(), OPTIONS, tmp_path / "run", progress=False)
    assert "tensorboard" not in json.loads((tmp_path / "run" / "run" / "run.json").read_text())
    assert not (tmp_path / "run" / "run" / "tensorboard").exists()


@pytest.mark.parametrize(("package", "wanted"), [("accelerate", False), ("tensorboard", True)])
def test_a_missing_package_is_told_with_its_extra(tmp_path, monkeypatch, package, wanted):
    monkeypatch.setitem(sys.modules, package, None)
    options = TrainingOptions(tensorboard=wanted)
    message = rf"training needs the package {package}, .*; pip install 'winnow-ir\[train\]'"
    with pytest.raises(TrainingError, match=message):
        train(Line(), options, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="WORLD_SIZE is 2, and one process trains; start it without"):
        train(Line(), OPTIONS, tmp_path / "run", progress=False)


def test_a_model_where_the_library_would_not_train_is_refused(tmp_path):
    task = Line()
    task.model.to("meta")
    with pytest.raises(TrainingError, match="the model is on meta, and the trainer would use"):
        train(task, OPTIONS, tmp_path / "run", progress=False)


def test_a_checkpoint_that_cannot_be_written_is_told_and_the_old_one_stays(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Full(Line):
        def losses(self, number, epoch):
            if self.calls == 12:  # the first of step 7
                resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))  # less than rng_state.pth
            return super().losses(number, epoch)

    try:
        with pytest.raises(TrainingError, match=r"checkpoint-00000012 could not be written \(.*make room, then resume"):
            train(Full(), OPTIONS, tmp_path / "run", progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    run = tmp_path / "run" / "run"
    assert sorted(path.name for path in run.iterdir() if "checkpoint" in path.name) == ["checkpoint-00000006"]
    train(Line(), OPTIONS, tmp_path / "run", resume=True, progress=False)


def test_a_run_of_the_format_before_is_told(tmp_path):
    train(Line(), OPTIONS, tmp_path / "run", progress=False)
    path = tmp_path / "run" / "run" / "run.json"
    path.write_text(path.read_text().replace('"format_version": 2', '"format_version": 1'))
    with pytest.raises(
        TrainingError, match="holds a run with format_version 1, this one has 2; resume it with the same"
    ):
        train(Line(), OPTIONS, tmp_path / "run", resume=True, progress=False)


def test_a_checkpoint_of_another_model_is_told(tmp_path):
    train(Line(), OPTIONS, tmp_path / "run", progress=False)
    task = Line()
    task.model = torch.nn.Linear(2, 1)
    with pytest.raises(TrainingError, match=r"has weight of shape \(1, 1\), the model of shape \(1, 2\)"):
        train(task, OPTIONS, tmp_path / "run", resume=True, progress=False)
