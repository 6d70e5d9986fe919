"""Save what is sound of a damaged index folder, and say what is lost."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", help="a damaged index; what cannot be saved is removed from it, so copy it if in doubt"
    )
    parser.add_argument("--model", metavar="NAME", help="the model it was built with, where that is damaged too")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")


def run(arguments: argparse.Namespace) -> int:
    from retrieval import Retriever
    from retrieval.repair import repair

    report = repair(arguments.folder, model=arguments.model)
    for part, documents, lost, _, what in report:
        how_many = "nobody can tell how many" if lost is None else f"{lost:,}"
        print(f"{part}: {what}; documents saved: {documents:,}, lost: {how_many}")
    print(
        f"{arguments.folder} is sound and has {len(Retriever.from_folder(arguments.folder, verify='full')):,} documents"
    )
    return 1 if any(one.lost != 0 or one.returned != 0 for one in report) else 0
