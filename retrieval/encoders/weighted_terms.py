"""From weights by term to numbered rows: of documents, with a vocabulary of their own or a fixed one, and of queries."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from index.documents import Document
from index.errors import CorpusError
from index.vectors import SparseQuery, concatenate
from index.vocabulary import Vocabulary
from kernels.cpu.sparse import SparseRows


def rows_and_vocabulary(weights: Iterable[Mapping[str, float]]) -> tuple[SparseRows, Vocabulary]:
    """A row for each mapping of terms to weights, and the vocabulary of them all that numbers their terms."""
    first_seen: dict[str, int] = {}
    indptr, terms, data = array("q", [0]), array("i"), array("f")
    for one in weights:
        for term, weight in one.items():
            terms.append(first_seen.setdefault(term, len(first_seen)))
            data.append(weight)
        indptr.append(len(terms))
    new_number = np.empty(len(first_seen), np.int32)
    for rank, term in enumerate(sorted(first_seen)):  # the order of a Vocabulary
        new_number[first_seen[term]] = rank
    return renumbered(SparseRows(*map(np.asarray, (indptr, terms, data))), new_number), Vocabulary.build(first_seen)


def inverse_document_frequency(df: np.ndarray, num_docs: int) -> np.ndarray:
    """float64: ln(1 + (N - df + 0.5) / (df + 0.5)), as Lucene's BM25 and OpenSearch's idf.json have it.

    df  of num_docs documents those that hold a term, of each term
    """
    found: np.ndarray = np.log(1 + (num_docs - df + 0.5) / (df + 0.5))
    return found


def renumbered(rows: SparseRows, new_number: np.ndarray) -> SparseRows:
    """The same rows with each term t called new_number[t], in ascending order again."""
    terms = new_number[rows.indices]
    row_of_entry = np.repeat(np.arange(len(rows.indptr) - 1), np.diff(rows.indptr))
    order = np.lexsort((terms, row_of_entry))
    return SparseRows(rows.indptr, terms[order], rows.data[order])


class FixedVocabulary:
    """The terms of an encoder that numbers them alike in every segment.

    >>> vocabulary = FixedVocabulary(["tea", "##s"], {"-s": 1})
    >>> vocabulary.numbers(["-s", "milk", "##s"]).tolist()
    [1, -1, 1]
    """

    def __init__(self, terms: Sequence[str], shown: Mapping[str, int] | None = None):
        """`shown` numbers other spellings, those in which a person reads the terms."""
        self.terms = terms
        self._number_of = {**(shown or {}), **{term: number for number, term in enumerate(terms)}}

    def numbers(self, terms: Iterable[str]) -> np.ndarray:
        """int32: -1 for a term that is not here."""
        return np.array([self._number_of.get(term, -1) for term in terms], np.int32)

    def check(self, document: Document, model: str) -> None:
        """Raise CorpusError for a document whose vector has a term that is not here."""
        for term in document.vector or ():
            if term not in self._number_of:
                raise CorpusError(
                    f"document {document.doc_id!r:.60} has the term {term!r:.60} in its vector, which the vocabulary of {model} "
                    "lacks; give vectors of that vocabulary, or index with the model vectors."
                )

    def rows(self, documents: Sequence[Document]) -> SparseRows:
        """The vectors that came with the documents, a row each."""
        pieces = []
        for document in documents:
            given = document.vector or {}
            weights = np.fromiter(given.values(), np.float32, len(given))
            pieces.append(one_row(*added_up(self.numbers(given), weights)))
        return concatenate(pieces)


def one_row(terms: np.ndarray, weights: np.ndarray) -> SparseRows:
    return SparseRows(np.array([0, len(terms)], np.int64), terms, weights)


def added_up(numbers: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(int32 ascending, float32): each term once with the sum of its weights, as two spellings may be of one; none of -1."""
    known = numbers >= 0
    terms, place = np.unique(numbers[known], return_inverse=True)
    sums = np.bincount(place, weights[known].astype(np.float64), len(terms))
    return terms.astype(np.int32), sums.astype(np.float32)


def weighted_query(weights: Mapping[str, float], numbers: Sequence[np.ndarray]) -> list[SparseQuery]:
    """The query as each segment numbers its terms; terms that a segment does not know are left out there."""
    values = np.fromiter(weights.values(), np.float32, len(weights))
    return [SparseQuery(*added_up(own, values)) for own in numbers]
