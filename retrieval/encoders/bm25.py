"""BM25 as an impact index: a document's vector holds term counts, its impacts the whole BM25 weight.

    impact(t, d) = ln(1 + (N - df + 0.5) / (df + 0.5)) * tf / (tf + k1 * (1 - b + b * length / mean length))

Robertson and Zaragoza, The Probabilistic Relevance Framework, 2009, in Lucene's form: no factor k1 + 1, N and the mean
over documents that have a term. Lengths are exact, where Lucene rounds them to 8 bits. A query weighs a term by how
often it says it.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from index.errors import WinnowError
from index.vectors import SparseQuery, concatenate
from index.vocabulary import Vocabulary
from kernels.cpu.sparse import SparseRows
from retrieval.encoders.lucene_english import analyze


@dataclass(frozen=True, slots=True)
class BM25Options:
    """k1 bounds what repeating a term can add; b says how much length counts. The defaults are Anserini's."""

    k1: float = 0.9
    b: float = 0.4

    def __post_init__(self) -> None:
        if not (0 <= self.k1 < float("inf") and 0 <= self.b <= 1):
            raise WinnowError(f"BM25 has k1 = {self.k1}, b = {self.b}; k1 must be 0 or greater, b between 0 and 1.")


class BM25Encoder:
    """BM25 over Lucene's English analysis. Its vocabulary is the collection's own.

    >>> from index.vectors import empty_rows
    >>> encoder, counts = BM25Encoder().encode_documents(["Tea or coffee?", "Tea, more tea"], empty_rows())
    >>> [encoder.term(number) for number in counts.indices], counts.data.tolist()
    (['coffe', 'tea', 'more', 'tea'], [1.0, 1.0, 1.0, 2.0])
    """

    name = "bm25"

    def __init__(self, options: BM25Options | None = None, vocabulary: Vocabulary | None = None):
        self.options = options or BM25Options()
        self.vocabulary = Vocabulary.build([]) if vocabulary is None else vocabulary

    @property
    def num_terms(self) -> int:
        return len(self.vocabulary)

    def encode_documents(self, texts: Iterable[str], known: SparseRows) -> tuple[BM25Encoder, SparseRows]:
        first_seen = {self.vocabulary[number]: number for number in range(len(self.vocabulary))}
        indptr, terms, counts = array("q", [0]), array("i"), array("f")
        for text in texts:
            for token, count in Counter(analyze(text)).items():
                terms.append(first_seen.setdefault(token, len(first_seen)))
                counts.append(count)
            indptr.append(len(terms))
        added = SparseRows(*map(np.asarray, (indptr, terms, counts)))
        new_number = np.empty(len(first_seen), np.int32)
        for rank, token in enumerate(sorted(first_seen)):  # the order of a Vocabulary
            new_number[first_seen[token]] = rank
        grown = BM25Encoder(self.options, Vocabulary.build(first_seen))
        return grown, renumbered(concatenate([known, added]), new_number)

    def impacts(self, vectors: SparseRows) -> SparseRows:
        k1, b = self.options.k1, self.options.b
        document_frequency = np.bincount(vectors.indices, minlength=self.num_terms)
        lengths = row_sums(vectors)
        num_docs = np.count_nonzero(lengths)
        idf = np.log(1 + (num_docs - document_frequency + 0.5) / (document_frequency + 0.5))
        saturation = k1 * (1 - b + b * lengths * (num_docs / max(lengths.sum(), 1)))
        counts = vectors.data.astype(np.float64)
        weights = idf[vectors.indices] * counts / (counts + np.repeat(saturation, np.diff(vectors.indptr)))
        return vectors._replace(data=weights.astype(np.float32))

    def encode_query(self, text: str) -> SparseQuery:
        counts = {
            number: count
            for token, count in Counter(analyze(text)).items()
            if (number := self.vocabulary.find(token)) is not None
        }
        return SparseQuery(np.array(list(counts), np.int32), np.array(list(counts.values()), np.float32))

    def term(self, number: int) -> str:
        return self.vocabulary[number]

    def terms_in(self, text: str) -> set[int]:
        return {number for token in analyze(text) if (number := self.vocabulary.find(token)) is not None}

    def write(self, path: Path) -> dict[str, Any]:
        return {"family": "bm25", "options": asdict(self.options), "vocabulary": self.vocabulary.write(path)}

    @classmethod
    def read(cls, path: Path, description: dict[str, Any]) -> BM25Encoder:
        return cls(BM25Options(**description["options"]), Vocabulary.read(path, description["vocabulary"]))


def renumbered(rows: SparseRows, new_number: np.ndarray) -> SparseRows:
    """The same rows with each term t called new_number[t], in ascending order again."""
    terms = new_number[rows.indices]
    row_of_entry = np.repeat(np.arange(len(rows.indptr) - 1), np.diff(rows.indptr))
    order = np.lexsort((terms, row_of_entry))
    return SparseRows(rows.indptr, terms[order], rows.data[order])


def row_sums(rows: SparseRows) -> np.ndarray:
    """float64 [rows]"""
    sums: np.ndarray = np.concatenate([[0.0], np.cumsum(rows.data, dtype=np.float64)])
    return np.asarray(sums[rows.indptr[1:]] - sums[rows.indptr[:-1]])
