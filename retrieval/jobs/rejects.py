"""Records that a job cannot take: they end it, or go to a file of their own with the reason."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from index.errors import CorpusError
from index.files import close, created, flush_file, open_file, write_all
from retrieval.corpus import Reading

LONGEST_RECORD = 1 << 16  # characters of a record that are kept


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


def as_told(record: Any) -> Any:
    """The record, or the beginning of its text where it is no JSON or very long."""
    text = record if isinstance(record, str) else None
    with suppress(TypeError, ValueError, RecursionError):
        text = text if text is not None else json.dumps(record, allow_nan=False)
        if len(text) <= LONGEST_RECORD:
            return record
    return (text or repr(record))[:LONGEST_RECORD]
