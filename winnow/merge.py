"""Merge the segments of an index folder into one and reclaim the room of deleted documents."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="an index that `winnow index` wrote")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")


def run(arguments: argparse.Namespace) -> int:
    from retrieval import Retriever

    retriever = Retriever.from_folder(arguments.folder)
    before = retriever.statistics()
    after = retriever.merge().statistics()
    if before.segments <= 1 and before.deleted == 0:
        print(
            f"nothing to merge: {arguments.folder} has {number_of(before.segments, 'segment')} and no deleted documents"
        )
        return 0
    print(
        f"merged {number_of(before.segments, 'segment')} into {after.segments}, "
        f"{number_of(before.deleted, 'deleted document')} gone; "
        f"{before.bytes / 1e6:.1f} MB before, {after.bytes / 1e6:.1f} MB now"
    )
    return 0


def number_of(count: int, noun: str) -> str:
    """As it is said: 1 segment, 2 segments."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
