"""Make a training set of queries and documents from collections, as a recipe lists them."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a TOML file of sources (docs/training.md)")
    parser.add_argument("--data", required=True, metavar="FOLDER", help="which the paths of the recipe are below")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="a new BEIR folder, with sources.json")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bars")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")


def run(arguments: argparse.Namespace) -> int:
    from retrieval.training.sparse.pair_recipe import PairRecipe
    from retrieval.training.sparse.pairs import PairSet, check_empty

    recipe = PairRecipe.read(arguments.recipe)
    check_empty(arguments.out)
    pairs = PairSet.build(recipe, arguments.data, progress=not arguments.no_progress)
    described = pairs.write(arguments.out, arguments.data)
    for name, counts in pairs.counts.items():
        left_out = {
            "with nothing to ask": counts.nothing_to_ask,
            "too short": counts.short,
            "with the text of another": counts.same_text,
            "replaced by a later one with the same id": counts.replaced,
        }
        told = ", ".join(f"{number:,} {why}" for why, number in left_out.items() if number)
        print(
            f"{name}: {counts.documents:,} documents, {counts.queries:,} queries, {counts.held_out:,} documents held out"
        )
        print(f"    of {counts.records:,} records" + (f"; left out: {told}" if told else ""))
    queries = described["queries"]
    print(
        f"{arguments.out}: {described['documents']:,} documents, {queries['train']:,} queries, {queries['dev']:,} held out"
    )
    return 0
