"""The values that the documents of a segment have of one field, read once, dictionary-coded, kept with the segment.

A filter is decided once for each distinct value and then spread over the documents by their codes, so that whoever asks
defines what a value means and this file never does. A column takes 4 bytes a document and its distinct values as Python
holds them: about 32 bytes for a number, 57 and its letters for a string, 9 more for its place. The columns of a segment
together take at most ROOM and ROOM_A_DOCUMENT; the one used longest ago goes first. A column that alone would take more
(long texts) is not kept: its documents are read again by each filter, in a page at a time.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from index.errors import IndexFormatError

if TYPE_CHECKING:
    from index.documents import Document, DocumentStore

ROOM = 64 << 20  # bytes
ROOM_A_DOCUMENT = 64
MOST_COLUMNS = 256  # names may come from strangers: columns of fields that are not there take no room, but are kept
SLOT = 9  # bytes of a value's place in the list, and of its kinds


class Absent:
    """The type of ABSENT."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = Absent()  # stands for the value of a field that a document has not got; null is a value

OWN_FIELDS = {"_id": "doc_id", "title": "title", "text": "text"}  # every document has them, and they are strings
STRING, NUMBER, BOOLEAN, NULL, LIST, OBJECT = (1 << bit for bit in range(6))
KINDS = {STRING: "strings", NUMBER: "numbers", BOOLEAN: "booleans", NULL: "nulls", LIST: "lists", OBJECT: "objects"}
KIND_OF = {
    str: STRING,
    int: NUMBER,
    float: NUMBER,
    bool: BOOLEAN,
    type(None): NULL,
    list: LIST,
    tuple: LIST,
    dict: OBJECT,
}


def field_of(document: Document, path: str) -> Any:
    """The value of a field: `_id`, `title`, `text`, or a stored one; ABSENT where the document has not got it."""
    own = OWN_FIELDS.get(path)
    return value_at(document.fields, path) if own is None else getattr(document, own)


def value_at(fields: Mapping[str, Any], path: str) -> Any:
    """The value under this name; or else, for `a.b`, what the object under `a` has under `b`.

    A list of objects under `a` gives the list of what its objects have under `b`, lists among these taken apart.
    """
    if path in fields:
        return fields[path]
    dot = path.find(".")
    while dot >= 0:
        inner, rest = fields.get(path[:dot]), path[dot + 1 :]
        if isinstance(inner, dict) and (value := value_at(inner, rest)) is not ABSENT:
            return value
        if isinstance(inner, list | tuple) and (values := values_among(inner, rest)):
            return [one for value in values for one in (value if isinstance(value, list | tuple) else [value])]
        dot = path.find(".", dot + 1)
    return ABSENT


def values_among(elements: Collection[Any], path: str) -> list[Any]:
    """What those elements that are objects have under this name."""
    values = (value_at(element, path) for element in elements if isinstance(element, dict))
    return [value for value in values if value is not ABSENT]


def paths_in(fields: Mapping[str, Any]) -> Iterator[str]:
    """Every name by which `value_at` finds something."""
    for name, value in fields.items():
        yield name
        for inner in value if isinstance(value, list | tuple) else [value]:
            if isinstance(inner, dict):
                yield from (f"{name}.{path}" for path in paths_in(inner))


def canonical(value: Any) -> Any:
    """A hashable stand-in for a JSON value: two are equal where the values are. True is not 1, and 1 is 1.0."""
    if isinstance(value, bool):
        return "boolean", value
    if isinstance(value, list | tuple):
        return "list", tuple(map(canonical, value))
    if isinstance(value, dict):
        return "object", frozenset((name, canonical(inner)) for name, inner in value.items())
    return value


def kinds_of(value: Any) -> int:
    """Which kinds of value this one is, together with the elements of a list; 0 for ABSENT."""
    kinds = KIND_OF.get(type(value), 0)
    if kinds == LIST:
        for element in value:
            kinds |= KIND_OF.get(type(element), 0)
    return kinds


class Column(NamedTuple):
    """Dictionary-coded values of one field."""

    codes: np.ndarray  # int32 [documents]: which of the values; -1 where the document has not got the field
    values: list[Any]  # the distinct ones
    value_kinds: np.ndarray  # uint8 [values]

    nbytes: int

    def holding(self, holds: Callable[[Any], bool]) -> np.ndarray:
        """bool [documents]: those whose value, or ABSENT, makes `holds` true."""
        verdicts = np.empty(len(self.values) + 1, np.bool_)
        for code, value in enumerate(self.values):
            verdicts[code] = holds(value)
        verdicts[-1] = holds(ABSENT)  # where the code -1 leads
        spread: np.ndarray = verdicts[self.codes]
        return spread

    def kinds(self, live: np.ndarray | None) -> int:
        """Which kinds of values the live documents (bool, None: all) have; 0 where none has the field."""
        if live is None:
            return int(np.bitwise_or.reduce(self.value_kinds, initial=0))
        found = np.zeros(len(self.values) + 1, np.bool_)
        found[self.codes[live]] = True
        return int(np.bitwise_or.reduce(self.value_kinds[found[:-1]], initial=0))


class LongColumn(NamedTuple):
    """The same of a field whose values are too long to keep: they are read from the documents again."""

    document_kinds: np.ndarray  # uint8 [documents]
    path: str
    documents: DocumentStore

    def holding(self, holds: Callable[[Any], bool]) -> np.ndarray:
        values = (field_of(document, self.path) for document in self.documents)
        return np.fromiter(map(holds, values), np.bool_, len(self.documents))

    def kinds(self, live: np.ndarray | None) -> int:
        return int(np.bitwise_or.reduce(self.document_kinds if live is None else self.document_kinds[live], initial=0))


class Columns:
    """The columns of one store of documents, which never changes. Safe to ask from several threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Column | np.ndarray] = OrderedDict()  # of a long column only its kinds
        self._lock, self._reading = Lock(), Lock()

    def of(self, documents: DocumentStore, paths: Collection[str]) -> dict[str, Column | LongColumn]:
        """The columns of these fields; those that are not there yet are read in one pass over the documents.

        Raises IndexFormatError for a document that is damaged.
        """
        found = self._among_kept(paths)
        if len(found) < len(set(paths)):
            with self._reading:  # who comes second waits for the first instead of reading the same again
                found |= self._among_kept([path for path in paths if path not in found])
                missing = sorted(set(paths) - found.keys())
                if missing:
                    read = read_columns(documents, missing, self._room(documents))
                    self._keep(read, self._room(documents))
                    found |= read
        return {
            path: column if isinstance(column, Column) else LongColumn(column, path, documents)
            for path, column in found.items()
        }

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the columns take now."""
        return sum(column.nbytes for column in self._kept.values())

    @staticmethod
    def _room(documents: DocumentStore) -> int:
        return ROOM + ROOM_A_DOCUMENT * len(documents)

    def _among_kept(self, paths: Collection[str]) -> dict[str, Column | np.ndarray]:
        with self._lock:
            found = {path: self._kept[path] for path in paths if path in self._kept}
            for path in found:
                self._kept.move_to_end(path)
        return found

    def _keep(self, columns: Mapping[str, Column | np.ndarray], room: int) -> None:
        with self._lock:
            self._kept.update(columns)
            while len(self._kept) > MOST_COLUMNS or self.nbytes > room:
                self._kept.popitem(last=False)


class ColumnBuilder:
    """One field's values, coded one document after another."""

    def __init__(self, path: str, num_docs: int, room: int):
        self.path, self._room = path, room
        self._codes = np.full(num_docs, -1, np.int32)
        self._document_kinds = np.zeros(num_docs, np.uint8)
        self._code_of: dict[Any, int] = {}
        self._values: list[Any] = []
        self._value_kinds: list[int] = []
        self._bytes = self._codes.nbytes
        self._is_long = False

    def add(self, doc: int, value: Any) -> None:
        if value is ABSENT:
            return
        if self._is_long:
            self._document_kinds[doc] = kinds_of(value)
            return
        key = value if type(value) is str else canonical(value)
        code = self._code_of.get(key)
        if code is None:
            code = self._code_of[key] = len(self._values)
            self._values.append(value)
            self._value_kinds.append(kinds_of(value))
            self._bytes += bytes_of(value) + SLOT
            if self._bytes > self._room:
                self._give_up()
                self._document_kinds[doc] = kinds_of(value)
                return
        self._codes[doc] = code

    def _give_up(self) -> None:
        """Go on with the kinds alone."""
        self._document_kinds[:] = np.array([*self._value_kinds, 0], np.uint8)[self._codes]
        self._code_of, self._values, self._is_long = {}, [], True

    def built(self) -> Column | np.ndarray:
        if self._is_long:
            return self._document_kinds
        codes, nbytes = self._codes, self._bytes
        if not self._values:  # nobody has the field: one -1 stands for all
            codes, nbytes = np.broadcast_to(np.int32(-1), len(codes)), 0
        codes.setflags(write=False)
        return Column(codes, self._values, np.array(self._value_kinds, np.uint8), nbytes)


def read_columns(documents: DocumentStore, paths: Collection[str], room: int) -> dict[str, Column | np.ndarray]:
    """The columns of these fields, each of at most `room` bytes or else its kinds alone (uint8 [documents])."""
    builders = [ColumnBuilder(path, len(documents), room) for path in paths]
    read = 0
    for document in islice(documents, len(documents)):
        for builder in builders:
            builder.add(read, field_of(document, builder.path))
        read += 1
    if read != len(documents):
        raise IndexFormatError(
            f"{read} of {len(documents)} stored documents can be read to filter them; `winnow verify` says more."
        )
    return {builder.path: builder.built() for builder in builders}


def bytes_of(value: Any) -> int:
    """How much memory a JSON value takes."""
    inner: Any = value if isinstance(value, list | tuple) else ()
    if isinstance(value, dict):
        inner = (*value.keys(), *value.values())
    return sys.getsizeof(value) + sum(map(bytes_of, inner))
