"""Add the documents of a corpus to an index folder."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from winnow.index import add_corpus_arguments, field_names

if TYPE_CHECKING:
    from retrieval import Retriever


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="an index that `winnow index` wrote")
    add_corpus_arguments(parser)
    parser.add_argument("--upsert", action="store_true", help="let a document take the place of one with its id")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")


def run(arguments: argparse.Namespace) -> int:
    from retrieval import Retriever

    retriever = Retriever.from_folder(arguments.folder)
    before = len(retriever)
    change = retriever.upsert if arguments.upsert else retriever.add
    change(
        arguments.corpus,
        names=field_names(arguments),
        vectors=arguments.vectors,
        progress=not arguments.no_progress,
    )
    status = commit(retriever, arguments, progress=not arguments.no_progress)
    print(f"documents in {arguments.folder}: {len(retriever):,}, {len(retriever) - before:,} more than before")
    return status


def commit(retriever: Retriever, arguments: argparse.Namespace, *, progress: bool) -> int:
    """Commit; returns the exit status. What fails after the changes are committed is told without denying them."""
    from index.errors import WinnowError, as_sentence
    from index.storage import newest_commit

    last = newest_commit(arguments.folder)  # nobody else can commit while there are staged changes
    try:
        retriever.commit(progress=progress)
        return 0
    except (WinnowError, OSError, KeyboardInterrupt) as error:
        if newest_commit(arguments.folder) == last:
            raise
        what, status = "was interrupted; the next commit goes on.", 130
        if isinstance(error, Exception):
            what, status = f"failed: {as_sentence(error)}", 1
        print(f"winnow {arguments.command}: the changes are committed; the work after that {what}", file=sys.stderr)
        return status
