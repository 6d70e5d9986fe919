"""Lines of JSON and text, in files of a size that engines take at once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from index.files import created, write_all, write_file
from retrieval.exports.collection import Batch, WeightedTerms

BYTES_A_FILE = 64 << 20  # OpenSearch and Elasticsearch take a request of up to 100 MB
BYTES_TOGETHER = 1 << 20
FIELD = "vector"  # what every engine's field or vector is called


def write_parts(folder: Path, name: str, lines: Iterable[str]) -> None:
    """Lines (each with its end) in numbered files of at most about 64 MiB; `name` has `{}` for the number. At least one file."""
    remaining, number = iter(lines), 0
    first = next(remaining, "")
    while first or number == 0:
        size = len(first.encode())

        def part(first: str = first, size: int = size) -> Iterator[str]:
            yield first
            while size < BYTES_A_FILE and (line := next(remaining, "")):
                size += len(line.encode())
                yield line

        write_lines(folder / name.format(f"{number:05}"), part())
        first, number = next(remaining, ""), number + 1


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """One new file, a megabyte of it in memory at a time."""
    waiting: list[bytes] = []
    size = 0
    with created(path) as file:
        for line in lines:
            waiting.append(line.encode())
            size += len(waiting[-1])
            if size >= BYTES_TOGETHER:
                write_all(file, b"".join(waiting), path)
                waiting, size = [], 0
        write_all(file, b"".join(waiting), path)


def write_json(path: Path, value: object) -> None:
    """For a person to read and an engine to take."""
    write_file(path, (as_json(value) + "\n").encode())


def as_json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def write_vocabulary(folder: Path, terms: Sequence[str]) -> None:
    """`vocabulary.jsonl`: the term of each number, a JSON string a line, for engines that call terms by number."""
    write_lines(folder / "vocabulary.jsonl", (json.dumps(term, ensure_ascii=False) + "\n" for term in terms))


def in_numbers(weights: np.ndarray) -> list[str]:
    """float32 in the fewest digits that come back as the same float32; whole numbers without a point."""
    return [str(weight) for weight in weights.tolist()] if weights.dtype.kind in "iu" else weights.astype(str).tolist()


def json_rows(batch: Batch, keys: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(id as JSON, `{key: weight, ...}`) of each document; weights of 0 are left out.

    keys  of each term, as JSON
    """
    indptr, terms, weights = batch.rows
    numbers, told = terms.tolist(), in_numbers(weights)
    is_kept = (weights > 0).tolist()
    for doc_id, first, end in zip(batch.ids, indptr.tolist(), indptr[1:].tolist(), strict=False):
        entries = [f"{keys[numbers[entry]]}:{told[entry]}" for entry in range(first, end) if is_kept[entry]]
        yield json.dumps(doc_id, ensure_ascii=False), "{" + ",".join(entries) + "}"


def query_terms(query: WeightedTerms) -> list[tuple[int, float]]:
    """(number, weight) with weights in the fewest digits that mean the same float32."""
    weights = map(float, query.weights.astype(str).tolist())
    return list(zip(query.numbers.tolist(), weights, strict=True))
