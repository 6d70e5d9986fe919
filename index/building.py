"""From sparse vectors to the arrays of an index: checked, quantised, inverted, in passes over windows of documents.

Each pass goes window by window on several threads and keeps nothing of a window but counts, so memory does not grow
with the collection. Batches from an iterator are first spilled to a file; whatever is written to a folder goes to files
reserved beforehand, so a full disk is an error before it is a loss. The arrays do not depend on the number of threads.
"""

from __future__ import annotations

import mmap
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from index.errors import InvalidVectorsError, WinnowError, interruptible
from index.files import new_array
from index.options import DTYPES, LEVELS, InvertedIndexOptions
from index.sources import Source
from index.storage import read_only
from index.vectors import MAX_DOCUMENTS, checked_rows
from kernels.cpu import forward_rows, impact_tiers
from kernels.cpu.forward_rows import WINDOW, ForwardRows, weigh
from kernels.cpu.impact_tiers import BINS, GROUP, TIERS, ImpactTiers
from kernels.cpu.partition import partition
from kernels.cpu.quantise import LARGEST_COUNT, choose_steps, largest_impacts, quantise, sum_counts
from kernels.cpu.sparse import SparseRows, count_postings

LARGEST_LEVELS = {"uint8": 255, "uint16": 65_535, "float32": LARGEST_COUNT}
LARGE_PAGE = 2 << 20  # bytes
NO_GROWTH = read_only(np.ones(1))
LARGEST_PATTERN = np.iinfo(np.int32).max
TIER_FRACTIONS = np.array([1 / 16, 1 / 6, 0.4, 1.0])  # of a list's postings up to the end of each tier
SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(?:([kMGT]?)i?B)?", re.IGNORECASE)

Allocate = Callable[[str, str, int], np.ndarray]


class Parts(NamedTuple):
    """All arrays of an index."""

    tiers: ImpactTiers
    forward: ForwardRows
    mean_length: float = 0.0  # of documents, by which the tiers were cut; where levels are counts


def count_windows(num_docs: int) -> int:
    """Windows that hold this many documents, the last one perhaps in part."""
    return -(-num_docs // WINDOW)


def in_memory(name: str, dtype: str, length: int) -> np.ndarray:
    """An array of the process; its memory, in large pages where there are any, is had when it is first written to."""
    size = length * np.dtype(dtype).itemsize
    if size < LARGE_PAGE:
        return np.zeros(length, dtype)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype)


def in_files(path: Path) -> Allocate:
    """Arrays in `.npy` files below `path`, their room on the disk reserved first: StorageError if there is none."""

    def allocate(name: str, dtype: str, length: int) -> np.ndarray:
        return new_array(path / f"{name}.npy", dtype, length)

    return allocate


class Build:
    """One build: what its passes share.

    mean_length  of the collection's documents; None: of these

    Raises WinnowError for too little memory.
    """

    def __init__(
        self,
        source: Source,
        options: InvertedIndexOptions,
        allocate: Allocate,
        threads: int,
        memory_limit: int | None,
        mean_length: float | None,
    ):
        self.source, self.options, self.allocate = source, options, allocate
        self.num_terms = options.num_terms
        self.mean_length = (mean_length or 0.0) if options.impacts == "counts" else 0.0
        self.num_docs = len(source.indptr) - 1
        self.num_windows = count_windows(self.num_docs)
        self.threads = affordable_threads(source, self.num_terms, threads, memory_limit)
        self.scratch = threading.local()
        self.low_bits = 8 if self.num_terms <= 100_000 else 16  # about what a posting's unary code then costs: 2 bits

    @interruptible
    def run(self) -> Parts:
        """Index the rows. Raises InvalidVectorsError for rows that cannot be indexed."""
        self.check_and_scale()
        forward = self.forward_rows()
        return Parts(self.impact_tiers(), forward, self.mean_length)

    def on_windows(self, work: Callable[[int], Any], windows: Iterable[int] | None = None) -> list[Any]:
        """`work` for each window, on several threads; the results in order."""
        return on_threads(self.threads, work, range(self.num_windows) if windows is None else windows)

    def in_turns(self, work: Callable[[int], Any], count: int) -> Iterator[Any]:
        """The results of `work` for each window in order; only so many are held at a time."""
        for first in range(0, self.num_windows, count):
            yield from self.on_windows(work, range(first, min(first + count, self.num_windows)))

    def entries(self, rows: SparseRows, patterns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(terms int32, documents in the window uint16, patterns int32) of the entries that have a posting, by ranges of terms.

        They lie in arrays of this thread until it asks for those of another window: fresh memory costs more than the sorting.
        """
        found = getattr(self.scratch, "arrays", None)
        if found is None or len(found[0]) < len(patterns):
            found = tuple(np.empty(len(patterns), dtype) for dtype in (np.int32, np.uint16, np.int32))
            self.scratch.arrays = found
        count = partition(rows, read_only(patterns), self.num_terms, *found)
        terms, docs, kept = (array[:count] for array in found)
        return terms, docs, kept

    def check_and_scale(self) -> None:
        """Set the scales of documents, `lengths` (postings of each row, window by window), the type of levels, the mean length
        and `largest`, the pattern of each term's largest impact."""
        self.scales = self.allocate("forward.scales", "float32", self.num_docs)
        self.saturation = read_only(self.options.saturation(self.mean_length))
        self.largest = np.zeros(self.num_terms, np.int32)
        counts = self.options.impacts == "counts"

        def look_at(window: int) -> tuple[np.ndarray, float, np.ndarray | None]:
            rows = self.source.window(window)
            self.source.check(window, rows, self.num_terms, counts)
            lengths = np.empty(len(rows.indptr) - 1, np.int64)
            count_postings(rows, lengths)
            largest_count = self.scale(window, rows)
            return lengths, largest_count, None if counts else self.largest_in(window, rows)

        self.lengths: list[np.ndarray] = []
        largest_count = 0.0
        for lengths, count, largest in self.in_turns(look_at, 8):  # each is a whole vocabulary
            self.lengths.append(lengths)
            largest_count = max(largest_count, count)
            if largest is not None:
                np.maximum(self.largest, largest, out=self.largest)
        self.level_type = next(name for name in DTYPES[self.options.impacts] if largest_count <= LARGEST_LEVELS[name])
        if counts:  # what they stand for is known only now
            self.mean_length = self.mean_length or mean_length(self.scales)
            self.saturation = read_only(self.options.saturation(self.mean_length))
            for largest in self.in_turns(lambda window: self.largest_in(window, self.source.window(window)), 8):
                np.maximum(self.largest, largest, out=self.largest)

    def scale(self, window: int, rows: SparseRows) -> float:
        """Set the scales of the documents of a window; returns the largest count, 0 where there are no counts."""
        scales, impacts = self.scales[documents_of(window)], self.options.impacts
        if self.source.scales is not None:
            scales[:] = self.source.scales[documents_of(window)]
        elif impacts in LEVELS:
            choose_steps(rows, LEVELS[impacts], scales)
        elif impacts == "f32":
            scales[:] = 1
        return float(sum_counts(rows, scales)) if impacts == "counts" else 0.0

    def largest_in(self, window: int, rows: SparseRows) -> np.ndarray:
        """int32 [terms]: the pattern of the largest impact of each term in a window; 0 where it has none."""
        largest = np.zeros(self.num_terms, np.int32)
        largest_impacts(rows.indices, self.stored(window, rows)[1], largest)
        return largest

    def stored(self, window: int, rows: SparseRows) -> tuple[np.ndarray, np.ndarray]:
        """(levels, int32 patterns of the impacts as float32) of a window's rows; 0 where a weight is 0: it has no posting."""
        impacts = self.options.impacts
        if impacts == "f32":
            return rows.data, rows.data.view(np.int32)
        levels, scales = rows.data, read_only(self.scales[documents_of(window)])
        if impacts in LEVELS and self.source.scales is None:
            levels = np.empty(len(rows.data), DTYPES[impacts][0])
            quantise(rows, scales, LEVELS[impacts], levels)
        found = np.empty(len(rows.data), np.float32)
        weigh(rows.indptr, read_only(levels), scales, self.saturation, found)
        return levels, found.view(np.int32)

    def impacts(self, window: int) -> SparseRows:
        """The rows of a window with their stored impacts."""
        rows = self.source.window(window)
        return rows._replace(data=read_only(self.stored(window, rows)[1].view(np.float32)))

    def forward_rows(self) -> ForwardRows:
        """Code the rows and count the impacts of each term, which decides `tier_of_bin`."""
        buckets = forward_rows.count_buckets(self.num_terms, self.low_bits)
        starts = self.allocate("forward.starts", "int64", self.num_docs + 1)
        np.cumsum(np.concatenate([[0], *self.lengths]), out=starts)
        bits = [lengths.sum() + len(lengths) * buckets for lengths in self.lengths]
        high_starts = self.allocate("forward.high_starts", "int64", self.num_windows + 1)
        high_starts[1:] = np.cumsum([-(-int(b) // 64) for b in bits])
        forward = ForwardRows(
            starts,
            self.allocate("forward.low", f"uint{self.low_bits}", int(starts[-1])),
            self.allocate("forward.high", "uint64", int(high_starts[-1])),
            high_starts,
            self.allocate("forward.levels", self.level_type, int(starts[-1])),
            self.scales,
            self.saturation,
        )

        def code(window: int) -> np.ndarray:
            rows = self.source.window(window)
            levels, patterns = self.stored(window, rows)
            entries = slice(*starts[[window * WINDOW, min((window + 1) * WINDOW, self.num_docs)]])
            high = np.zeros(high_starts[window + 1] - high_starts[window], np.uint64)
            forward_rows.encode(
                rows, buckets, levels, self.low_bits, forward.low[entries], high, forward.levels[entries]
            )
            forward.high[high_starts[window] : high_starts[window + 1]] = high
            terms, _, patterns = self.entries(rows, patterns)
            bins = np.zeros(self.num_terms * BINS, np.int32)
            impact_tiers.count_bins(terms, patterns, self.largest, bins)
            return bins

        histogram = np.zeros(self.num_terms * BINS, np.int64)
        for bins in self.in_turns(code, self.threads):  # bins are many
            histogram += bins
        self.tier_of_bin = impact_tiers.choose_tiers(histogram, TIER_FRACTIONS, self.num_windows)
        return forward

    def impact_tiers(self) -> ImpactTiers:
        cells = self.num_terms * TIERS
        lowest, highest = np.full(cells, LARGEST_PATTERN, np.int32), np.zeros(cells, np.int32)

        def count(window: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            rows = self.source.window(window)
            found = np.zeros(cells, np.int32), np.full(cells, LARGEST_PATTERN, np.int32), np.zeros(cells, np.int32)
            terms, _, patterns = self.entries(rows, self.stored(window, rows)[1])
            impact_tiers.count_tiers(terms, patterns, self.largest, self.tier_of_bin, *found)
            return found

        starts = self.allocate("tiers.starts", "int64", self.num_windows * cells + 1)
        counts = self.allocate("tiers.counts", "int64", cells)
        for first in range(0, self.num_windows, GROUP):
            found = self.on_windows(count, range(first, min(first + GROUP, self.num_windows)))
            by_window = np.stack([window_counts for window_counts, _, _ in found])  # [window][term, tier]
            counts += by_window.sum(0)
            for _, low, high in found:
                np.minimum(lowest, low, out=lowest)
                np.maximum(highest, high, out=highest)
            by_term = by_window.reshape(len(found), self.num_terms, TIERS).transpose(1, 0, 2)
            group = slice(first * cells + 1, (first + len(found)) * cells + 1)
            starts[group] = starts[first * cells] + np.cumsum(by_term.ravel(), dtype=np.int64)
        edges = self.allocate("tiers.edges", "float32", self.num_terms * (TIERS + 1))
        edges[:] = impact_tiers.choose_edges(lowest, highest)
        num_postings = int(starts[-1])
        docs = self.allocate("tiers.docs", "uint16", num_postings)
        packed = self.allocate("tiers.codes", "uint8", (num_postings + 1) // 2)
        for first in range(0, self.num_windows, GROUP):
            self.place_group(first, starts, edges, docs, packed)
        return ImpactTiers(starts, docs, packed, edges, counts, NO_GROWTH)

    def place_group(
        self, first: int, starts: np.ndarray, edges: np.ndarray, docs: np.ndarray, packed: np.ndarray
    ) -> None:
        """Write the postings of the group of windows that begins with window `first`."""
        cells = self.num_terms * TIERS
        past_last = min(first + GROUP, self.num_windows)
        by_window = starts[first * cells : past_last * cells].reshape(self.num_terms, past_last - first, TIERS)
        begin, end = int(starts[first * cells]), int(starts[past_last * cells])
        shared = begin & 1  # the first code shares a byte with the last one of the group before
        codes = np.zeros(shared + end - begin, np.uint8)
        if shared:
            codes[0] = packed[begin >> 1] & 15

        def place(window: int) -> None:
            rows = self.source.window(window)
            filled = by_window[:, window - first].ravel() - begin
            impact_tiers.place(
                *self.entries(rows, self.stored(window, rows)[1]),
                self.largest,
                self.tier_of_bin,
                edges,
                filled,
                docs[begin:end],
                codes[shared:],
            )

        self.on_windows(place, range(first, past_last))
        impact_tiers.pack_codes(codes, packed[begin >> 1 : (end + 1) >> 1])


def on_threads(threads: int, work: Callable[[Any], Any], parts: Iterable[Any]) -> list[Any]:
    """`work` for each part, on several threads; the results in order."""
    if threads == 1:
        return list(map(work, parts))
    with ThreadPoolExecutor(threads) as pool:  # the kernels let go of Python's lock
        return list(pool.map(work, parts))


def documents_of(window: int) -> slice:
    """Those of one window; the last may end earlier."""
    return slice(window * WINDOW, (window + 1) * WINDOW)


def mean_length(lengths: np.ndarray) -> float:
    """Of the documents that have a term; 0.0 where there is none."""
    return float(lengths.sum(dtype=np.float64)) / max(int(np.count_nonzero(lengths)), 1)


def affordable_threads(source: Source, num_terms: int, threads: int, memory_limit: int | None) -> int:
    """As many threads as the memory limit allows; WinnowError if it allows none."""
    indptr = source.indptr
    if memory_limit is None or len(indptr) == 1:
        return threads
    ends = np.append(indptr[::WINDOW], indptr[-1])
    entries_of_window = int(np.diff(ends).max())
    entries_of_group = int((ends[GROUP:] - ends[:-GROUP]).max()) if len(ends) > GROUP else int(ends[-1])
    num_windows = count_windows(len(indptr) - 1)
    per_thread = entries_of_window * (30 + source.entry_bytes) + num_terms * BINS * 4 + WINDOW * 16
    shared = entries_of_group + num_terms * (BINS * 9 + min(GROUP, num_windows) * TIERS * 32) + 8 * len(indptr)
    affordable = (memory_limit - shared) // per_thread
    if affordable < 1:
        raise WinnowError(
            f"memory_limit is {memory_limit:,} bytes; building this collection needs at least "
            f"{shared + per_thread:,}, so allow that much."
        )
    return min(threads, affordable)


def parse_size(size: str | int) -> int:
    """Bytes of "2GB", "512MB", ... or of a number of bytes; WinnowError for anything else."""
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    match = SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
    if not match:
        raise WinnowError(f'memory_limit is {size!r}; give a number of bytes or a size such as "2GB".')
    return int(float(match[1]) * 1000 ** " KMGT".index((match[2] or " ").upper()))


@contextmanager
def spilled(batches: Iterable[SparseRows], num_terms: int, folder: Path | None) -> Iterator[SparseRows]:
    """The rows of all batches, one after another, mapped from files that are gone afterwards.

    folder  where the files lie; the system's folder for temporary files unless given

    Raises WinnowError where there is no room for them.
    """
    indptr, entries = [np.zeros(1, np.int64)], 0
    with (
        tempfile.TemporaryFile(dir=folder, buffering=0) as index_file,
        tempfile.TemporaryFile(dir=folder, buffering=0) as data_file,
    ):
        for batch in batches:
            rows = checked_rows(batch, num_terms)
            indptr.append(rows.indptr[1:] + entries)
            entries += len(rows.indices)
            append(rows.indices, index_file, folder)
            append(rows.data, data_file, folder)
        starts = np.concatenate(indptr)
        if len(starts) - 1 > MAX_DOCUMENTS:
            raise InvalidVectorsError(f"{len(starts) - 1} documents are more than one index holds, {MAX_DOCUMENTS}.")
        if entries == 0:
            yield SparseRows(starts, np.empty(0, np.int32), np.empty(0, np.float32))
        else:
            yield SparseRows(
                starts,
                np.memmap(index_file, np.int32, "r", shape=entries),
                np.memmap(data_file, np.float32, "r", shape=entries),
            )


def append(array: np.ndarray, file: FileIO, folder: Path | None) -> None:
    """Write an array at the end of an unbuffered file; WinnowError if there is no room."""
    left = memoryview(array.tobytes())
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise WinnowError(
            f"the batches cannot be written to {folder or tempfile.gettempdir()} ({error.strerror}); "
            "make room there, or give folder= on a larger disk."
        ) from error
