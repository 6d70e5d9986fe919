"""How does text become a ranked list? Encoders, the corpus readers, and `Retriever`, the way in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from index.lazy_names import lazy_names  # `index` refuses, at once, to run beside another package named `kernels`

if TYPE_CHECKING:
    from index.documents import Document
    from index.errors import WinnowError
    from retrieval.encoders.learned import LearnedSparseEncoder
    from retrieval.encoding import encode_corpus
    from retrieval.hits import Explanation, Hit
    from retrieval.retriever import Retriever

HOMES = {
    "Document": "index.documents",
    "Explanation": "retrieval.hits",
    "Hit": "retrieval.hits",
    "LearnedSparseEncoder": "retrieval.encoders.learned",
    "Retriever": "retrieval.retriever",
    "WinnowError": "index.errors",
    "encode_corpus": "retrieval.encoding",
}
__all__ = ["Document", "Explanation", "Hit", "LearnedSparseEncoder", "Retriever", "WinnowError", "encode_corpus"]

__getattr__ = lazy_names("retrieval", HOMES)
