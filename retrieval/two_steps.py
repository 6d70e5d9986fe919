"""A search taken apart, so that both halves can be timed: what encodes the query, and what finds the documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from index.impact_search import Answer
from retrieval.arm_search import ArmSearch, Trying
from retrieval.fusion import Fusion
from retrieval.hits import Hits
from retrieval.hybrid import Arms, Hybrid
from retrieval.rerankers.stage import Stage

if TYPE_CHECKING:
    from retrieval.retriever import Retriever


class EncodedArm(NamedTuple):
    """An arm that has its query already."""

    arm: ArmSearch
    encoded: Any

    @property
    def least(self) -> float | None:
        return self.arm.least

    def search(self, query: Any, k: int, trying: Trying) -> Answer:
        """The best k documents for the query that it has."""
        return self.arm.found(self.encoded, k, trying)


class TwoSteps:
    """`Retriever.search` without a reranker as two calls, one after the other."""

    def __init__(self, retriever: Retriever, fusion: Fusion | None = None):
        opened = retriever._opened.searchable(None)
        self.hybrid, self.snapshot = opened.hybrid(fusion), opened.snapshot

    def encode(self, query: str) -> Mapping[str, Any]:
        """The query as each arm searches for it, one arm after another (a search has several arms encode side by side)."""
        return {name: arm.encoded(query) for name, arm in self.hybrid.arms.items()}

    def search(self, query: str, encoded: Mapping[str, Any], k: int) -> Hits:
        """The hits of `Retriever.search(query, k)`."""
        arms = {name: EncodedArm(arm, encoded[name]) for name, arm in self.hybrid.arms.items()}
        found = Hybrid(cast(Arms, arms), self.hybrid.fusion).search(query, k, Trying(), None, False)
        return next(Stage.of(k, True, None, None).hits(self.snapshot, [query], [found]))
