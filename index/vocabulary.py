"""A sorted list of terms on disk: a term's number is its position, found by binary search without reading the list."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from index.storage import open_array, read_only, save_array


class Vocabulary:
    """Distinct terms in the order of their UTF-8 bytes (which is the order of their code points).

    >>> vocabulary = Vocabulary.build({"tea", "coffee"})
    >>> len(vocabulary), vocabulary[0], vocabulary.find("tea"), vocabulary.find("milk")
    (2, 'coffee', 1, None)
    """

    def __init__(self, text: np.ndarray, starts: np.ndarray):
        self.text = read_only(text)  # uint8, all terms end to end
        self.starts = read_only(starts)  # int64 [terms + 1]

    @classmethod
    def build(cls, terms: Iterable[str]) -> Vocabulary:
        """The distinct terms, sorted."""
        encoded = sorted(term.encode() for term in set(terms))
        starts = np.cumsum([0] + [len(term) for term in encoded], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), np.uint8).copy(), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, number: int) -> str:
        return self._bytes(number).decode()

    def find(self, term: str) -> int | None:
        """The number of `term`, or None."""
        wanted = term.encode()
        number = bisect_left(range(len(self)), wanted, key=self._bytes)
        return number if number < len(self) and self._bytes(number) == wanted else None

    def write(self, path: Path) -> dict[str, Any]:
        """Write two arrays into `path`; returns the description that `read` needs."""
        save_array(path / "vocabulary.text.npy", self.text)
        save_array(path / "vocabulary.starts.npy", self.starts)
        return {"terms": len(self), "bytes": len(self.text)}

    @classmethod
    def read(cls, path: Path, description: dict[str, Any]) -> Vocabulary:
        """Map the terms; none is read before it is looked for. Raises IndexFormatError."""
        return cls(
            open_array(path / "vocabulary.text.npy", "uint8", description["bytes"]),
            open_array(path / "vocabulary.starts.npy", "int64", description["terms"] + 1),
        )

    def _bytes(self, number: int) -> bytes:
        return self.text[self.starts[number] : self.starts[number + 1]].tobytes()
