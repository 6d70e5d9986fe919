"""Answer a query from an index folder."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retrieval import Explanation, Hit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="an index that `winnow index` wrote")
    parser.add_argument("query", help="a question in words")
    parser.add_argument("-k", type=int, default=10, help="how many documents (default: 10)")
    parser.add_argument("--explain", action="store_true", help="show what each term adds to the score")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")


def run(arguments: argparse.Namespace) -> int:
    import json

    from retrieval import Retriever
    from winnow.display import explanation_lines, hit_lines

    retriever = Retriever.from_folder(arguments.folder)
    hits = retriever.search(arguments.query, k=arguments.k)
    explanations = [retriever.explain(arguments.query, hit.doc_id) if arguments.explain else None for hit in hits]
    if arguments.json:
        answer = {"query": arguments.query, "hits": list(map(as_json, hits, explanations))}
        print(json.dumps(answer, indent=2, ensure_ascii=False))
        return 0
    for hit, explanation in zip(hits, explanations, strict=True):
        print("\n".join([*hit_lines(hit), *(explanation_lines(explanation) if explanation else []), ""]))
    if not hits:
        print("no document shares a term with the query")
    return 0


def as_json(hit: Hit, explanation: Explanation | None) -> dict[str, Any]:
    if explanation is None:
        return asdict(hit)
    return {**asdict(hit), "terms": [match._asdict() for match in explanation.terms]}
