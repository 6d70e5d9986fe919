"""The engine of one machine: read, encode and index overlap, in threads; the caller commits meanwhile."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

from index.arm_segments import BuildLimits
from index.documents import Document
from retrieval.encoders.protocol import Encoder
from retrieval.jobs.pipeline import Stage, Stopping, mapped
from retrieval.jobs.shards import BuiltShard, EncodedShard, StagedShard, Watch, encode_shard, index_shard

SECONDS_TO_STOP = 10.0


def build_locally(
    shards: Iterator[StagedShard], encoders: dict[str, Encoder], scratch: Path, limits: BuildLimits, watch: Watch
) -> Generator[BuiltShard, None, None]:
    """The shards, built in folders of `scratch`, in order. Closed early, it stops what is under way.

    watch  sees each document that is encoded, once for each arm
    """
    stopping = Stopping()

    def seen(documents: Iterable[Document]) -> Iterable[Document]:
        return watch(stopping.watched(documents))

    def encoded(shard: StagedShard) -> EncodedShard:
        return encode_shard(encoders, shard, seen)

    def indexed(shard: EncodedShard) -> BuiltShard:
        return index_shard(shard, scratch / f"shard-{shard.staged.number:06d}", limits)

    reading = Stage(shards, stopping, "winnow-read")
    encoding = Stage(mapped(encoded, reading), stopping, "winnow-encode")
    indexing = Stage(mapped(indexed, encoding), stopping, "winnow-index")
    try:
        yield from indexing
    finally:
        stopping.stop()
        for stage in (reading, encoding, indexing):
            stage.join(SECONDS_TO_STOP)
