"""How is a collection searched that lies in many places? Shards that answer for their own documents, one ranking of them all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from index.lazy_names import lazy_names

if TYPE_CHECKING:
    from retrieval.sharded.retriever import ShardedRetriever

HOMES = {"ShardedRetriever": "retrieval.sharded.retriever"}
__all__ = ["ShardedRetriever"]

__getattr__ = lazy_names("retrieval.sharded", HOMES)
