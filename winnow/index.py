"""Encode a corpus and write an index folder."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retrieval.corpus import FieldNames


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_corpus_arguments(parser)
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where the index goes; one there is replaced")
    parser.add_argument("--model", default="mini", help="bm25 or mini (default: mini)")
    parser.add_argument(
        "--impacts", choices=("u8", "u16", "f32"), help="how weights are stored (default: u8; bm25 stores term counts)"
    )
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")


def add_corpus_arguments(parser: argparse.ArgumentParser) -> None:
    """What every command that reads a corpus takes."""
    parser.add_argument("corpus", help="a .jsonl or .tsv file (or .gz), a BEIR folder, or a folder of text files")
    parser.add_argument("--id-field", metavar="NAME", help="the field with the document's id (default: _id or id)")
    parser.add_argument("--title-field", metavar="NAME", help="the field with its title (default: title)")
    parser.add_argument("--text-field", metavar="NAME", help="the field with its text (default: text or contents)")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bars")


def field_names(arguments: argparse.Namespace) -> FieldNames:
    """The names of fields that `add_corpus_arguments` asks for."""
    from retrieval.corpus import FieldNames

    return FieldNames.of(arguments.id_field, arguments.title_field, arguments.text_field)


def run(arguments: argparse.Namespace) -> int:
    from index.storage import check_target
    from retrieval import Retriever
    from retrieval.encoders.loading import check_name

    check_name(arguments.model)
    check_target(arguments.out)  # before the long work, not after it
    retriever = Retriever.from_pretrained(arguments.model, impacts=arguments.impacts)
    retriever.add(arguments.corpus, names=field_names(arguments), progress=not arguments.no_progress)
    retriever.save_pretrained(arguments.out, progress=not arguments.no_progress)
    size = retriever.statistics()
    print(
        f"indexed {size.documents:,} documents with {arguments.model}: {size.postings:,} postings, {size.bytes / 1e6:.1f} MB"
    )
    if size.documents_without_terms:
        advice = "; name the field with --text-field" if size.documents_without_terms == size.documents else ""
        print(f"{size.documents_without_terms:,} of them have no text to match: they are kept and never found{advice}")
    print(f'search it: winnow search {arguments.out} "your question"')
    return 0
