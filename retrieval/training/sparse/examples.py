"""What a sparse encoder learns from: queries, the documents that answer them, and documents that are mistaken for answers.

Read from a BEIR folder (corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv) and, where negatives were mined, from JSON lines of
{"query_id", "negatives": [document ids]}. What would teach something wrong is refused with its file and line: a text that is empty, a
query without an answer, a negative that is an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from index.errors import CorpusError
from retrieval.beir_folder import documents_in, judgments_in, one_of, qrels_of
from retrieval.corpus import records_of

Numbers = list[np.ndarray]  # of each query, int32 numbers of documents


@dataclass(frozen=True)
class Examples:
    """The judged queries of one split, in the order of their judgments, and all documents of the corpus, in its order. By number."""

    queries: list[str]
    query_ids: list[str]
    documents: list[str]  # title and text, as `Document.searched_text`
    document_ids: list[str]
    positives: Numbers  # at least one of each query, in the order of the judgments
    negatives: Numbers  # perhaps none, in the order of the file

    @classmethod
    def read(cls, folder: str | Path, split: str = "train", negatives: str | Path | None = None) -> Examples:
        """From files.

        split      judgments above 0 are positives, others say nothing; of queries of other splits nothing is read
        negatives  a file of negatives; queries that it does not name have none, what it says of other splits' queries is left out

        Raises WinnowError for what is no BEIR folder or lacks the split, and CorpusError, with the line, for what cannot be read, an id
        that occurs twice or names nothing, a judged query that is empty or has no positive, a positive or negative without text, and
        a negative that is a positive or has the text of one.
        """
        folder = Path(folder)
        qrels = qrels_of(folder, split)
        document_ids, documents = texts_of(one_of(folder, "corpus.jsonl"))
        query_texts = dict(zip(*texts_of(one_of(folder, "queries.jsonl")), strict=True))
        number_of = {doc_id: number for number, doc_id in enumerate(document_ids)}
        positives = positives_in(qrels, query_texts, number_of, documents)
        found: dict[str, np.ndarray] = {}
        if negatives is not None:
            found = negatives_in(Path(negatives), query_texts, positives, number_of, documents)
        none = np.empty(0, np.int32)
        return cls(
            [query_texts[query] for query in positives],
            list(positives),
            documents,
            document_ids,
            list(positives.values()),
            [found.get(query, none) for query in positives],
        )

    def __len__(self) -> int:
        """The number of queries."""
        return len(self.queries)

    def answered_by_text(self) -> dict[str, set[str]]:
        """The text of a query, as `plain` has it -> the texts of all documents that answer it, under whatever id."""
        found: dict[str, set[str]] = {}
        for query, positives in zip(self.queries, self.positives, strict=True):
            found.setdefault(plain(query), set()).update(plain(self.documents[number]) for number in positives.tolist())
        return found


def plain(text: str) -> str:
    """As texts are compared: without regard to case and white space."""
    return " ".join(text.lower().split())


def texts_of(path: Path) -> tuple[list[str], list[str]]:
    """(ids, texts) of a JSONL file, a title before its text."""
    ids, texts = [], []
    for _, document in documents_in(path):
        ids.append(document.doc_id)
        texts.append(document.searched_text)
    return ids, texts


def positives_in(
    path: Path, queries: Mapping[str, str], number_of: Mapping[str, int], documents: Sequence[str]
) -> dict[str, np.ndarray]:
    """query id -> int32 numbers of its relevant documents, in the order of the judgments. Raises CorpusError."""
    found: dict[str, list[int]] = {}
    first_line: dict[str, str] = {}
    for where, query, document, relevance in judgments_in(path):
        first_line.setdefault(query, where)
        if query not in queries:
            raise CorpusError(
                f"{where} judges the query {query!r:.60}, which queries.jsonl lacks; add it or leave the line out."
            )
        if not queries[query].strip():
            raise CorpusError(
                f"{where} judges the query {query!r:.60}, whose text is empty; give it words or leave the line out."
            )
        number = known(document, number_of, documents, f"{where} judges")
        of_query = found.setdefault(query, [])
        if relevance > 0:
            of_query.append(number)
    if not found:
        raise CorpusError(f"{path} holds no judgments; each line needs a query id, a document id and a relevance.")
    for query, numbers in found.items():
        if not numbers:
            raise CorpusError(
                f"{first_line[query]} judges the query {query!r:.60}, of which no document is relevant; training needs one, so judge "
                "one above 0 or leave the query out."
            )
    return {query: np.array(numbers, np.int32) for query, numbers in found.items()}


def negatives_in(
    path: Path,
    queries: Mapping[str, str],
    positives: Mapping[str, np.ndarray],
    number_of: Mapping[str, int],
    documents: Sequence[str],
) -> dict[str, np.ndarray]:
    """query id -> int32 numbers of its negatives, of queries with positives alone. Raises CorpusError."""
    if not path.is_file():
        raise CorpusError(f"{path} does not exist; give the file of negatives that `winnow mine` wrote.")
    found: dict[str, np.ndarray] = {}
    seen = set()
    for where, record in records_of(path):
        query, ids = as_negatives(record, where)
        if query not in queries:
            raise CorpusError(
                f"{where} has negatives of the query {query!r:.60}, which queries.jsonl lacks; mine them anew."
            )
        if query in seen:
            raise CorpusError(f"{where} has negatives of the query {query!r:.60} again; keep one line of it.")
        seen.add(query)
        if query not in positives:
            continue
        numbers = [known(doc_id, number_of, documents, f"{where} has as a negative") for doc_id in ids]
        answers = {plain(documents[number]): number for number in positives[query].tolist()}
        for doc_id, number in zip(ids, numbers, strict=True):
            if (answer := answers.get(plain(documents[number]))) is not None:
                what = (
                    "which is relevant to it"
                    if number in positives[query]
                    else f"which has the text of document {answer + 1} of the corpus, a relevant one"
                )
                raise CorpusError(
                    f"{where} has document {doc_id!r:.60} as a negative of the query {query!r:.60}, {what}; leave it out."
                )
        found[query] = np.array(numbers, np.int32)
    if not found:
        raise CorpusError(
            f"{path} has no negatives of any of the {len(positives):,} queries; give the file that was mined for them."
        )
    return found


def as_negatives(record: Any, where: str) -> tuple[str, list[str]]:
    """(query id, document ids) of one line. Raises CorpusError."""
    if not isinstance(record, dict) or not isinstance(record.get("query_id"), str):
        raise CorpusError(
            f'{where} holds {record!r:.60}; a line of negatives must be {{"query_id": id, "negatives": [document ids]}}.'
        )
    ids = record.get("negatives")
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        raise CorpusError(f"{where} has the negatives {ids!r:.60}; they must be a list of document ids.")
    if len(set(ids)) < len(ids):
        twice = next(one for number, one in enumerate(ids) if one in ids[:number])
        raise CorpusError(f"{where} has the negative {twice!r:.60} twice; name each document once.")
    return record["query_id"], ids


def known(doc_id: str, number_of: Mapping[str, int], documents: Sequence[str], what: str) -> int:
    """The number of a document with text. Raises CorpusError, beginning with `what`."""
    number = number_of.get(doc_id)
    if number is None:
        raise CorpusError(f"{what} document {doc_id!r:.60}, which corpus.jsonl lacks; add it or leave it out.")
    if not documents[number]:
        raise CorpusError(
            f"{what} document {doc_id!r:.60}, whose title and text are empty; give it words or leave it out."
        )
    return number
