"""What FAISS keeps of vectors to find candidates: written, checked byte by byte before FAISS reads it, searched.

FAISS loads a file with flipped bits in silence, so it is shown only bytes whose sha256 is the one that was stored. Its settings
are of the whole process: those that reading needs are set under a lock and set back; the number of threads is one of each
thread's own.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from index import files
from index.dense.factory import Factory
from index.errors import IndexFormatError
from index.manifest import sha256_of_file
from index.storage import read_only

CODES = "codes.faiss"
WRITTEN_AT_ONCE = 1 << 20  # bytes
READING = threading.Lock()


class Stored(NamedTuple):
    """How an index looks as a file."""

    bytes: int
    sha256: str


class Wish(NamedTuple):
    """How hard FAISS shall look."""

    nprobe: int
    ef_search: int


class Codes:
    """A trained FAISS index of the documents that have a vector, numbered in their order."""

    def __init__(self, index: Any, factory: Factory, stored: Stored | None = None):
        self.index, self.factory, self._stored = index, factory, stored

    def __len__(self) -> int:
        return int(self.index.ntotal)

    @property
    def takes_filters(self) -> bool:
        """True where FAISS can pass over documents that may not be found."""
        factory = self.factory
        return factory.lists > 0 or factory.links > 0 or (factory.codec != "PQ" and not factory.fast_scan)

    def candidates(self, queries: np.ndarray, count: int, wish: Wish, bits: np.ndarray | None) -> np.ndarray:
        """int64 [queries, count]: rows that are likely to score best, in any order; -1 where fewer are found.

        bits  uint8: a bit for each row, the first in the lowest of the first byte: those that may be found; None: all
        """
        import faiss

        selector = None if bits is None else faiss.IDSelectorBitmap(bits)
        with one_thread():
            _, rows = self.index.search(queries, count, params=self.parameters(count, wish, selector))
        if rows.size and not -1 <= rows.min() <= rows.max() < len(self):
            raise IndexFormatError(
                f"{CODES} names vector {rows.max()}, there are {len(self)}; restore the index from a copy or build it again."
            )
        found: np.ndarray = rows
        return found

    def parameters(self, count: int, wish: Wish, selector: Any) -> Any:
        """As FAISS takes them; they are of this search alone, so others may go on beside it."""
        import faiss

        factory, found = self.factory, None
        if factory.lists:
            found = faiss.SearchParametersIVF(nprobe=wish.nprobe, sel=selector)
        elif factory.links:
            found = faiss.SearchParametersHNSW(efSearch=max(wish.ef_search, count), sel=selector)
        elif selector is not None:
            found = faiss.SearchParameters(sel=selector)
        if factory.transform and found is not None:
            return faiss.SearchParametersPreTransform(index_params=found)
        return found

    def stored(self) -> Stored:
        """How it looks, or would look, as a file."""
        if self._stored is None:
            self._stored = self._sent(lambda data: None)
        return self._stored

    def write(self, path: Path) -> Stored:
        """Write the file into the folder `path`. Raises StorageError."""
        path = path / CODES
        with files.created(path) as descriptor:
            self._stored = self._sent(lambda data: files.write_all(descriptor, data, path))
        return self._stored

    def _sent(self, take: Callable[[bytes], None]) -> Stored:
        """Hand the bytes of the file over in pieces."""
        import faiss

        sha256, count = hashlib.sha256(), 0
        failure: BaseException | None = None

        def receive(data: bytes) -> int:
            nonlocal count, failure
            if failure is None:
                try:
                    take(data)
                except BaseException as error:  # kept until FAISS is done: it would lose it
                    failure = error
            sha256.update(data)
            count += len(data)
            return len(data)

        writer = faiss.BufferedIOWriter(faiss.PyCallbackIOWriter(receive, WRITTEN_AT_ONCE), WRITTEN_AT_ONCE)
        faiss.write_index(self.index, writer)
        del writer  # writes what it still holds
        if failure is not None:
            raise failure
        return Stored(count, sha256.hexdigest())

    @classmethod
    def read(cls, path: Path, factory: Factory, num_vectors: int, stored: Stored) -> Codes:
        """The file in the folder `path`, mapped where FAISS can. Raises IndexFormatError where it is not what was stored."""
        import faiss

        path = path / CODES
        try:
            size = path.stat().st_size
            found = sha256_of_file(path) if size == stored.bytes else None
        except OSError as error:
            raise IndexFormatError(f"{path} cannot be read ({error.strerror}); restore it from a copy.") from error
        if found != stored.sha256:
            what = "has another checksum" if found else f"has {size:,} bytes, not {stored.bytes:,}"
            raise IndexFormatError(f"{path} {what}; restore it from a copy or build the index again.")
        try:
            with deserialisation_limits(size + factory.tables_bytes):
                index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except Exception as error:
            raise IndexFormatError(
                f"{path} is no index of FAISS's ({last_line(error)}); build the index again."
            ) from error
        codes = cls(index, factory, stored)
        codes.check(path, num_vectors)
        return codes

    def check(self, path: Path, num_vectors: int) -> None:
        """Raise IndexFormatError where it is not of the kind, size and metric that is described."""
        import faiss

        wanted, found = (shapes_of(index) for index in (make(self.factory), self.index))
        is_right = (
            found == wanted
            and self.index.ntotal == num_vectors
            and self.index.metric_type == faiss.METRIC_INNER_PRODUCT
            and self.index.is_trained
        )
        if not is_right or not has_sound_links(self.index, self.factory):
            raise IndexFormatError(
                f"{path} is {' of '.join(found)} with {self.index.ntotal:,} vectors; the index needs {' of '.join(wanted)} with "
                f"{num_vectors:,}, so build it again."
            )


def make(factory: Factory) -> Any:
    """An empty FAISS index."""
    import faiss

    index = faiss.index_factory(factory.given_dimension, factory.words, faiss.METRIC_INNER_PRODUCT)
    for part in parts_of(index):
        if hasattr(part, "do_polysemous_training"):
            part.do_polysemous_training = False  # for a search by Hamming distance that we do not make
    return index


def parts_of(index: Any) -> Iterator[Any]:
    """The index, and those inside it, each as what it is."""
    import faiss

    index = faiss.downcast_index(index)
    yield index
    for name in ("index", "storage"):
        inner = getattr(index, name, None)
        if inner is not None and not callable(inner):
            yield from parts_of(inner)


def shapes_of(index: Any) -> list[str]:
    """What it is and of which sizes, outermost first."""
    import faiss

    shapes = []
    for part in parts_of(index):
        kind = type(part).__name__.replace(
            "IndexFlatIP", "IndexFlat"
        )  # FAISS calls some otherwise when it reads them back
        sizes = [part.d, *(getattr(part, name, 0) for name in ("code_size", "nlist"))]
        if hasattr(part, "chain"):
            kind += type(faiss.downcast_VectorTransform(part.chain.at(0))).__name__.replace(
                "OPQMatrix", "LinearTransform"
            )
        sizes += [part.sq.qtype] if hasattr(part, "sq") else []
        sizes += [part.pq.M, part.pq.nbits] if hasattr(part, "pq") else []
        sizes += [part.hnsw.nb_neighbors(0)] if hasattr(part, "hnsw") else []
        shapes.append(f"{kind}({', '.join(map(str, sizes))})")
    return shapes


def has_sound_links(index: Any, factory: Factory) -> bool:
    """True unless a graph leads to a vector that is not there, which would be read from anywhere in memory."""
    import faiss

    if not factory.links:
        return True
    graph = next(part for part in parts_of(index) if hasattr(part, "hnsw")).hnsw
    neighbours = faiss.vector_to_array(graph.neighbors)
    offsets, levels = faiss.vector_to_array(graph.offsets), faiss.vector_to_array(graph.levels)
    total = index.ntotal
    return bool(
        len(offsets) == total + 1
        and len(levels) == total
        and offsets[0] == 0
        and offsets[-1] == len(neighbours)
        and np.all(np.diff(offsets.astype(np.int64)) >= 0)
        and (len(neighbours) == 0 or -1 <= neighbours.min() <= neighbours.max() < total)
        and -1 <= graph.entry_point < total
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """FAISS works on this thread alone: how many work side by side is ours to say."""
    import faiss

    before = faiss.omp_get_max_threads()
    if before == 1:
        yield
        return
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


@contextmanager
def deserialisation_limits(size: int) -> Iterator[None]:
    """No array that FAISS makes while it reads is much larger than the file."""
    import faiss

    with READING:
        before = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
        faiss.set_deserialization_vector_byte_limit(size)
        faiss.set_deserialization_loop_limit(size)
        try:
            yield
        finally:
            faiss.set_deserialization_vector_byte_limit(before[0])
            faiss.set_deserialization_loop_limit(before[1])


def packed(mask: np.ndarray) -> np.ndarray:
    """uint8: a bit for each, as FAISS's bitmaps have it."""
    return read_only(np.packbits(mask, bitorder="little"))


def last_line(error: Exception) -> str:
    """What FAISS says, without where in its source."""
    return str(error).strip().splitlines()[-1][-100:] if str(error).strip() else repr(error)
