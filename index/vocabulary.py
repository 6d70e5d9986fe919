"""A sorted list of terms on disk: a term's number is its position, found by binary search without reading the list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from index.files import save_array
from index.storage import open_array, read_only
from kernels.cpu.sorted_strings import find


class Vocabulary:
    """Distinct terms in the order of their UTF-8 bytes (which is the order of their code points).

    >>> vocabulary = Vocabulary.build({"tea", "coffee"})
    >>> len(vocabulary), vocabulary[0], vocabulary.find(["tea", "milk"]).tolist()
    (2, 'coffee', [1, -1])
    """

    def __init__(self, text: np.ndarray, starts: np.ndarray):
        self.text = read_only(text)  # uint8, all terms end to end
        self.starts = read_only(starts)  # int64 [terms + 1]

    @classmethod
    def build(cls, terms: Iterable[str]) -> Vocabulary:
        """The distinct terms, sorted."""
        return cls(*end_to_end(sorted(term.encode() for term in set(terms))))

    @classmethod
    def merged(cls, parts: Sequence[tuple[Vocabulary, np.ndarray]]) -> tuple[Vocabulary, list[np.ndarray]]:
        """One vocabulary of the terms of all that are `kept` (bool [terms]), and of each the new numbers of its terms.

        A new number is int32; -1 for a term that is not kept.
        """
        kept = [np.flatnonzero(is_kept) for _, is_kept in parts]
        terms = [vocabulary._strings(numbers) for (vocabulary, _), numbers in zip(parts, kept, strict=True)]
        union = sorted(set().union(*terms))
        number_of = dict(zip(union, range(len(union)), strict=True))
        maps = []
        for (vocabulary, _), numbers, own in zip(parts, kept, terms, strict=True):
            new_numbers = np.full(len(vocabulary), -1, np.int32)
            new_numbers[numbers] = np.fromiter(map(number_of.__getitem__, own), np.int32, len(own))
            maps.append(new_numbers)
        return cls(*end_to_end(union)), maps

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, number: int) -> str:
        return self.text[self.starts[number] : self.starts[number + 1]].tobytes().decode(errors="replace")

    def __iter__(self) -> Iterator[str]:
        """All terms by number. Raises UnicodeDecodeError where the files are damaged."""
        return (string.decode() for string in self._strings(np.arange(len(self))))

    def find(self, terms: Sequence[str]) -> np.ndarray:
        """int32 [len(terms)]: their numbers, -1 for those that are not here."""
        found = np.empty(len(terms), np.int32)
        find(self.text, self.starts, *map(read_only, end_to_end([term.encode() for term in terms])), found)
        return found

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

    def damage(self) -> str | None:
        """What is wrong with the terms, all of them read; None if they are sound."""
        if len(self.starts) == 0 or self.starts[0] != 0 or self.starts[-1] != len(self.text):
            return "its starts do not span the text"
        if np.any(np.diff(self.starts) < 0):
            return "its starts fall"
        strings = self._strings(np.arange(len(self)))
        if any(before >= after for before, after in pairwise(strings)):
            return "its terms do not ascend"
        try:
            list(self)
        except UnicodeDecodeError as error:
            return f"it has a term that is not UTF-8 ({error.reason})"
        return None

    def _strings(self, numbers: np.ndarray) -> list[bytes]:
        text, starts = self.text.tobytes(), self.starts.tolist()
        return [text[starts[number] : starts[number + 1]] for number in numbers.tolist()]


def end_to_end(strings: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """(uint8, all bytes one string after another; int64 [strings + 1], where each starts)."""
    starts = np.zeros(len(strings) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, strings), np.int64, len(strings)), out=starts[1:])
    return np.frombuffer(b"".join(strings), np.uint8), starts
