"""What a training run is told, whatever it trains."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from index.errors import WinnowError

Schedule = Literal["cosine", "linear", "constant"]
Precision = Literal["float32", "bfloat16"]
POSITIVE = ("steps", "accumulation", "save_every", "learning_rate", "max_gradient_norm")
LARGEST_SEED = 1 << 63  # torch takes no more
NOT_NEGATIVE = ("warmup", "evaluate_every", "weight_decay", "seed")


@dataclass(frozen=True)
class TrainingOptions:
    """Checked when made; raises WinnowError.

    steps              updates of the weights
    learning_rate      the largest of the run
    warmup             steps in which it grows to that, linearly from 0
    schedule           how it falls to 0 afterwards
    accumulation       examples whose gradients are averaged for a step
    max_gradient_norm  a longer gradient is scaled down to it
    precision          of matrix products; weights and their updates stay in float32
    evaluate_every     steps; 0: never
    tensorboard        whether event files are written too; a run may be resumed with it or without
    """

    steps: int = 1000
    learning_rate: float = 1e-5
    warmup: int = 50
    schedule: Schedule = "cosine"
    weight_decay: float = 0.0
    accumulation: int = 4
    max_gradient_norm: float = 1.0
    seed: int = 0
    precision: Precision = "float32"
    evaluate_every: int = 100
    save_every: int = 100
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value: Any = getattr(self, field.name)
            name = field.name.replace("_", " ")
            if field.name in POSITIVE and not (value > 0 and math.isfinite(value)):
                raise WinnowError(f"the {name} of a training run is {value!r}; it must be above 0.")
            if field.name in NOT_NEGATIVE and not (value >= 0 and math.isfinite(value)):
                raise WinnowError(f"the {name} of a training run is {value!r}; it must be 0 or more.")
        if self.seed >= LARGEST_SEED:
            raise WinnowError(f"the seed of a training run is {self.seed!r:.40}; it must be below 2 ** 63.")
        for name, value, known in (
            ("schedule", self.schedule, get_args(Schedule)),
            ("precision", self.precision, get_args(Precision)),
        ):
            if value not in known:
                raise WinnowError(f"the {name} of a training run is {value!r:.40}; it must be {', '.join(known)}.")

    def rate(self, step: int, largest: float | None = None) -> float:
        """The learning rate of a step, counted from 0.

        largest  of the run, where it is another than `learning_rate`
        """
        largest = self.learning_rate if largest is None else largest
        if step < self.warmup:
            return largest * (step + 1) / self.warmup
        done = (step - self.warmup) / max(self.steps - self.warmup, 1)
        if self.schedule == "constant":
            return largest
        return largest * (1 - done if self.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2)
