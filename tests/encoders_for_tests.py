"""A learned sparse encoder and a dense one, small enough to know by heart: of words, their letters and their text."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from index.arm_segments import Encoded, EncodedDense, Statistics
from index.arms import ArmStatistics
from index.dense.options import DenseIndexOptions, Similarity
from index.documents import Document
from index.options import InvertedIndexOptions
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
    kind: Literal["sparse", "dense"] = "sparse"
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

    def numbers(self, terms: Sequence[str], arm: ArmStatistics) -> list[np.ndarray]:
        return [np.array([number(term) for term in terms], np.int32)] * arm.num_segments

    def encode_query(self, text: str, arm: ArmStatistics) -> list[SparseQuery]:
        terms = np.array(sorted({number(word) for word in text.split()}), np.int32)
        df = arm.document_frequency([terms] * arm.num_segments)
        weights = np.log(1 + (arm.documents + 1) / (df + 0.5)).astype(np.float32)
        return [SparseQuery(terms, weights)] * arm.num_segments

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


class HashedWords:
    """A dense encoder: a vector counts a text's words, each at a place of its own."""

    name = arm = "hashed"
    kind: Literal["sparse", "dense"] = "dense"
    needs_vectors = False
    terms = None
    similarity: Similarity = "cosine"

    def __init__(self, dimension: int = 16, factory: str | None = None):
        self.options = DenseIndexOptions(dimension, self.similarity, factory)

    def check(self, document: Document) -> None:
        """Texts are encoded whatever comes with them."""

    def encode_documents(self, documents: Iterable[Document]) -> EncodedDense:
        vectors = np.array([self.counted(document.searched_text) for document in documents], np.float32)
        return EncodedDense(vectors, self.options, np.flatnonzero(~vectors.any(axis=1)).astype(np.int32))

    def encode_queries(self, texts: Iterable[str]) -> np.ndarray:
        return np.array([self.encode_query(text) for text in texts], np.float32).reshape(-1, self.options.dimension)

    def encode_query(self, text: str) -> np.ndarray:
        return self.counted(text)

    def counted(self, text: str) -> np.ndarray:
        vector = np.zeros(self.options.dimension, np.float32)
        for word in text.split():
            vector[zlib.crc32(word.encode()) % self.options.dimension] += 1
        return vector

    def write(self, path: Path) -> dict[str, Any]:
        return {"family": "hashed", "options": asdict(self.options)}


loading.FAMILIES["words"] = lambda path, description: WordEncoder(**description["options"])
loading.FAMILIES["hashed"] = lambda path, description: HashedWords(
    description["options"]["dimension"], description["options"]["factory"]
)
