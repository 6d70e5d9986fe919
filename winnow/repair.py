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
    from index.errors import IndexFormatError
    from index.verification import find_damage
    from retrieval.inspection import describe
    from retrieval.repair import repair

    report = repair(arguments.folder, model=arguments.model)
    for part, documents, lost, _, what, _ in report:
        how_many = "nobody can tell how many" if lost is None else f"{lost:,}"
        print(f"{part}: {what}; documents saved: {documents:,}, lost: {how_many}")
    for _, _, message in find_damage(arguments.folder):
        raise IndexFormatError(message)
    print(f"{arguments.folder} is sound and has {describe(arguments.folder)['documents']:,} documents")
    return 1 if any(one.lost != 0 or one.returned != 0 or one.without_vectors for one in report) else 0
