"""Scores of pairs from a file: of any model, made anywhere.

    {"query_id": "q1", "document_id": "d7", "score": 3.25}    a line of a .jsonl file
    q1<TAB>d7<TAB>3.25                                        a line of a .tsv file, perhaps under these three names

Either may be packed (.gz).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from index.errors import CorpusError
from index.vectors import LARGEST_WEIGHT
from retrieval.corpus import ending_of, lines_of, records_of
from retrieval.training.sparse.teacher_cache import TeacherError, Texts
from retrieval.training.sparse.teachers import Pairs, PairTeacher, Rows, pair_numbers

COLUMNS = ["query_id", "document_id", "score"]


def read_scores(name: str, path: Path, queries: Texts, documents: Texts, pairs: Pairs) -> PairTeacher:
    """A teacher of the pairs of a file.

    Raises CorpusError with file and line for what is no score and for a pair that has two, TeacherError where ids of the file are not
    of the training data, or none of `pairs` is in the file.
    """
    rows = Rows(name, "queries", queries.ids), Rows(name, "documents", documents.ids)
    scores: dict[tuple[str, str], float] = {}
    for where, query_id, document_id, score in lines_with_scores(path):
        if (query_id, document_id) in scores:
            raise CorpusError(
                f"{where} scores {query_id!r:.60} with {document_id!r:.60} as a line before it does; leave one of them out."
            )
        scores[query_id, document_id] = score
    for side, ids in zip(rows, zip(*scores, strict=True), strict=False):
        unknown = [one for one in dict.fromkeys(ids) if one not in side.row_of]
        if unknown:
            raise TeacherError(
                f"{path} has scores of {len(unknown):,} {side.what} that are not among the {len(side):,} of the training data, for example "
                f"{unknown[0]!r:.60}; give scores of these {side.what} alone."
            )
    numbers = pair_numbers(*rows, scores)
    asked = list(pairs())
    if asked and not np.isin(pair_numbers(*rows, asked), numbers).any():
        raise TeacherError(
            f"{path} has {len(scores):,} scores, of none of the {len(asked):,} pairs to be learned, for example "
            f"{asked[0]!r:.100}; give scores of the queries' positives and negatives."
        )
    return PairTeacher(name, *rows, numbers, np.fromiter(scores.values(), np.float32, len(scores)))


def lines_with_scores(path: Path) -> Iterator[tuple[str, str, str, float]]:
    """(file:line, query id, document id, score). Raises CorpusError."""
    if not path.is_file() or ending_of(path) not in (".jsonl", ".tsv"):
        raise CorpusError(f"{str(path)!r:.200} is no .jsonl or .tsv file (or .gz) of scores; give one of them.")
    record: Any
    for where, record in records_of(path) if ending_of(path) == ".jsonl" else tsv_records(path):
        if not isinstance(record, dict):
            raise CorpusError(f"{where} holds {record!r:.60}; each line needs {', '.join(COLUMNS)}.")
        values: list[Any] = [record.get(column) for column in COLUMNS]
        for column, value in zip(COLUMNS[:2], values, strict=False):
            if not isinstance(value, str) or not value:
                raise CorpusError(f"{where} has the {column} {value!r:.60}; it must be a string that is not empty.")
        query_id, document_id, score = values
        if isinstance(score, bool) or not isinstance(score, int | float) or not abs(score) <= LARGEST_WEIGHT:
            raise CorpusError(f"{where} has the score {score!r:.60}; it must be a finite number.")
        yield where, query_id, document_id, float(score)


def tsv_records(path: Path) -> Iterator[tuple[str, Any]]:
    """The same as JSON would have it."""
    for number, (where, line) in enumerate(lines_of(path)):
        values: list[Any] = line.rstrip("\r\n").split("\t")
        if number == 0 and values == COLUMNS:
            continue
        if len(values) != len(COLUMNS):
            raise CorpusError(f"{where} has {len(values)} columns; a line of scores has {', '.join(COLUMNS)}.")
        with suppress(ValueError):  # a text is told
            values[2] = float(values[2])
        yield where, dict(zip(COLUMNS, values, strict=True))
