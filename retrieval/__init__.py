"""How does text become a ranked list? Encoders, the corpus readers, and `Retriever`, the way in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import index  # noqa: F401  (refuses, at once, to run beside another package named `kernels`)

if TYPE_CHECKING:
    from index.documents import Document
    from index.errors import WinnowError
    from retrieval.hits import Explanation, Hit
    from retrieval.retriever import Retriever

HOMES = {
    "Document": "index.documents",
    "Explanation": "retrieval.hits",
    "Hit": "retrieval.hits",
    "Retriever": "retrieval.retriever",
    "WinnowError": "index.errors",
}
__all__ = ["Document", "Explanation", "Hit", "Retriever", "WinnowError"]


def __getattr__(name: str) -> Any:
    """Import a public name where it is first used: `import retrieval` alone loads neither numpy nor numba."""
    if name not in HOMES:
        raise AttributeError(f"module 'retrieval' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(HOMES[name]), name)
