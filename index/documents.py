"""Stored documents in one SQLite file: found by number or id without reading the rest.

SQLite rather than a format of our own (docs/decisions/0003): it is in Python's standard library, reads single pages,
and its unique index on the ids refuses duplicates while documents stream in.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar
from urllib.parse import quote

from index.errors import CorpusError, IndexFormatError, WinnowError

FILE = "documents.sqlite"
SCHEMA = """
CREATE TABLE documents (
    doc INTEGER PRIMARY KEY, doc_id TEXT NOT NULL UNIQUE, title TEXT NOT NULL, text TEXT NOT NULL, fields TEXT NOT NULL
)
"""
Found = TypeVar("Found")
MOST_VARIABLES = 500  # of one SQL statement


@dataclass(frozen=True, slots=True)
class Document:
    """What a user stores and gets back; `fields` is anything JSON can hold."""

    doc_id: str
    title: str = ""
    text: str = ""
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def searched_text(self) -> str:
        """Title and text together, as every encoder sees them."""
        return f"{self.title} {self.text}".strip()


class DocumentStore:
    """Documents by number (0, 1, ... in the order added) and by id. Safe to read from several threads.

    >>> store = DocumentStore.extended(None, [Document("a", "Tea"), Document("b", "Milk", fields={"year": 1999})])
    >>> len(store), store.find("b"), store.get([1])[0].fields
    (2, 1, {'year': 1999})
    """

    def __init__(self, connection: sqlite3.Connection, name: str):
        self._connection = connection
        self._lock = Lock()
        self._name = name
        self._length = self._rows(NEXT_DOC)[0][0]

    @classmethod
    def extended(cls, known: DocumentStore | None, added: Iterable[Document]) -> DocumentStore:
        """A new store, held in a temporary file: the documents of `known`, then `added`.

        Raises CorpusError for an id that occurs twice or text that is not valid Unicode; `known` stays as it was.
        """
        connection = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        try:
            if known is None:
                connection.execute(SCHEMA)
            else:
                with known._lock:
                    known._connection.backup(connection)
            connection.execute("BEGIN")
            (first_doc,) = connection.execute(NEXT_DOC).fetchone()
            for doc, document in enumerate(added, start=first_doc):
                insert(connection, doc, document)
            connection.execute("COMMIT")
        except BaseException as error:
            connection.close()
            if isinstance(error, sqlite3.Error):
                raise WinnowError(f"the documents cannot be held in a temporary file ({error}); free space.") from error
            raise
        return cls(connection, "the stored documents")

    def __len__(self) -> int:
        return int(self._length)

    def __iter__(self) -> Iterator[Document]:
        """All documents by number, a page of them in memory at a time."""
        return self.starting_at(0)

    def starting_at(self, doc: int) -> Iterator[Document]:
        """The documents from number `doc` on."""
        while page := self._rows(f"{SELECT} WHERE doc >= ? ORDER BY doc LIMIT {MOST_VARIABLES}", [doc]):
            yield from map(as_document, page)
            doc = page[-1][0] + 1

    def get(self, docs: Sequence[int]) -> list[Document]:
        """The documents with these numbers, in this order."""
        found = {row[0]: row for row in self._rows_among(SELECT, docs)}
        return [as_document(row) for row in self._in_order(found, docs)]

    def ids(self, docs: Sequence[int]) -> list[str]:
        """Only the ids of these documents, in this order."""
        found = dict(self._rows_among("SELECT doc, doc_id FROM documents", docs))
        return self._in_order(found, docs)

    def find(self, doc_id: str) -> int | None:
        """The number of the document with this id, or None."""
        rows = self._rows("SELECT doc FROM documents WHERE doc_id = ?", [doc_id])
        return rows[0][0] if rows else None

    def write(self, path: Path) -> dict[str, Any]:
        """Copy into the file `documents.sqlite` under `path`; returns the description that `read` needs."""
        try:
            with self._lock, closing(sqlite3.connect(path / FILE)) as target:
                self._connection.backup(target)
        except sqlite3.Error as error:
            raise WinnowError(
                f"{path / FILE} cannot be written ({error}); free space or choose another folder."
            ) from error
        return {"documents": len(self)}

    @classmethod
    def read(cls, path: Path, description: dict[str, Any]) -> DocumentStore:
        """Open without reading the documents; IndexFormatError if the file does not hold what was written."""
        file = path / FILE
        uri = f"file:{quote(os.fsencode(file.absolute()))}?mode=ro&immutable=1"
        try:
            connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
        except sqlite3.Error as error:
            raise IndexFormatError(f"{file} cannot be opened ({error}); check its permissions.") from error
        store = cls(connection, str(file))
        if len(store) != description["documents"]:
            raise IndexFormatError(
                f"{file} holds {len(store)} documents, its index says {description['documents']}; build it again."
            )
        return store

    def _in_order(self, found: dict[int, Found], docs: Sequence[int]) -> list[Found]:
        try:
            return [found[doc] for doc in docs]
        except KeyError as error:
            raise IndexFormatError(f"{self._name} lacks document {error}; build the index again.") from error

    def _rows_among(self, select: str, docs: Sequence[int]) -> Iterator[tuple[Any, ...]]:
        for start in range(0, len(docs), MOST_VARIABLES):
            some = docs[start : start + MOST_VARIABLES]
            yield from self._rows(f"{select} WHERE doc IN ({','.join('?' * len(some))})", some)

    def _rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                return self._connection.execute(statement, values).fetchall()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise IndexFormatError(f"{self._name} cannot be read ({error}); build the index again.") from error


NEXT_DOC = "SELECT coalesce(max(doc) + 1, 0) FROM documents"
SELECT = "SELECT doc, doc_id, title, text, fields FROM documents"


def as_document(row: tuple[Any, ...]) -> Document:
    """The document of a row of SELECT; IndexFormatError if its fields are damaged."""
    doc, doc_id, title, text, fields = row
    try:
        return Document(doc_id, title, text, json.loads(fields))
    except (ValueError, TypeError) as error:
        raise IndexFormatError(f"the fields of document {doc} are damaged ({error}); build the index again.") from error


def insert(connection: sqlite3.Connection, doc: int, document: Document) -> None:
    """Store one document under its number; CorpusError for an id used before and for what cannot be stored."""
    if not isinstance(document.fields, dict):
        raise CorpusError(
            f"document {document.doc_id!r} has fields {document.fields!r:.60}; they must be a dictionary."
        )
    try:
        fields = json.dumps(document.fields, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        connection.execute(
            "INSERT INTO documents VALUES (?, ?, ?, ?, ?)",
            (doc, document.doc_id, document.title, document.text, fields),
        )
    except sqlite3.IntegrityError as error:
        (first,) = connection.execute("SELECT doc FROM documents WHERE doc_id = ?", [document.doc_id]).fetchone()
        raise CorpusError(
            f"document {doc + 1} has the id {document.doc_id!r} of document {first + 1}; give each document its own id."
        ) from error
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"document {document.doc_id!r} holds text that is not valid Unicode ({error.reason}); repair its source."
        ) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise CorpusError(
            f"document {document.doc_id!r} has a field that JSON cannot hold ({error}); keep fields to JSON's types."
        ) from error
