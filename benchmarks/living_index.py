"""What does it cost that an index lives? Opening, checksums, small commits, many segments, merging; one JSON line each.

    python benchmarks/living_index.py --data DIR --json OUT

DIR is a collection as benchmarks/protocol.py says, whose vectors are given: encoding is not measured. Documents have an id and
no text. Folders lie beside OUT. Every part flushes to disk as it does for users.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from protocol import NUM_TERMS, load_documents, queries_of, record, timed
from sparse_search import compile_everything, environment

import index.storage as storage
from index.arm_segments import Encoded, Statistics
from index.documents import Document
from index.folder_writer import FolderWriter
from index.options import InvertedIndexOptions
from index.snapshot import Snapshot
from index.storage import read_current
from index.vectors import SparseQuery
from index.writer import Writer
from kernels.cpu.sparse import SparseRows

KIND, ARM = "retriever", "sparse"
SEGMENTS = 8
NEW = 1_000  # documents of a small commit
REPEATS = 9


@dataclass
class GivenVectors:
    """An encoder that knows the vectors of the documents to come."""

    rows: SparseRows
    options: InvertedIndexOptions
    next_doc: int = 0

    def encode_documents(self, documents: Iterable[Document]) -> Encoded:
        count = sum(1 for _ in documents)
        first, past = self.next_doc, self.next_doc + count
        self.next_doc = past
        entries = slice(int(self.rows.indptr[first]), int(self.rows.indptr[past]))
        vectors = SparseRows(
            self.rows.indptr[first : past + 1] - self.rows.indptr[first],
            self.rows.indices[entries],
            self.rows.data[entries],
        )
        return Encoded(vectors, self.options, self.statistics([], vectors, NUM_TERMS))

    def statistics(self, documents: Iterable[Document], vectors: SparseRows, num_terms: int) -> Statistics:
        frequency = np.bincount(vectors.indices, minlength=num_terms).astype(np.int32)
        return Statistics(len(vectors.indptr) - 1, 0, frequency)


class Living:
    """A collection in a folder, written to again and again."""

    def __init__(self, folder: Path, encoder: GivenVectors):
        self.folder, self.encoder = folder, encoder
        with FolderWriter(folder, KIND) as files:
            model = files.new_part()
            model.contents = {"model": "given"}
            Writer(Snapshot(model=model), {ARM: encoder}, files).publish([])

    def change(self, change: Callable[[Writer], Any]) -> float:
        """Seconds of a change from taking the lock to giving it back."""
        started = time.perf_counter()
        with FolderWriter(self.folder, KIND) as files:
            writer = Writer(read_current(self.folder, KIND, Snapshot.read), {ARM: self.encoder}, files)
            change(writer)
            del writer
        return time.perf_counter() - started

    def add(self, count: int) -> float:
        """Seconds to add so many documents and commit them."""

        def add_and_commit(writer: Writer) -> None:
            writer.add(documents(self.encoder.next_doc, count))
            writer.commit()

        return self.change(add_and_commit)

    def open(self) -> Snapshot:
        return read_current(self.folder, KIND, Snapshot.read)


def documents(first: int, count: int) -> Iterator[Document]:
    return (Document(str(number)) for number in range(first, first + count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--impacts", choices=("u8", "u16", "f32"), default="f32")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()

    def tell(**facts: Any) -> None:
        names = {"benchmark": "living_index", "dataset": arguments.data.name, "impacts": arguments.impacts}
        record(arguments.json, {**names, **facts, **environment()})

    rows, options = SparseRows(*load_documents(arguments.data)), InvertedIndexOptions(NUM_TERMS, arguments.impacts)
    compile_everything(rows, options)
    num_docs = len(rows.indptr) - 1 - 2 * REPEATS * NEW
    queries = {kind: [SparseQuery(*query) for query in queries_of(arguments.data, kind)] for kind in ("splade", "if")}
    with tempfile.TemporaryDirectory(dir=arguments.json.parent) as scratch:
        warm = Living(Path(scratch) / "warm", GivenVectors(rows, options))
        warm.add(NEW), warm.add(NEW), warm.change(Writer.merge_all)  # compiled from here on

        whole = Living(Path(scratch) / "whole", GivenVectors(rows, options))
        build_s = whole.add(num_docs)
        parts = Living(Path(scratch) / "parts", GivenVectors(rows, options))
        for number in range(SEGMENTS):
            parts.add(num_docs * (number + 1) // SEGMENTS - num_docs * number // SEGMENTS)
        measure_search(whole, parts, queries, tell)
        merge_s = parts.change(Writer.merge_all)
        tell(
            measured="merge",
            segments=SEGMENTS,
            documents=num_docs,
            build_s=build_s,
            merge_s=merge_s,
            ratio=merge_s / build_s,
        )
        measure_opening(whole, tell)
        commits = [whole.add(NEW) for _ in range(REPEATS)]
        tell(measured="commit", documents=NEW, into=num_docs, median_s=median(commits), largest_s=max(commits))


def measure_search(
    whole: Living, parts: Living, queries: dict[str, list[SparseQuery]], tell: Callable[..., None]
) -> None:
    """The same queries over one segment and over several, in turn."""
    arms = {name: living.open().arms[ARM] for name, living in (("one", whole), ("several", parts))}
    for kind, some in queries.items():
        found = {}
        for name, arm in [*arms.items(), *arms.items()]:  # twice: the second pass finds its pages in memory
            latency, answers = timed(lambda query, arm=arm: arm.search([query] * len(arm.indexes), 10), some)
            found[name] = latency, answers
        same = all(
            np.array_equal(one, other)
            for answers in zip(found["one"][1], found["several"][1], strict=True)
            for one, other in zip(*answers, strict=True)
        )
        (one, _), (several, _) = found["one"], found["several"]
        tell(
            measured="search",
            queries=kind,
            segments=SEGMENTS,
            one_us=one["cpu_us"],
            several_us=several["cpu_us"],
            ratio=several["cpu_us"] / one["cpu_us"],
            equal=same,
        )


def measure_opening(living: Living, tell: Callable[..., None]) -> None:
    """Opening with its quick checks, and without those of the first bytes of each file."""

    def seconds_to_open() -> float:
        gc.collect()
        started = time.perf_counter()
        living.open()
        return time.perf_counter() - started

    seconds_to_open()
    checked, unchecked = [], []
    real = storage.file_problems
    for _ in range(20 * REPEATS):  # in turn: the machine's pace changes
        checked.append(seconds_to_open())
        storage.file_problems = lambda *_: []  # type: ignore[assignment]
        unchecked.append(seconds_to_open())
        storage.file_problems = real
    tell(
        measured="open",
        checked_ms=median(checked) * 1e3,
        unchecked_ms=median(unchecked) * 1e3,
        share=1 - median(unchecked) / median(checked),
    )


if __name__ == "__main__":
    main()
