"""What a retriever asks of its encoders, sparse and dense."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from index.arm_segments import Encoded, EncodedDense, SparseDocumentEncoder
from index.arms import ArmStatistics
from index.dense.options import Similarity
from index.documents import Document
from index.vectors import SparseQuery
from index.vocabulary import Vocabulary


class Encoder(Protocol):
    """Text to vectors. An encoder knows nothing of a collection: what depends on it comes with the arm."""

    @property
    def name(self) -> str:
        """The name that `Retriever.from_pretrained` knows it by."""
        ...

    @property
    def arm(self) -> str:
        """What a folder with its index is called, and a fusion calls it."""
        ...

    @property
    def kind(self) -> Literal["sparse", "dense"]:
        """Of its vectors."""
        ...

    @property
    def needs_vectors(self) -> bool:
        """True where it encodes no text, so that every document must bring its vector."""
        ...

    @property
    def terms(self) -> Sequence[str] | None:
        """All terms by number, as its vocabulary spells them; None where each segment has a vocabulary of its own, or there are none."""
        ...

    def check(self, document: Document) -> None:
        """Raise CorpusError where the document's vector, or its having none, keeps it from being encoded."""
        ...

    def encode_documents(self, documents: Iterable[Document]) -> Encoded | EncodedDense:
        """A vector for each document."""
        ...

    def write(self, path: Path) -> dict[str, Any]:
        """Write what `loading.read_encoder` needs besides the returned description."""
        ...


class SparseEncoder(Encoder, SparseDocumentEncoder, Protocol):
    """Text to weights of terms."""

    def encode_documents(self, documents: Iterable[Document]) -> Encoded:
        """A vector for each document, and the statistics of them all."""
        ...

    def numbers(self, terms: Sequence[str], arm: ArmStatistics) -> list[np.ndarray]:
        """int32 [len(terms)] for each segment of the arm: the numbers of the terms there, -1 for those it does not know."""
        ...

    def encode_query(self, text: str, arm: ArmStatistics) -> list[SparseQuery]:
        """The query as each segment of the arm numbers its terms; empty where the segment knows none of them."""
        ...

    def term(self, number: int, vocabulary: Vocabulary | None) -> str:
        """The term with this number in a segment with this vocabulary, as a person reads it."""
        ...

    def terms_in(self, text: str, vocabulary: Vocabulary | None) -> set[int]:
        """Numbers of the terms that occur in `text` itself."""
        ...


class DenseEncoder(Encoder, Protocol):
    """Text to vectors of one dimension."""

    @property
    def similarity(self) -> Similarity:
        """How they are compared."""
        ...

    def encode_documents(self, documents: Iterable[Document]) -> EncodedDense:
        """A vector for each document that has text."""
        ...

    def encode_query(self, text: str) -> np.ndarray:
        """float32 [dimension]; zeros for a query without text."""
        ...

    def encode_queries(self, texts: Iterable[str]) -> np.ndarray:
        """float32 [queries, dimension]: `encode_query` of each."""
        ...


def folder_name(model: str) -> str:
    """The last part of a model's name or folder, without what a folder cannot be called."""
    return re.sub(r"[^A-Za-z0-9._+-]", "-", Path(model).name).lstrip(".")[:80] or "model"
