"""Delete documents from an index folder, by id or by stored fields."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from winnow.add import commit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="an index that `winnow index` wrote")
    parser.add_argument("ids", nargs="*", metavar="ID", help="a document to delete")
    parser.add_argument(
        "--where",
        action="append",
        metavar="FIELD=VALUE",
        help="delete the documents with this stored field (JSON, or else text); several must all hold",
    )
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")


def run(arguments: argparse.Namespace) -> int:
    from index.errors import WinnowError
    from retrieval import Retriever

    if bool(arguments.ids) == bool(arguments.where):
        raise WinnowError("nothing says what to delete; give ids, or --where FIELD=VALUE, one of the two.")
    where = conditions(arguments.where or ())
    retriever = Retriever.from_folder(arguments.folder)
    deleted = retriever.delete(where=where) if where else retriever.delete(arguments.ids)
    status = commit(retriever, arguments, progress=True) if deleted else 0
    print(f"documents deleted: {len(deleted):,}; left in {arguments.folder}: {len(retriever):,}")
    unknown = [doc_id for doc_id in arguments.ids if doc_id not in set(deleted)]
    if unknown:
        print(f"not in the index: {', '.join(map(repr, unknown))}")
    return status or (1 if unknown else 0)


def conditions(texts: Iterable[str]) -> dict[str, Any]:
    """The values that fields must have. Raises WinnowError where no document could have them all."""
    import json

    from index.errors import WinnowError

    where: dict[str, Any] = {}
    for text in texts:
        name, value = condition(text)
        if json.dumps(where.setdefault(name, value)) != json.dumps(value):  # 1 == True in Python
            raise WinnowError(
                f"--where wants {name!r} to be {json.dumps(where[name])} and {json.dumps(value)}, which no document can "
                "satisfy; delete in two commands what has one or the other."
            )
    return where


def condition(text: str) -> tuple[str, Any]:
    """Name and value of FIELD=VALUE; a value that is no JSON is text."""
    import json

    from index.errors import WinnowError
    from index.manifest import not_json

    name, sign, value = text.partition("=")
    if not sign:
        raise WinnowError(f"--where is {text!r}; it must be FIELD=VALUE.")
    try:
        return name, json.loads(value, parse_constant=not_json)
    except (ValueError, RecursionError):
        return name, value
