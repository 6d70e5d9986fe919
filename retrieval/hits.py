"""What a search gives back: hits, and the explanation of one score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class Hit:
    """One ranked document. `title`, `text` and `fields` are as indexed, or empty if the search left them out.

    Of a search with a reranker `score` is the reranker's, and the last three say what it came from.
    """

    rank: int  # from 1
    doc_id: str
    score: float
    title: str = ""
    text: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    first_rank: int | None = None  # from 1, among what the first stage found
    first_score: float | None = None  # the first stage's
    probability: float | None = None  # of being relevant, of a reranker that is calibrated


class Hits(list[Hit]):
    """The ranked documents of one search, best first.

    missing  the arms that a search with `partial=True` did without, each with the reason
    """

    def __init__(self, hits: Iterable[Hit] = (), missing: Mapping[str, str] | None = None):
        super().__init__(hits)
        self.missing = dict(missing or {})


class TermMatch(NamedTuple):
    """What one query term adds to a score: weight times impact, in float32."""

    term: str
    weight: float  # of the term in the query
    impact: float  # of the term in the document, as stored
    contribution: float
    share: float  # of the score, 0 to 1
    is_expansion: bool  # the term is not in the document's own text: the encoder added it


class ArmShare(NamedTuple):
    """What one arm gave a document; `terms`, of a sparse arm, come largest contribution first and add up to `score`."""

    arm: str
    rank: int | None  # among the documents that the arm gave to the fusion; None: it was not among them
    score: float  # as the arm itself has it
    normalised: float  # as the fusion reads it
    weight: float
    share: float  # of the fused score
    terms: list[TermMatch]


class Explanation(NamedTuple):
    """Why a document has its score: the sum of weight times normalised of its arms (of combmnz, times the number of arms that returned
    it); of one arm alone that arm's score."""

    doc_id: str
    score: float
    arms: list[ArmShare]

    @property
    def terms(self) -> list[TermMatch]:
        """Those of all sparse arms."""
        return [match for arm in self.arms for match in arm.terms]
