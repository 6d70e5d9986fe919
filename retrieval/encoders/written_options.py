"""Options of a model as a command line has them: NAME=VALUE."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable
from typing import Any

from index.errors import WinnowError

TEXTS = (
    "prefix",
    "suffix",
    "revision",
    "query_model",
    "base_model",
)  # whose value is a text even where it looks like a number


NAME = re.compile(r"\w+")  # of an option

OF_A_MODEL = (
    "of the model, such as activation=log1p or query_max_length=64 (docs/models.md), of one of several as in "
    "minilm.factory=HNSW32; may be repeated"
)


def add_option_argument(parser: argparse.ArgumentParser, what: str = OF_A_MODEL) -> None:
    parser.add_argument(
        "--option",
        "-o",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=what,
    )


def parse_options(written: Iterable[str]) -> dict[str, Any]:
    """The options by name, those of one of several models under its own; true, false, null, numbers and lists as JSON writes them, anything
    else is a text.

    >>> parse_options(["max_length=128", "echo=true", "query_prefix=query: ", "minilm.factory=HNSW32"])
    {'max_length': 128, 'echo': True, 'query_prefix': 'query: ', 'minilm': {'factory': 'HNSW32'}}
    """
    options: dict[str, Any] = {}
    for one in written:
        name, is_there, value = one.partition("=")
        if not is_there or not name:
            raise WinnowError(f"the option {one!r:.60} is not NAME=VALUE; write it as activation=log1p.")
        model, _, option = name.rpartition(".")  # no option has a dot in its name, many models have
        own = options.setdefault(model, {}) if model else options
        own[option] = value if option.endswith(TEXTS) else as_value(value)
    return options


def as_value(written: str) -> Any:
    try:
        found = json.loads(written)
    except (ValueError, RecursionError):
        return written
    return found if isinstance(found, bool | int | float | list | None) else written


def is_plain(value: Any) -> bool:
    """Whether an option is a text, a finite number, true, false, null or a list of these, which a text and JSON can say."""
    if not isinstance(value, bool | int | float | str | list | None):
        return False
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
