"""The documents of shards in files, a JSON list a line: how they get to a worker on another machine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from index.documents import PAGE, Document
from index.files import close, open_file, write_all


class WrittenShard(NamedTuple):
    """So many documents in a file."""

    number: int
    path: Path
    documents: int


def written_shards(
    documents: Iterator[Document], first_number: int, shard_documents: int, folder: Path
) -> Iterator[WrittenShard]:
    """The documents, cut into shards, the last one shorter; each written into `folder` when it is asked for."""
    number = first_number
    for first in documents:
        path = folder / f"shard-{number:06d}.jsonl"
        yield WrittenShard(number, path, write_documents(path, chain([first], islice(documents, shard_documents - 1))))
        number += 1


def write_documents(path: Path, documents: Iterable[Document]) -> int:
    """Into a new file; returns how many. They must be such as an index can store. Raises StorageError."""
    descriptor, left, count = open_file(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), iter(documents), 0
    try:
        while page := list(islice(left, PAGE)):
            write_all(descriptor, b"".join(line_of(document) for document in page), path)
            count += len(page)
    finally:
        close(descriptor, path)
    return count


def line_of(document: Document) -> bytes:
    vector = None if document.vector is None else dict(document.vector)
    return json.dumps([document.doc_id, document.title, document.text, document.fields, vector]).encode() + b"\n"


def read_documents(path: Path) -> Iterator[Document]:
    """What `write_documents` wrote, equal to the last digit."""
    with open(path, "rb") as file:
        for line in file:
            yield Document(*json.loads(line))
