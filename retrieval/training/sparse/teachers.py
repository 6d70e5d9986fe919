"""Teachers: what other models say of a query and a document, computed once, kept on disk, and found by ids.

Dense and sparse teachers keep vectors, so they know every pair. A cross-encoder and a file of scores know the pairs that they were
asked for. Scores of different teachers are on different scales: losses bring them together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from index.dense.options import Similarity
from index.errors import WinnowError
from index.inverted import InvertedIndex
from index.vectors import SparseQuery
from kernels.cpu.sparse import SparseRows
from retrieval.training.sparse.teacher_cache import TeacherError, Texts

CROSS_ENCODER, SCORES = "cross-encoder:", "scores:"
Pairs = Callable[[], Iterable[tuple[str, str]]]


class Teacher(Protocol):
    """Scores of pairs, the higher the more relevant."""

    name: str

    def scores(self, query_ids: Sequence[str], document_ids: Sequence[str]) -> torch.Tensor:
        """float32 [queries, documents]; NaN where it knows nothing. Raises TeacherError for ids that are not of the training data."""
        ...


def teacher_of(
    name: str,
    *,
    queries: Mapping[str, str],
    documents: Mapping[str, str],
    pairs: Pairs,
    cache: Path,
    options: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Teacher:
    """The teacher called `name`, all of it computed.

    name     bm25 (over these very documents), minilm, `dense:` and a model, a sparse model's name or folder, `cross-encoder:` and a
             model, or `scores:` and a file (`score_files`)
    queries, documents  the texts by id, all that the teacher will be asked of
    pairs    gives the (query id, document id) that a cross-encoder is to score: each query's positives and negatives
    cache    a folder for all teachers. What is there is not computed again, and then no model is loaded
    options  of the model, as `parse_options` has them

    Raises TeacherError for ids that do not match, CorpusError for a file that cannot be read, ModelError, WinnowError for options,
    LockedError while another process computes the same, IndexFormatError for a damaged cache, StorageError.
    """
    from retrieval.training.sparse import cross_scores, score_files, teacher_vectors

    asked, cache = (Texts.of("queries", queries), Texts.of("documents", documents)), Path(cache)
    if name.startswith(SCORES):
        if options:
            raise WinnowError(f"{name} is a file, which has no options; leave {', '.join(sorted(options))} out.")
        return score_files.read_scores(name, Path(name.removeprefix(SCORES)), *asked, pairs)
    made = (name, *asked, cache, options or {}, progress)
    if name.startswith(CROSS_ENCODER):
        return cross_scores.cross_encoder_teacher(*made, pairs)
    return teacher_vectors.vector_teacher(*made)


class Rows:
    """The row of each text, by its id.

    >>> Rows("minilm", "documents", ["a", "b"]).of(["b", "a", "b"]).tolist()
    [1, 0, 1]
    """

    def __init__(self, teacher: str, what: str, ids: Sequence[str]):
        """what  the ids are of: "queries" or "documents" """
        self.teacher, self.what = teacher, what
        self.row_of = {text_id: row for row, text_id in enumerate(ids)}

    def __len__(self) -> int:
        return len(self.row_of)

    def of(self, ids: Sequence[str]) -> np.ndarray:
        """int64 [ids]. Raises TeacherError for those that are not here."""
        found = np.fromiter((self.row_of.get(text_id, -1) for text_id in ids), np.int64, len(ids))
        if (found < 0).any():
            unknown = [text_id for text_id in ids if text_id not in self.row_of]
            raise TeacherError(
                f"{self.teacher} does not know {len(unknown):,} of {len(ids):,} {self.what}, for example {unknown[0]!r:.60}; make the "
                f"teacher with the {self.what} of the training data."
            )
        return found


class VectorsByRow(NamedTuple):
    """Vectors of one side, part after part."""

    rows: Rows
    parts: Sequence[np.ndarray]  # float16 [rows of a part, dimension], perhaps memory-mapped

    def of(self, ids: Sequence[str]) -> torch.Tensor:
        """float32 [ids, dimension]"""
        rows, found = self.rows.of(ids), np.empty((len(ids), self.parts[0].shape[1]), np.float32)
        firsts = np.cumsum([0, *map(len, self.parts)])
        part_of = np.searchsorted(firsts, rows, side="right") - 1
        for part in np.unique(part_of).tolist():
            own = np.flatnonzero(part_of == part)
            found[own] = self.parts[part][rows[own] - firsts[part]]
        return torch.from_numpy(found)


class DenseTeacher:
    """Dot products or cosines of dense vectors; NaN where one side has no vector, as a text without tokens of its own."""

    def __init__(self, name: str, queries: VectorsByRow, documents: VectorsByRow, similarity: Similarity):
        self.name, self.queries, self.documents, self.similarity = name, queries, documents, similarity

    def scores(self, query_ids: Sequence[str], document_ids: Sequence[str]) -> torch.Tensor:
        """See `Teacher`."""
        sides = [self.queries.of(query_ids), self.documents.of(document_ids)]
        has_vector = [side.any(dim=1) for side in sides]
        if self.similarity == "cosine":  # once more: float16 moved the lengths
            sides = [torch.nn.functional.normalize(side, dim=1) for side in sides]
        found = sides[0] @ sides[1].T
        return found.masked_fill_(~(has_vector[0][:, None] & has_vector[1]), torch.nan)


class SparseTeacher:
    """What our own engine scores, bit for bit: the documents are an index, and queries are encoded for it."""

    def __init__(self, name: str, queries: Rows, encoded: SparseRows, documents: Rows, index: InvertedIndex):
        """encoded  the queries row by row, over the terms of the index"""
        self.name, self.queries, self.encoded, self.documents, self.index = name, queries, encoded, documents, index

    def scores(self, query_ids: Sequence[str], document_ids: Sequence[str]) -> torch.Tensor:
        """See `Teacher`; 0 where no term is shared."""
        starts, terms, weights = self.encoded
        own = [slice(starts[row], starts[row + 1]) for row in self.queries.of(query_ids).tolist()]
        queries = [SparseQuery(terms[one], weights[one]) for one in own]
        return torch.from_numpy(self.index.scores(queries, self.documents.of(document_ids)))


class PairTeacher:
    """Scores of some pairs, NaN for all others.

    >>> queries, documents = Rows("mine", "queries", ["q"]), Rows("mine", "documents", ["a", "b"])
    >>> pairs = pair_numbers(queries, documents, [("q", "b")])
    >>> PairTeacher("mine", queries, documents, pairs, np.array([2.5])).scores(["q"], ["b", "a"])
    tensor([[2.5000,    nan]])
    """

    def __init__(self, name: str, queries: Rows, documents: Rows, pairs: np.ndarray, values: np.ndarray):
        """
        pairs   int64, each once: `pair_numbers` of them
        values  their scores, beside them
        """
        order = np.argsort(pairs)
        self.name, self.queries, self.documents = name, queries, documents
        self.pairs, self.values = pairs[order], values[order].astype(np.float32)

    def scores(self, query_ids: Sequence[str], document_ids: Sequence[str]) -> torch.Tensor:
        """See `Teacher`."""
        asked = self.queries.of(query_ids)[:, None] * len(self.documents) + self.documents.of(document_ids)
        found = np.full(asked.shape, np.nan, np.float32)
        if len(self.pairs):
            place = np.minimum(np.searchsorted(self.pairs, asked), len(self.pairs) - 1)
            is_known = self.pairs[place] == asked
            found[is_known] = self.values[place[is_known]]
        return torch.from_numpy(found)


def pair_numbers(queries: Rows, documents: Rows, pairs: Iterable[tuple[str, str]]) -> np.ndarray:
    """int64 [pairs]: one number for both rows of a pair of ids. Raises TeacherError for ids that are not here."""
    given = list(pairs)
    rows = queries.of([query for query, _ in given]), documents.of([document for _, document in given])
    numbers: np.ndarray = rows[0] * len(documents) + rows[1]
    return numbers
