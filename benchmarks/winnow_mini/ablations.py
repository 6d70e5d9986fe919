"""What each part of winnow-mini's recipe does: the same few steps with one thing changed, one JSON line each.

    python benchmarks/winnow_mini/ablations.py --data PAIRS --steps 150 --out FOLDER --json OUT [--only NAME ...] [--set SECTION.NAME=VALUE ...]

PAIRS as benchmarks/winnow_mini/recipe.toml says, with negatives.jsonl in it. Measured on the held-out queries, never on a test collection. The same
command goes on where it was stopped. `--set` holds for all, such as teachers.2.name=dense:FOLDER for weights that lie elsewhere.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from protocol import record
from sparse_search import environment

from retrieval.encoders.written_options import parse_options
from retrieval.training.sparse.preparation import prepare
from retrieval.training.sparse.recipe import Recipe
from retrieval.training.trainer import train

RECIPE = Path(__file__).with_name("recipe.toml")
WITHOUT_TEACHERS = {"loss.distillation": 0.0, "loss.margin_mse": 0.0, "loss.contrastive": 1.0}
CHANGES: dict[str, dict[str, Any]] = {
    "the recipe": {},
    "without bm25": {"left out": "bm25"},
    "without minilm": {"left out": "minilm"},
    "without mpnet": {"left out": "mpnet"},
    "contrastive loss alone": {**WITHOUT_TEACHERS, "left out": ""},
    "MarginMSE for KL": {"loss.distillation": 0.0, "loss.margin_mse": 0.05},
    "KL alone": {"loss.contrastive": 0.0},
    "IDF-aware FLOPS twice": {"loss.regulariser": "idf-flops"},
    "queries weigh 1, not their IDF": {"model.query_weights": "ones"},
    "query weights not learned": {"model.learned": False},
    "one logarithm": {"model.encoder.activation": "log1p"},
    "no mined negatives": {"loss.negatives": 0, "loss.answers": 32},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="PAIRS")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--answers", type=int, default=8, help="of a batch; without negatives four times as many")
    parser.add_argument("--only", action="append", choices=list(CHANGES), help="may be repeated (default: all)")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.NAME=VALUE")
    parser.add_argument("--cache", type=Path, help="of the teachers (default: beside --out)")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the runs go")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()

    common = {
        "data.folder": str(arguments.data),
        "data.negatives": str(arguments.data / "negatives.jsonl"),
        "data.others": 0,
        "loss.answers": arguments.answers,
        "training.steps": arguments.steps,
        "training.warmup": max(1, arguments.steps // 10),
        "training.evaluate_every": arguments.steps,
        "training.save_every": arguments.steps,
        **flat(parse_options(arguments.set)),
    }
    for name in arguments.only or CHANGES:
        folder = arguments.out / name.replace(" ", "-").replace(",", "")
        result = measured(recipe_of(CHANGES[name], common), folder, arguments.cache or arguments.out / "teachers")
        record(arguments.json, {"name": name, **result, **environment()})
        print(f"{name}: {result}", flush=True)


def flat(options: dict[str, Any]) -> dict[str, Any]:
    """Those of a section by its name and theirs."""
    return {
        f"{section}.{name}": value
        for section, values in options.items()
        for name, value in (values.items() if isinstance(values, dict) else ())
    }


def recipe_of(changes: dict[str, Any], common: dict[str, Any]) -> Recipe:
    """The recipe with some things changed; a teacher that is left out is named by a part of its name, all of them by none."""
    changed = {**common, **changes}
    left_out = changed.pop("left out", None)
    if "loss.answers" in changes:
        changed["loss.answers"] = 4 * common["loss.answers"]
    if left_out is not None:
        kept = [one for one in Recipe.read(RECIPE, common).teachers if left_out not in one.name]
        changed = {name: value for name, value in changed.items() if not name.startswith("teachers.")}
        changed["teachers"] = [{"name": one.name, "options": one.options} for one in kept]
    return Recipe.read(RECIPE, changed)


def measured(recipe: Recipe, folder: Path, cache: Path) -> dict[str, float]:
    """Trains unless that is done, and gives what the held-out queries say before and after."""
    task = prepare(recipe, cache=cache)
    train(task, recipe.training, folder, resume=(folder / "run" / "run.json").is_file())
    lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    before, *_, after = [line["evaluation"] for line in lines if "evaluation" in line]
    return {"before": before[task.measure], **after, "seconds": sum(line.get("seconds", 0.0) for line in lines)}


if __name__ == "__main__":
    main()
