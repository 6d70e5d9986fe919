"""A shard: so many documents in a row, which become one segment of an index, built apart from it and taken in whole.

A segment depends on its own documents alone (docs/decisions/0005), so a shard is the same bytes wherever and whenever it is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from index.arm_segments import UNLIMITED, BuildLimits, DocumentEncoder, Encoded, EncodedDense, build_arm
from index.documents import Document, StagedDocuments, digest_of
from index.segment import Segment, folder_of, made
from index.storage import Part

Watch = Callable[[Iterable[Document]], Iterable[Document]]


class StagedShard(NamedTuple):
    """Documents in a temporary file, to be encoded."""

    number: int  # from 0, in the order in which shards are committed
    documents: StagedDocuments
    digests: np.ndarray  # uint64 [documents]

    @classmethod
    def of(cls, number: int, documents: Iterable[Document]) -> StagedShard:
        """Raises CorpusError for what cannot be stored and for an id that occurs twice."""
        staged, digests = StagedDocuments(), list[int]()

        def passing() -> Iterator[Document]:
            for document in documents:
                digests.append(digest_of(document))
                yield document

        staged.add(passing())
        return cls(number, staged, np.array(digests, np.uint64))


class EncodedShard(NamedTuple):
    """What the encoders made of it, by arm; large vectors lie in temporary files."""

    staged: StagedShard
    arms: Mapping[str, Encoded | EncodedDense]


class BuiltShard(NamedTuple):
    """The files of a segment in a folder of their own, and what `JobFolder.commit_shard` must know of them. Can be pickled."""

    number: int
    folder: Path
    documents: int
    contents: dict[str, Any]  # of the part that it becomes


def build_shard(
    encoders: Mapping[str, DocumentEncoder],
    number: int,
    documents: Iterable[Document],
    folder: Path,
    limits: BuildLimits = UNLIMITED,
) -> BuiltShard:
    """Encode and index documents into `folder`, which must not exist; whoever does it, it comes out the same.

    encoders  by the name of their arms
    number    of the shard, from 0

    Raises CorpusError, ModelError, StorageError; what is in `folder` then is of no use.
    """
    return index_shard(encode_shard(encoders, StagedShard.of(number, documents)), folder, limits)


def encode_shard(encoders: Mapping[str, DocumentEncoder], staged: StagedShard, watch: Watch = iter) -> EncodedShard:
    """`watch` sees each document go by, once for each arm."""
    arms = {name: encoder.encode_documents(watch(staged.documents)) for name, encoder in encoders.items()}
    return EncodedShard(staged, arms)


def index_shard(encoded: EncodedShard, folder: Path, limits: BuildLimits = UNLIMITED) -> BuiltShard:
    """Write the segment into `folder`, which must not exist."""
    part = Part(folder.name, made(folder))
    arms = {name: build_arm(one, folder_of(name, part), limits=limits) for name, one in encoded.arms.items()}
    (number, documents, digests) = encoded.staged
    segment = Segment.of(documents, arms, part, digests)
    return BuiltShard(number, folder, segment.num_docs, part.contents)
