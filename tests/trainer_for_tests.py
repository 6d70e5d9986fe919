"""Small tasks of the trainer."""

import json

import torch

from retrieval.training.options import TrainingOptions
from retrieval.training.trainer import Losses

OPTIONS = TrainingOptions(steps=25, learning_rate=0.1, warmup=3, accumulation=2, evaluate_every=4, save_every=6)


class Line:
    """Fits y = a * x + b with noise that depends on torch's random state, as dropout does."""

    measure = "closeness"

    def __init__(self, fail_at=None):
        torch.manual_seed(5)
        self.model = torch.nn.Linear(1, 1)
        self.fail_at, self.calls, self.saved = fail_at, 0, []

    def __len__(self):
        return 7

    def losses(self, number, epoch):
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        x = torch.tensor([number / 7 + epoch])
        loss = (self.model(x) - (3 * x + 1) + torch.randn(1) / 10).square().sum()
        return Losses(loss, {"x": x.item()}, tokens=1)

    def evaluate(self):
        return {"closeness": -abs(self.model.weight.item() - 3), "bias": self.model.bias.item()}

    def save(self, folder):
        (folder / "weight.txt").write_text(repr(self.model.weight.item()))

    def describe(self):
        return {"data": "line"}


class Counted(Line):
    """Its loss depends on buffers that it changes; `kept` and `alias` share memory, `scale` is saved with no model."""

    def __init__(self, fail_at=None):
        super().__init__(fail_at)
        self.model.register_buffer("kept", torch.zeros(2))
        self.model.register_buffer("alias", self.model.kept.view(2))
        self.model.register_buffer("scale", torch.ones(()), persistent=False)
        self.model.frozen = torch.nn.Parameter(torch.ones(3), requires_grad=False)

    def losses(self, number, epoch):
        found = super().losses(number, epoch)
        self.model.kept += torch.tensor([1.0, number])
        self.model.scale *= 1.01
        total = found.total * self.model.scale + self.model.kept[0] * self.model.bias.sum() / 100
        return found._replace(total=total, parts={"seen": self.model.kept[0].item()})


def untimed(folder):
    """The log without what differs from run to run."""
    lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if "seconds" not in name} for line in lines]
