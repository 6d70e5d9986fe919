"""Dense index: vectors as they are, float32, and what FAISS finds candidates by. Built, merged, saved and opened here.

How it answers a query is in index/dense/search.py. What is stored of a document depends on that document alone; codes are made
anew whenever indexes are merged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from index.dense.codes import Codes, Stored
from index.dense.factory import Factory
from index.dense.methods import choose
from index.dense.options import DenseIndexOptions
from index.dense.search import DenseSearching
from index.dense.training import NO_CODES, Progress, learn
from index.dense.vectors import Rows, pieces_of, rows_of, stored
from index.errors import IndexFormatError, InvalidVectorsError, WinnowError, interruptible
from index.files import save_array
from index.filters import Filter
from index.folder_writer import FolderWriter
from index.manifest import Verify, is_count, is_sha256
from index.storage import Commit, Part, open_array, read_current, read_only
from index.vectors import MAX_DOCUMENTS

KIND = "dense-index"
KEYS = {"documents", "options", "factory", "method", "without", "longest", "training", "codes"}
LONGEST_SENTENCE = 1_000


class DenseIndex(DenseSearching):
    """Top-k search by dot product or cosine over dense vectors: exact, or by codes and exact scores of the candidates.

    >>> vectors = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 2.0]], np.float32)
    >>> index = DenseIndex.build(vectors, DenseIndexOptions(dimension=2), progress=False)
    >>> scores, docs = index.search(np.array([0.0, 1.0]), k=2)
    >>> docs.tolist(), [round(score, 3) for score in scores.tolist()]
    ([2, 1], [1.0, 0.8])
    """

    _part: Part | None = None  # of an opened index: its files stay while we do
    method: str = ""  # how candidates are found and why so, a sentence
    training: dict[str, Any] | None = None  # what the codes were learned from
    training_seconds: float | None = None  # how long that took, where it was now

    def __repr__(self) -> str:
        return (
            f"<DenseIndex of {self.num_docs:,} documents, {self.options.dimension} dimensions, {self.options.similarity}, "
            f"{'Flat' if self.codes is None else self.codes.factory.words}, {self.nbytes:,} bytes>"
        )

    @classmethod
    def build(
        cls,
        vectors: np.ndarray,
        options: DenseIndexOptions,
        *,
        without: np.ndarray | None = None,
        progress: bool = True,
    ) -> DenseIndex:
        """Index one vector a document, in memory; a document is known by its row number.

        vectors  float32, float64 or float16 [documents, dimension], perhaps mapped; they are copied
        without  int32, ascending: documents that have no vector, their rows being zeros; no query finds them

        Raises InvalidVectorsError for vectors that cannot be indexed, WinnowError for too few of them to train the method or too
        little time; nothing is then left behind.
        """
        return cls._build(None, rows_of(vectors, without, options), options, progress, refuse_few=True)

    @classmethod
    def build_into(
        cls,
        path: Path | None,
        vectors: np.ndarray,
        options: DenseIndexOptions,
        *,
        without: np.ndarray | None = None,
        progress: bool = True,
    ) -> DenseIndex:
        """`build` for a part of a collection: too few vectors to train the method are searched exactly until they are merged.

        path  an existing folder that the caller commits, for the files; `description` tells `read` the rest. None: in memory
        """
        return cls._build(path, rows_of(vectors, without, options), options, progress, refuse_few=False)

    @classmethod
    def merge_into(
        cls,
        path: Path | None,
        indexes: Sequence[DenseIndex],
        *,
        live: Sequence[np.ndarray | None] | None = None,
        progress: bool = True,
    ) -> DenseIndex:
        """One index of the documents of all, numbered one index after another, as `build_into` of their vectors would give.

        live  of each index, bool [documents]: those to keep; None: all, or those that are live in an index as `seen`

        Raises WinnowError for indexes of different options.
        """
        rows, options = rows_together(indexes, live)
        return cls._build(path, rows, options, progress, refuse_few=False)

    @classmethod
    @interruptible
    def _build(
        cls, path: Path | None, rows: Rows, options: DenseIndexOptions, progress: bool, *, refuse_few: bool
    ) -> DenseIndex:
        num_vectors = rows.num_docs - len(rows.without)
        if refuse_few and num_vectors == 0:
            raise InvalidVectorsError(f"none of {rows.num_docs} documents has a vector; give at least one that has.")
        factory, method = choose(options, num_vectors, refuse_few=refuse_few)
        with shown(rows.num_docs * (1 if factory.is_exact else 2), progress) as bar:
            vectors, longest = stored(path, rows, options, bar)
            learned = NO_CODES
            if not factory.is_exact:
                learned = learn(vectors, rows.without, factory, options.training_seconds, bar)
        index = cls(vectors, rows.without, options, longest, learned.codes)
        index.method, index.training, index.training_seconds = method, learned.training, learned.seconds
        if path is None:
            return index
        save_array(path / "without.npy", rows.without)
        if index.codes is not None:
            index.codes.write(path)
        opened = cls.read(path, index.description())
        opened.training_seconds = index.training_seconds
        return opened

    @property
    def nbytes(self) -> int:
        """Bytes of all that a search reads, in memory and on disk alike."""
        codes = 0 if self.codes is None else self.codes.stored().bytes
        return self.vectors.nbytes + self.without.nbytes + codes

    def save(self, folder: str | Path) -> None:
        """Write an index folder of its own, whole or not at all; an index there before is replaced."""
        with FolderWriter(folder, KIND, on_damage="replace") as writer:
            part = writer.new_part()
            part.contents = self.write(part.path)
            writer.commit({"part": part.name}, [part])

    @classmethod
    def open(cls, folder: str | Path, *, verify: Verify = "quick") -> DenseIndex:
        """Map a saved index into memory; vectors are read when a search touches them. Raises IndexFormatError.

        verify  "full" reads every byte and looks at every vector and code first; the codes' bytes are always checked
        """
        index = read_current(folder, KIND, cls._read_commit, verify)
        problem = index.damage() if verify == "full" else None
        if problem:
            raise IndexFormatError(f"{folder}: {problem}; restore it from a copy or build it again.")
        return index

    @classmethod
    def _read_commit(cls, commit: Commit) -> DenseIndex:
        part = commit.parts[commit.contents["part"]]
        index = cls.read(part.path, part.contents)
        index._part = part
        return index

    def write(self, path: Path) -> dict[str, Any]:
        """Write the files into `path`; returns the description that `read` needs."""
        save_array(path / "vectors.npy", self.vectors)
        save_array(path / "without.npy", self.without)
        if self.codes is not None:
            self.codes.write(path)
        return self.description()

    def description(self) -> dict[str, Any]:
        """What `read` needs besides the files."""
        return {
            "documents": self.num_docs,
            "options": asdict(self.options),
            "factory": "Flat" if self.codes is None else self.codes.factory.words,
            "method": self.method,
            "without": len(self.without),
            "longest": self.longest,
            "training": self.training,
            "codes": None if self.codes is None else self.codes.stored()._asdict(),
        }

    @classmethod
    def read(cls, path: Path, description: dict[str, Any]) -> DenseIndex:
        """Map what `write` wrote; IndexFormatError where a file is not as described."""
        options, factory = checked_description(path, description)
        num_docs, num_without = description["documents"], description["without"]
        without = open_array(path / "without.npy", "int32", num_without)
        if num_without and (without[0] < 0 or without[-1] >= num_docs or np.any(without[1:] <= without[:-1])):
            raise IndexFormatError(
                f"{path} names documents without a vector that it has not got, or not in order; build it again."
            )
        vectors = open_array(path / "vectors.npy", "float32", num_docs * options.dimension)
        codes = None
        if not factory.is_exact:
            codes = Codes.read(path, factory, num_docs - num_without, Stored(**description["codes"]))
        index = cls(vectors, without, options, float(description["longest"]), codes)
        index.method, index.training = description["method"], description["training"]
        return index

    def damage(self) -> str | None:
        """What is wrong with an index as it was built (not a view of it); None if nothing is."""
        from index.dense.soundness import damage_of

        return damage_of(self)


def rows_together(
    indexes: Sequence[DenseIndex], live: Sequence[np.ndarray | None] | None
) -> tuple[Rows, DenseIndexOptions]:
    """The rows that are kept of all, and the options of the index that they make."""
    if not indexes:
        raise WinnowError("there is no index to merge; give at least one.")
    live = [None] * len(indexes) if live is None else live
    if len(live) != len(indexes):
        raise WinnowError(f"live has {len(live)} entries for {len(indexes)} indexes; give one for each.")
    options = indexes[0].options
    for index in indexes:
        if index.options != options:
            raise WinnowError(
                f"the indexes have different options ({index.options} and {options}); merge indexes built with the same."
            )
    kept = [kept_docs(index, mask) for index, mask in zip(indexes, live, strict=True)]
    without, first = [np.empty(0, np.int32)], 0
    for index, docs in zip(indexes, kept, strict=True):
        without.append((np.flatnonzero(np.isin(docs, index.without)) + first).astype(np.int32))
        first += len(docs)
    if first > MAX_DOCUMENTS:
        raise InvalidVectorsError(f"{first:,} vectors are more than one index holds, {MAX_DOCUMENTS:,}.")

    def pieces() -> Iterator[np.ndarray]:
        for index, docs in zip(indexes, kept, strict=True):
            for piece in pieces_of(len(docs), options.dimension):
                yield index.stored_rows(docs[piece])

    return Rows(first, read_only(np.concatenate(without)), pieces, checked=True), options


def kept_docs(index: DenseIndex, live: np.ndarray | None) -> np.ndarray:
    """int64, ascending: documents of an index that are kept; without a mask, those that live as it was seen."""
    mask = index.live if live is None else Filter.of("mask of live documents", live, index.num_docs).mask
    return np.arange(index.num_docs) if mask is None or len(mask) == 0 else np.flatnonzero(mask)


@contextmanager
def shown(total: int, progress: bool) -> Iterator[Progress]:
    bar = Progress(total, progress)
    try:
        yield bar
    finally:
        bar.close()


def checked_description(path: Path, description: Any) -> tuple[DenseIndexOptions, Factory]:
    """What a description says of an index, each value of its type and in its range. Raises IndexFormatError."""

    def require(is_right: bool, name: str) -> None:
        if not is_right:
            value = description.get(name) if isinstance(description, dict) else description
            raise IndexFormatError(f"{path} has {value!r:.80} as {name}, which cannot be; build it again.")

    require(isinstance(description, dict) and description.keys() == KEYS, "its description")
    given = description["options"]
    try:
        options = DenseIndexOptions(**given)
        factory = Factory.parse(description["factory"], options.dimension)
    except (TypeError, WinnowError) as error:
        raise IndexFormatError(f"{path} has options that cannot be ({error!s:.200}); build it again.") from error
    require(is_count(description["documents"], 0) and description["documents"] <= MAX_DOCUMENTS, "documents")
    require(is_count(description["without"], 0) and description["without"] <= description["documents"], "without")
    longest, method, codes, training = (description[name] for name in ("longest", "method", "codes", "training"))
    is_length = isinstance(longest, int | float) and not isinstance(longest, bool) and 0 <= longest < np.inf
    require(is_length, "longest")
    require(isinstance(method, str) and len(method) <= LONGEST_SENTENCE and method.isprintable(), "method")
    require((codes is None) == factory.is_exact, "codes")
    if codes is not None:
        require(isinstance(codes, dict) and codes.keys() == set(Stored._fields), "codes")
        require(is_count(codes["bytes"], 1) and is_sha256(codes["sha256"]), "codes")
    require((training is None) == factory.is_exact, "training")
    if training is not None:
        require(isinstance(training, dict) and training.keys() == {"vectors", "share"}, "training")
        share = training["share"]
        is_share = isinstance(share, int | float) and not isinstance(share, bool) and 0 < share <= 1
        require(is_count(training["vectors"], 1) and is_share, "training")
    return options, factory
