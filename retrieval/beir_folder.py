"""The files of a BEIR folder: corpus.jsonl, queries.jsonl (also .gz) and qrels/SPLIT.tsv."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from index.documents import Document
from index.errors import CorpusError, WinnowError
from retrieval.corpus import FieldNames, as_document, lines_of, records_of

RELEVANCE = re.compile(r" *-?[0-9]{1,9} *")  # int() would take other scripts' digits and underscores


def one_of(folder: Path, name: str) -> Path:
    """The file of a BEIR folder, plain or gzipped."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise WinnowError(f"{folder} is not a BEIR folder (it has no {name}); see the README for its layout.")


def qrels_of(folder: Path, split: str) -> Path:
    """The file of a split. Raises WinnowError for a folder without any and for a split that is not there."""
    if not folder.is_dir():
        raise WinnowError(
            f"{folder} is no folder; give that of a BEIR data set, with corpus.jsonl, queries.jsonl and qrels/."
        )
    present = sorted(path.stem for path in (folder / "qrels").glob("*.tsv"))
    if not present:
        raise WinnowError(f"{folder} is not a BEIR folder (it has no qrels/*.tsv); see the README for its layout.")
    if split not in present:
        raise WinnowError(f"{folder} has no split {split!r}; its splits are {', '.join(present)}.")
    return folder / "qrels" / f"{split}.tsv"


def documents_in(path: Path) -> Iterator[tuple[str, Document]]:
    """(file:line, document) of each line of a JSONL file. Raises CorpusError for an id that occurs twice and for what is no document."""
    seen = set()
    for where, record in records_of(path):
        document = as_document(record, where, FieldNames())
        if document.doc_id in seen:
            raise CorpusError(
                f"{where} has the id {document.doc_id!r:.60} of an earlier line; give each line its own id."
            )
        seen.add(document.doc_id)
        yield where, document


def read_queries(path: Path) -> dict[str, str]:
    """Query id -> text. Raises CorpusError as `queries_in` does."""
    return {query: text for _, query, text in queries_in(path)}


def queries_in(path: Path) -> Iterator[tuple[str, str, str]]:
    """(file:line, id, text) of each query. Raises CorpusError for an id that occurs twice and for what is no query."""
    seen = set()
    for where, record in records_of(path):
        query = as_document(record, where, FieldNames())
        if query.doc_id in seen:
            raise CorpusError(f"{where} has the query id {query.doc_id!r:.60} twice; give each query its own id.")
        seen.add(query.doc_id)
        yield where, query.doc_id, query.text


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Judgments from BEIR's three columns under a header, or TREC's four without one."""
    qrels: dict[str, dict[str, int]] = {}
    for _, query, document, relevance in judgments_in(path):
        qrels.setdefault(query, {})[document] = relevance
    if not qrels:
        raise CorpusError(f"{path} holds no judgments; each line needs a query id, a document id and a relevance.")
    return qrels


def judgments_in(path: Path) -> Iterator[tuple[str, str, str, int]]:
    """(file:line, query, document, relevance). Between tabs an id may hold spaces; without tabs, spaces part the columns.

    Raises CorpusError for what is no judgment and for one that is there already.
    """
    judged: dict[str, set[str]] = {}
    for number, (where, line) in enumerate(lines_of(path)):
        columns = line.rstrip("\r\n").split("\t")
        if len(columns) not in (3, 4):
            columns = re.findall(r"[^ \t]+", line.rstrip("\r\n"))
        if number == 0 and columns[:2] == ["query-id", "corpus-id"]:
            continue
        if len(columns) not in (3, 4) or not (columns[0] and columns[-2] and RELEVANCE.fullmatch(columns[-1])):
            raise CorpusError(
                f"{where} is {line.strip()!r:.80}; a judgment is a query id, a document id and a whole number of at most 9 "
                "digits."
            )
        query, document = columns[0], columns[-2]
        if document in judged.setdefault(query, set()):
            raise CorpusError(
                f"{where} judges document {document!r:.60} for query {query!r:.60} again; keep one judgment."
            )
        judged[query].add(document)
        yield where, query, document, int(columns[-1])
