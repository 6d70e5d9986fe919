"""Encode a corpus once, into a folder of vectors that any number of indexes can be made from."""

from __future__ import annotations

import argparse
import sys

from retrieval.encoders.shipped import DEFAULT_MODEL
from retrieval.encoders.written_options import add_option_argument, parse_options
from winnow.index import add_reading_arguments, field_names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("corpus", help="a .jsonl or .tsv file (or .gz), a BEIR folder, or a folder of text files")
    add_reading_arguments(parser)
    parser.add_argument(
        "--out", required=True, metavar="FOLDER", help="where the vectors go; a run that was stopped goes on there"
    )
    parser.add_argument("--model", default=DEFAULT_MODEL, help=f"the model that encodes (default: {DEFAULT_MODEL})")
    add_option_argument(parser)
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")


def run(arguments: argparse.Namespace) -> int:
    from retrieval import encode_corpus

    try:
        documents, there_before = encode_corpus(
            arguments.corpus,
            arguments.out,
            arguments.model,
            options=parse_options(arguments.option),
            names=field_names(arguments),
            progress=not arguments.no_progress,
        )
    except KeyboardInterrupt:
        print("winnow encode: interrupted; the same command goes on after the last whole part.", file=sys.stderr)
        return 130
    now = f"{documents - there_before:,} of them now" if there_before else "all of them now"
    print(f"encoded {documents:,} documents with {arguments.model}, {now}")
    print(f"index them: winnow index {arguments.corpus} --vectors {arguments.out} --out FOLDER")
    return 0
