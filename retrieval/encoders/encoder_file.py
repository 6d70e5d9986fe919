"""How a plain checkpoint encodes, in a file beside its weights: options that no other layout has a place for, such as echo.

    winnow_encoder.json    {"format_version": 1, "document": {option: value}, "query": {option: value}}

The options are those of docs/models.md. What is not named there is as of any plain checkpoint; what a user says counts above both. `query`
is of the model in the folder `query`, else of the same model; beside a table of token weights it is of the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from index.errors import ModelError, WinnowError
from index.files import write_file
from index.manifest import as_json
from retrieval.encoders.model_files import read_json
from retrieval.encoders.options import NeuralOptions
from retrieval.encoders.term_weights import TABLE_OPTIONS
from retrieval.encoders.wishes import NEURAL

ENCODER_FILE = "winnow_encoder.json"  # not winnow.json, which makes a folder an index
FORMAT_VERSION = 1


class SaidOptions(NamedTuple):
    """Of each side."""

    document: dict[str, Any]
    query: dict[str, Any]


def read_encoder_file(folder: Path, *, has_table: bool) -> SaidOptions | None:
    """What the file of a checkpoint says; None where there is none.

    has_table  whether queries are weighed by a table beside it

    Raises ModelError for what is no such file, a newer one, and options that are not known or of no good value.
    """
    path = folder / ENCODER_FILE
    if not path.is_file():
        return None
    found = read_json(path)
    version = found.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise ModelError(
            f"{path} has the format_version {version!r:.40}, this release reads {FORMAT_VERSION}; update winnow-ir, or get the "
            "checkpoint again."
        )
    if unknown := sorted(set(found) - {"format_version", "document", "query"}):
        raise ModelError(f"{path} has {unknown[0]!r:.60}; it may have document and query, so get the checkpoint again.")
    return SaidOptions(
        checked(path, "document", found.get("document"), NEURAL),
        checked(path, "query", found.get("query"), TABLE_OPTIONS if has_table else NEURAL),
    )


def checked(path: Path, side: str, options: Any, known: tuple[str, ...]) -> dict[str, Any]:
    """Raises ModelError."""
    if not isinstance(options, dict):
        raise ModelError(
            f"{path} has {options!r:.60} for {side}; it must be options by name, so get the checkpoint again."
        )
    if unknown := sorted(set(options) - set(known)):
        raise ModelError(
            f"{path} has the {side} option {unknown[0]!r:.60}; known are {', '.join(known)}, so update winnow-ir or get the checkpoint "
            "again."
        )
    try:
        NeuralOptions(**options)
    except WinnowError as error:
        raise ModelError(f"{path}, {side}: {error}") from error
    return options


def write_encoder_file(folder: Path, document: NeuralOptions, query: NeuralOptions | Mapping[str, Any]) -> None:
    """query  of a table: those of `TABLE_OPTIONS` that it has"""
    of_query = asdict(query) if isinstance(query, NeuralOptions) else dict(query)
    told = {"format_version": FORMAT_VERSION, "document": asdict(document), "query": of_query}
    write_file(folder / ENCODER_FILE, as_json(told))
