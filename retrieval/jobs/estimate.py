"""What a job would take, from a sample: its first documents are encoded and indexed in a temporary folder."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from index.documents import Document
from index.errors import CorpusError
from index.snapshot import Snapshot
from retrieval.jobs.description import SHARD_DOCUMENTS, JobDescription
from retrieval.jobs.job import intake_of, limits_of
from retrieval.jobs.rejects import Rejects
from retrieval.jobs.shards import EncodedShard, StagedShard, encode_shard, index_shard
from retrieval.jobs.sources import sources_of
from retrieval.jobs.threads import threads_of

SAMPLE = 1_000  # documents
WARM_UP = 32  # documents, for which models are loaded and kernels compiled
SHARDS_AT_ONCE = 3  # on their way: one is encoded, one indexed, one waits
WORK = 2  # times its vectors, that indexing a shard needs beside them


class Estimate(NamedTuple):
    """All but `sample` are for the whole job, and no more exact than a beginning can tell."""

    sample: int  # documents
    documents: int
    bytes: int  # of the folder
    seconds: float
    memory: int  # bytes, at the peak


def estimate(
    description: JobDescription,
    *,
    threads: int | None = None,
    memory_limit: str | int | None = None,
    device: str | None = None,
    batch_tokens: int | None = None,
) -> Estimate:
    """Raises what `run_job` would for these sources and this model, and CorpusError for standard input, which cannot be read twice."""
    sources = sources_of(description.sources)
    if any(source.bytes is None for source in sources):
        raise CorpusError(
            f"nobody knows how much is in {next(source.name for source in sources if source.bytes is None)}; give files of text for a dry run."
        )
    limits, opened = limits_of(threads, memory_limit), description.opened(device, batch_tokens)
    encoders = {encoder.arm: encoder for encoder in opened.encoders}
    total = sum(source.bytes or 0 for source in sources)
    with threads_of(opened, threads), Rejects(None) as reading, tempfile.TemporaryDirectory() as scratch:
        intake = intake_of(description, sources, opened, Snapshot(), reading)
        documents = intake.new()
        warm_up = list(islice(documents, WARM_UP))
        if not warm_up:
            raise CorpusError("the corpus holds no documents; give at least one.")
        index_shard(encode_shard(encoders, StagedShard.of(0, warm_up)), Path(scratch, "warm-up"), limits)
        started = time.monotonic()
        staged = StagedShard.of(0, first_of(warm_up, documents))
        encoded = encode_shard(encoders, staged)
        built = index_shard(encoded, Path(scratch, "sample"), limits)
        seconds = time.monotonic() - started
        is_all = next(documents, None) is None
        num_docs = built.documents if is_all else round(len(intake.ids) * max(total / max(reading.position, 1), 1.0))
        in_shard = min(description.shard_documents or SHARD_DOCUMENTS, num_docs)
        vectors = bytes_of(encoded) / built.documents * in_shard
        return Estimate(
            built.documents,
            num_docs,
            round(bytes_below(built.folder) * num_docs / built.documents),
            seconds * num_docs / built.documents,
            peak_memory() + round(vectors * (SHARDS_AT_ONCE + WORK)),
        )


def first_of(warm_up: list[Document], documents: Iterator[Document]) -> Iterator[Document]:
    """The documents of the sample."""
    yield from warm_up
    yield from islice(documents, SAMPLE - len(warm_up))


def bytes_of(encoded: EncodedShard) -> int:
    """Of its vectors."""
    arms = [one.vectors for one in encoded.arms.values()]
    return sum(sum(array.nbytes for array in (arm if isinstance(arm, tuple) else (arm,))) for arm in arms)


def bytes_below(folder: Path) -> int:
    return sum(os.stat(Path(name, file)).st_size for name, _, files in os.walk(folder) for file in files)


def peak_memory() -> int:
    """Of this process, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
