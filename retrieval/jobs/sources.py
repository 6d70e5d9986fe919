"""Where a job's documents come from: files of every kind that users have, found first, then read as a stream.

Every document has its place (file and line, or row). No file is in memory as a whole.
"""

from __future__ import annotations

import glob
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, time
from pathlib import Path
from typing import Any, BinaryIO

from index.errors import CorpusError
from index.manifest import is_index
from retrieval.corpus import (
    JSONL_FILES,
    LINES_BETWEEN_TOLD,
    STRICT,
    TEXT_FILES,
    FieldNames,
    Placed,
    Reading,
    corpus_of,
    decoded,
    first_present,
    json_of,
    kind_of,
    placed,
    read_folder,
    read_path,
    text_files,
)
from retrieval.packed_files import pyarrow_for
from retrieval.vector_files import is_vector_file, read_vectors

STANDARD_INPUT = "-"
TABLES = (".parquet", ".arrow")
KINDS = (
    "give files of .jsonl, .tsv (or either with .gz, .zst) or .parquet, a folder of these or of text files, a BEIR folder, a folder "
    "of datasets.save_to_disk, or - for standard input"
)
DATASET_FILES = ("state.json", "dataset_info.json")
ROWS_TOGETHER = 256


@dataclass(frozen=True, slots=True)
class Source:
    """One file, one folder of text files, or standard input."""

    path: str
    bytes: int | None  # to be read; None: nobody knows

    @property
    def name(self) -> str:
        """As messages and places call it."""
        return "standard input" if self.path == STANDARD_INPUT else self.path


def sources_of(given: Sequence[str | Path]) -> list[Source]:
    """The files behind what a user gives: paths, patterns (`data/*.jsonl.gz`), folders, `-`; those of a pattern or folder sorted.

    Raises CorpusError for what is not there, matches nothing, is given twice or is of no known kind.
    """
    if not given:
        raise CorpusError(f"there is no source; {KINDS}.")
    found = [source for one in given for source in expanded(str(one))]
    names = [source.path if source.path == STANDARD_INPUT else os.path.realpath(source.path) for source in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise CorpusError(f"the source {twice} is given twice; give each file once.")
    return found


def expanded(given: str) -> Iterator[Source]:
    """The sources that one argument stands for."""
    if given == STANDARD_INPUT:
        yield Source(given, None)
        return
    try:
        is_there = os.path.exists(given)
    except ValueError as error:
        raise CorpusError(f"{given[:60]!r} is not a path ({error}); {KINDS}.") from error
    if not is_there and glob.has_magic(given):
        matching = sorted(glob.glob(given, recursive=True))
        if not matching:
            raise CorpusError(f"no file matches {given!r:.200}; check the pattern.")
        for path in matching:
            yield from of_path(Path(path))
    elif not is_there:
        raise CorpusError(f"{given:.200} does not exist; {KINDS}.")
    else:
        yield from of_path(Path(given))


def of_path(path: Path) -> Iterator[Source]:
    """What a path that is there stands for."""
    if is_vector_file(path):
        yield Source(str(path), None)
    elif path.is_dir():
        yield from of_folder(path)
    elif not os.access(path, os.R_OK):
        raise CorpusError(f"{path} cannot be read; change its permissions.")
    elif kind_of(path) in (*JSONL_FILES, ".tsv") or path.suffix in TABLES:
        yield Source(str(path), path.stat().st_size if path.is_file() else None)
    else:
        raise CorpusError(f"{path} is of no known kind; {KINDS}.")


def of_folder(folder: Path) -> Iterator[Source]:
    """A BEIR folder, one of datasets.save_to_disk, one of text files, or one of files that can be sources themselves."""
    if (corpus := corpus_of(folder)) is not None:
        yield from of_path(corpus)
        return
    if (folder / "dataset_dict.json").is_file():
        splits = parsed(folder / "dataset_dict.json").get("splits")
        raise CorpusError(f"{folder} has the splits {splits!r:.100}; give one of them, as in {folder / 'train'}.")
    if all((folder / name).is_file() for name in DATASET_FILES):
        for path in data_files(folder):
            yield Source(str(path), path.stat().st_size)
        return
    texts = list(text_files(folder))
    if texts:
        yield Source(str(folder), sum(text.stat().st_size for text in texts))
        return
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    if is_index(folder):  # whose manifest ends like JSON lines
        files = []
    known = [path for path in files if kind_of(path) in (*JSONL_FILES, ".tsv") or path.suffix in TABLES]
    if not known:
        raise CorpusError(f"{folder} holds neither corpus.jsonl nor text files ({', '.join(TEXT_FILES)}); {KINDS}.")
    for path in known:
        yield from of_path(path)


def data_files(folder: Path) -> list[Path]:
    """The Arrow files of a folder of datasets.save_to_disk, in order, none of them outside. Raises CorpusError."""
    state = parsed(folder / "state.json")
    if state.get("_indices_data_files"):
        raise CorpusError(
            f"{folder} holds a selection of rows over its files; save it with flatten_indices() before save_to_disk()."
        )
    named = state.get("_data_files")
    names = (
        [one.get("filename") if isinstance(one, dict) else None for one in named if one]
        if isinstance(named, list)
        else []
    )
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
            raise CorpusError(
                f"{folder / 'state.json'} names the file {name!r:.60}, which is not there; save the data set again."
            )
    if not names:
        raise CorpusError(f"{folder / 'state.json'} names no data files; save the data set again.")
    return [folder / str(name) for name in names]


def parsed(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{path} is not valid JSON ({error}); save the data set again.") from error
    return found if isinstance(found, dict) else {}


def read_sources(
    sources: Sequence[Source], names: FieldNames | None = None, reading: Reading = STRICT
) -> Iterator[Placed]:
    """The documents of all sources, one after another.

    reading  is told of records that cannot be taken, and of the bytes of all sources together that are read
    """
    before = 0
    for source in sources:
        yield from read_source(source, names or FieldNames(), From(reading, before))
        before += source.bytes or 0
        reading.at(before)


class From(Reading):
    """A reading of which some bytes were read before."""

    def __init__(self, reading: Reading, before: int):
        self.reading, self.before = reading, before

    def refuse(self, where: str, error: CorpusError, record: Any = None) -> None:
        self.reading.refuse(where, error, record)

    def at(self, position: int) -> None:
        self.reading.at(self.before + position)


def read_source(source: Source, names: FieldNames, reading: Reading) -> Iterator[Placed]:
    path = Path(source.path)
    if source.path == STANDARD_INPUT:
        return read_standard_input(names, reading)
    if is_vector_file(path):
        return read_vector_file(path)
    if path.suffix in TABLES:
        return placed(with_text_ids(rows_of(path, reading), names), names, reading)
    if path.is_dir():
        return read_folder(path, names, reading)
    return read_path(path, names, reading)


def read_standard_input(names: FieldNames, reading: Reading) -> Iterator[Placed]:
    """JSON, an object a line."""
    return placed(json_of(input_lines(sys.stdin.buffer, reading), reading), names, reading)


def input_lines(file: BinaryIO, reading: Reading) -> Iterator[tuple[str, str]]:
    position = 0
    for number, line in enumerate(file, start=1):
        position += len(line)
        if number % LINES_BETWEEN_TOLD == 0:
            reading.at(position)
        text = decoded(line, number, "standard input", reading)
        if text is not None:
            yield f"standard input:{number}", text


def read_vector_file(path: Path) -> Iterator[Placed]:
    """Documents that are vectors alone."""
    for number, document in enumerate(read_vectors(path).documents(), start=1):
        yield Placed(f"{path}, document {number}", document)


def rows_of(path: Path, reading: Reading) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a Parquet or Arrow file, numbered from 1, a few in memory at a time; values as JSON knows them."""
    arrow, size, row = pyarrow_for(path), path.stat().st_size, 0
    try:
        for batch, share in parquet_batches(path) if path.suffix == ".parquet" else arrow_batches(path):
            for first in range(0, batch.num_rows, ROWS_TOGETHER):
                for record in batch.slice(first, ROWS_TOGETHER).to_pylist():
                    row += 1
                    yield f"{path}, row {row}", {name: as_json_value(value) for name, value in record.items()}
            reading.at(int(size * share))
    except (arrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        what = "Parquet" if path.suffix == ".parquet" else "Arrow"
        raise CorpusError(
            f"{path} is not a whole {what} file ({str(error).splitlines()[0]:.100}); write it again."
        ) from error


def with_text_ids(
    rows: Iterator[tuple[str, dict[str, Any]]], names: FieldNames
) -> Iterator[tuple[str, dict[str, Any]]]:
    """A column has one type, so numbering documents in one is no slip: such ids become texts."""
    for where, record in rows:
        name = first_present(record, names.id)
        if isinstance(record.get(name), int) and not isinstance(record[name], bool):
            record[name] = str(record[name])
        yield where, record


def parquet_batches(path: Path) -> Iterator[tuple[Any, float]]:
    """(record batch, share of the file's rows that are read with it)."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path, memory_map=False) as file:
        total, done = max(file.metadata.num_rows, 1), 0
        for batch in file.iter_batches(ROWS_TOGETHER):
            done += batch.num_rows
            yield batch, done / total


def arrow_batches(path: Path) -> Iterator[tuple[Any, float]]:
    """The same of an Arrow file, as a stream (as the package datasets writes it) or with a footer."""
    import pyarrow as arrow

    size = max(path.stat().st_size, 1)
    with arrow.OSFile(str(path)) as file:
        if file.read(6) == b"ARROW1":
            file.seek(0)
            whole = arrow.ipc.open_file(file)
            for number in range(whole.num_record_batches):
                yield whole.get_batch(number), (number + 1) / whole.num_record_batches
            return
        file.seek(0)
        for batch in arrow.ipc.open_stream(file):
            yield batch, file.tell() / size


def as_json_value(value: Any) -> Any:
    """A column's value as JSON holds it: times as ISO 8601 has them; what JSON has no word for stays, and is refused with its document."""
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, dict):
        return {name: as_json_value(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [as_json_value(one) for one in value]
    return value
