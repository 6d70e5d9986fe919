"""Encode a corpus and write an index folder."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from retrieval.encoders.shipped import DEFAULT_MODEL
from retrieval.encoders.written_options import add_option_argument, parse_options

if TYPE_CHECKING:
    from retrieval.corpus import FieldNames
    from retrieval.opened import IndexStatistics


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_corpus_arguments(parser)
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where the index goes; one there is replaced")
    parser.add_argument(
        "--model",
        help="winnow-mini, bm25, minilm, vectors (the documents' own), a name of docs/models.md, or a checkpoint's folder; several with + "
        "between them, and what is kept with the index, as in bm25+minilm,fusion=rrf,rerank=KIND:MODEL,depth=50 (docs/evaluation.md; "
        f"default: {DEFAULT_MODEL}; with vectors given, what made them)",
    )
    add_option_argument(parser)
    parser.add_argument(
        "--impacts", choices=("u8", "u16", "f32"), help="how weights are stored (default: u8; bm25 stores term counts)"
    )
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")


def add_corpus_arguments(parser: argparse.ArgumentParser) -> None:
    """What every command that reads a corpus takes."""
    parser.add_argument("corpus", help="a .jsonl or .tsv file (or .gz), a BEIR folder, or a folder of text files")
    parser.add_argument(
        "--vectors",
        metavar="SOURCE",
        help="take the documents' vectors from here: a folder of `winnow encode`, or a .jsonl, .ciff, .npz, .pt or .safetensors file",
    )
    add_reading_arguments(parser)


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """How the records of a corpus are read."""
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
    from retrieval.written_system import WrittenSystem

    check_target(arguments.out)  # before the long work, not after it
    options = parse_options(arguments.option)
    if arguments.model:  # a model, whatever index lies in a folder called like it
        model: str | WrittenSystem = WrittenSystem.of(arguments.model, may_be_saved=False)
    else:
        model = model_of(arguments.corpus, arguments.vectors)
    retriever = Retriever.from_pretrained(model, impacts=arguments.impacts, **options)
    retriever.add(
        arguments.corpus,
        names=field_names(arguments),
        vectors=arguments.vectors,
        progress=not arguments.no_progress,
    )
    retriever.save_pretrained(arguments.out, progress=not arguments.no_progress)
    size = retriever.statistics()
    print(f"indexed {size.documents:,} documents with {retriever.model}: {sizes(size)}")
    if size.documents_without_terms:
        advice = "; name the field with --text-field" if size.documents_without_terms == size.documents else ""
        print(f"{size.documents_without_terms:,} of them have no text to match: they are kept and never found{advice}")
    print(f'search it: winnow search {arguments.out} "your question"')
    return 0


def sizes(size: IndexStatistics) -> str:
    """Of all arms, in words."""
    counts = ((size.postings, "postings"), (size.vectors, "dense vectors"))
    return ", ".join([*(f"{count:,} {what}" for count, what in counts if count), f"{size.bytes / 1e6:.1f} MB"])


def model_of(corpus: str, vectors: str | None) -> str:
    """The name of the model that the vectors call for, or the folder that says what made them."""
    from pathlib import Path

    from retrieval.vector_files import is_encoded, is_vector_file

    if vectors is not None and is_encoded(Path(vectors)):
        return vectors
    return "vectors" if vectors is not None or is_vector_file(corpus) else DEFAULT_MODEL
