"""What a retriever asks of a sparse encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from index.documents import Document
from index.segment import DocumentEncoder
from index.snapshot import Arm
from index.vectors import SparseQuery
from index.vocabulary import Vocabulary


class SparseEncoder(DocumentEncoder, Protocol):
    """Text to sparse vectors. An encoder knows nothing of a collection: what depends on it comes with the arm."""

    @property
    def name(self) -> str:
        """The name that `Retriever.from_pretrained` knows it by."""
        ...

    @property
    def arm(self) -> str:
        """What a folder with its index is called."""
        ...

    @property
    def needs_vectors(self) -> bool:
        """True where it encodes no text, so that every document must bring its vector."""
        ...

    @property
    def terms(self) -> Sequence[str] | None:
        """All terms by number, as its vocabulary spells them; None where each segment has a vocabulary of its own."""
        ...

    def check(self, document: Document) -> None:
        """Raise CorpusError where the document's vector, or its having none, keeps it from being encoded."""
        ...

    def numbers(self, terms: Sequence[str], arm: Arm) -> list[np.ndarray]:
        """int32 [len(terms)] for each segment of the arm: the numbers of the terms there, -1 for those it does not know."""
        ...

    def encode_query(self, text: str, arm: Arm) -> list[SparseQuery]:
        """The query as each segment of the arm numbers its terms; empty where the segment knows none of them."""
        ...

    def term(self, number: int, vocabulary: Vocabulary | None) -> str:
        """The term with this number in a segment with this vocabulary, as a person reads it."""
        ...

    def terms_in(self, text: str, vocabulary: Vocabulary | None) -> set[int]:
        """Numbers of the terms that occur in `text` itself."""
        ...

    def write(self, path: Path) -> dict[str, Any]:
        """Write what `loading.read_encoder` needs besides the returned description."""
        ...
