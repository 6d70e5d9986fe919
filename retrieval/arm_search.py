"""An encoder with what it searches: one arm of a retriever."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from index.arms import DenseArm, SparseArm
from index.dense.search import DenseSearch
from index.documents import Document
from index.effort import EXACT, Effort
from index.impact_search import Answer
from index.vectors import SparseQuery
from retrieval.encoders.protocol import DenseEncoder, Encoder, SparseEncoder
from retrieval.hits import TermMatch
from retrieval.queries import numbered, vectors_of


class Trying(NamedTuple):
    """How hard the arms of a search try: sparse ones by `effort`, dense ones by `dense`."""

    effort: Effort = EXACT
    dense: DenseSearch | None = None


class SparseArmSearch(NamedTuple):
    """Of sparse vectors."""

    encoder: SparseEncoder
    arm: SparseArm

    @property
    def least(self) -> float | None:
        """No score is below."""
        return least_score(self.encoder)

    def encoded(self, query: Any) -> list[SparseQuery]:
        """A query in words or as weights, as each segment numbers its terms."""
        return numbered(query, self.encoder, self.arm)

    def search(self, query: Any, k: int, trying: Trying) -> Answer:
        """The best k documents for a query: (scores float32, docs int32), best first."""
        return self.found(self.encoded(query), k, trying)

    def found(self, encoded: list[SparseQuery], k: int, trying: Trying) -> Answer:
        """`search` for an encoded query."""
        return self.arm.search(encoded, k, trying.effort)

    def search_batch(self, queries: Sequence[Any], k: int, threads: int, trying: Trying) -> list[Answer]:
        """`search` for each query, on several threads."""
        return self.arm.search_batch(list(map(self.encoded, queries)), k, threads, trying.effort)

    def score(
        self, encoded: list[SparseQuery], position: int, doc: int, document: Document
    ) -> tuple[float, list[TermMatch]]:
        """What document `doc` of a segment scores, and the terms that it comes from, the largest contribution first."""
        encoder, vocabulary = self.encoder, self.arm.vocabularies[position]
        terms, weights = encoded[position]
        order = np.argsort(terms)  # the order that the score is defined in
        terms, weights = terms[order], weights[order]
        impacts = self.arm.indexes[position].impacts(doc, terms)
        contributions = weights * impacts
        score = float(np.add.accumulate(contributions)[-1]) if len(terms) else 0.0
        own_terms = encoder.terms_in(document.searched_text, vocabulary)
        matches = [
            TermMatch(
                encoder.term(term, vocabulary),
                weight,
                impact,
                contribution,
                contribution / score,
                term not in own_terms,
            )
            for term, weight, impact, contribution in zip(
                *(array.tolist() for array in (terms, weights, impacts, contributions)), strict=True
            )
            if contribution > 0
        ]
        return score, sorted(matches, key=lambda match: -match.contribution)


class DenseArmSearch(NamedTuple):
    """Of dense vectors."""

    encoder: DenseEncoder
    arm: DenseArm

    @property
    def least(self) -> float | None:
        """No score is below; None: nobody can tell."""
        return least_score(self.encoder)

    def encoded(self, query: Any) -> np.ndarray:
        """float32 [dimension]: a query in words, or the vector that it is."""
        vector: np.ndarray = vectors_of([query], self.encoder, self.arm.dimension)[0]
        return vector

    def search(self, query: Any, k: int, trying: Trying) -> Answer:
        """The best k documents for a query: (scores float32, docs int32), best first."""
        return self.found(self.encoded(query), k, trying)

    def found(self, encoded: np.ndarray, k: int, trying: Trying) -> Answer:
        """`search` for an encoded query."""
        return self.arm.search(encoded, k, trying.dense)

    def search_batch(self, queries: Sequence[Any], k: int, threads: int, trying: Trying) -> list[Answer]:
        """`search` for each query, on several threads."""
        return self.arm.search_batch(vectors_of(queries, self.encoder, self.arm.dimension), k, threads, trying.dense)

    def score(self, encoded: np.ndarray, position: int, doc: int, document: Document) -> tuple[float, list[TermMatch]]:
        """What document `doc` of a segment scores; there are no terms that it comes from."""
        return float(self.arm.indexes[position].scores(encoded, np.array([doc], np.int32))[0]), []


ArmSearch = SparseArmSearch | DenseArmSearch


def arm_search(encoder: Encoder, arm: SparseArm | DenseArm) -> ArmSearch:
    """The search for the kind of the encoder's vectors, which the arm is of."""
    if isinstance(arm, DenseArm):
        return DenseArmSearch(cast(DenseEncoder, encoder), arm)
    return SparseArmSearch(cast(SparseEncoder, encoder), arm)


def least_score(encoder: Encoder) -> float | None:
    """What no score of the encoder's arm is below; None: nobody can tell."""
    if encoder.kind == "sparse":
        return 0.0
    return -1.0 if cast(DenseEncoder, encoder).similarity == "cosine" else None
