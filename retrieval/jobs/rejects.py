"""Records that a job cannot take: they end it, or go to a file of their own with the reason."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from index.errors import CorpusError, WinnowError
from index.files import close, created, flush_file, open_file, write_all
from retrieval.corpus import Reading

LONGEST_RECORD = 1 << 16  # characters of a record that are kept
KEYS = {"where", "reason", "record"}


class Rejects(Reading):
    """Counts what is read and refused; a context manager.

    file  where refused records go, a JSON object a line: `where`, `reason` and, as far as it was read, `record`. A run reads the sources from the
          start, so it begins the file anew. None: the first such record raises its CorpusError
    """

    def __init__(self, file: str | Path | None):
        self.count, self.position = 0, 0
        self.file = None if file is None else Path(file)
        self._descriptor: int | None = None

    def __enter__(self) -> Rejects:
        if self.file is not None:
            check_may_be_replaced(self.file)
            with created(self.file):
                pass
            self._descriptor = open_file(self.file, os.O_WRONLY | os.O_APPEND)
        return self

    def __exit__(self, *ended: object) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None and self.file is not None:
            close(descriptor, self.file)
            flush_file(self.file)

    def at(self, position: int) -> None:
        self.position = position

    def refuse(self, where: str, error: CorpusError, record: Any = None) -> None:
        if self.file is None or self._descriptor is None:
            raise error
        self.count += 1
        told = {"where": where, "reason": str(error), "record": as_told(record)}
        write_all(self._descriptor, json.dumps(told).encode() + b"\n", self.file)


def check_place(file: str | Path | None, folder: str | Path, sources: Iterable[str]) -> None:
    """Raise WinnowError for a file of rejects that lies in the index or is a source: writing it would destroy them."""
    if file is None:
        return
    place = os.path.realpath(file)
    if Path(place).is_relative_to(os.path.realpath(folder)):
        raise WinnowError(f"the rejects would go to {file}, which lies in the index {folder}; give a file outside it.")
    if place in map(os.path.realpath, sources):
        raise WinnowError(f"the rejects would go to {file}, which is a source; give another file.")


def check_may_be_replaced(file: Path) -> None:
    """Raise WinnowError for a file that is there and holds anything but what an earlier run refused."""
    try:
        with file.open("rb") as lines:
            first = lines.readline(4 * LONGEST_RECORD)
            is_ours = not first or json.loads(first).keys() == KEYS
    except FileNotFoundError:
        return
    except (OSError, ValueError, AttributeError):
        is_ours = False
    if not is_ours:
        raise WinnowError(
            f"{file} holds something other than records that a job refused; give a file that is not there."
        )


def as_told(record: Any) -> Any:
    """The record, or the beginning of its text where it is no JSON or very long."""
    text = record if isinstance(record, str) else None
    with suppress(TypeError, ValueError, RecursionError):
        text = text if text is not None else json.dumps(record, allow_nan=False)
        if len(text) <= LONGEST_RECORD:
            return record
    return (text or repr(record))[:LONGEST_RECORD]
