"""A learned sparse encoder small enough to know by heart: a word weighs what its letters and its text say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from index.documents import Document
from index.options import InvertedIndexOptions
from index.segment import Encoded, Statistics
from index.snapshot import Arm
from index.vectors import SparseQuery
from index.vocabulary import Vocabulary
from kernels.cpu.sparse import SparseRows
from retrieval.encoders import loading

NUM_TERMS = 300


@dataclass(frozen=True)
class WordEncoder:
    """Words are numbered by their letters; a document also gets the neighbour of each of its terms, at half its weight."""

    impacts: str = "u8"
    name: str = "words"
    arm = "words"
    needs_vectors = False
    terms = None

    def encode_documents(self, documents: Iterable[Document]) -> Encoded:
        documents = list(documents)
        rows = [expanded(document.searched_text) for document in documents]
        indptr = np.cumsum([0] + [len(row) for row in rows])
        indices = np.array([term for row in rows for term in sorted(row)], np.int32)
        data = np.array([row[term] for row in rows for term in sorted(row)], np.float32)
        vectors = SparseRows(indptr, indices, data)
        options = InvertedIndexOptions(NUM_TERMS, self.impacts)
        return Encoded(vectors, options, self.statistics(documents, vectors, NUM_TERMS))

    def statistics(self, documents: Iterable[Document], vectors: SparseRows, num_terms: int) -> Statistics:
        frequency = np.zeros(num_terms, np.int32)
        for document in documents:
            frequency[list({number(word) for word in document.searched_text.split()})] += 1
        return Statistics(len(vectors.indptr) - 1, 0, frequency)

    def check(self, document: Document) -> None:
        """Texts are encoded whatever comes with them."""

    def numbers(self, terms: Sequence[str], arm: Arm) -> list[np.ndarray]:
        return [np.array([number(term) for term in terms], np.int32)] * len(arm.indexes)

    def encode_query(self, text: str, arm: Arm) -> list[SparseQuery]:
        terms = np.array(sorted({number(word) for word in text.split()}), np.int32)
        df = arm.document_frequency([terms] * len(arm.indexes))
        weights = np.log(1 + (arm.documents + 1) / (df + 0.5)).astype(np.float32)
        return [SparseQuery(terms, weights)] * len(arm.indexes)

    def term(self, number: int, vocabulary: Vocabulary | None) -> str:
        return f"t{number}"

    def terms_in(self, text: str, vocabulary: Vocabulary | None) -> set[int]:
        return {number(word) for word in text.split()}

    def write(self, path: Path) -> dict[str, Any]:
        return {"family": "words", "options": {"impacts": self.impacts}}


def expanded(text: str) -> dict[int, float]:
    """Term to weight."""
    weights: dict[int, float] = {}
    for word in text.split():
        term, weight = number(word), 0.3 + (sum(map(ord, word + text)) % 7) / 3
        weights[term] = max(weights.get(term, 0), weight)
        weights[(term + 1) % NUM_TERMS] = max(weights.get((term + 1) % NUM_TERMS, 0), weight / 2)
    return weights


def number(word: str) -> int:
    return sum(map(ord, word)) * 31 % NUM_TERMS


loading.FAMILIES["words"] = lambda path, description: WordEncoder(**description["options"])
