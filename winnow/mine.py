"""Mine hard negatives for training: documents that a retriever ranks high for a query and that do not answer it."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from retrieval.encoders.written_options import add_option_argument

if TYPE_CHECKING:
    from retrieval import Retriever


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="a BEIR folder, as `winnow pairs` writes it")
    parser.add_argument(
        "--retriever", default="bm25", metavar="MODEL",
        help="which finds them: a model, several as in bm25+minilm, or an index of the folder's corpus (default: bm25)",
    )  # fmt: skip
    add_option_argument(parser)
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="a new .jsonl; a run that was stopped goes on there"
    )
    parser.add_argument("--split", default="train", help="whose queries (default: train)")
    parser.add_argument("--depth", type=int, default=100, help="ranks that are looked at (default: 100)")
    parser.add_argument("--negatives", type=int, default=8, help="of a query, drawn from these (default: 8)")
    parser.add_argument("--skip", type=int, default=0, metavar="N", help="leave the first N out (default: 0)")
    parser.add_argument(
        "--margin", type=float,
        help="leave out what scores more than this share of the positive's score, such as 0.95 (default: nothing)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bars")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")


def run(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from retrieval.training.sparse.mining import MiningOptions, check_new, mine

    options = MiningOptions(arguments.depth, arguments.negatives, arguments.skip, arguments.margin, arguments.seed)
    check_new(Path(arguments.out))
    try:
        retriever, of_retriever = retriever_of(arguments)
        found = mine(
            arguments.folder,
            retriever,
            arguments.out,
            options,
            split=arguments.split,
            of_retriever=of_retriever,
            progress=not arguments.no_progress,
        )
    except KeyboardInterrupt:
        print("winnow mine: interrupted; the same command goes on where it was.", file=sys.stderr)
        return 130
    print(
        f"{arguments.out}: {found.negatives:,} negatives of {found.queries:,} queries, of which {found.without:,} have none"
    )
    return 0


def retriever_of(arguments: argparse.Namespace) -> tuple[Retriever, dict[str, Any]]:
    """The retriever with the folder's corpus, and what tells it from another one. Raises WinnowError."""
    from pathlib import Path

    from index.errors import WinnowError
    from index.manifest import MANIFEST, is_index, sha256_of_file
    from retrieval import Retriever
    from retrieval.beir_folder import one_of
    from retrieval.encoders.written_options import parse_options

    name, options = arguments.retriever, parse_options(arguments.option)
    if is_index(name):
        if options:
            raise WinnowError(f"{name} was saved with its own options; leave {arguments.option[0]!r:.60} out.")
        return Retriever.from_folder(name), {"index": sha256_of_file(Path(name) / MANIFEST)}
    retriever = Retriever.from_pretrained(name, **options)
    retriever.index(one_of(Path(arguments.folder), "corpus.jsonl"), progress=not arguments.no_progress)
    return retriever, {"name": name, "options": options}
