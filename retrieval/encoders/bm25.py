"""BM25: a document's vector holds term counts; what they are worth is computed when a query is answered.

    score(q, d) = sum over t of n_q(t) * ln(1 + (N - df + 0.5) / (df + 0.5)) * tf / (tf + k1 * (1 - b + b * length / mean length))

Robertson and Zaragoza, The Probabilistic Relevance Framework, 2009, in Lucene's form: no factor k1 + 1, N and the mean
over documents that have a term. Lengths are exact, where Lucene rounds them to 8 bits. n_q and the idf are the query's
weights, the rest is the document's impact (`impacts="counts"` of the index), so statistics stay exact while documents come
and go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from index.arm_segments import Encoded, Statistics
from index.arms import ArmStatistics
from index.documents import Document
from index.errors import CorpusError, WinnowError
from index.options import InvertedIndexOptions
from index.vectors import SparseQuery
from index.vocabulary import Vocabulary
from kernels.cpu.sparse import SparseRows
from retrieval.encoders.lucene_english import analyze
from retrieval.encoders.weighted_terms import inverse_document_frequency, rows_and_vocabulary


@dataclass(frozen=True, slots=True)
class BM25Options:
    """k1 bounds what repeating a term can add; b says how much length counts. The defaults are Anserini's."""

    k1: float = 0.9
    b: float = 0.4

    def __post_init__(self) -> None:
        if not (0 <= self.k1 < float("inf") and 0 <= self.b <= 1):
            raise WinnowError(f"BM25 has k1 = {self.k1}, b = {self.b}; k1 must be 0 or greater, b between 0 and 1.")


class BM25Encoder:
    """BM25 over Lucene's English analysis. The vocabulary of a segment is that of its documents.

    >>> vectors, _, statistics, vocabulary, _ = BM25Encoder().encode_documents(
    ...     [Document("a", "Tea or coffee?"), Document("b", "Tea, more tea")]
    ... )
    >>> [vocabulary[number] for number in vectors.indices], vectors.data.tolist(), statistics.length
    (['coffe', 'tea', 'more', 'tea'], [1.0, 1.0, 1.0, 2.0], 5)
    """

    name = arm = "bm25"
    kind: Literal["sparse", "dense"] = "sparse"
    needs_vectors = False
    terms = None

    def __init__(self, options: BM25Options | None = None):
        self.options = options or BM25Options()

    def check(self, document: Document) -> None:
        if document.vector is not None:
            raise CorpusError(
                f"document {document.doc_id!r:.60} brings a vector, and bm25 counts the terms of its text; leave the vector "
                "out, or index with the model vectors."
            )

    def encode_documents(self, documents: Iterable[Document]) -> Encoded:
        vectors, vocabulary = rows_and_vocabulary(Counter(analyze(document.searched_text)) for document in documents)
        options = InvertedIndexOptions(len(vocabulary), "counts", k1=self.options.k1, b=self.options.b)
        return Encoded(vectors, options, self.statistics([], vectors, len(vocabulary)), vocabulary)

    def numbers(self, terms: Sequence[str], arm: ArmStatistics) -> list[np.ndarray]:
        return arm.find(terms)

    def statistics(self, documents: Iterable[Document], vectors: SparseRows, num_terms: int) -> Statistics:
        return Statistics.of_counts(vectors, num_terms)

    def encode_query(self, text: str, arm: ArmStatistics) -> list[SparseQuery]:
        counts = Counter(analyze(text))
        tokens = sorted(counts)  # as the vocabularies are
        numbers = arm.find(tokens)
        df = arm.document_frequency(numbers)
        idf = inverse_document_frequency(df, arm.documents)
        weights = (np.array([counts[token] for token in tokens]) * idf).astype(np.float32)
        held = [(own >= 0) & (df > 0) for own in numbers]
        return [SparseQuery(own[known], weights[known]) for own, known in zip(numbers, held, strict=True)]

    def term(self, number: int, vocabulary: Vocabulary | None) -> str:
        assert vocabulary is not None
        return vocabulary[number]

    def terms_in(self, text: str, vocabulary: Vocabulary | None) -> set[int]:
        assert vocabulary is not None
        return set(vocabulary.find(list(set(analyze(text)))).tolist())

    def write(self, path: Path) -> dict[str, Any]:
        return {"family": "bm25", "options": asdict(self.options)}

    @classmethod
    def read(cls, path: Path, description: dict[str, Any]) -> BM25Encoder:
        return cls(BM25Options(**description["options"]))
