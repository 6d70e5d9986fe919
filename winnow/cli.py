"""Finds the subcommand and runs it. Nothing heavy is imported before a subcommand starts to work."""

from __future__ import annotations

import argparse
from importlib.metadata import version

from index.errors import run_command
from winnow import demo, evaluate, index, search

SUBCOMMANDS = {"index": index, "search": search, "eval": evaluate, "demo": demo}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="winnow", description="Learned sparse retrieval: index, search, measure.")
    parser.add_argument("--version", action="version", version=f"winnow {version('winnow-ir')}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, module in SUBCOMMANDS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    arguments = parser.parse_args(argv)
    return run_command(lambda: arguments.run(arguments), program=f"winnow {arguments.command}", debug=arguments.debug)
