"""The engine of many machines: documents are decided on here, encoded and indexed by the actors of a Ray Data job, committed here in order.

Which documents a shard holds is settled before anybody else sees it, and a shard is the same bytes wherever it is built. So an actor or a
node that dies costs the time to build its shards again, in folders of other names, and changes nothing in the index. What actors read and
write lies in the index folder, which every machine must see under the same path.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np

from index import errors
from index.arm_segments import BuildLimits
from index.documents import Document
from index.errors import WinnowError
from index.files import remove_file
from index.vectors import checked_count
from retrieval.jobs.description import JobDescription
from retrieval.jobs.pipeline import Stage, Stopping
from retrieval.jobs.shards import BuiltShard, build_shard
from retrieval.jobs.threads import threads_of
from retrieval.jobs.written_documents import WrittenShard, read_documents, written_shards
from retrieval.ray_cluster import connected

LOST_SECONDS = 60.0  # without room for a single worker, after which a job ends
SECONDS_BETWEEN_LOOKS = 5.0  # at what the cluster has
ROOM_SECONDS = 30.0  # for others to leave room for a worker
MOST_WRITTEN = 256  # shards that wait on disk for a worker
Watch = Callable[[Iterable[Any]], Iterable[Any]]


class Room(NamedTuple):
    """What one worker needs of a node."""

    cpus: int
    gpus: int

    def fits(self, resources: dict[str, float]) -> int:
        """How many workers these resources are enough for."""
        of_cpus = int(resources.get("CPU", 0)) // self.cpus
        return of_cpus if self.gpus == 0 else min(of_cpus, int(resources.get("GPU", 0)) // self.gpus)

    def __str__(self) -> str:
        return f"{self.cpus} CPUs" + (f" and {self.gpus} GPUs" if self.gpus else "")


class Work(NamedTuple):
    """All that a worker must know to build shards of a job. Can be pickled."""

    description: JobDescription
    device: str | None
    batch_tokens: int | None
    limits: BuildLimits
    scratch: str


class ShardBuilder:
    """A worker: it has the encoders, and builds one shard after another."""

    def __init__(self, work: Work):
        self._work = work
        self._opened = work.description.opened(work.device, work.batch_tokens)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """A batch of one written shard to the description of the built one."""
        (number,), (path,) = batch["number"].tolist(), batch["path"].tolist()
        folder = Path(self._work.scratch, f"built-{number:06d}-{uuid4().hex[:8]}")  # never one that a dead worker began
        encoders = {encoder.arm: encoder for encoder in self._opened.encoders}
        try:
            with threads_of(self._opened, self._work.limits.threads):
                built = build_shard(encoders, number, read_documents(Path(path)), folder, self._work.limits)
            said = {"folder": str(built.folder), "documents": built.documents, "contents": built.contents}
        except WinnowError as error:  # Ray would tell it as one of its own, with the traceback for a message
            said = {"error": type(error).__name__, "message": str(error)}
        return {"number": [number], "said": [json.dumps(said)]}


class RayEngine:
    """A cluster that is there and has room for a worker."""

    def __init__(
        self,
        address: str | None = None,
        workers: int | None = None,
        threads: int | None = None,
        device: str | None = None,
    ):
        """
        address  of a running cluster, "host:port"; None: RAY_ADDRESS, or one is started on this machine
        workers  at most; None: as many as there is room for
        threads  CPUs of a worker, 1 unless told
        device   where models run: a CUDA device takes a GPU for each worker; None: so where the cluster has GPUs

        Raises WinnowError within seconds for a cluster that cannot be reached or has no room.
        """
        self.ray = connected(address)
        cpus, resources = checked_count("threads", threads or 1), self.ray.cluster_resources()
        wants_gpu = resources.get("GPU", 0) >= 1 if device is None else device.startswith("cuda")
        self._room = Room(cpus, int(wants_gpu))
        fit = self._room.fits(resources)
        if fit == 0:
            raise WinnowError(
                f"the Ray cluster has {Room(int(resources.get('CPU', 0)), int(resources.get('GPU', 0)))}, and a worker needs {self._room}; "
                "add nodes, or ask for less with --threads and --device."
            )
        self._workers = fit if workers is None else min(checked_count("workers", workers), fit)
        self._check_free()

    def _check_free(self) -> None:
        """Raise WinnowError where others leave no room for a worker."""
        here = self.ray.remote(lambda: True).options(num_cpus=self._room.cpus, num_gpus=self._room.gpus).remote()
        ready, _ = self.ray.wait([here], timeout=ROOM_SECONDS)
        if not ready:
            free = self.ray.available_resources()
            self.ray.cancel(here, force=True)
            raise WinnowError(
                f"the Ray cluster has had no room for a worker ({self._room}) for {ROOM_SECONDS:g} s, {free.get('CPU', 0):g} CPUs are free; "
                "wait for other jobs to end, or add nodes."
            )

    def build(
        self,
        documents: Iterator[Document],
        first_number: int,
        shard_documents: int,
        work: Work,
        watch: Watch,
        arms: int,
    ) -> Generator[BuiltShard, None, None]:
        """The shards that the documents are cut into, in order. Closed early, it stops what is under way.

        watch  sees an item go by for each document of a shard that is built, once for each arm
        """
        stopping = RoomLasting(self.ray, self._room)
        shards = written_shards(documents, first_number, shard_documents, Path(work.scratch))
        reading = Stage(shards, stopping, "winnow-read", MOST_WRITTEN)
        try:
            # actors begin once for each group, so a group is all that is read by then
            for group in reading.groups(2 * self._workers):
                yield from self._built(group, work, watch, arms, stopping)
        finally:
            stopping.stop()

    def _built(
        self, group: Sequence[WrittenShard], work: Work, watch: Watch, arms: int, stopping: Stopping
    ) -> Iterator[BuiltShard]:
        from ray.data import ActorPoolStrategy, DataContext, from_items

        logging.getLogger("ray.data").setLevel(logging.ERROR)  # set by the import; the progress bar is the job's
        context = DataContext.get_current().copy()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        workers = min(self._workers, len(group))
        with DataContext.current(context):
            rows = [{"number": shard.number, "path": str(shard.path)} for shard in group]
            dataset = from_items(
                rows, override_num_blocks=len(rows)
            ).map_batches(  # blocks are made here: no task needs a CPU
                ShardBuilder,
                fn_constructor_args=(work,),
                batch_size=1,
                compute=ActorPoolStrategy(
                    min_size=1, initial_size=workers, max_size=workers, max_tasks_in_flight_per_actor=2
                ),
                num_cpus=self._room.cpus,
                num_gpus=self._room.gpus or None,
            )
        building = Stage(read(dataset), stopping, "winnow-ray", len(group))
        for shard, built in zip(group, building, strict=True):
            assert shard.number == built.number
            deque(watch(repeat(None, shard.documents * arms)), 0)
            yield built
            remove_file(shard.path)


class RoomLasting(Stopping):
    """Also ends when the cluster has had no room for a worker for long: Ray itself would wait for ever."""

    def __init__(self, ray: Any, room: Room):
        super().__init__()
        self._ray, self._room = ray, room
        self._looked = self._fitted = time.monotonic()

    def check(self) -> None:
        """Raises Stopped, and WinnowError where the cluster is lost."""
        super().check()
        now = time.monotonic()
        if now - self._looked < SECONDS_BETWEEN_LOOKS:
            return
        self._looked = now
        if self._room.fits(self._ray.cluster_resources()):
            self._fitted = now
        elif now - self._fitted > LOST_SECONDS:
            raise WinnowError(
                f"the Ray cluster has had no node with {self._room} for {LOST_SECONDS:g} s; start nodes, then run the same command again to go on."
            )


def read(dataset: Any) -> Iterator[BuiltShard]:
    """What the workers said, in order. Raises what one of them failed with."""
    for row in dataset.iter_rows():
        yield built_of(row["number"], json.loads(row["said"]))


def built_of(number: int, said: dict[str, Any]) -> BuiltShard:
    """The shard, or the error of ours that a worker has told."""
    if "error" in said:
        raise getattr(errors, said["error"], WinnowError)(said["message"])
    return BuiltShard(number, Path(said["folder"]), said["documents"], said["contents"])
