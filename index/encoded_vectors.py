"""A folder of vectors that were encoded once, for many indexes: parts of some thousand documents, each committed by itself.

Format: docs/format.md. Who reads it checks it, as vectors are taken from it once and not searched in place.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from index.errors import IndexFormatError, InvalidVectorsError
from index.files import save_array
from index.manifest import Verify
from index.storage import Commit, Damage, Part, open_array, read_current
from index.vectors import checked_rows
from index.vocabulary import Vocabulary, end_to_end
from kernels.cpu.sparse import SparseRows

KIND = "vectors"


class EncodedPart(NamedTuple):
    """Some documents' ids and vectors, with a vocabulary of the terms that these have."""

    ids: list[str]
    rows: SparseRows
    vocabulary: Vocabulary

    def write(self, part: Part) -> None:
        """Fill a new part."""
        text, starts = end_to_end([doc_id.encode() for doc_id in self.ids])
        save_array(part.path / "ids.text.npy", text)
        save_array(part.path / "ids.starts.npy", starts)
        for name, array in zip(("starts", "terms", "weights"), self.rows, strict=True):
            save_array(part.path / f"rows.{name}.npy", array)
        part.contents = {
            "documents": len(self.ids),
            "postings": len(self.rows.indices),
            "id_bytes": len(text),
            "vocabulary": self.vocabulary.write(part.path),
        }

    @classmethod
    def read(cls, part: Part) -> EncodedPart:
        """What `write` wrote, all of it checked. Raises IndexFormatError."""
        try:
            return cls._read(part.path, part.contents)
        except InvalidVectorsError as error:
            raise IndexFormatError(f"{part.path} holds vectors that cannot be: {error}") from error
        except (LookupError, TypeError, UnicodeDecodeError) as error:
            raise IndexFormatError(
                f"{part.path} does not describe its vectors as this release does ({error!r:.80}); encode them again."
            ) from error

    @classmethod
    def _read(cls, path: Path, contents: dict[str, Any]) -> EncodedPart:
        num_docs, postings, num_terms = contents["documents"], contents["postings"], contents["vocabulary"]["terms"]
        vocabulary = Vocabulary.read(path, contents["vocabulary"])
        problem = vocabulary.damage()
        text = open_array(path / "ids.text.npy", "uint8", contents["id_bytes"])
        starts = open_array(path / "ids.starts.npy", "int64", num_docs + 1)
        if starts[0] != 0 or starts[-1] != len(text) or np.any(np.diff(starts) <= 0):
            problem = "its ids do not follow one another, or one is empty"
        if problem:
            raise IndexFormatError(f"{path}: {problem}; encode its documents again.")
        whole, cuts = text.tobytes(), starts.tolist()
        ids = [whole[first:end].decode() for first, end in pairwise(cuts)]
        rows = SparseRows(
            open_array(path / "rows.starts.npy", "int64", num_docs + 1),
            open_array(path / "rows.terms.npy", "int32", postings),
            open_array(path / "rows.weights.npy", "float32", postings),
        )
        return cls(ids, checked_rows(rows, num_terms), vocabulary)


def parts_of(commit: Commit) -> list[Part]:
    """The parts with vectors, in order."""
    names = commit.contents["parts"]
    if not isinstance(names, list):
        raise IndexFormatError(f"the manifest's parts are {names!r:.60}, no list; restore it from a copy.")
    return [commit.parts[name] for name in names]


def read_parts(folder: str | Path, verify: Verify = "quick") -> Iterator[tuple[Part, EncodedPart]]:
    """All parts in order, one in memory at a time. Raises IndexFormatError."""
    for part in read_current(folder, KIND, parts_of, verify):
        yield part, EncodedPart.read(part)


def read_model_part(folder: str | Path) -> Part:
    """The part that describes the model: its `contents` are `{"model", "encoder"}`. Raises IndexFormatError."""

    def read(commit: Commit) -> Part:
        part = commit.parts[commit.contents["model"]]
        part.contents["encoder"]["family"]
        return part

    return read_current(folder, KIND, read)


def damage_of_parts(folder: str | Path) -> Iterator[Damage]:
    """What does not hold in parts whose checksums are right; an id that two documents have."""
    seen: set[str] = set()
    for part in read_current(folder, KIND, parts_of):
        try:
            ids = EncodedPart.read(part).ids
        except IndexFormatError as error:
            yield Damage(part.name, "", str(error))
            continue
        if len(set(ids)) < len(ids) or not seen.isdisjoint(ids):
            yield Damage(part.name, "ids.text.npy", f"{part.path}: an id belongs to two documents")
        seen.update(ids)
