"""Documents that bring their vectors: weights by term, made elsewhere by whatever model. There is nothing to encode.

    score(q, d) = sum over t of w_q(t) * w_d(t)

A segment's vocabulary is that of its documents. A query in words is split at white space, and a term given n times has weight n:
the way in which encoded queries are written for uniCOIL and SPLADE (Lin and Ma, A Few Brief Notes on DeepImpact, COIL, and
a Conceptual Framework for Information Retrieval Techniques, arXiv:2106.14807, and Anserini's topics files).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from index.arm_segments import Encoded, Statistics
from index.arms import ArmStatistics
from index.documents import Document
from index.errors import CorpusError
from index.options import InvertedIndexOptions, WeightImpacts
from index.vectors import SparseQuery
from index.vocabulary import Vocabulary
from kernels.cpu.sparse import SparseRows
from retrieval.encoders.options import check_choice
from retrieval.encoders.weighted_terms import rows_and_vocabulary, weighted_query


@dataclass(frozen=True, slots=True)
class GivenVectorsOptions:
    """How weights are stored, see InvertedIndexOptions."""

    impacts: WeightImpacts = "u8"

    def __post_init__(self) -> None:
        check_choice("impacts", self.impacts, get_args(WeightImpacts))


class GivenVectors:
    """`vectors`: the weights that come with the documents.

    >>> vectors, _, _, vocabulary, _ = GivenVectors().encode_documents([Document("a", vector={"tea": 2.0, "green": 0.5})])
    >>> [vocabulary[number] for number in vectors.indices], vectors.data.tolist()
    (['green', 'tea'], [0.5, 2.0])
    """

    name = arm = "vectors"
    kind: Literal["sparse", "dense"] = "sparse"
    needs_vectors = True
    terms = None

    def __init__(self, options: GivenVectorsOptions | None = None):
        self.options = options or GivenVectorsOptions()

    def check(self, document: Document) -> None:
        if document.vector is None:
            raise CorpusError(
                f"document {document.doc_id!r:.60} brings no vector, and the model vectors has no other; give it one as "
                '"vector": {term: weight}, or all of them with vectors=.'
            )

    def encode_documents(self, documents: Iterable[Document]) -> Encoded:
        vectors, vocabulary = rows_and_vocabulary(self._vectors(documents))
        options = InvertedIndexOptions(len(vocabulary), self.options.impacts)
        return Encoded(vectors, options, self.statistics([], vectors, len(vocabulary)), vocabulary, given=True)

    def _vectors(self, documents: Iterable[Document]) -> Iterator[Mapping[str, float]]:
        for document in documents:
            self.check(document)
            assert document.vector is not None
            yield document.vector

    def statistics(self, documents: Iterable[Document], vectors: SparseRows, num_terms: int) -> Statistics:
        frequency = np.bincount(vectors.indices[vectors.data > 0], minlength=num_terms).astype(np.int32)
        return Statistics(len(vectors.indptr) - 1, 0, frequency)

    def numbers(self, terms: Sequence[str], arm: ArmStatistics) -> list[np.ndarray]:
        return arm.find(terms)

    def encode_query(self, text: str, arm: ArmStatistics) -> list[SparseQuery]:
        counts = Counter(text.split())
        return weighted_query(counts, self.numbers(list(counts), arm))

    def term(self, number: int, vocabulary: Vocabulary | None) -> str:
        assert vocabulary is not None
        return vocabulary[number]

    def terms_in(self, text: str, vocabulary: Vocabulary | None) -> set[int]:
        assert vocabulary is not None
        return set(vocabulary.find(list(set(text.split()))).tolist())

    def write(self, path: Path) -> dict[str, Any]:
        return {"family": "vectors", "options": asdict(self.options)}

    @classmethod
    def read(cls, path: Path, description: dict[str, Any]) -> GivenVectors:
        return cls(GivenVectorsOptions(**description["options"]))
