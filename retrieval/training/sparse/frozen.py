"""A side that is not trained: its vectors are computed once and kept, as a teacher's are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from index.vectors import concatenate
from kernels.cpu.sparse import SparseRows
from retrieval.encoders.tokens import TextReader
from retrieval.encoding import told_once
from retrieval.training.sparse.model import QueryTable, SparseModel
from retrieval.training.sparse.teacher_cache import Asked, TeacherFolder, Texts
from retrieval.training.sparse.teacher_vectors import Items, grow, open_rows, save_rows

TEXTS_AT_ONCE = 32

Encode = Callable[[Sequence[str]], SparseRows]


class FrozenDocuments:
    """The vectors of documents, by their texts.

    >>> rows = SparseRows(np.array([0, 1, 3]), np.array([2, 0, 1], np.int32), np.array([1.5, 2.0, 0.5], np.float32))
    >>> FrozenDocuments(["tea", "salt"], rows, num_terms=3).of(["salt", "tea"])
    tensor([[2.0000, 0.5000, 0.0000],
            [0.0000, 0.0000, 1.5000]])
    """

    def __init__(self, texts: Sequence[str], rows: SparseRows, num_terms: int):
        self.row_of = {text: row for row, text in enumerate(texts)}
        self.rows, self.num_terms = rows, num_terms

    def of(self, texts: Sequence[str]) -> torch.Tensor:
        """float32 [texts, terms]. Raises KeyError for a text that is no document."""
        found = np.zeros((len(texts), self.num_terms), np.float32)
        for place, text in zip(found, texts, strict=True):
            row = self.row_of[text]
            own = slice(self.rows.indptr[row], self.rows.indptr[row + 1])
            place[self.rows.indices[own]] = self.rows.data[own]
        return torch.from_numpy(found)


def kept_rows(
    name: str,
    identity: Mapping[str, Any],
    sides: tuple[Texts, Texts],
    encode: Mapping[str, Encode],
    cache: Path,
    progress: bool,
) -> dict[str, SparseRows]:
    """The vectors of each side in `encode`, float32 rows in the order of its texts: from the cache, or computed and put there.

    name      of the model, as folder and progress bar have it
    identity  all that the vectors depend on beside the texts, as JSON has it
    sides     queries and documents

    Raises IndexFormatError for a damaged cache, LockedError while another process computes the same, StorageError.
    """
    asked = Asked.of(name, {"frozen": True}, *sides)
    folder = TeacherFolder.find(cache, asked, lambda: dict(identity))

    def fill_with(one: Encode) -> Callable[[Items, Path], dict[str, Any]]:
        return lambda items, path: save_rows(one([text for _, text in items]), path)

    wanted = [side for side in reversed(sides) if side.what in encode]
    if any(folder.num_rows(side.what) < len(side.ids) for side in wanted):
        with told_once(), folder.growing(lambda path: {"model": dict(identity)}) as growing:
            for side in wanted:
                grow(growing, name, side, fill_with(encode[side.what]), progress)
    return {what: concatenate([open_rows(part) for part in folder.parts(what)]) for what in encode}


@torch.no_grad()
def encoded(tower: SparseModel | QueryTable, reader: TextReader, texts: Sequence[str]) -> SparseRows:
    """float32 rows of texts, as the tower is now, without dropout."""
    was_training, batches, left = tower.training, [], iter(texts)
    tower.eval()
    try:
        while some := list(islice(left, TEXTS_AT_ONCE)):
            batches.append(as_rows(tower(reader.of(some)).float().cpu().numpy()))
    finally:
        tower.train(was_training)
    return concatenate(batches)


def as_rows(weights: np.ndarray) -> SparseRows:
    """float32 [texts, terms] without its zeros."""
    texts, terms = weights.nonzero()
    starts = np.zeros(len(weights) + 1, np.int64)
    np.cumsum(np.bincount(texts, minlength=len(weights)), out=starts[1:])
    return SparseRows(starts, terms.astype(np.int32), weights[texts, terms])
