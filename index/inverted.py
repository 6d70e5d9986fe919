"""Inverted index over sparse vectors: impact tiers to find documents, a forward index to score them exactly.

Here it is built, merged, saved and opened; how it answers a query is in index/impact_search.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from index.building import Build, Parts, count_windows, in_files, in_memory, parse_size, spilled
from index.calibration import (
    FIRST_TIER,
    LIST_COST,
    WINDOW_COST,
    WORTH_IT,
    Calibration,
    best_by,
    calibrate,
    row_of,
    sample_queries,
)
from index.errors import IndexFormatError, InvalidVectorsError, interruptible
from index.folder_writer import FolderWriter
from index.impact_search import MOST_TERMS, ImpactSearch, checked_mean, no_floors
from index.inverted_files import describe_parts, named_arrays, read_parts, read_rows, write_parts
from index.manifest import Verify
from index.merging import stored_together
from index.options import LEVELS, InvertedIndexOptions
from index.second_tier import GROUP_WINDOW_COST, SecondTier
from index.second_tier_building import SecondTierBuild, count_group_windows
from index.settings import AnySetting, ClusterSetting, K
from index.soundness import damage_of
from index.sources import KEPT_BYTES, Given, Source
from index.storage import Commit, Part, read_current
from index.stored_documents import documents_with, impacts_in, impacts_of, stored_rows
from index.vectors import SparseQuery, as_sparse_rows, checked_count, checked_query, checked_shape, is_csr
from kernels.cpu.sparse import SparseRows

KIND = "inverted-index"
ROWS_A_BATCH = 32_768  # decoded at a time


class InvertedIndex(ImpactSearch):
    """Top-k search by dot product: exact, up to a recall, or within a budget.

    >>> from index import InvertedIndexOptions, SparseRows
    >>> documents = SparseRows(np.array([0, 2, 3]), np.array([0, 2, 2]), np.array([5.0, 1.0, 9.0]))
    >>> index = InvertedIndex.build(documents, InvertedIndexOptions(num_terms=3, impacts="f32"))
    >>> scores, docs = index.search(np.array([0, 2]), np.array([1.0, 2.0]), k=2)
    >>> docs.tolist(), scores.tolist()
    ([1, 0], [18.0, 7.0])
    """

    _part: Part | None = None  # of an opened index: its files stay while we do

    def __repr__(self) -> str:
        return (
            f"<InvertedIndex of {self.num_docs:,} documents, {self.num_postings:,} postings of {self.options.num_terms:,} terms, "
            f"{self.options.impacts} impacts, {self.nbytes:,} bytes>"
        )

    @classmethod
    def build(
        cls,
        vectors: SparseRows | Iterable[SparseRows],
        options: InvertedIndexOptions,
        *,
        threads: int | None = None,
        folder: str | Path | None = None,
        memory_limit: str | int | None = None,
        calibrate_with: Sequence[SparseQuery] | None = None,
        mean_length: float | None = None,
    ) -> InvertedIndex:
        """Index one vector a document; a document is known by its row number.

        vectors         SparseRows(indptr, indices, data), or what has these three, such as a CSR matrix of scipy; or batches of
                        SparseRows, which are spilled to a file first
        threads         all cores unless told; the index does not depend on it
        folder          build straight into this folder (as `save` would leave it) and open it
        memory_limit    bytes or "2GB": most that building holds besides the vectors given and, without `folder`, the index
        calibrate_with  queries like those to come; otherwise queries sampled from the documents
        mean_length     the collection's, where this index will be a part of it and holds counts; otherwise of these documents

        Raises InvalidVectorsError for vectors that cannot be indexed, WinnowError for a limit that is too small or a disk
        that is full; nothing is then left behind.
        """
        into = partial(
            cls.build_into,
            vectors=vectors,
            options=options,
            threads=threads,
            memory_limit=memory_limit,
            calibrate_with=calibrate_with,
            mean_length=mean_length,
        )
        return cls._committed(folder, into)

    @classmethod
    def build_into(
        cls,
        path: Path | None,
        vectors: SparseRows | Iterable[SparseRows],
        options: InvertedIndexOptions,
        *,
        threads: int | None = None,
        memory_limit: str | int | None = None,
        calibrate_with: Sequence[SparseQuery] | None = None,
        mean_length: float | None = None,
    ) -> InvertedIndex:
        """`build` with its arrays in files of an existing folder that the caller commits; `description` tells `read` the rest.

        path  None: in memory
        """
        if is_csr(vectors):
            vectors = as_sparse_rows(vectors)
        if isinstance(vectors, SparseRows):
            source = Given(checked_shape(vectors))
            return cls._build(path, source, options, threads, memory_limit, calibrate_with, mean_length)
        with spilled(vectors, options.num_terms, path) as rows:
            return cls._build(path, Given(rows), options, threads, memory_limit, calibrate_with, mean_length)

    @classmethod
    def merge(
        cls,
        indexes: Iterable[InvertedIndex],
        *,
        live: Sequence[np.ndarray | None] | None = None,
        terms: Sequence[np.ndarray | None] | None = None,
        num_terms: int | None = None,
        folder: str | Path | None = None,
        **build_options: Any,
    ) -> InvertedIndex:
        """One index of the documents of all, numbered one index after another: equal to one built from their vectors at once.

        live       of each index, bool [documents]: those to keep; None: all, or those that are live in an index as `seen`
        terms      of each index, int32 [terms], ascending: what its terms are called in the merged index; None: as before
        num_terms  of the merged index; that of the first unless given

        Other keywords as for `build`. Raises WinnowError for indexes of different options.
        """
        into = partial(cls.merge_into, indexes=indexes, live=live, terms=terms, num_terms=num_terms, **build_options)
        return cls._committed(folder, into)

    @classmethod
    def merge_into(
        cls,
        path: Path | None,
        indexes: Iterable[InvertedIndex],
        *,
        live: Sequence[np.ndarray | None] | None = None,
        terms: Sequence[np.ndarray | None] | None = None,
        num_terms: int | None = None,
        threads: int | None = None,
        memory_limit: str | int | None = None,
        calibrate_with: Sequence[SparseQuery] | None = None,
        mean_length: float | None = None,
    ) -> InvertedIndex:
        """`merge` as `build_into` is `build`."""
        source, options = stored_together(indexes, live, terms, num_terms, KEPT_BYTES if memory_limit is None else 0)
        return cls._build(path, source, options, threads, memory_limit, calibrate_with, mean_length)

    @classmethod
    def _committed(cls, folder: str | Path | None, build_into: Callable[[Path | None], InvertedIndex]) -> InvertedIndex:
        if folder is None:
            return build_into(None)
        with FolderWriter(folder, KIND, on_damage="replace") as writer:
            part = writer.new_part()
            part.contents = build_into(part.path).description()
            writer.commit({"part": part.name}, [part])
        return cls.open(folder)

    @classmethod
    def _build(
        cls,
        path: Path | None,
        source: Source,
        options: InvertedIndexOptions,
        threads: int | None,
        memory_limit: str | int | None,
        calibrate_with: Sequence[SparseQuery] | None,
        mean_length: float | None,
    ) -> InvertedIndex:
        threads = checked_count("threads", (os.cpu_count() or 1) if threads is None else threads)
        limit = None if memory_limit is None else parse_size(memory_limit)
        allocate = in_memory if path is None else in_files(path)
        build = Build(source, options, allocate, threads, limit, checked_mean(mean_length))
        parts = build.run()
        index = cls(parts, options)
        if options.wants_second_tier(index.num_docs):
            second = SecondTierBuild(source.indptr, build.impacts, parts.tiers, allocate, threads, limit, path)
            index.second_tier = SecondTier(second.run())
        if calibrate_with is not None or index.num_docs >= WORTH_IT:
            rows = source.rows if isinstance(source, Given) and options.impacts != "counts" else None
            if calibrate_with is None:
                sampled = index._sampled() if rows is None else sample_queries(index.num_docs, partial(row_of, rows))
                calibrate_with = sampled
            index._calibrate(calibrate_with, rows if options.impacts in LEVELS else None, threads)
        return index

    def impacts(self, doc: int, terms: np.ndarray) -> np.ndarray:
        """float32 [len(terms)]: the impact of each term in one document, 0 where it has no posting."""
        if not 0 <= doc < self.num_docs:
            raise InvalidVectorsError(
                f"document {doc} is not one of the {self.num_docs} documents, 0 to {self.num_docs - 1}."
            )
        return impacts_in(self.forward, self.options.num_terms, doc, terms)

    def documents_with(self, terms: Sequence[int]) -> np.ndarray:
        """bool [documents]: those that have all the terms; a filter for `search`."""
        checked = checked_query(SparseQuery(np.asarray(terms), np.ones(len(terms))), self.options.num_terms)
        return documents_with(self.tiers, self.num_docs, checked.terms)

    def stored_rows(self, docs: np.ndarray) -> SparseRows:
        """The rows of some documents, each named once, with their counts, where the index holds counts, or else their impacts."""
        docs = np.asarray(docs)
        if docs.size and (docs.dtype.kind not in "iu" or docs.min() < 0 or docs.max() >= self.num_docs):
            raise InvalidVectorsError(
                f"documents {docs!r:.60} are not all of the {self.num_docs} documents, 0 to {self.num_docs - 1}."
            )
        rows = stored_rows(self.forward, self.options.num_terms, docs)
        return rows if self.options.impacts == "counts" else rows._replace(data=impacts_of(self.forward, rows, docs))

    def vectors(self) -> Iterator[SparseRows]:
        """`stored_rows` of all documents, in batches."""
        for first in range(0, self.num_docs, ROWS_A_BATCH):
            yield self.stored_rows(np.arange(first, min(first + ROWS_A_BATCH, self.num_docs)))

    def calibrate(self, queries: Sequence[SparseQuery], threads: int = 1) -> None:
        """Find anew which settings reach a recall, on queries like those to come; recall is against the stored impacts."""
        self._calibrate(queries, None, checked_count("threads", threads))

    @property
    def num_live_with_terms(self) -> int:
        """Documents that have a term and may be found."""
        has_terms = np.diff(self.forward.starts) > 0
        return int(np.count_nonzero(has_terms if self.live is None else has_terms & self.live))

    @property
    def nbytes(self) -> int:
        """Bytes of all that search reads, in memory and on disk alike."""
        second_tier = 0 if self.second_tier is None else self.second_tier.nbytes
        return sum(array.nbytes for _, array in named_arrays(Parts(self.tiers, self.forward))) + second_tier

    def save(self, folder: str | Path) -> None:
        """Write an index folder of its own, whole or not at all; an index there before is replaced."""
        with FolderWriter(folder, KIND, on_damage="replace") as writer:
            part = writer.new_part()
            part.contents = self.write(part.path)
            writer.commit({"part": part.name}, [part])

    @classmethod
    def open(cls, folder: str | Path, verify: Verify = "quick") -> InvertedIndex:
        """Map a saved index into memory; pages are read when a search touches them. Raises IndexFormatError.

        verify  "full" reads every byte, row and posting first
        """
        index = read_current(folder, KIND, cls._read_commit, verify)
        problem = damage_of(index) if verify == "full" else None
        if problem:
            raise IndexFormatError(f"{folder}: {problem}; restore it from a copy or build it again.")
        return index

    def write(self, path: Path) -> dict[str, Any]:
        """Write the arrays into `path`; returns the description that `read` needs."""
        write_parts(path, Parts(self.tiers, self.forward))
        if self.second_tier is not None:
            self.second_tier.write(path)
        return self.description()

    def description(self) -> dict[str, Any]:
        """What `read` needs besides the arrays."""
        return {
            **describe_parts(Parts(self.tiers, self.forward, self._built_mean_length), self.options),
            "calibration": self.calibration.as_json(),
            "second_tier": None if self.second_tier is None else self.second_tier.description(),
        }

    @classmethod
    def read(cls, path: Path, description: dict[str, Any]) -> InvertedIndex:
        """Map what `write` wrote; IndexFormatError if an array is not of the type and length described."""
        parts, options = read_parts(path, description)
        calibration = Calibration.from_json(description["calibration"])
        second_tier = SecondTier.read(path, description["second_tier"], description["documents"], options.num_terms)
        return cls(parts, options, calibration, second_tier)

    @classmethod
    def read_rows(cls, path: Path, description: dict[str, Any]) -> InvertedIndex:
        """The same where other files than the forward index may be damaged: only for `stored_rows`, and to be merged."""
        return cls(*read_rows(path, description))

    @classmethod
    def _read_commit(cls, commit: Commit) -> InvertedIndex:
        part = commit.parts[commit.contents["part"]]
        index = cls.read(part.path, part.contents)
        index._part = part
        return index

    @interruptible
    def _calibrate(self, queries: Sequence[SparseQuery], rows: SparseRows | None, threads: int) -> None:
        """Set `calibration`; recall is against `rows`, the weights before they were quantised, if given."""
        checked = [self.checked(*query) for query in queries]
        checked = [query for query in checked if 0 < len(query.terms) <= MOST_TERMS]
        k = min(K, self.num_live)
        if not checked or k == 0:
            return
        if rows is None:
            wanted = [docs for _, docs in self.search_batch(checked, k, threads)]
        else:
            weights = np.zeros(self.options.num_terms)
            found = self.search_batch(checked, min(4 * k, self.num_live), threads)
            wanted = [best_by(rows, query, docs, k, weights) for query, (_, docs) in zip(checked, found, strict=True)]

        def run(queries: list[SparseQuery], setting: AnySetting) -> tuple[list[np.ndarray], float]:
            answers, cost = self._search_batch(queries, k, threads, setting, self._wanted, no_floors(queries))
            num_terms = float(np.mean([len(query.terms) for query in queries]))
            windows = (WINDOW_COST + LIST_COST * num_terms) * count_windows(self.num_docs)
            if isinstance(setting, ClusterSetting):
                windows = GROUP_WINDOW_COST * count_group_windows(self.num_docs)
            return [docs for _, docs in answers], cost / len(queries) + windows

        tiers: list[Sequence[AnySetting]] = [FIRST_TIER]
        if self.second_tier is not None:
            tiers.append(self.second_tier.settings())
        self.calibration = calibrate(list(zip(checked, wanted, strict=True)), tiers, run)
