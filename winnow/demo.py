"""Search the documentation of this machine's Python standard library by meaning."""

from __future__ import annotations

import argparse

from retrieval.encoders.shipped import DEFAULT_MODEL

QUESTIONS = (
    "read a csv file row by row",
    "delete a directory and everything in it",
    "generate a random password",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("questions", nargs="*", default=QUESTIONS, metavar="QUESTION", help="ask this instead")
    parser.add_argument("-k", type=int, default=3, help="how many documents a question (default: 3)")
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, help=f"bm25, {DEFAULT_MODEL}, or another model (default: {DEFAULT_MODEL})"
    )
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")


def run(arguments: argparse.Namespace) -> int:
    from index.vectors import checked_count
    from retrieval import Retriever
    from retrieval.python_docs import python_documentation
    from winnow.display import hit_lines, matching_terms

    k = checked_count("k", arguments.k)
    retriever = Retriever.from_pretrained(arguments.model).index(python_documentation())
    size = retriever.statistics()
    print(f"\nindexed {size.documents:,} documents: {size.postings:,} postings, {size.bytes / 1e6:.1f} MB")
    print("after each answer: the terms that matched; + marks a term that is not in the document's own text\n")
    for question in arguments.questions:
        print(f"? {question}\n")
        for hit in retriever.search(question, k=k):
            print("\n".join([*hit_lines(hit), f"     {matching_terms(retriever.explain(question, hit.doc_id))}", ""]))
    return 0
