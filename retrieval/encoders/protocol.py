"""What a retriever asks of a sparse encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

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
