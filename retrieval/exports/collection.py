"""What is exported: the documents of one sparse arm, or of a file of vectors, as rows over one numbering of terms.

A row holds the impacts that a search multiplies the query's weights by. Of counts (bm25) these are the formula's, with the mean length
of the collection as it is now; the idf is in the query's weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from index.arms import SparseArm
from index.documents import PAGE, numbers_of
from index.errors import WinnowError
from index.manifest import is_index
from index.snapshot import Snapshot
from index.stored_documents import impacts_of, stored_rows
from index.vocabulary import Vocabulary
from kernels.cpu.sparse import SparseRows
from retrieval.encoders.learned import LearnedSparseEncoder
from retrieval.encoders.protocol import SparseEncoder
from retrieval.encoding import read_encoder_of
from retrieval.opened import Opened
from retrieval.queries import checked_text
from retrieval.vector_files import Vectors, is_encoded, read_vectors
from retrieval.vectors_by_id import VectorsById


class Batch(NamedTuple):
    """Some documents: `rows` holds a weight above 0 for each term, by number, ascending."""

    ids: list[str]
    rows: SparseRows


class WeightedTerms(NamedTuple):
    """A query: `numbers` int64 [n], ascending, and `weights` float32 [n], above 0."""

    numbers: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Collection:
    """Documents with their vectors, read a page at a time as often as asked."""

    name: str
    terms: Sequence[str]  # by number
    num_docs: int
    batches: Callable[[], Iterator[Batch]]
    weigh: Callable[[str], Mapping[str, float]]  # a query in words to weights by term

    @classmethod
    def open(cls, source: Vectors, arm: str | None = None) -> Collection:
        """Of an index folder, or of whatever `retrieval.vector_files.read_vectors` takes.

        arm  which one of an index of several

        Raises WinnowError where no arm is sparse, several are and none is named, or an arm is named that is not there.
        """
        if isinstance(source, str | Path) and is_index(source) and not is_encoded(Path(source)):
            opened = Opened.read(source)
            return cls.of_arm(str(source), opened, chosen(opened, arm))
        if arm is not None:
            raise WinnowError(f"{source!s:.200} is no index and has no arm {arm!r:.60}; leave the arm out.")
        return cls.of_vectors(read_vectors(source), source)

    @classmethod
    def of_arm(cls, name: str, opened: Opened, encoder: SparseEncoder) -> Collection:
        """The live documents of an index, in their order."""
        snapshot, arm = opened.snapshot, cast(SparseArm, opened.snapshot.arms[encoder.arm])
        terms, renumbered = terms_of(encoder, arm)

        def weigh(text: str) -> dict[str, float]:
            found: dict[str, float] = {}
            queries = encoder.encode_query(checked_text("the query", text), arm)
            for (numbers, weights), new in zip(queries, renumbered, strict=True):
                own = numbers if new is None else new[numbers]
                pairs = zip(own.tolist(), weights.tolist(), strict=True)
                # -1: a term that only deleted documents of this segment have; others may have it too
                found |= {terms[number]: weight for number, weight in pairs if number >= 0}
            return found

        return cls(name, terms, snapshot.num_docs, lambda: batches_of(snapshot, arm, renumbered), weigh)

    @classmethod
    def of_vectors(cls, vectors: VectorsById, source: Vectors) -> Collection:
        """Of a file; its queries are by the model that `winnow encode` kept beside it, else words that each weigh 1."""

        def weigh(text: str) -> Mapping[str, float]:
            text = checked_text("the query", text)
            if not isinstance(source, str | Path) or not is_encoded(Path(source)):
                return {word: float(count) for word, count in Counter(text.split()).items()}
            encoder = cast(LearnedSparseEncoder, read_encoder_of(source))
            rows = encoder.encode_queries([text])
            return {encoder.terms[term]: weight for term, weight in zip(rows.indices, rows.data.tolist(), strict=True)}

        return cls(vectors.name, vectors.terms, len(vectors), lambda: map(Batch._make, vectors.batches()), weigh)

    def query(self, text: str) -> WeightedTerms:
        """A query in words. Terms that no document has, and weights of 0, are left out."""
        return self.weighted(self.weigh(text))

    def weighted(self, weights: Mapping[str, float]) -> WeightedTerms:
        """A query as weights by term."""
        wanted = {term: weight for term, weight in weights.items() if weight > 0}
        numbers = np.array(
            [n for n, term in enumerate(self.terms) if term in wanted], np.int64
        )  # no table of all terms is kept for one query
        return WeightedTerms(numbers, np.array([wanted[self.terms[n]] for n in numbers.tolist()], np.float32))


def chosen(opened: Opened, arm: str | None) -> SparseEncoder:
    """The encoder of the arm to export."""
    if opened.snapshot.num_docs == 0:
        raise WinnowError("there are no documents to export; add some first with retriever.index(corpus).")
    arms = {encoder.arm: encoder for encoder in opened.encoders}
    sparse = [name for name, encoder in arms.items() if encoder.kind == "sparse"]
    if arm is None and len(sparse) > 1:
        raise WinnowError(f"the index has the sparse arms {', '.join(sparse)}; name the one to export (--arm).")
    name = arm or (sparse[0] if sparse else next(iter(arms)))
    if name not in arms:
        raise WinnowError(f"the index has no arm {name!r:.60}; it has {', '.join(arms)}.")
    if name not in sparse:
        raise WinnowError(
            f"the arm {name} holds dense vectors, and exports are of sparse ones; its vectors are float32 in the vectors.npy of each segment "
            "(docs/format.md)."
        )
    return cast(SparseEncoder, arms[name])


def terms_of(encoder: SparseEncoder, arm: SparseArm) -> tuple[Sequence[str], list[np.ndarray | None]]:
    """All terms of an arm by number, and what each segment's own numbers become; None: they stay."""
    if encoder.terms is not None:
        return encoder.terms, [None] * len(arm.indexes)
    parts = [
        (vocabulary, statistics.document_frequency > 0)
        for vocabulary, statistics in zip(arm.vocabularies, arm.statistics, strict=True)
        if vocabulary is not None
    ]
    vocabulary, renumbered = Vocabulary.merged(parts)
    return list(vocabulary), list(renumbered)


def batches_of(snapshot: Snapshot, arm: SparseArm, renumbered: Sequence[np.ndarray | None]) -> Iterator[Batch]:
    """The live documents, a page at a time; `snapshot` holds the files meanwhile."""
    for (segment, live, _), index, new in zip(snapshot.segments, arm.indexes, renumbered, strict=True):
        numbers = numbers_of(live.mask, segment.num_docs)
        for start in range(0, len(numbers), PAGE):
            own = list(numbers[start : start + PAGE])
            docs = np.array(own, np.int32)
            rows = stored_rows(index.forward, index.options.num_terms, docs)
            impacts = impacts_of(index.forward, rows, docs)
            terms = rows.indices if new is None else new[rows.indices]
            yield Batch(segment.documents.ids(own), without_zeros(rows.indptr, terms, impacts))


def without_zeros(indptr: np.ndarray, terms: np.ndarray, weights: np.ndarray) -> SparseRows:
    """The rows without weights of 0."""
    kept = weights > 0
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])
    return SparseRows(before[indptr], terms[kept], weights[kept])
