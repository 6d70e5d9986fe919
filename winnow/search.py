"""Answer a query from an index folder."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from types import UnionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retrieval import Explanation, Hit
    from retrieval.rerankers.protocol import Reranker


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from retrieval.encoders.written_options import add_option_argument

    parser.add_argument("folder", help="an index that `winnow index` wrote")
    parser.add_argument("query", nargs="?", help="a question in words")
    parser.add_argument(
        "--vector",
        metavar="JSON",
        help='instead: a vector as a list, or weights by term, as in \'{"tea": 1.2, "green": 0.5}\'',
    )
    parser.add_argument("-k", type=int, default=10, help="how many documents (default: 10)")
    parser.add_argument(
        "--filter", metavar="JSON", help='only documents whose stored fields are so, as in \'{"year": {"$gte": 2000}}\''
    )
    parser.add_argument(
        "--rerank", metavar="KIND:MODEL",
        help="order the best documents anew, as in cross-encoder:MODEL, blockrank:MODEL or icr:MODEL; none: not at all, whatever the index "
        "was saved with (default: as it was saved)",
    )  # fmt: skip
    parser.add_argument("--depth", type=int, help="how many documents are reranked (default: as saved, or 100)")
    add_option_argument(parser, "of the reranker, such as dtype=bfloat16; may be repeated")
    parser.add_argument(
        "--explain", action="store_true",
        help="show what each arm and each term adds to the score, before any reranking",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")


def run(arguments: argparse.Namespace) -> int:
    import json

    from retrieval import Retriever
    from retrieval.rerankers.stage import DEFAULT_DEPTH
    from winnow.display import explanation_lines, hit_lines

    query = query_of(arguments)
    wanted = None if arguments.filter is None else read_json("--filter", arguments.filter, dict, '{"year": 1999}')
    retriever = Retriever.from_folder(arguments.folder)
    if arguments.rerank is not None or arguments.option:
        retriever.reranker, retriever.rerank_depth = reranker_of(arguments), DEFAULT_DEPTH
    hits = retriever.search(query, k=arguments.k, filter=wanted, depth=arguments.depth)
    first_k = arguments.k if retriever.reranker is None else arguments.depth or retriever.rerank_depth
    explanations = [
        retriever.explain(query, hit.doc_id, first_k, filter=wanted) if arguments.explain else None for hit in hits
    ]
    if arguments.json:
        answer = {"query": query, "hits": list(map(as_json, hits, explanations))}
        print(json.dumps(answer, indent=2, ensure_ascii=False))
        return 0
    for hit, explanation in zip(hits, explanations, strict=True):
        print("\n".join([*hit_lines(hit), *(explanation_lines(explanation) if explanation else []), ""]))
    if not hits:
        print("no document matches the query")
    return 0


def reranker_of(arguments: argparse.Namespace) -> Reranker | None:
    """What --rerank names; none: nothing. Raises WinnowError for it and for options without it."""
    from index.errors import WinnowError
    from retrieval.encoders.written_options import parse_options
    from retrieval.rerankers.loading import load_reranker
    from retrieval.written_system import WITHOUT_RERANKER

    options = parse_options(arguments.option)
    if arguments.rerank in (None, WITHOUT_RERANKER):
        if options:
            raise WinnowError(
                f"{arguments.option[0]!r:.60} is an option of a reranker; give --rerank too, or leave it out."
            )
        return None
    return load_reranker(arguments.rerank, **options)


def query_of(arguments: argparse.Namespace) -> str | dict[str, float] | list[float]:
    """The words, the weights, or the vector. Raises WinnowError unless one of the two is given, and for what is no JSON object."""
    from index.errors import WinnowError

    if (arguments.query is None) == (arguments.vector is None):
        raise WinnowError("nothing says what to look for; give a question in words, or --vector JSON, one of the two.")
    if arguments.query is not None:
        return str(arguments.query)
    vector: dict[str, float] | list[float]
    vector = read_json("--vector", arguments.vector, dict | list, '{"term": 1.2}, or [0.1, 0.2] for a dense model')
    return vector


def read_json(name: str, written: str, kind: type | UnionType, example: str) -> Any:
    """What was written as JSON; WinnowError where it is not of the kind."""
    import json

    from index.errors import WinnowError
    from index.manifest import finite, not_json

    try:
        found = json.loads(written, parse_constant=not_json, parse_float=finite)
        if not isinstance(found, kind):
            raise ValueError(f"it is {type(found).__name__}")
        return found
    except (ValueError, RecursionError) as error:
        raise WinnowError(f"{name} {written!r:.60} cannot be used ({error!s:.80}); give {example}.") from error


def as_json(hit: Hit, explanation: Explanation | None) -> dict[str, Any]:
    """Without what only reranked hits have, where they have it not."""
    shown = {name: value for name, value in asdict(hit).items() if value is not None}
    if explanation is None:
        return shown
    arms = [{**arm._asdict(), "terms": [match._asdict() for match in arm.terms]} for arm in explanation.arms]
    return {**shown, "terms": [match._asdict() for match in explanation.terms], "arms": arms}
