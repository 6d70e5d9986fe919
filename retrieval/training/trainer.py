"""Trains what a `Task` describes; nothing of any one kind of model. The loop is transformers' (`retrieval.training.task_trainer`).

The invariant: what a step does depends on the checkpoint before it and its number alone, so a run that was interrupted and resumed
equals one that was not, bit for bit where the processor adds in a fixed order.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from retrieval.training.options import TrainingOptions
from retrieval.training.run_folder import RunFolder, TrainingError

NUM_PROCESSES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # where accelerate looks


class Losses(NamedTuple):
    """Of one example."""

    total: torch.Tensor  # a scalar, which is minimised
    parts: dict[str, float]  # what else is logged; averaged over the examples of a step
    tokens: int


class Task(Protocol):
    """What is trained, on what, and how good it is. It may have two attributes more:

    learning_rates  dict[str, float]: by the beginning of a parameter's name (of several, the longest), where it is not the run's
    shown           tuple[str, ...]: those of "loss" and `Losses.parts` that the progress bar shows; else the loss
    """

    model: torch.nn.Module  # its parameters that require gradients are trained; a checkpoint has these and the buffers
    measure: str  # of those that `evaluate` gives, the one that decides which model is best: larger is better

    def __len__(self) -> int:
        """Number of training examples."""

    def losses(self, number: int, epoch: int) -> Losses:
        """Of one example; the same for the same numbers and weights."""

    def evaluate(self) -> dict[str, float]:
        """Measures on examples that are not trained on."""

    def save(self, folder: Path) -> None:
        """Fills an empty folder with the model."""

    def describe(self) -> dict[str, Any]:
        """All that the result depends on but the options, as JSON has it."""


class Trained(NamedTuple):
    """How a run ended."""

    model: Path
    best_step: int | None  # None without evaluation: the model is the last
    first: float | None  # the measure before training
    best: float | None


def train(
    task: Task,
    options: TrainingOptions,
    folder: str | Path,
    *,
    resume: bool = False,
    progress: bool = True,
    report: Callable[[str], None] = lambda line: None,
) -> Trained:
    """Trains in a folder (`retrieval.training.run_folder`), from its newest checkpoint if it is to be resumed.

    report  is told of evaluations

    Raises TrainingError where the folder holds something else, a checkpoint is damaged or cannot be written, a loss is no finite number,
    a package of the extra `train` is missing, or several processes were started.
    """
    if len(task) == 0:
        raise TrainingError("there are 0 training examples; give data with at least one.")
    check_surroundings(options)
    run = RunFolder(folder, described(task, options), resume=resume)
    try:
        from retrieval.training.task_trainer import TaskTrainer  # seconds, and needs accelerate

        return TaskTrainer(task, options, run, report).run(progress=progress)
    finally:
        run.release()


def check_surroundings(options: TrainingOptions) -> None:
    """Raises TrainingError where a run could not even begin."""
    for name in NUM_PROCESSES:
        number = os.environ.get(name, "1")
        if number.isdecimal() and int(number) > 1:
            raise TrainingError(
                f"{name} is {number}, and one process trains; start it without `accelerate launch`, torchrun or mpirun."
            )
    for package in ("accelerate", "tensorboard") if options.tensorboard else ("accelerate",):
        try:
            import_module(package)
        except ImportError as error:
            raise TrainingError(
                f"training needs the package {package}, which cannot be imported ({error}); pip install 'winnow-ir[train]'."
            ) from error


def described(task: Task, options: TrainingOptions) -> dict[str, Any]:
    """All that the result depends on."""
    found = {**asdict(options), **task.describe()}
    del found["tensorboard"]
    if rates := getattr(task, "learning_rates", None):
        found["learning_rates"] = rates
    return found
