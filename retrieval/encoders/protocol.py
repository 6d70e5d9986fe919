"""What a retriever asks of a sparse encoder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, Self

from index.vectors import SparseQuery
from kernels.cpu.sparse import SparseRows


class SparseEncoder(Protocol):
    """Text to sparse vectors over one numbered vocabulary.

    An encoder is a value: encoding documents gives a new encoder that also knows the statistics of the grown
    collection, and leaves this one as it was, so a failed addition changes nothing.
    """

    @property
    def name(self) -> str:
        """The name that `Retriever.from_pretrained` knows it by."""
        ...

    @property
    def num_terms(self) -> int:
        """Vocabulary size; every term number is below it."""
        ...

    def encode_documents(self, texts: Iterable[str], known: SparseRows) -> tuple[Self, SparseRows]:
        """(the encoder of the grown collection, its vectors: the rows of `known`, then one row for each text)."""
        ...

    def impacts(self, vectors: SparseRows) -> SparseRows:
        """What to index for the vectors that `encode_documents` gave."""
        ...

    def encode_query(self, text: str) -> SparseQuery:
        """The query's known terms and their weights; empty if there are none."""
        ...

    def term(self, number: int) -> str:
        """The term with this number, as a person reads it."""
        ...

    def terms_in(self, text: str) -> set[int]:
        """Numbers of the terms that occur in `text` itself."""
        ...

    def write(self, path: Path) -> dict[str, Any]:
        """Write what `loading.read_encoder` needs besides the returned description."""
        ...
