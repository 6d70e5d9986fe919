"""TREC run files: lines `query Q0 document rank score tag`, read as trec_eval orders them, written at full precision.

A score read back is the score that was written. The order of a query's documents is that of `eval.measures`: by score as a 32-bit
float, descending, then by document id, descending. The rank column never counts; where it says something else, `RunFile` tells.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import numpy as np

from eval.measures import Run
from index.errors import CorpusError, WinnowError
from index.files import created, flush_file, flush_folder, make_folders, remove_file, rename, write_all
from retrieval.corpus import lines_of

# white space, the mark that a reader drops at the start of a file, or half of a surrogate pair
UNWRITABLE = re.compile(r"[\s\ufeff\ud800-\udfff]")
COLUMN = re.compile(r"[^ \t\r\n\v\f]+")  # other white space is part of an id, as it is in C
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")  # float() would take underscores, and words
NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)


class RunFile(NamedTuple):
    """A run as a file has it, and in how many queries the file says two things."""

    path: Path
    run: dict[str, dict[str, float]]  # query id -> document id -> score, the first document first
    ranks_against_scores: int  # a worse score has a better rank
    ranks_against_ties: int  # the ranks follow the scores, but equal scores another order than trec_eval's
    no_ranks: int  # the rank column holds no ranking: equal ranks, or what is no whole number
    merged_scores: int  # different scores are equal as 32-bit floats

    def problems(self, name: str) -> list[str]:
        """A sentence on each of these that occurs."""
        told = (
            (
                self.ranks_against_scores,
                "the rank column disagrees with the scores; the scores decide, as in trec_eval.",
            ),
            (
                self.ranks_against_ties,
                "equal scores are not ranked by document id, descending, as trec_eval ranks them and we do.",
            ),
            (self.no_ranks, "the rank column is no ranking (equal ranks, or no whole numbers); the scores decide."),
            (self.merged_scores, "different scores are equal as 32-bit floats, which trec_eval keeps; they are ties."),
        )
        return [f"{name}: in {count} of {len(self.run)} queries {sentence}" for count, sentence in told if count]


class Ranked(NamedTuple):
    """What a file says of one document."""

    score: float
    rank: str


def read_run(path: str | Path) -> RunFile:
    """A TREC run, also gzipped (.gz).

    Raises CorpusError, with file and line, for what is not six columns, a document that a query has twice, a score that is no
    finite number, and what is not UTF-8; for a file that is not there and for one without a line.
    """
    path = Path(path)
    if not path.is_file():
        raise CorpusError(f"{path} is not a file; give a TREC run, lines of query, Q0, document, rank, score, tag.")
    found: dict[str, dict[str, Ranked]] = {}
    for where, line in lines_of(path):
        columns = COLUMN.findall(line)
        if len(columns) != 6:
            raise CorpusError(
                f"{where} is {line.strip()!r:.80}, {len(columns)} columns; a run has six: query, Q0, document, rank, score, tag."
            )
        query, _, document, rank, score, _ = columns
        documents = found.setdefault(query, {})
        if document in documents:
            raise CorpusError(
                f"{where} has document {document!r:.60} for query {query!r:.60} again; keep one line, with the score that counts."
            )
        documents[document] = Ranked(score_of(score, where), rank)
    if not found:
        raise CorpusError(f"{path} is empty; a run has a line for each document that a query found.")
    read = {query: in_order(documents) for query, documents in found.items()}
    seen = [query_problems(documents, list(read[query])) for query, documents in found.items()]
    return RunFile(path, read, *(sum(column) for column in zip(*seen, strict=True)))


def score_of(written: str, where: str) -> float:
    """Raises CorpusError for what is no finite number."""
    if not NUMBER.fullmatch(written):
        what = "is not finite" if NOT_FINITE.fullmatch(written) else "is no number"
        raise CorpusError(
            f"{where} has the score {written!r:.60}, which {what}; documents can only be ordered by numbers."
        )
    score = float(written)
    if math.isinf(score):
        raise CorpusError(f"{where} has the score {written!r:.60}, too large for a float; scale the scores of the run.")
    return score


def in_order(documents: Mapping[str, Ranked]) -> dict[str, float]:
    """Document id -> score, as trec_eval orders them."""
    kept = dict(zip(documents, as_trec_eval_keeps([one.score for one in documents.values()]), strict=True))
    order = sorted(documents, key=lambda document: (kept[document], document), reverse=True)
    return {document: documents[document].score for document in order}


def as_trec_eval_keeps(scores: list[float]) -> list[float]:
    """Rounded to 32-bit floats; those beyond are infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(scores, np.float64).astype(np.float32).tolist()  # type: ignore[no-any-return]


def query_problems(documents: Mapping[str, Ranked], order: list[str]) -> tuple[bool, bool, bool, bool]:
    """Of one query, what `RunFile` counts."""
    scores = [documents[document].score for document in order]
    kept = as_trec_eval_keeps(scores)
    merged = len(set(kept)) < len(set(scores))
    ranks = [documents[document].rank for document in order]
    numbers = [int(rank) for rank in ranks if re.fullmatch(r"[+-]?[0-9]{1,18}", rank)]
    if len(set(numbers)) < len(order):
        return False, False, len(order) > 1, merged
    by_rank = sorted(range(len(order)), key=numbers.__getitem__)
    against_scores = any(kept[i] < kept[j] for i, j in pairwise(by_rank))
    against_ties = not against_scores and by_rank != list(range(len(order)))
    return against_scores, against_ties, False, merged


def write_run(path: Path, run: Run, tag: str) -> None:
    """The documents of each query in the order given, ranks from 1; a file that is whole or not there.

    Raises WinnowError for an id or a tag that no column can hold, and for a score that is not finite.
    """
    check_column("the tag", tag)
    make_folders(path.parent)
    partial = path.with_name(f".{path.name[:100]}.{uuid4().hex[:8]}.partial")
    try:
        with created(partial) as descriptor:
            for query, documents in run.items():  # one query at a time in memory
                write_all(descriptor, "".join(lines_of_query(query, documents, tag)).encode(), partial)
        flush_file(partial)
        rename(partial, path)
    except BaseException:
        if partial.exists():
            remove_file(partial)
        raise
    flush_folder(path.parent)


def lines_of_query(query: str, documents: Mapping[str, float], tag: str) -> Iterator[str]:
    for rank, (document, score) in enumerate(documents.items(), start=1):
        check_column("the query id", query)
        check_column("the document id", document)
        if not math.isfinite(score):
            raise WinnowError(
                f"document {document!r:.60} has the score {score} for query {query!r:.60}; a run file holds finite numbers."
            )
        yield f"{query} Q0 {document} {rank} {float(score)!r} {tag}\n"


def check_column(what: str, text: str) -> None:
    """Raise WinnowError for what cannot stand between blanks."""
    if not text or UNWRITABLE.search(text):
        raise WinnowError(
            f"{what} {text!r:.60} is empty or holds white space or invalid Unicode, which a run file cannot; rename it."
        )
