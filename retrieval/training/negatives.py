"""What a retriever finds for queries besides the documents that answer them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from retrieval.retriever import Retriever


class FoundBeside(NamedTuple):
    """Of one query."""

    documents: list[tuple[str, float]]  # ids and scores, best first, none of them unwanted
    best_unwanted: float | None  # the best score of an unwanted document; None: no such document is among the best


def found_beside(
    retriever: Retriever, queries: Sequence[str], unwanted: Sequence[Collection[str]], depth: int
) -> list[FoundBeside]:
    """For each query the best `depth` documents, fewer where fewer match, without those whose ids are unwanted for it.

    unwanted  document ids of each query
    """
    most = max(map(len, unwanted), default=0)
    found = []
    for hits, ids in zip(
        retriever.search_batch(queries, depth + most, rerank=False, stored=False), unwanted, strict=True
    ):
        wanted = [(hit.doc_id, hit.score) for hit in hits if hit.doc_id not in ids][:depth]
        found.append(FoundBeside(wanted, next((hit.score for hit in hits if hit.doc_id in ids), None)))
    return found
