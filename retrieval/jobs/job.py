"""`run_job`: sources of any size become an index folder, shard by shard; what a run finds done it does not do again."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from index.arm_segments import BuildLimits
from index.building import parse_size
from index.errors import CorpusError, WinnowError
from index.snapshot import Snapshot
from index.storage import check_target
from index.vectors import checked_count
from retrieval.encoding import told_once
from retrieval.jobs.description import JobDescription
from retrieval.jobs.intake import Counts, Intake
from retrieval.jobs.job_folder import JobFolder
from retrieval.jobs.local import build_locally
from retrieval.jobs.progress import Meter
from retrieval.jobs.ray_engine import RayEngine, Work
from retrieval.jobs.rejects import Rejects, check_place
from retrieval.jobs.shards import BuiltShard
from retrieval.jobs.sources import Source, read_sources, sources_of
from retrieval.jobs.threads import threads_of
from retrieval.opened import IndexStatistics, Opened
from retrieval.vector_files import OWN, check_alone, check_vocabulary, is_vector_file, read_vectors

Engine = Literal["local", "ray"]


class JobResult(NamedTuple):
    """What a run did, and what the folder holds now."""

    model: str
    added: int  # documents that were not there
    changed: int  # that were there with other content, and have been replaced
    unchanged: int  # that were there, and were not encoded again
    removed: int  # that the sources do not have any more
    rejected: int  # records
    statistics: IndexStatistics  # of the folder

    @classmethod
    def of(cls, model: str, counts: Counts, rejected: int, statistics: IndexStatistics) -> JobResult:
        return cls(model, counts.added, counts.changed, counts.unchanged, counts.removed, rejected, statistics)


def run_job(
    description: JobDescription,
    folder: str | Path,
    *,
    engine: Engine = "local",
    restart: bool = False,
    rebuild: bool = False,
    mirror: bool = False,
    rejects: str | Path | None = None,
    memory_limit: str | int | None = None,
    threads: int | None = None,
    device: str | None = None,
    batch_tokens: int | None = None,
    address: str | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> JobResult:
    """Have the folder hold an index of all documents of the sources.

    What is there already, by id and content, is not encoded again, so the same call goes on with a job that was interrupted (to the very bytes
    that it would have ended in) and adds what a source has grown by; a document with other content takes the place of the old one.

    restart       replace what the folder holds, from the first commit on
    rebuild       where files of the folder are damaged, build what they held again
    mirror        remove documents that the sources do not have any more; otherwise they stay
    rejects       a file for records that cannot be taken, with the reason; None: the first one ends the run
    memory_limit  bytes or "2GB": most that indexing and merging hold at a time, beside models and documents on their way
    threads       of models and of indexing; all cores unless told
    device, batch_tokens  where models run, and how many tokens at a time (`JobDescription.opened`)
    engine        "ray": shards are encoded and indexed on a Ray cluster, whose machines see sources of vectors, models and the folder under the
                  same paths, and committed here; threads, memory_limit and device are then of each worker (`retrieval.jobs.ray_engine`)
    address       of the cluster, "host:port"; None: RAY_ADDRESS, or one is started on this machine
    workers       at most; as many as the cluster has room for unless told

    Raises CorpusError for sources that cannot be read or hold nothing, WinnowError for a folder that was begun otherwise and for a cluster that
    cannot be reached or has no room, LockedError while somebody else writes to it, IndexFormatError for damage, StorageError for a full disk: what was committed stays, the same call goes on.
    """
    check_target(folder)  # before a model is loaded
    sources = sources_of(description.sources)
    check_place(rejects, folder, (source.path for source in sources))
    limits = limits_of(threads, memory_limit)
    cluster = cluster_of(engine, address, workers, threads, device)
    opened = description.opened(device, batch_tokens)
    with (
        threads_of(opened, threads),
        told_once(),
        Rejects(rejects) as reading,
        JobFolder(folder, description, opened, restart=restart, rebuild=rebuild, limits=limits) as job,
    ):
        job.merge()
        intake = intake_of(description, sources, opened, job.snapshot, reading)
        meter = Meter(sources, reading, intake.counts, len(opened.encoders), shown=progress)
        work = Work(description, device, batch_tokens, limits._replace(threads=threads or 1), str(job.scratch))
        with meter, closing(building(cluster, job, intake, work, limits, meter)) as built:
            for shard in built:
                job.commit_shard(shard)
        finish(job, intake, reading, mirror)
        size = opened._replace(snapshot=job.snapshot).statistics()
        return JobResult.of(opened.model, intake.counts, reading.count, size)


def building(
    cluster: RayEngine | None, job: JobFolder, intake: Intake, work: Work, limits: BuildLimits, meter: Meter
) -> Generator[BuiltShard, None, None]:
    """Shards of what is new, in order, built by the cluster or, without one, by this process."""
    if cluster is None:
        shards = intake.shards(job.progress.shards, job.shard_documents)
        return build_locally(shards, job.encoders, job.scratch, limits, meter.watch)
    cut = job.progress.shards, job.shard_documents
    return cluster.build(intake.new(), *cut, work, meter.watch, len(job.encoders))


def finish(job: JobFolder, intake: Intake, reading: Rejects, mirror: bool) -> None:
    """All shards are in: have what vanished go if that is asked for, and the folder say that the job is done. Raises CorpusError where the
    sources had nothing to index."""
    if intake.counts.taken == 0:
        rejected = ", all its records were rejected" if reading.count else ""
        raise CorpusError(f"the corpus holds no documents{rejected}; give at least one.")
    if mirror:
        remove_vanished(job, intake)
    intake.let_go()
    job.finish()


def cluster_of(
    engine: str, address: str | None, workers: int | None, threads: int | None, device: str | None
) -> RayEngine | None:
    """The one that builds shards; None: this process does. Raises WinnowError."""
    if engine not in get_args(Engine):
        raise WinnowError(f"engine is {engine!r:.40}; it must be local or ray.")
    if engine == "local" and (address is not None or workers is not None):
        raise WinnowError("address and workers are of the engine ray; give engine ray, or leave them out.")
    return None if engine == "local" else RayEngine(address, workers, threads, device)


def limits_of(threads: int | None, memory_limit: str | int | None) -> BuildLimits:
    return BuildLimits(
        None if threads is None else checked_count("threads", threads),
        None if memory_limit is None else parse_size(memory_limit),
    )


def intake_of(
    description: JobDescription, sources: list[Source], opened: Opened, before: Snapshot, reading: Rejects
) -> Intake:
    """What is new in the sources. Raises ModelError and CorpusError for vectors that do not go with the model."""
    encoder = opened.taking_vectors(are_given=description.vectors is not None)
    names, vectors = description.names, None
    if description.vectors is not None:
        check_vocabulary(description.vectors, encoder)
        vectors = read_vectors(description.vectors)
    elif encoder.needs_vectors:
        names = replace(names, vector=names.vector or OWN)
    for source in sources:
        if is_vector_file(source.path):
            check_alone(Path(source.path), description.vectors, encoder)
    return Intake(read_sources(sources, names, reading), before, encoder, vectors, reading)


def remove_vanished(job: JobFolder, intake: Intake) -> None:
    """Delete what is indexed and was not in the sources."""
    gone = [doc_id for some in intake.vanished() for doc_id in some]
    intake.counts.removed = len(gone)
    if gone:
        job.delete(gone)
