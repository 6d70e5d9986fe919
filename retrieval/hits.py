"""What a search gives back: hits, and the explanation of one score."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class Hit:
    """One ranked document. `title`, `text` and `fields` are as indexed, or empty if the search left them out."""

    rank: int  # from 1
    doc_id: str
    score: float
    title: str = ""
    text: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


class TermMatch(NamedTuple):
    """What one query term adds to a score: weight times impact, in float32."""

    term: str
    weight: float  # of the term in the query
    impact: float  # of the term in the document, as stored
    contribution: float
    share: float  # of the score, 0 to 1
    is_expansion: bool  # the term is not in the document's own text: the encoder added it


class Explanation(NamedTuple):
    """Why a document has its score; `terms` come largest contribution first and add up to `score`."""

    doc_id: str
    score: float
    terms: list[TermMatch]
