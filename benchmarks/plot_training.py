"""The learning curve of runs of `winnow train`: the loss of each step, measures of what is held out, and of sparse encoders terms a document.

    python benchmarks/plot_training.py OUT.svg RUN [RUN ...]     RUN: what --out was

Needs matplotlib (`pip install 'winnow-ir[eval]'`).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

SMOOTHED = 0.9  # share of the mean so far in an exponential moving average


def read_log(run: Path) -> list[dict[str, Any]]:
    path = run / "run" / "log.jsonl"
    if not path.is_file():
        sys.exit(f"{run} holds no training run (it has no run/log.jsonl).")
    return [json.loads(line) for line in path.read_text().splitlines()]


def losses(log: list[dict[str, Any]]) -> tuple[list[int], list[float]]:
    return [r["step"] for r in log if "loss" in r], [r["loss"] for r in log if "loss" in r]


def terms(log: list[dict[str, Any]]) -> tuple[list[int], list[float], list[float]]:
    """Of a sparse encoder the steps, terms a document and the weight of its regulariser; of others nothing."""
    of_documents = [r for r in log if "loss" in r and "terms" in r]
    return ([r["step"] for r in of_documents], [r["terms"] for r in of_documents], [r["weight"] for r in of_documents])


def evaluations(log: list[dict[str, Any]]) -> dict[str, tuple[list[int], list[float]]]:
    """Of each measure, steps and values."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    for r in log:
        for name, value in r.get("evaluation", {}).items():
            if name.endswith("terms"):  # no measure
                continue
            steps, values = found.setdefault(name, ([], []))
            steps.append(r["step"])
            values.append(value)
    return found


def smoothed(values: list[float]) -> list[float]:
    """Exponential moving average whose first values are not drawn towards 0."""
    found, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = SMOOTHED * total + (1 - SMOOTHED) * value, SMOOTHED * weight + (1 - SMOOTHED)
        found.append(total / weight)
    return found


def plot(runs: list[Path], file: Path) -> None:
    """The loss; the measures before, during and after training; terms a document where there are any."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        sys.exit("Plots need the package matplotlib; run `pip install 'winnow-ir[eval]'`.")
    are_sparse = any(terms(read_log(run))[0] for run in runs)
    figure = Figure(figsize=(15 if are_sparse else 11, 4.4), layout="constrained")
    left, right, *rest = panels = figure.subplots(1, 3 if are_sparse else 2)
    for number, run in enumerate(runs):
        log, color = read_log(run), f"C{number}"
        steps, values = losses(log)
        left.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
        left.plot(steps, smoothed(values), color=color, label=run.name)
        for style, (name, (at, measured)) in zip("-:", sorted(evaluations(log).items(), reverse=True), strict=False):
            right.plot(at, measured, style, color=color, marker="o", markersize=4, label=f"{run.name}, {name}")
        for panel in rest:
            at, found, weights = terms(log)
            panel.plot(at, found, color=color, alpha=0.25, linewidth=0.8)
            panel.plot(at, smoothed(found), color=color, label=f"{run.name}, terms")
            panel.plot(at, [1000 * weight for weight in weights], ":", color=color, label=f"{run.name}, 1000 x weight")
    for panel in rest:
        panel.set(title="terms a document, and the weight that steers them", xlabel="step")
    left.set(title="training loss; thick: moving average", xlabel="step", ylabel="loss")
    right.set(title="queries that are held out", xlabel="step", ylim=(0, 1))
    for panel in panels:
        panel.grid(alpha=0.3)
        panel.legend(fontsize=9, frameon=False)
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help=".svg or .png")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    arguments = parser.parse_args()
    plot(arguments.runs, arguments.out)


if __name__ == "__main__":
    main()
