"""Trains what a `Task` describes: optimiser, schedule, accumulation, checkpoints, evaluation; nothing of any one kind of model.

The invariant: what a step does depends on the checkpoint before it and its number alone, so a run that was interrupted and resumed
equals one that was not, bit for bit where the processor adds in a fixed order. Examples are drawn by (seed, epoch) and not from a
stream that would have to be wound back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from retrieval.progress import progress as counted
from retrieval.training.options import TrainingOptions
from retrieval.training.run_folder import Checkpoint, RunFolder, TrainingError

BETAS, EPSILON = (0.9, 0.999), 1e-8  # AdamW's, as everywhere
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Losses(NamedTuple):
    """Of one example."""

    total: torch.Tensor  # a scalar, which is minimised
    parts: dict[str, float]  # what else is logged; averaged over the examples of a step
    tokens: int


class Task(Protocol):
    """What is trained, on what, and how good it is."""

    model: torch.nn.Module  # its parameters that require gradients are trained
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

    Raises TrainingError where the folder holds something else, a checkpoint is damaged, or a loss is no finite number.
    """
    if len(task) == 0:
        raise TrainingError("there are 0 training examples; give data with at least one.")
    run = RunFolder(folder, {**asdict(options), **task.describe()}, resume=resume)
    try:
        training = Training(task, options, run, report)
        training.start()
        steps = range(training.step, options.steps)
        for _ in counted(steps, total=len(steps), doing="training", unit="steps", shown=progress):
            training.update()
        return training.end()
    finally:
        run.release()


class Training:
    """A run under way."""

    def __init__(self, task: Task, options: TrainingOptions, run: RunFolder, report: Callable[[str], None]):
        self.task, self.options, self.run, self.report = task, options, run, report
        self.parameters = {name: p for name, p in task.model.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise TrainingError("the model has 0 weights that can be trained; leave some free.")
        self.optimiser = torch.optim.AdamW(
            [{"params": [p], "weight_decay": options.weight_decay * (p.ndim > 1)} for p in self.parameters.values()],
            lr=options.learning_rate,
            betas=BETAS,
            eps=EPSILON,
        )
        self.device = next(iter(self.parameters.values())).device
        self.step = 0
        self.best: float | None = None
        self.best_step: int | None = None
        self.recent: list[float] = []  # losses since the last evaluation; told, never logged: a resumed run has fewer

    def start(self) -> None:
        """From the newest checkpoint, or from the beginning."""
        checkpoint = self.run.read_checkpoint()
        if checkpoint is None:
            torch.manual_seed(self.options.seed)
            self.run.cut_log(-1)
            if self.options.evaluate_every:
                self.evaluate()
            self.save_checkpoint()
        else:
            self.restore(checkpoint)
            self.run.cut_log(self.step)

    def update(self) -> None:
        """One step."""
        started = time.perf_counter()
        for group in self.optimiser.param_groups:
            group["lr"] = self.options.rate(self.step)
        self.task.model.train()
        self.optimiser.zero_grad(set_to_none=True)
        parts: dict[str, float] = {}
        tokens = 0
        for number, epoch in self.examples():
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.precision == "bfloat16"):
                losses = self.task.losses(number, epoch)
            if not losses.total.isfinite():
                raise TrainingError(
                    f"the loss of step {self.step + 1} is {losses.total.item()}; resume is of no use, train anew with a lower learning rate "
                    f"than {self.options.learning_rate:g}."
                )
            (losses.total / self.options.accumulation).backward()
            for name, value in {"loss": losses.total.item(), **losses.parts}.items():
                parts[name] = parts.get(name, 0.0) + value / self.options.accumulation
            tokens += losses.tokens
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.options.max_gradient_norm)
        self.optimiser.step()
        self.step += 1
        self.recent.append(parts["loss"])
        seconds = time.perf_counter() - started
        self.run.log({"step": self.step, **parts, "gradient_norm": norm.item(), "tokens": tokens, "seconds": seconds})
        is_last = self.step == self.options.steps
        if self.options.evaluate_every and (is_last or self.step % self.options.evaluate_every == 0):
            self.evaluate()
        if is_last or self.step % self.options.save_every == 0:
            self.save_checkpoint()

    def examples(self) -> list[tuple[int, int]]:
        """(number, epoch) of each example of this step; every epoch has its own order."""
        first, size = self.step * self.options.accumulation, len(self.task)
        places = [divmod(place, size) for place in range(first, first + self.options.accumulation)]
        order = {
            epoch: np.random.default_rng([self.options.seed, epoch]).permutation(size)
            for epoch in {epoch for epoch, _ in places}
        }
        return [(int(order[epoch][place]), epoch) for epoch, place in places]

    def evaluate(self) -> None:
        """Logs the measures, and keeps the model if it is the best so far; of equals the first."""
        started = time.perf_counter()
        self.task.model.eval()
        with torch.no_grad():
            measures = self.task.evaluate()
        value = measures[self.task.measure]
        self.run.log({"step": self.step, "evaluation": measures, "evaluation_seconds": time.perf_counter() - started})
        told = {"loss": float(np.mean(self.recent)), **measures} if self.recent else measures
        self.report(f"step {self.step:,}: {', '.join(f'{name} {number:.4f}' for name, number in told.items())}")
        self.recent.clear()
        if self.best is None or value > self.best:
            self.best, self.best_step = value, self.step
            self.run.write_model(self.task.save)

    def end(self) -> Trained:
        """After the last step."""
        if self.best is None:
            self.task.model.eval()
            self.run.write_model(self.task.save)
        first = next(
            (line["evaluation"][self.task.measure] for line in self.run.read_log() if "evaluation" in line), None
        )
        return Trained(self.run.model, self.best_step, first, self.best)

    def save_checkpoint(self) -> None:
        optimiser: dict[str, torch.Tensor] = {}
        for name, parameter in self.parameters.items():
            for moment, value in self.optimiser.state.get(parameter, {}).items():
                optimiser[f"{moment}/{name}"] = value
        random = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        self.run.write_checkpoint(
            Checkpoint(self.step, self.best_step, self.best, dict(self.parameters), optimiser, random)
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Raises TrainingError where it is of another model."""
        shapes = {name: tuple(p.shape) for name, p in self.parameters.items()}
        stored = {name: tuple(value.shape) for name, value in checkpoint.weights.items()}
        if different := sorted(name for name in {*shapes, *stored} if shapes.get(name) != stored.get(name)):
            raise TrainingError(
                f"the checkpoint has {different[0]} of shape {stored.get(different[0])}, the model of shape {shapes.get(different[0])}; resume "
                "with the model that was trained."
            )
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(checkpoint.weights[name])
                if f"step/{name}" in checkpoint.optimiser:
                    state = {moment: checkpoint.optimiser[f"{moment}/{name}"] for moment in MOMENTS}
                    self.optimiser.state[parameter] = {
                        moment: value if moment == "step" else value.to(parameter.device)
                        for moment, value in state.items()
                    }
        torch.set_rng_state(checkpoint.random["cpu"])
        if self.device.type == "cuda" and "cuda" in checkpoint.random:
            torch.cuda.set_rng_state(checkpoint.random["cuda"], self.device)
        self.step, self.best, self.best_step = checkpoint.step, checkpoint.best, checkpoint.best_step
