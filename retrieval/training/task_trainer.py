"""transformers' `Trainer` on a `Task`: its loop, its accumulation and mixed precision, its files of a checkpoint.

Ours are the order of examples, the optimiser's groups, the schedule, evaluation, the log, and the folder. The whole run is one epoch of the
library's, so that a step may reach from one epoch of the task's into the next; it draws examples by (seed, epoch) and not from a stream
that would have to be wound back. The library's checkpoint has its random states, its optimiser and its count of steps; of the model it has
the trained weights and all buffers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from retrieval.progress import bar
from retrieval.training.options import TrainingOptions
from retrieval.training.run_folder import RunFolder, TrainingError
from retrieval.training.trainer import Losses, Task, Trained

BETAS, EPSILON = (0.9, 0.999), 1e-8  # AdamW's, as everywhere
WEIGHTS, STATE = "model.safetensors", "trainer_state.json"


class TaskTrainer(Trainer):
    """A run under way. Raises TrainingError for a model with nothing to train, on a device that the library would not use, or with
    learning rates that fit no weight."""

    control: Any  # the library's: what is to be done after a step

    def __init__(self, task: Task, options: TrainingOptions, folder: RunFolder, report: Callable[[str], None]):
        self.task, self.options, self.folder, self.report = task, options, folder, report
        self.trained = {name: p for name, p in task.model.named_parameters() if p.requires_grad}
        if not self.trained:
            raise TrainingError("the model has 0 weights that can be trained; leave some free.")
        self.groups = grouped(self.trained, options, getattr(task, "learning_rates", {}))
        self.parts: dict[str, float] = {}  # of the step under way
        self.tokens = 0
        self.recent: list[float] = []  # losses since the last evaluation; told, never logged: a resumed run has fewer
        device = next(iter(self.trained.values())).device
        super().__init__(TaskModule(task), arguments(options, folder, device), callbacks=[Flow(self)])
        self.remove_callback(PrinterCallback)

    def run(self, *, progress: bool) -> Trained:
        """From the newest checkpoint, or from the beginning, to the end."""
        checkpoint, step = self.folder.newest_checkpoint() or (None, 0)
        self.folder.cut_log(-1 if checkpoint is None else step)
        writer = self.write_events(0 if checkpoint is None else step + 1) if self.options.tensorboard else None
        self.bar = bar(total=self.options.steps, doing="training", unit="steps", first=step, shown=progress)
        try:
            self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        finally:
            self.bar.close()
            if writer is not None:
                writer.close()
        return self.end()

    def write_events(self, step: int) -> Any:
        """Logs go to TensorBoard too; what is there from an earlier run is shown up to this step, without it."""
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations import TensorBoardCallback

        writer = SummaryWriter(str(self.folder.tensorboard), purge_step=step)
        self.add_callback(TensorBoardCallback(writer))
        return writer

    def begin(self) -> None:
        """Before the first step of a run that is not resumed."""
        torch.manual_seed(self.options.seed)
        if self.options.evaluate_every:
            self.evaluate()
        self._save_checkpoint(self.model, None)

    def get_train_dataloader(self) -> Any:
        # the generator is the loader's own: else it would draw from the random state that the task's noise comes from
        return torch.utils.data.DataLoader(
            Order(len(self.task), self.options),
            batch_size=1,
            collate_fn=lambda one: one[0],
            generator=torch.Generator(),
        )

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        groups = [{"params": params, "weight_decay": decay} for (_, decay), params in self.groups.items()]
        self.optimizer = torch.optim.AdamW(groups, lr=1.0, betas=BETAS, eps=EPSILON)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        # its factors are the rates themselves, of groups whose rate is 1; the library's own schedules begin with a step at rate 0
        factors = [lambda step, largest=largest: self.options.rate(step, largest) for largest, _ in self.groups]
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factors)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        losses = model(**inputs)
        if not losses.total.isfinite():
            raise TrainingError(
                f"the loss of step {self.state.global_step + 1} is {losses.total.item()}; resume is of no use, train anew with a lower "
                f"learning rate than {self.options.learning_rate:g}."
            )
        for name, value in {"loss": losses.total.item(), **losses.parts}.items():
            self.parts[name] = self.parts.get(name, 0.0) + value / self.options.accumulation
        self.tokens += losses.tokens
        return losses.total

    def begin_step(self) -> None:
        self.parts, self.tokens, self.started = {}, 0, time.perf_counter()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """A line for each step; the library's summary of the run is left out."""
        if "grad_norm" not in logs:
            return
        step = self.state.global_step
        if not math.isfinite(logs["grad_norm"]):  # the weights are spoilt: no checkpoint of this step, no model
            raise TrainingError(
                f"the gradient of step {step} is {logs['grad_norm']}; resume is of no use, train anew with a lower learning rate than "
                f"{self.options.learning_rate:g}."
            )
        self.recent.append(self.parts["loss"])
        measured = {"gradient_norm": logs["grad_norm"], "tokens": self.tokens}
        found = {**self.parts, **measured, "seconds": time.perf_counter() - self.started}
        self.folder.log({"step": step, **found})
        shown = {
            name: f"{self.parts[name]:.4g}" for name in getattr(self.task, "shown", ("loss",)) if name in self.parts
        }
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update()
        self.tell_callbacks({**found, "learning_rate": logs["learning_rate"]})

    def tell_callbacks(self, logs: dict[str, float]) -> None:
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Logs the measures, and keeps the model if it is the best so far; of equals the first."""
        started = time.perf_counter()
        self.task.model.eval()
        with torch.no_grad(), self.accelerator.autocast():
            measures = self.task.evaluate()
        value, step = measures[self.task.measure], self.state.global_step
        self.folder.log({"step": step, "evaluation": measures, "evaluation_seconds": time.perf_counter() - started})
        told = {"loss": float(np.mean(self.recent)), **measures} if self.recent else measures
        self.report(f"step {step:,}: {', '.join(f'{name} {number:.4f}' for name, number in told.items())}")
        self.recent.clear()
        if self.state.best_metric is None or value > self.state.best_metric:
            self.state.best_metric, self.state.best_global_step = value, step
            self.folder.write_model(self.task.save)
        of_evaluation = {f"eval_{name}": number for name, number in measures.items()}
        self.tell_callbacks(of_evaluation)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, of_evaluation)
        return of_evaluation

    def end(self) -> Trained:
        """After the last step."""
        if self.state.best_metric is None:
            self.task.model.eval()
            self.folder.write_model(self.task.save)
        evaluations = (line["evaluation"] for line in self.folder.read_log() if "evaluation" in line)
        first = next((measures[self.task.measure] for measures in evaluations), None)
        return Trained(self.folder.model, self.state.best_global_step, first, self.state.best_metric)

    def kept(self) -> dict[str, torch.Tensor]:
        """All of the model that training changes."""
        return {**self.trained, **dict(self.task.model.named_buffers())}

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.folder.write_checkpoint(self.state.global_step, self.fill)

    def fill(self, folder: Path) -> None:
        """The library's files of a checkpoint, but of the model."""
        tensors = {name: p.detach().contiguous() for name, p in self.trained.items()}
        # copies, which are small: safetensors writes no tensors that share memory, as buffers may
        tensors |= {
            name: value.clone(memory_format=torch.contiguous_format) for name, value in self.task.model.named_buffers()
        }
        save_file(tensors, folder / WEIGHTS)
        self._save_optimizer_and_scheduler(str(folder))
        self._save_rng_state(str(folder))
        self.state.save_to_json(str(folder / STATE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Raises TrainingError where it is of another model."""
        found, kept = load_file(Path(resume_from_checkpoint) / WEIGHTS), self.kept()
        shapes, stored = ({name: tuple(value.shape) for name, value in one.items()} for one in (kept, found))
        if different := sorted(name for name in {*shapes, *stored} if shapes.get(name) != stored.get(name)):
            raise TrainingError(
                f"the checkpoint has {different[0]} of shape {stored.get(different[0])}, the model of shape {shapes.get(different[0])}; resume "
                "with the model that was trained."
            )
        with torch.no_grad():
            for name, value in kept.items():
                value.copy_(found[name])


class TaskModule(torch.nn.Module):
    """A call is the losses of one example, so that the library's mixed precision is on the way; and the task's own model, whatever its
    class, is none that the library would judge by its name or wrap."""

    def __init__(self, task: Task):
        super().__init__()
        self.model, self.task = task.model, task

    def forward(self, number: int, epoch: int) -> Losses:
        return self.task.losses(number, epoch)


class Order(torch.utils.data.Dataset):
    """{"number", "epoch"} of the examples of all steps, one after another; every epoch has its own order."""

    def __init__(self, size: int, options: TrainingOptions):
        self.size, self.count, self.seed = size, options.steps * options.accumulation, options.seed
        self.epoch = -1

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> dict[str, int]:
        epoch, at = divmod(place, self.size)
        if epoch != self.epoch:
            self.epoch, self.order = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.size)
        return {"number": int(self.order[at]), "epoch": epoch}


class Flow(TrainerCallback):
    """When what happens that the library does not do by itself."""

    def __init__(self, trainer: TaskTrainer):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self.trainer.folder.checkpoints():
            self.trainer.begin()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.begin_step()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        every = self.trainer.options.evaluate_every
        control.should_evaluate = every > 0 and (state.global_step % every == 0 or state.global_step == state.max_steps)


def grouped(
    trained: dict[str, torch.nn.Parameter], options: TrainingOptions, learning_rates: dict[str, float]
) -> dict[tuple[float, float], list[torch.nn.Parameter]]:
    """The parameters by (learning rate, weight decay); vectors, which are biases and scales, do not decay. Raises TrainingError."""
    for prefix, rate in learning_rates.items():
        if not (rate > 0 and math.isfinite(rate)):
            raise TrainingError(f"the learning rate of {prefix} is {rate!r}; it must be above 0.")
        if not any(name.startswith(prefix) for name in trained):
            raise TrainingError(
                f"a learning rate is given for {prefix}, with which no trained weight begins; the first is {next(iter(trained))}."
            )
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in trained.items():
        own = sorted((len(prefix), rate) for prefix, rate in learning_rates.items() if name.startswith(prefix))
        rate = own[-1][1] if own else options.learning_rate
        groups.setdefault((rate, options.weight_decay * (parameter.ndim > 1)), []).append(parameter)
    return groups


def arguments(options: TrainingOptions, folder: RunFolder, device: torch.device) -> TrainingArguments:
    """The library's words for our options, with all that it would say or write by itself off. Raises TrainingError."""
    made = TrainingArguments(
        output_dir=str(folder.run),
        max_steps=options.steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=options.accumulation,
        max_grad_norm=options.max_gradient_norm,
        seed=options.seed % 2**32,  # of numpy too, which takes no more; `TaskTrainer.begin` sets torch's
        bf16=options.precision == "bfloat16",
        use_cpu=device.type == "cpu",
        logging_steps=1,
        logging_nan_inf_filter=False,  # told by `compute_loss`
        save_steps=options.save_every,
        report_to="none",
        disable_tqdm=True,
    )
    if options.precision == "float32":
        made.mixed_precision = "no"  # whatever the environment says
    if made.device != device:
        raise TrainingError(
            f"the model is on {device}, and the trainer would use {made.device}; put it there, or hide other devices (CUDA_VISIBLE_DEVICES)."
        )
    made._n_gpu = min(made.n_gpu, 1)  # else several GPUs would each hold a copy
    return made
