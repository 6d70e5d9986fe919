"""How does text become a ranked list? Encoders, rerankers, the corpus readers, and `Retriever`, the way in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from index.lazy_names import lazy_names  # `index` refuses, at once, to run beside another package named `kernels`

if TYPE_CHECKING:
    from index.documents import Document
    from index.errors import WinnowError
    from retrieval.encoders.dense.encoder import DenseEncoder
    from retrieval.encoders.learned import LearnedSparseEncoder
    from retrieval.encoding import encode_corpus
    from retrieval.fusion import Fusion
    from retrieval.hits import Explanation, Hit, Hits
    from retrieval.queries import conversation_text
    from retrieval.rerankers.loading import load_reranker
    from retrieval.rerankers.protocol import Ranked, Reranker
    from retrieval.retriever import Retriever
    from retrieval.tuning import Tuning

HOMES = {
    "DenseEncoder": "retrieval.encoders.dense.encoder",
    "Document": "index.documents",
    "Explanation": "retrieval.hits",
    "Fusion": "retrieval.fusion",
    "Hit": "retrieval.hits",
    "Hits": "retrieval.hits",
    "LearnedSparseEncoder": "retrieval.encoders.learned",
    "Ranked": "retrieval.rerankers.protocol",
    "Reranker": "retrieval.rerankers.protocol",
    "Retriever": "retrieval.retriever",
    "Tuning": "retrieval.tuning",
    "WinnowError": "index.errors",
    "conversation_text": "retrieval.queries",
    "encode_corpus": "retrieval.encoding",
    "load_reranker": "retrieval.rerankers.loading",
}
__all__ = [
    "DenseEncoder",
    "Document",
    "Explanation",
    "Fusion",
    "Hit",
    "Hits",
    "LearnedSparseEncoder",
    "Ranked",
    "Reranker",
    "Retriever",
    "Tuning",
    "WinnowError",
    "conversation_text",
    "encode_corpus",
    "load_reranker",
]

__getattr__ = lazy_names("retrieval", HOMES)
