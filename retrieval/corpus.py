"""Documents from what users have: JSONL and TSV files (also .gz, .zst), folders of text files, Python mappings.

A record that cannot be read raises CorpusError with its file and line; none is skipped in silence.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from index.documents import Document
from index.errors import CorpusError
from index.manifest import finite, is_index, not_json
from index.vectors import checked_weights
from retrieval.packed_files import PACKED, as_packed, unpacked

LONGEST_UNPACKED = 4 << 20  # bytes of a line of a small .gz file; a thousand times its size can be packed into one
TIMES_PACKED = 20  # the same of a larger one, in sizes of the file; text packs to a third or a tenth
LINES_BETWEEN_TOLD = 64
TEXT_FILES = (".txt", ".md", ".rst", ".text")
JSONL_FILES = (".jsonl", ".json", ".ndjson")
Corpus = str | Path | Mapping[str, Mapping[str, Any]] | Iterable[Document | Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class FieldNames:
    """Which field of a record is what: the first one present counts. All other fields are stored as they are."""

    id: tuple[str, ...] = ("_id", "id", "doc_id", "docid")
    title: tuple[str, ...] = ("title",)
    text: tuple[str, ...] = ("text", "contents")
    vector: tuple[str, ...] = ()  # a mapping of terms to weights, which is indexed and not stored

    @classmethod
    def of(cls, id: str | None = None, title: str | None = None, text: str | None = None) -> FieldNames:
        """The defaults, with the names given taking the place of theirs."""
        given = {"id": id, "title": title, "text": text}
        return cls(**{role: (name,) for role, name in given.items() if name is not None})


class Placed(NamedTuple):
    """A document, and where it stands: file and line, or what comes near to that."""

    where: str
    document: Document


class Reading:
    """What those who read records tell while they read; this one stops at the first record that is bad."""

    def refuse(self, where: str, error: CorpusError, record: Any = None) -> None:
        """The record, as far as it was read, cannot be taken; whoever returns goes on without it."""
        raise error

    def at(self, position: int) -> None:
        """So many bytes of the present file are read."""


STRICT = Reading()


def read_corpus(corpus: Corpus, names: FieldNames | None = None) -> Iterator[Document]:
    """The documents of a corpus, one at a time.

    corpus  a path to a `.jsonl` or `.tsv` file (or either with `.gz` or `.zst`), a folder (a BEIR folder, or one of text files),
            a BEIR mapping {id: {"title": ..., "text": ...}}, or an iterable of Documents or records
    """
    names = names or FieldNames()
    if isinstance(corpus, str | Path):
        for _, document in read_path(Path(corpus), names):
            yield document
    elif isinstance(corpus, Mapping):
        for doc_id, record in corpus.items():
            if not isinstance(record, Mapping):
                raise CorpusError(
                    f"the mapping has {type(record).__name__} {record!r:.60} under {doc_id!r}; a mapping must be "
                    "{id: {title, text}}, and a single document stands in a list."
                )
            yield as_document({**record, names.id[0]: doc_id}, f"document {doc_id!r}", names)
    elif not isinstance(corpus, Iterable):
        raise CorpusError(f"the corpus is {type(corpus).__name__} {corpus!r:.60}; give a path, a list or a mapping.")
    else:
        for number, record in enumerate(corpus, start=1):
            if isinstance(record, Document):
                given = {"_id": record.doc_id, "title": record.title, "text": record.text}
                checked = as_document(given, f"document {number}", FieldNames())
                vector = record.vector
                if vector is not None:
                    vector = checked_weights(vector, f"document {number}", CorpusError)
                yield replace(checked, fields=record.fields, vector=vector)
            else:
                yield as_document(record, f"document {number}", names)


def read_path(path: Path, names: FieldNames, reading: Reading = STRICT) -> Iterator[Placed]:
    try:
        is_folder = path.is_dir()
    except OSError as error:  # a text given for a path
        raise CorpusError(
            f"{str(path)[:60]!r}... is not a path ({error.strerror}); give documents in a list."
        ) from error
    if is_folder:
        yield from read_folder(path, names, reading)
        return
    if not path.is_file():
        raise CorpusError(f"{path} does not exist; give a .jsonl or .tsv file, or a folder of text files.")
    kind = kind_of(path)
    if kind in JSONL_FILES:
        yield from read_jsonl(path, names, reading)
    elif kind == ".tsv":
        yield from read_tsv(path, names, reading)
    else:
        raise CorpusError(
            f"{path} is of no known kind; give a .jsonl or .tsv file (or .gz, .zst), or a folder of text files."
        )


def corpus_of(folder: Path) -> Path | None:
    """The corpus of a BEIR folder; None for another folder."""
    names = (f"corpus.jsonl{packed}" for packed in ("", *PACKED))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_folder(folder: Path, names: FieldNames, reading: Reading = STRICT) -> Iterator[Placed]:
    """A BEIR folder's corpus, else every text file: id = path below the folder, title = name without suffix; else JSONL files."""
    corpus = corpus_of(folder)
    if corpus is not None:
        yield from read_jsonl(corpus, names, reading)
        return
    files = sorted(text_files(folder))
    if not files:
        parts = jsonl_files(folder)
        if not parts:
            raise CorpusError(
                f"{folder} holds neither corpus.jsonl nor text files ({', '.join(TEXT_FILES)}) nor other JSONL files."
            )
        for part in parts:
            yield from read_jsonl(part, names, reading)
        return
    position = 0
    for file in files:
        try:
            text = file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            reading.refuse(
                str(file), CorpusError(f"{file} is not valid UTF-8 (byte {error.start}); convert it to UTF-8.")
            )
            continue
        position += file.stat().st_size
        reading.at(position)
        yield Placed(str(file), Document(file.relative_to(folder).as_posix(), file.stem, text))


def jsonl_files(folder: Path) -> list[Path]:
    """The JSONL files of a folder by name: a collection in parts, as Anserini's are. An index of ours has none."""
    if is_index(folder):
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if kind_of(path) in JSONL_FILES and not path.name.startswith(".") and path.is_file()
    )


def kind_of(path: Path) -> str:
    """The ending that says what a file holds, without .gz or .zst."""
    return "".join(path.suffixes[-2:-1]) if path.suffix in PACKED else path.suffix


def text_files(folder: Path) -> Iterator[Path]:
    """All text files at any depth, but for hidden files and folders. An unreadable folder raises OSError."""

    def fail(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if Path(name).suffix.lower() in TEXT_FILES and not name.startswith("."):
                yield Path(parent, name)


def read_jsonl(path: Path, names: FieldNames, reading: Reading = STRICT) -> Iterator[Placed]:
    """One JSON object a line."""
    return placed(records_of(path, reading), names, reading)


def placed(records: Iterable[tuple[str, Any]], names: FieldNames, reading: Reading = STRICT) -> Iterator[Placed]:
    """Records, each with its place, as documents."""
    for where, record in records:
        try:
            document = as_document(record, where, names)
        except CorpusError as error:
            reading.refuse(where, error, record)
            continue
        yield Placed(where, document)


def records_of(path: Path, reading: Reading = STRICT) -> Iterator[tuple[str, Any]]:
    """(file:line, what JSON it holds) of each line that is not blank."""
    return json_of(lines_of(path, reading), reading)


def json_of(lines: Iterable[tuple[str, str]], reading: Reading = STRICT) -> Iterator[tuple[str, Any]]:
    for where, line in lines:
        try:
            record = json.loads(line, parse_constant=not_json, parse_float=finite)
        except (ValueError, RecursionError) as error:
            told = CorpusError(f"{where} is not valid JSON ({error}); each line must hold one JSON object.")
            reading.refuse(where, told, line)
            continue
        yield where, record


def read_tsv(path: Path, names: FieldNames, reading: Reading = STRICT) -> Iterator[Placed]:
    """Columns id, text or id, title, text; or any columns under a first line that names an id and a text."""
    return placed(tsv_records(path, names, reading), names, reading)


def tsv_records(path: Path, names: FieldNames, reading: Reading) -> Iterator[tuple[str, dict[str, str]]]:
    columns: list[str] | None = None
    for where, line in lines_of(path, reading):
        values = line.rstrip("\r\n").split("\t")
        if columns is None:
            columns = tsv_columns(values, where, names)
            if columns is values:
                continue
        if len(values) != len(columns):
            told = f"{where} has {len(values)} columns, the first line has {len(columns)}; check its tabs."
            reading.refuse(where, CorpusError(told), line)
            continue
        yield where, dict(zip(columns, values, strict=True))


def tsv_columns(first_line: list[str], where: str, names: FieldNames) -> list[str]:
    """The column names: `first_line` itself if it holds names, else the usual ones for its number of columns."""
    if set(first_line) & set(names.id) and set(first_line) & {*names.title, *names.text}:
        if len(set(first_line)) < len(first_line):
            raise CorpusError(f"{where} names a column twice: {', '.join(first_line)!r:.80}; give each its own name.")
        return first_line
    if replace(names, vector=()) != FieldNames():
        raise CorpusError(
            f"{where} has the columns {', '.join(first_line)!r:.80}, which lack {names.id[0]!r} or {names.text[0]!r}; "
            "name columns that are there."
        )
    if len(first_line) not in (2, 3):
        raise CorpusError(
            f"{where} has {len(first_line)} columns; without a first line of column names there must be 2 (id, text) or "
            "3 (id, title, text)."
        )
    return [names.id[0], *([names.title[0]] if len(first_line) == 3 else []), names.text[0]]


def lines_of(path: Path, reading: Reading = STRICT) -> Iterator[tuple[str, str]]:
    """(file:line, text) of each line that is not blank.

    Raises CorpusError for a file that is not packed as it says and for a packed line that its file's size does not justify;
    lines that are not UTF-8 are refused.
    """
    is_packed, size = path.suffix in PACKED, path.stat().st_size
    longest = max(LONGEST_UNPACKED, TIMES_PACKED * size) if is_packed else -1
    with unpacked(path) as (file, raw):
        for number, line in numbered(file, path, longest):
            if len(line) == longest:
                raise CorpusError(
                    f"{path}:{number} unpacks to {longest:,} bytes or more, from a file of {size:,}; unpack it yourself if "
                    "that is right."
                )
            if number % LINES_BETWEEN_TOLD == 0:
                reading.at(raw.tell())
            text = decoded(line, number, str(path), reading)
            if text is not None:
                yield f"{path}:{number}", text


def numbered(file: BinaryIO, path: Path, longest: int) -> Iterator[tuple[int, bytes]]:
    """Lines of a file that is perhaps packed, from 1."""
    number = 0
    while True:
        with as_packed(path):
            line = file.readline(longest)
        if not line:
            return
        number += 1
        yield number, line


def decoded(line: bytes, number: int, name: str, reading: Reading) -> str | None:
    """The text of a line; None where it is blank or refused."""
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        told = f"{name}:{number} is not valid UTF-8 (byte {error.start} of the line); convert the file to UTF-8."
        reading.refuse(f"{name}:{number}", CorpusError(told), line.decode("utf-8", "replace"))
        return None
    return text if text.strip(" \r\n") else None


def as_document(record: Any, where: str, names: FieldNames) -> Document:
    """One record as a Document; CorpusError, beginning with `where`, if it is not one."""
    if not isinstance(record, Mapping):
        raise CorpusError(
            f"{where} holds {type(record).__name__} {record!r:.60}; a document must be an object of fields."
        )
    used = [
        first_present(record, role)
        for role in (names.id, names.title, names.text, *([names.vector] if names.vector else []))
    ]
    doc_id = record.get(used[0])
    if not isinstance(doc_id, str) or not doc_id:
        given = f"has the id {doc_id!r:.60}" if doc_id is not None else f"has no {' or '.join(names.id)}"
        raise CorpusError(f"{where} {given}; a document's id must be a string that is not empty.")
    title, text = (text_of(record, name, where) for name in used[1:3])
    try:
        f"{doc_id}{title}{text}".encode()
    except UnicodeEncodeError as error:  # JSON can escape half of a surrogate pair
        raise CorpusError(
            f"{where} holds text that is not valid Unicode ({error.reason}); repair its source."
        ) from error
    vector = record.get(used[3]) if names.vector else None
    if vector is not None:
        vector = checked_weights(vector, where, CorpusError)
    return Document(doc_id, title, text, {name: value for name, value in record.items() if name not in used}, vector)


def first_present(record: Mapping[str, Any], role: tuple[str, ...]) -> str:
    """The name that this record uses for the role; the usual one if it has none of them."""
    return next((name for name in role if record.get(name) is not None), role[0])


def text_of(record: Mapping[str, Any], name: str, where: str) -> str:
    value = record.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CorpusError(f"{where} has {type(value).__name__} {value!r:.60} as its {name}; it must be a string.")
    return value
