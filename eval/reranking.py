"""A system with a reranker as a command line has it: "bm25+minilm,rerank=blockrank:MODEL,depth=100,dtype=bfloat16"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from index.errors import WinnowError
from index.vectors import checked_count
from retrieval.encoders.written_options import parse_options
from retrieval.rerankers.loading import kind_and_model, load_reranker
from retrieval.rerankers.protocol import Reranker
from retrieval.rerankers.stage import DEFAULT_DEPTH

SETTING = re.compile(r",(?=\w+=)")  # a comma elsewhere is part of a folder's name


class WrittenSystem(NamedTuple):
    """A system in its parts."""

    written: str
    first: str  # the system of the first stage, or all of it where nothing is reranked
    reranker: str | None = None
    depth: int = DEFAULT_DEPTH
    options: Mapping[str, Any] = {}  # of the reranker

    @classmethod
    def of(cls, written: str) -> WrittenSystem:
        """Raises WinnowError for settings that mean nothing, ModelError for a kind of reranker that there is not.

        >>> WrittenSystem.of("bm25,rerank=icr:MODEL,depth=50,dtype=bfloat16")[1:]
        ('bm25', 'icr:MODEL', 50, {'dtype': 'bfloat16'})
        """
        first, *settings = SETTING.split(written)
        names = [setting.partition("=")[0] for setting in settings]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise WinnowError(f"the system {written!r:.100} has {twice[0]} twice; give it once.")
        options = parse_options(settings)
        depth, reranker = options.pop("depth", DEFAULT_DEPTH), options.pop("rerank", None)
        if reranker is None:
            if settings:
                raise WinnowError(
                    f"the system {written!r:.100} has {settings[0]} but no reranker; write it as bm25,rerank=KIND:MODEL,depth=100."
                )
            return cls(written, first)
        if not first:
            raise WinnowError(f"the system {written!r:.100} has no first stage; write it as bm25,rerank={reranker}.")
        kind_and_model(reranker)
        return cls(written, first, reranker, checked_count("depth", depth), options)


class Reranking(NamedTuple):
    """A reranker on a first stage."""

    written: str
    first: str
    reranker: Reranker
    depth: int  # documents that it orders


def load_rerankings(systems: list[WrittenSystem]) -> dict[str, list[Reranking]]:
    """Those of each first stage; a model that several systems rerank with is loaded once. Raises WinnowError."""
    loaded: dict[tuple[str, str], Reranker] = {}
    found: dict[str, list[Reranking]] = {}
    for system in systems:
        if system.reranker is None:
            continue
        key = system.reranker, repr(sorted(system.options.items()))
        if key not in loaded:
            loaded[key] = load_reranker(system.reranker, **system.options)
        found.setdefault(system.first, []).append(Reranking(system.written, system.first, loaded[key], system.depth))
    return found
