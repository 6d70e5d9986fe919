"""Which judged documents a corpus lacks, and which ids it has twice, found in one pass whose memory does not grow with the texts."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Set
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from eval.datasets.dataset import Dataset
from eval.runs import UNWRITABLE
from index.errors import CorpusError
from retrieval.beir_folder import judgments_in, one_of, qrels_of
from retrieval.corpus import FieldNames, as_document, records_of


class CorpusCheck(NamedTuple):
    """What came of it."""

    documents: int | None  # of the corpus; None: not counted
    missing: tuple[str, ...]  # judged documents that the corpus lacks, as they are judged
    problems: tuple[str, ...]  # a sentence each
    unwritable: str | None = None  # file:line of the first id that no run file can hold


def missing_documents(dataset: Dataset) -> CorpusCheck:
    """By reading the corpus once: the judged ids are in memory, and 8 bytes a document.

    Raises CorpusError for an id that occurs twice and for what is no document, with file and line.
    """
    codes = array("Q")
    unwritable = None

    def ids() -> Iterator[str]:
        nonlocal unwritable
        for where, doc_id in ids_in(dataset):
            codes.append(code_of(doc_id))
            if unwritable is None and UNWRITABLE.search(doc_id):
                unwritable = where
            yield doc_id

    check = judged_missing(dataset, ids())
    refuse_repeated(dataset, codes)
    documents = len(codes)
    problems = list(check.problems)
    if dataset.spec is not None and dataset.spec.documents != documents:
        problems.append(f"{dataset.name} has {documents:,} documents; {dataset.spec.documents:,} are published.")
    return CorpusCheck(documents, check.missing, tuple(problems), unwritable)


def judged_missing(dataset: Dataset, ids: Iterable[str]) -> CorpusCheck:
    """By what is known to be there.

    ids  of documents: all of the corpus, or those of the judged ones that an index has
    """
    judged = dict.fromkeys(document for judged in dataset.qrels.values() for document in judged)
    for doc_id in ids:
        judged.pop(doc_id, None)
    return CorpusCheck(None, tuple(judged), (told(dataset, set(judged)),) if judged else ())


def told(dataset: Dataset, missing: Set[str]) -> str:
    """Where the first of them is judged, and what they cost."""
    judgments = judgments_in(qrels_of(dataset.folder, dataset.split))
    where, first = next(
        (where, document) for where, query, document, _ in judgments if document in missing and query in dataset.qrels
    )
    losing = sum(
        any(relevance > 0 and document in missing for document, relevance in judged.items())
        for judged in dataset.qrels.values()
    )
    return (
        f"{where} judges the document {first!r:.60} that the corpus lacks; documents that cannot be found: {len(missing):,}, queries that "
        f"lose a relevant one by it: {losing:,}."
    )


def ids_in(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """(file:line, id) of each document of the corpus."""
    for where, record in records_of(one_of(dataset.folder, "corpus.jsonl")):
        yield where, as_document(record, where, FieldNames()).doc_id


def code_of(doc_id: str) -> int:
    return int.from_bytes(blake2b(doc_id.encode(), digest_size=8).digest(), "little")


def refuse_repeated(dataset: Dataset, codes: array[int]) -> None:
    """Raise CorpusError for an id that occurs twice. Ids with equal codes are read again, so that a chance collision is none."""
    values, counts = np.unique(np.array(codes, np.uint64), return_counts=True)
    suspected = set(values[counts > 1].tolist())
    if not suspected:
        return
    seen: dict[str, str] = {}
    for where, doc_id in ids_in(dataset):
        if code_of(doc_id) not in suspected:
            continue
        if doc_id in seen:
            raise CorpusError(f"{where} has the id {doc_id!r:.60} of {seen[doc_id]}; give each document its own id.")
        seen[doc_id] = where
