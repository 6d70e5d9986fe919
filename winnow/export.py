"""Write encoded vectors as other engines read them."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("vectors", help="a folder that winnow encode wrote, or a file of vectors (.jsonl, .ciff, .npz)")
    parser.add_argument(
        "--to", required=True, choices=("anserini",),
        help="anserini: a JsonVectorCollection, whose weights are whole numbers",
    )  # fmt: skip
    parser.add_argument("--out", required=True, metavar="FOLDER", help="a new folder for the documents")
    parser.add_argument(
        "--queries", metavar="FILE", help="a queries.jsonl, encoded by the model that encoded the documents"
    )
    parser.add_argument("--topics", metavar="FILE", help="where these queries go (.tsv or .tsv.gz)")
    parser.add_argument(
        "--scale", type=float, default=100, help="what weights are multiplied by before they are rounded (default: 100)"
    )
    parser.add_argument("--no-progress", action="store_true", help="show no progress bars")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")


def run(arguments: argparse.Namespace) -> int:
    from index.errors import WinnowError
    from retrieval.anserini_files import write_topics, write_vectors

    if (arguments.queries is None) != (arguments.topics is None):
        raise WinnowError("--queries says which queries to encode and --topics where they go; give both or neither.")
    topics = None if arguments.queries is None else encoded(arguments.vectors, arguments.queries)
    written = write_vectors(arguments.vectors, arguments.out, scale=arguments.scale, progress=not arguments.no_progress)
    print(f"{arguments.out}: {written.rows:,} documents, {written.impacts:,} impacts; {told(written.left_out)}")
    if topics is not None:
        written = write_topics(topics, arguments.topics, scale=arguments.scale)
        print(f"{arguments.topics}: {written.rows:,} queries, {written.impacts:,} impacts; {told(written.left_out)}")
        if written.empty:
            print(f"queries without a term, which no topic can be, left out: {written.empty:,}")
    return 0


def encoded(folder: str, queries: str) -> list[tuple[str, dict[str, float]]]:
    """The queries of a file by the model of a folder. Raises WinnowError where the vectors are not of `winnow encode`."""
    from pathlib import Path

    from index.errors import WinnowError
    from retrieval.anserini_files import encoded_queries
    from retrieval.beir_folder import read_queries
    from retrieval.encoders.learned import LearnedSparseEncoder
    from retrieval.encoding import read_encoder_of
    from retrieval.vector_files import is_encoded

    if not is_encoded(Path(folder)):
        raise WinnowError(
            f"{folder} does not say which model made its vectors; leave --queries out, or give a folder of winnow encode."
        )
    if not Path(queries).is_file():
        raise WinnowError(f"{queries} is no file; give queries.jsonl, with an _id and a text in each line.")
    encoder = read_encoder_of(folder)
    assert isinstance(encoder, LearnedSparseEncoder)  # no other has a fixed vocabulary
    return list(encoded_queries(encoder, read_queries(Path(queries))))


def told(left_out: int) -> str:
    return f"{left_out:,} weights rounded to 0 and left out"
