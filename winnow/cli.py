"""Finds the subcommand and runs it. Nothing heavy is imported before a subcommand starts to work."""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import PackageNotFoundError, version


def main(argv: list[str] | None = None) -> int:
    try:
        from index.errors import run_command
        from winnow import (
            add,
            delete,
            demo,
            encode,
            evaluate,
            export,
            index,
            info,
            merge,
            mine,
            pairs,
            repair,
            search,
            train,
            tune,
            verify,
        )
    except ImportError as error:  # our own sentence about another package named `kernels`
        sys.exit(f"winnow: {error}")
    parser = argparse.ArgumentParser(
        prog="winnow", description="Learned sparse and hybrid retrieval: index, search, measure."
    )
    parser.add_argument("--version", action="version", version=f"winnow {installed_version()}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    commands = {
        "index": index,
        "encode": encode,
        "export": export,
        "search": search,
        "add": add,
        "delete": delete,
        "merge": merge,
        "info": info,
        "verify": verify,
        "repair": repair,
        "pairs": pairs,
        "mine": mine,
        "train": train,
        "tune": tune,
        "eval": evaluate,
        "demo": demo,
    }
    for name, module in commands.items():
        summary = (module.__doc__ or "").splitlines()[0]
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    arguments = parser.parse_args(argv)
    return run_command(lambda: arguments.run(arguments), program=f"winnow {arguments.command}", debug=arguments.debug)


def installed_version() -> str:
    try:
        return version("winnow-ir")
    except PackageNotFoundError:
        return "(run from a folder, not installed)"
