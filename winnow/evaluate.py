"""Measure systems on a BEIR data set (the same as `python -m eval.beir`); `score` and `compare` measure TREC runs."""

from __future__ import annotations

import argparse

from eval import beir, compare, score

OF_RUNS = {"score": score, "compare": compare}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    beir.add_arguments(parser)
    parser.set_defaults(evaluate=beir.run)
    subparsers = parser.add_subparsers(metavar="score | compare", title="of run files", required=False)
    for name, module in OF_RUNS.items():
        summary = (module.__doc__ or "").partition(":")[0] + "."
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        module.add_arguments(subparser)
        subparser.set_defaults(evaluate=module.run)


def run(arguments: argparse.Namespace) -> int:
    evaluated: int = arguments.evaluate(arguments)
    return evaluated
