"""Stored documents in one SQLite file a segment: found by number or id without reading the rest.

SQLite rather than a format of our own (docs/decisions/0003): it is in Python's standard library, reads single pages,
and its unique index on the ids refuses duplicates while documents stream in.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import weakref
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar
from urllib.parse import quote

import numpy as np

from index.columns import Column, Columns, LongColumn
from index.errors import CorpusError, IndexFormatError, StorageError

FILE = "documents.sqlite"
SCHEMA = """
CREATE TABLE documents (
    doc INTEGER PRIMARY KEY, doc_id TEXT NOT NULL, title TEXT NOT NULL, text TEXT NOT NULL, fields TEXT NOT NULL,
    checksum INTEGER NOT NULL
)
"""
IDS = "CREATE UNIQUE INDEX ids ON documents (doc_id)"
INSERT = "INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?)"
CONTENT = "doc_id, title, text, fields, checksum"
SELECT = f"SELECT doc, {CONTENT} FROM documents"
# staged documents also have the vectors that came with them, NULL for none; no segment stores them a second time
STAGED_SCHEMA = SCHEMA.replace("checksum INTEGER NOT NULL", "checksum INTEGER NOT NULL, vector TEXT")
STAGED_INSERT = "INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?)"
STAGED_SELECT = f"SELECT doc, {CONTENT}, vector FROM documents"
Found = TypeVar("Found")
MOST_NESTED = 100  # lists and dictionaries in fields: what is stored must be readable however deep in a program
PAGE = 500  # documents in memory at a time, and most variables of one SQL statement


@dataclass(frozen=True, slots=True)
class Document:
    """What a user stores and gets back; `fields` is anything JSON can hold.

    `vector` holds weights by term that come with the document. It goes into the index and not among what is stored, so a
    document read back has none; documents are equal when what is stored of them is, and are shown without it.
    """

    doc_id: str
    title: str = ""
    text: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    vector: Mapping[str, float] | None = field(default=None, compare=False, repr=False)

    @property
    def searched_text(self) -> str:
        """Title and text together, as every encoder sees them."""
        return f"{self.title} {self.text}".strip()


class DocumentStore:
    """Documents by number (0, 1, ... in the order added) and by id. Safe to read from several threads.

    >>> store = DocumentStore.of([Document("a", "Tea"), Document("b", "Milk", fields={"year": 1999})])
    >>> len(store), store.find(["b", "z"]), store.get([1])[0].fields
    (2, {'b': 1}, {'year': 1999})
    """

    def __init__(
        self, connection: sqlite3.Connection, name: str, file: Path | None = None, num_docs: int | None = None
    ):
        self._connection = connection
        weakref.finalize(self, connection.close)  # one that is only forgotten keeps some memory
        self._lock = Lock()
        self._name = name
        self._file, self._identity = file, None if file is None else identity(file)
        self._length = self._count() if num_docs is None else num_docs
        self._columns = Columns()

    @classmethod
    def of(cls, documents: Iterable[Document]) -> DocumentStore:
        """A store in a temporary file. Raises CorpusError for an id that occurs twice and for what cannot be stored."""
        staged = StagedDocuments()
        staged.add(documents)
        return staged.sealed(None)

    @classmethod
    def merged(cls, stores: Sequence[tuple[DocumentStore, np.ndarray | None]], path: Path | None) -> DocumentStore:
        """The documents of all stores, one store after another, numbered anew; of each only those `live` (bool, None: all).

        path  the folder to write the store to; None: a temporary file
        """

        def fill(target: sqlite3.Connection) -> None:
            first_doc = 0
            for store, live in stores:
                first_doc += store._copy_to(target, first_doc, live)

        return cls._made(fill, path)

    @classmethod
    def _made(cls, fill: Callable[[sqlite3.Connection], None], path: Path | None) -> DocumentStore:
        """A store whose rows `fill` inserts, sealed: nothing changes it afterwards."""
        file = None if path is None else path / FILE
        try:
            connection = open_unsynced("" if file is None else str(file.absolute()))
            try:
                connection.execute(SCHEMA)
                connection.execute("BEGIN")
                fill(connection)
                connection.execute(IDS)
                connection.execute("COMMIT")
            except BaseException:
                connection.close()
                raise
            if file is None or path is None:
                return cls(connection, "the stored documents")
            connection.close()
            return cls.read(path)
        except sqlite3.Error as error:
            raise StorageError(
                f"{file or 'a temporary file'} cannot hold the documents ({error}); make room or choose another folder."
            ) from error

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Document]:
        """All documents by number, a page of them in memory at a time."""
        return map(as_document, self._pages())

    def get(self, docs: Sequence[int]) -> list[Document]:
        """The documents with these numbers, in this order."""
        found = {row[0]: row for row in self._rows_among(SELECT, "doc", docs)}
        return [as_document(row) for row in self._in_order(found, docs)]

    def each(self, docs: Sequence[int]) -> Iterator[Document]:
        """The same, a page of them in memory at a time."""
        for start in range(0, len(docs), PAGE):
            yield from self.get(docs[start : start + PAGE])

    def ids(self, docs: Sequence[int]) -> list[str]:
        """Only the ids of these documents, in this order."""
        found = dict(self._rows_among("SELECT doc, doc_id FROM documents", "doc", docs))
        return self._in_order(found, docs)

    def find(self, doc_ids: Sequence[str]) -> dict[str, int]:
        """The numbers of the documents with these ids; those not there are left out."""
        return dict(self._rows_among("SELECT doc_id, doc FROM documents", "doc_id", doc_ids))

    def columns(self, paths: Collection[str]) -> dict[str, Column | LongColumn]:
        """What all documents have of these fields (`index.columns`): read in one pass the first time, then kept."""
        return self._columns.of(self, paths)

    def write(self, path: Path) -> None:
        """Copy into the file `documents.sqlite` under `path`."""
        DocumentStore.merged([(self, None)], path)

    @classmethod
    def read(cls, path: Path, damaged: int | None = None) -> DocumentStore:
        """Open without reading the documents; IndexFormatError if it cannot be.

        damaged  how many documents there were in a file that may have lost its end; then only `sound` is of use
        """
        file = path / FILE
        try:
            connection = sqlite3.connect(immutable(file), uri=True, check_same_thread=False)
            if damaged is not None:
                connection.execute("PRAGMA writable_schema = ON")  # a file shorter than it says is read all the same
        except sqlite3.Error as error:
            raise IndexFormatError(f"{file} cannot be opened ({error}); check its permissions.") from error
        return cls(connection, str(file), file, damaged)

    def damage(self) -> str | None:
        """What is wrong with the file, read whole; None if it is sound."""
        try:
            (verdict,) = self._rows("PRAGMA integrity_check(1)")[0]
            if verdict != "ok":
                return f"SQLite finds it damaged ({verdict})"
            for position, document_row in enumerate(self._pages()):
                if document_row[0] != position:
                    return f"document {position} is missing"
                as_document(document_row)
        except IndexFormatError as error:
            return str(error)
        return None

    def sound(self, docs: Iterable[int]) -> Iterator[tuple[int, Document]]:
        """Those of the documents of a damaged file that can be read and match their checksums, with their numbers."""
        wanted = iter(docs)
        while page := list(islice(wanted, PAGE)):
            try:
                found = list(zip(page, self.get(page), strict=True))
            except IndexFormatError:
                found = []
                for doc in page:
                    with suppress(IndexFormatError):
                        found.append((doc, self.get([doc])[0]))
            yield from found

    def _count(self) -> int:
        """How many there are, by the last one's number: without the index on the ids, and without reading all."""
        count = int(self._rows("SELECT coalesce(max(doc), -1) + 1 FROM documents")[0][0])
        if self._file is not None and count > self._file.stat().st_size:
            raise IndexFormatError(
                f"{self._name} has a document {count - 1}, for which it is too small; build it again."
            )
        return count

    def _pages(self) -> Iterator[tuple[Any, ...]]:
        """All rows by number."""
        doc = -1
        while page := self._rows(f"{SELECT} WHERE doc > ? ORDER BY doc LIMIT {PAGE}", [doc]):
            yield from page
            doc = page[-1][0]

    def _copy_to(self, target: sqlite3.Connection, first_doc: int, live: np.ndarray | None) -> int:
        """Insert the live documents, numbered from `first_doc`; returns how many."""
        docs = numbers_of(live, len(self))
        if (
            self._file is None or identity(self._file) != self._identity
        ):  # what is open stays, whatever the name stands for
            numbers = dict(zip(docs, range(first_doc, first_doc + len(docs)), strict=True))
            rows = ((numbers[row[0]], *row[1:]) for row in self._pages() if row[0] in numbers)
            target.executemany(INSERT, rows)
            return len(docs)
        target.execute("COMMIT")  # no other database can be attached within a transaction
        target.execute("ATTACH ? AS source", [immutable(self._file)])
        try:
            target.execute("BEGIN")
            if live is None:
                target.execute(
                    f"INSERT INTO documents SELECT doc + ?, {CONTENT} FROM source.documents ORDER BY doc",
                    [first_doc],
                )
            else:
                target.execute("CREATE TEMP TABLE numbers (old INTEGER PRIMARY KEY, new INTEGER)")
                target.executemany(
                    "INSERT INTO numbers VALUES (?, ?)", zip(docs, range(first_doc, 2**63), strict=False)
                )
                target.execute(
                    f"INSERT INTO documents SELECT new, {CONTENT} FROM source.documents "
                    "JOIN numbers ON doc = old ORDER BY doc"
                )
                target.execute("DROP TABLE numbers")
            target.execute("COMMIT")
        finally:
            if target.in_transaction:
                target.execute("ROLLBACK")
            target.execute("DETACH source")
        target.execute("BEGIN")
        return len(docs)

    def _in_order(self, found: dict[int, Found], docs: Sequence[int]) -> list[Found]:
        try:
            return [found[doc] for doc in docs]
        except KeyError as error:
            raise IndexFormatError(f"{self._name} lacks document {error}; `winnow verify` says more.") from error

    def _rows_among(self, select: str, column: str, values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        for start in range(0, len(values), PAGE):
            some = values[start : start + PAGE]
            yield from self._rows(f"{select} WHERE {column} IN ({','.join('?' * len(some))})", some)

    def _rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                return self._connection.execute(statement, values).fetchall()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise IndexFormatError(f"{self._name} cannot be read ({error}); `winnow verify` says more.") from error


class StagedDocuments:
    """Documents that wait for a commit, in a temporary file."""

    def __init__(self) -> None:
        with storing():
            self._connection = open_unsynced("")
            weakref.finalize(self, self._connection.close)
            self._connection.execute(STAGED_SCHEMA)
            self._connection.execute(IDS)
        self._next_doc = 0

    def __len__(self) -> int:
        return int(self._rows("SELECT count(*) FROM documents")[0][0])

    def add(
        self,
        documents: Iterable[Document],
        *,
        replace: bool = False,
        check: Callable[[list[str]], str | None] | None = None,
    ) -> list[str]:
        """Take all documents or none; returns their ids.

        replace  a document takes the place of one with its id, and the last number; otherwise a used id is refused
        check    sees the ids of each page, and may say why they cannot be added

        Raises CorpusError for an id that cannot be added and for what cannot be stored, StorageError without room.
        """
        first_doc, added = self._next_doc, []
        documents = iter(documents)
        with self._atomically():
            while page := list(islice(documents, PAGE)):
                ids = [document.doc_id for document in page]
                for document in page:
                    if replace:
                        self._connection.execute("DELETE FROM documents WHERE doc_id = ?", [document.doc_id])
                    self._insert(document, first_doc)
                if check is not None and (reason := check(ids)) is not None:
                    raise CorpusError(reason)
                added += ids
            return added

    def remove(self, doc_ids: Sequence[str]) -> list[str]:
        """Forget the documents with these ids, all or, where StorageError is raised, none; returns the ids that were there."""
        with self._atomically():
            return [
                doc_id
                for doc_id in doc_ids
                if self._connection.execute("DELETE FROM documents WHERE doc_id = ?", [doc_id]).rowcount
            ]

    def __iter__(self) -> Iterator[Document]:
        """All in the order added, with the vectors that came with them."""
        for page in self._pages(STAGED_SELECT):
            for *stored, vector in page:
                document = as_document(tuple(stored))
                yield document if vector is None else replace(document, vector=json.loads(vector))

    def sealed(self, path: Path | None) -> DocumentStore:
        """What is staged as a store, numbered from 0; these stay as they are.

        path  the folder to write the store to; None: a temporary file
        """

        def fill(target: sqlite3.Connection) -> None:
            doc = 0
            for page in self._pages(SELECT):
                target.executemany(INSERT, ((doc + i, *row[1:]) for i, row in enumerate(page)))
                doc += len(page)

        return DocumentStore._made(fill, path)

    def _pages(self, select: str) -> Iterator[list[tuple[Any, ...]]]:
        doc = -1
        while page := self._rows(f"{select} WHERE doc > ? ORDER BY doc LIMIT {PAGE}", [doc]):
            yield page
            doc = page[-1][0]

    def _rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with storing():
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def _atomically(self) -> Iterator[None]:
        """All of what a block stages, or nothing of it."""
        next_doc = self._next_doc
        with storing():
            self._connection.execute("BEGIN")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                self._next_doc = next_doc
                if self._connection.in_transaction:  # a full disk makes SQLite roll back by itself
                    self._connection.execute("ROLLBACK")
                raise

    def _insert(self, document: Document, first_doc: int) -> None:
        """Store one document under the next number; CorpusError for an id staged before and for what cannot be stored."""
        doc = self._next_doc
        *content, vector = as_stored(document)
        try:
            self._connection.execute(STAGED_INSERT, (doc, *content, checksum(*content), vector))
        except sqlite3.IntegrityError as error:
            (first,) = self._connection.execute(
                "SELECT doc FROM documents WHERE doc_id = ?", [document.doc_id]
            ).fetchone()
            where = f"document {first - first_doc + 1}" if first >= first_doc else "a document added before"
            raise CorpusError(
                f"document {doc - first_doc + 1} has the id {document.doc_id!r:.60} of {where}; give each document its own "
                "id."
            ) from error
        self._next_doc += 1


def as_stored(document: Document) -> tuple[str, str, str, str, str | None]:
    """(id, title, text, fields, vector) as they are stored, fields and vector as JSON; CorpusError for what cannot be."""
    if not isinstance(document.fields, dict):
        raise CorpusError(
            f"document {document.doc_id!r:.60} has fields {document.fields!r:.60}; they must be a dictionary."
        )
    try:
        fields = json.dumps(document.fields, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        if fields.count("[") + fields.count("{") > MOST_NESTED and is_nested(document.fields, MOST_NESTED):
            raise ValueError(f"it is nested more than {MOST_NESTED} deep")
        vector = None if document.vector is None else json.dumps(dict(document.vector), allow_nan=False)
        content = document.doc_id, document.title, document.text, fields
        "".join(content).encode()  # SQLite would say less of half a surrogate pair
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"document {document.doc_id!r:.60} holds text that is not valid Unicode ({error.reason}); repair its source."
        ) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise CorpusError(
            f"document {document.doc_id!r:.60} has a field or vector that JSON cannot hold ({error}); keep them to JSON's types."
        ) from error
    return *content, vector


def digest_of(document: Document) -> int:
    """64 bits of all that a document says, its vector too: another digest is another document. Raises CorpusError as `as_stored`."""
    *content, vector = as_stored(document)
    data = "\0".join((*content, vector or "")).encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def is_nested(value: Any, deep: int) -> bool:
    """True where more than so many lists and dictionaries lie within one another, `value` being the first."""
    level = [value]
    for _ in range(deep):
        inner = (one.values() if isinstance(one, dict) else one for one in level)
        level = [one for some in inner for one in some if isinstance(one, dict | list | tuple)]
    return bool(level)


@contextmanager
def storing() -> Iterator[None]:
    """What SQLite cannot do with a temporary file, told as StorageError."""
    try:
        yield
    except sqlite3.Error as error:
        raise StorageError(f"the documents cannot be held in a temporary file ({error}); make room there.") from error


def open_unsynced(name: str) -> sqlite3.Connection:
    """A database that leaves flushing to index.storage and has no journal: it is whole or thrown away."""
    connection = sqlite3.connect(name, check_same_thread=False, isolation_level=None, uri=True)
    connection.execute("PRAGMA synchronous = OFF")
    if name:
        connection.execute("PRAGMA journal_mode = OFF")
    return connection


def numbers_of(live: np.ndarray | None, num_docs: int) -> Sequence[int]:
    """The documents that a mask (bool) leaves of so many; None: all."""
    return range(num_docs) if live is None else np.flatnonzero(live).tolist()


def identity(file: Path) -> tuple[int, int] | None:
    """Which file a name stands for now; None: no file."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def immutable(file: Path) -> str:
    """The address by which SQLite opens a file that nobody changes."""
    return f"file:{quote(os.fsencode(file.absolute()))}?mode=ro&immutable=1"


def checksum(*content: str) -> int:
    """CRC-32 of a document's texts, each ended by a zero byte: a damaged one is never taken for what was stored."""
    return zlib.crc32("\0".join((*content, "")).encode())


def as_document(row: tuple[Any, ...]) -> Document:
    """The document of a row of SELECT; IndexFormatError if it is damaged."""
    doc, doc_id, title, text, fields, stored_checksum = row
    is_text = all(isinstance(value, str) for value in (doc_id, title, text, fields))
    if not is_text or checksum(doc_id, title, text, fields) != stored_checksum:
        raise IndexFormatError(f"document {doc} does not match its checksum; `winnow repair` saves the others.")
    try:
        return Document(doc_id, title, text, json.loads(fields))
    except (ValueError, RecursionError) as error:  # with a checksum that is right: nobody stored it through us
        raise IndexFormatError(
            f"document {doc} has fields that are no JSON ({error!s:.80}); build it again."
        ) from error
