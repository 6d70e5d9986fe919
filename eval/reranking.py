"""The rerankers of the systems that are measured, each loaded once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from retrieval.rerankers.loading import load_reranker
from retrieval.rerankers.protocol import Reranker
from retrieval.rerankers.stage import DEFAULT_DEPTH
from retrieval.written_system import WrittenSystem


class Reranking(NamedTuple):
    """A reranker on a first stage."""

    written: str
    first: str
    reranker: Reranker
    depth: int  # documents that it orders


def load_rerankings(systems: Iterable[WrittenSystem]) -> dict[str, list[Reranking]]:
    """Those of each first stage, by its text; a model that several systems rerank with is loaded once. Raises WinnowError."""
    loaded: dict[tuple[str, str], Reranker] = {}
    found: dict[str, list[Reranking]] = {}
    for system in systems:
        if system.reranker is None or not system.reranks:
            continue
        key = system.reranker, repr(sorted(system.reranker_options.items()))
        if key not in loaded:
            loaded[key] = load_reranker(system.reranker, **system.reranker_options)
        first = str(system.without_reranker())
        depth = system.depth or DEFAULT_DEPTH
        found.setdefault(first, []).append(Reranking(str(system), first, loaded[key], depth))
    return found
