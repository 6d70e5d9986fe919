"""A sparse encoder: it learns as a recipe says, inference-free, siamese or of two models, from pairs and teachers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from index.errors import WinnowError

if TYPE_CHECKING:
    from retrieval.training.sparse.recipe import Recipe
    from retrieval.training.sparse.task import SparseTask


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a TOML file; docs/training.md says what it may hold")
    parser.add_argument(
        "--out", required=True, metavar="FOLDER", help="where the run goes; the model is in its folder `model`"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="in place of what the recipe says, such as training.steps=100, data.folder=pairs or teachers.0.weight=2, lists as JSON writes "
        "them; may be repeated",
    )
    parser.add_argument(
        "--cache",
        metavar="FOLDER",
        help="where teachers keep what they have computed, for this run and others (default: `teachers` beside --out)",
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out after its last checkpoint")
    parser.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bars")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")


def run(arguments: argparse.Namespace) -> int:
    from retrieval.encoders.written_options import as_value
    from retrieval.training.run_folder import check_folder
    from retrieval.training.sparse.preparation import prepare
    from retrieval.training.sparse.recipe import Recipe
    from retrieval.training.trainer import check_surroundings, train

    changes = {}
    for one in arguments.set:
        name, is_there, value = one.partition("=")
        if not is_there or not name:
            raise WinnowError(f"--set {one!r:.60} is not NAME=VALUE; write it as training.steps=100.")
        changes[name] = as_value(value)
    recipe = Recipe.read(arguments.recipe, changes)
    check_folder(arguments.out, resume=arguments.resume)
    check_surroundings(recipe.training)
    try:
        task = prepare(
            recipe,
            cache=arguments.cache or Path(arguments.out).absolute().parent / "teachers",
            device=arguments.device,
            progress=not arguments.no_progress,
        )
        tell(recipe, task)
        trained = train(
            task,
            recipe.training,
            arguments.out,
            resume=arguments.resume,
            progress=not arguments.no_progress,
            report=lambda line: print(line, flush=True),
        )
    except KeyboardInterrupt:
        print("winnow train: interrupted; the same command with --resume goes on.", file=sys.stderr)
        return 130
    if trained.best_step is not None:
        print(
            f"best at step {trained.best_step:,}: {task.measure} {trained.best:.4f}, before training {trained.first:.4f}"
        )
    print(f"the model is {trained.model}: winnow index CORPUS --model {trained.model} --out INDEX")
    return 0


def tell(recipe: Recipe, task: SparseTask) -> None:
    """What is about to be trained."""
    weights = sum(p.numel() for p in task.model.parameters() if p.requires_grad)
    queries = {"table": "queries without a model", "siamese": "one model", "model": "two models"}[recipe.model.queries]
    asked = "conversations" if recipe.data.conversations else "queries"
    print(
        f"{recipe.model.start}: {queries}, {weights:,} weights trained",
        f"{len(task.examples):,} {asked}, {len(task.answers):,} documents that answer them; batches of {recipe.loss.answers} of these with "
        f"{recipe.loss.negatives} negatives each; {recipe.training.steps:,} steps",
        sep="\n",
        flush=True,
    )
