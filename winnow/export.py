"""Write an index, or encoded vectors, as other engines read them, and queries as they are asked there."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retrieval.exports.collection import Collection
    from retrieval.exports.exporting import Exported
    from retrieval.exports.protocol import Format

FORMATS = (
    "anserini", "ciff", "elasticsearch", "milvus", "opensearch", "opensearch-sparse-vector", "pgvector", "qdrant", "vespa",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        help="an index, a folder that winnow encode wrote, or a file of vectors (.jsonl, .ciff, .npz, .pt, .safetensors)",
    )
    parser.add_argument("--to", required=True, choices=FORMATS, help="what reads it (docs/exports.md)")
    parser.add_argument("--out", metavar="FOLDER", help="a new folder for the documents")
    parser.add_argument("--arm", metavar="NAME", help="which sparse arm of an index of several")
    parser.add_argument(
        "--with-query", metavar="TEXT", help="print what to send the engine for this query, by the model of the documents"
    )  # fmt: skip
    parser.add_argument("-k", type=int, default=10, help="how many documents that query asks for (default: 10)")
    parser.add_argument(
        "--overlap", metavar="FILE",
        help="a queries.jsonl: say how many of our ten best documents are the ten best by the weights that the engine keeps",
    )  # fmt: skip
    parser.add_argument(
        "--scale", type=float,
        help="what weights are multiplied by before they are rounded, for anserini and ciff (default: 100)",
    )  # fmt: skip
    parser.add_argument(
        "--queries", metavar="FILE", help="for anserini: a queries.jsonl, encoded by the model of the documents"
    )
    parser.add_argument("--topics", metavar="FILE", help="where these queries go (.tsv or .tsv.gz)")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bars")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")


def run(arguments: argparse.Namespace) -> int:
    from retrieval.exports.collection import Collection
    from retrieval.exports.exporting import export, format_of, overlap

    check_arguments(arguments)
    format = format_of(arguments.to, arguments.scale)
    collection = Collection.open(arguments.source, arguments.arm)
    topics = None if arguments.queries is None else encoded(arguments.source, collection, arguments.queries)
    asked = None if arguments.overlap is None else list(texts_of(arguments.overlap).values())
    request = None
    if arguments.with_query is not None:  # before the long work, as it may be refused
        request = request_of(collection, format, arguments.with_query, arguments.k)
    if arguments.out is not None:
        exported = export(collection, format, arguments.out, progress=not arguments.no_progress)
        print("\n".join(lines_of(arguments.out, exported)))
    if topics is not None:
        print("\n".join(write_topics(topics, arguments.topics, arguments.scale)))
    if asked is not None:
        share = overlap(collection, format, asked)
        print(f"of our ten best documents for {len(asked):,} queries, {share:.1%} are the ten best by these weights")
    if request is not None:
        print(request)
    return 0


def check_arguments(arguments: argparse.Namespace) -> None:
    """Raise WinnowError for arguments that do not go together."""
    from index.errors import WinnowError
    from index.vectors import checked_count

    checked_count("k", arguments.k)
    if (arguments.queries is None) != (arguments.topics is None):
        raise WinnowError("--queries says which queries to encode and --topics where they go; give both or neither.")
    if arguments.topics is not None and arguments.to != "anserini":
        raise WinnowError(f"topics are Anserini's, and {arguments.to} reads none; use --with-query.")
    if arguments.out is None and arguments.with_query is None and arguments.overlap is None:
        raise WinnowError("nothing says what to write; give --out, or --with-query or --overlap without it.")


def request_of(collection: Collection, format: Format, text: str, k: int) -> str:
    """Raises WinnowError for a query without a term that any document could have, and for weights that the engine refuses."""
    from index.errors import WinnowError

    query = collection.query(text)
    if len(query.numbers) == 0:
        raise WinnowError(f"the query {text!r:.60} has no term of {collection.name}; ask something else.")
    return format.query_request(query, collection.terms, k)


def lines_of(out: str, exported: Exported) -> list[str]:
    """What was written and what the engine loses, in words."""
    loss = exported.loss
    lines = [f"{out}: {exported.documents:,} documents, {loss.weights:,} impacts; {told(loss.left_out)}"]
    if loss.largest_error:
        lines.append(f"largest error of a weight that is kept: {loss.largest_error:.3g} of it")
    elif not loss.left_out:
        lines.append("the engine keeps every weight as it is")
    if loss.empty:
        lines.append(f"documents without a weight, which no query finds: {loss.empty:,}")
    return lines


def write_topics(topics: list[tuple[str, dict[str, float]]], path: str, scale: float | None) -> list[str]:
    from retrieval.anserini_files import SCALE, write_topics

    written = write_topics(topics, path, scale=SCALE if scale is None else scale)
    lines = [f"{path}: {written.rows:,} queries, {written.impacts:,} impacts; {told(written.left_out)}"]
    if written.empty:
        lines.append(f"queries without a term, which no topic can be, left out: {written.empty:,}")
    return lines


def encoded(source: str, collection: Collection, queries: str) -> list[tuple[str, dict[str, float]]]:
    """The queries of a file by the model of the documents. Raises WinnowError where nothing says which that is."""
    from pathlib import Path

    from index.errors import WinnowError
    from index.manifest import is_index

    if not is_index(Path(source)):  # a folder of winnow encode has a manifest too
        raise WinnowError(
            f"{source} does not say which model made its vectors; leave --queries out, or give an index or a folder of winnow encode."
        )
    return [(query, dict(collection.weigh(text))) for query, text in texts_of(queries).items()]


def texts_of(queries: str) -> dict[str, str]:
    """Query id -> text of a file."""
    from pathlib import Path

    from index.errors import WinnowError
    from retrieval.beir_folder import read_queries

    if not Path(queries).is_file():
        raise WinnowError(f"{queries} is no file; give queries.jsonl, with an _id and a text in each line.")
    return read_queries(Path(queries))


def told(left_out: int) -> str:
    return f"{left_out:,} weights rounded to 0 and left out"
