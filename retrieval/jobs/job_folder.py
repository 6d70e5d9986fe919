"""The folder of a job: an index that holds the first n shards, and a manifest that says so.

What a run finds done it does not do again, and what it does then depends on nothing else: every state of the folder follows from the
one before and the sources alone. So a job that was killed anywhere ends in the same bytes as one that was not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from index.arm_segments import UNLIMITED, BuildLimits
from index.errors import IndexFormatError, WinnowError
from index.files import make_folder
from index.folder_writer import FolderWriter
from index.manifest import file_problems, is_count, read_description
from index.placing import move_into
from index.segment import DIGESTS
from index.snapshot import Snapshot
from index.storage import Commit, Part, damage, is_any_index
from index.writer import Writer
from retrieval.jobs.description import SHARD_DOCUMENTS, JobDescription
from retrieval.jobs.differences import difference, model_difference
from retrieval.jobs.shards import BuiltShard
from retrieval.opened import KIND, Opened

JOB = "job"  # what the manifest calls it
PENDING = ""  # the name of a model that gets its part with the first commit
GO_ON = "give what it was begun with, give another folder, or build it anew with --restart"


class Progress(NamedTuple):
    """What the manifest says of the job."""

    description: dict[str, Any]
    shards: int  # committed, of all runs
    is_done: bool  # nothing of the sources of the last run is missing


class JobFolder:
    """The one process that writes to the folder, from now until `close`; a context manager.

    opened   the model, without documents
    restart  replace whatever index is there by the first commit
    rebuild  of a damaged index keep the segments that are sound in every byte: the documents of the others are new to it

    Raises LockedError while somebody else writes, WinnowError for an index of another model or other options, which says what differs,
    IndexFormatError for a damaged one.
    """

    def __init__(
        self,
        folder: str | Path,
        description: JobDescription,
        opened: Opened,
        *,
        restart: bool = False,
        rebuild: bool = False,
        limits: BuildLimits = UNLIMITED,
    ):
        is_damaged = rebuild and is_any_index(Path(folder)) and bool(damage(folder, "full"))
        self._files = FolderWriter(folder, KIND, "replace" if restart else "salvage" if is_damaged else "refuse")
        try:
            self.folder, self.scratch = self._files.folder, self._files.scratch()
            self.encoders = {encoder.arm: encoder for encoder in opened.encoders}
            self._limits = limits
            self._model = Part(PENDING, self.scratch / "model")
            make_folder(self._model.path)
            opened.write_model(self._model)
            commit = None if restart else self._files.current
            self.progress = begun(commit, description, self.folder)
            self._snapshot = self._begin_with(commit, description)
            self._writer: Writer | None = None
            if is_damaged:  # until the next commit
                self._say(self.progress._replace(is_done=False))
                self._writing().publish(self.snapshot.segments)
        except BaseException:
            self._files.close()
            raise

    def _begin_with(self, commit: Commit | None, description: JobDescription) -> Snapshot:
        """The segments that are there, under the model that is there, or else ours."""
        if commit is None:
            return Snapshot(model=self._model)
        try:
            stored = commit.parts.get(commit.contents["model"], self._model)
            differs = None if stored is self._model else model_difference(stored, self._model, description.system)
            snapshot = Snapshot.read(sound_part_of(commit, stored))
        except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
            raise IndexFormatError(
                f"the manifest of {self.folder} does not describe its contents as this release does ({error!r}); build it again."
            ) from error
        if differs is not None:
            raise WinnowError(f"{self.folder} was begun with {differs}; {GO_ON}.")
        check_digests(snapshot)
        return snapshot

    def __enter__(self) -> JobFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let others write; what was not committed is gone."""
        self._writer, self._snapshot = None, Snapshot()  # which hold parts that nobody else needs, perhaps
        self._files.close()

    @property
    def snapshot(self) -> Snapshot:
        """What is committed."""
        return self._snapshot if self._writer is None else self._writer.snapshot

    @property
    def shard_documents(self) -> int:
        """Documents of a shard."""
        return int(self.progress.description["shard_documents"])

    def commit_shard(self, shard: BuiltShard) -> None:
        """Take a shard into the index, the next in order: its documents take the place of those with their ids. Then merge what is due.

        Raises WinnowError for a shard out of order, StorageError where the disk is full: the commit before stands.
        """
        if shard.number != self.progress.shards:
            raise WinnowError(
                f"shard {shard.number} was to be committed to {self.folder}, whose next one is {self.progress.shards}; commit shards in order."
            )

        def fill(part: Part) -> None:
            move_into(shard.folder, part.path)
            part.contents = shard.contents

        self._say(Progress(self.progress.description, shard.number + 1, False))
        self._writing().commit_built(fill)
        self.merge()

    def merge(self) -> None:
        """Merge what is due, perhaps since a run before was interrupted."""
        if self.snapshot.segments:
            self._writing().merge_due()

    def delete(self, doc_ids: Sequence[str]) -> None:
        """Commit without these documents."""
        writer = self._writing()
        if writer.delete(doc_ids):
            self._say(self.progress._replace(is_done=False))
            writer.commit()
            self.merge()

    def finish(self) -> None:
        """Say that nothing is missing."""
        if not self.progress.is_done:
            self._say(self.progress._replace(is_done=True))
            self._writing().publish(self.snapshot.segments)

    def _say(self, progress: Progress) -> None:
        """With the next commit."""
        self.progress = progress

    def _writing(self) -> Writer:
        """The writer; the first time it may take a part for the model with it."""
        if self._writer is None:
            snapshot = self._snapshot
            if snapshot.model is self._model:
                part = self._files.new_part()
                move_into(self._model.path, part.path)
                part.contents = self._model.contents
                snapshot = Snapshot(snapshot.segments, part, snapshot.number)
            self._writer, self._snapshot = Writer(snapshot, self.encoders, self._files), Snapshot()
            self._writer.limits = self._limits
        self._writer.beside = {JOB: self.progress._asdict()}
        return self._writer


def begun(commit: Commit | None, description: JobDescription, folder: Path) -> Progress:
    """How far the folder's job is. Raises WinnowError where it is not this one."""
    if commit is None:
        return Progress(description.remembered(description.shard_documents or SHARD_DOCUMENTS), 0, False)
    stored = commit.contents.get(JOB)
    if stored is None:
        raise WinnowError(
            f"{folder} holds an index that no job wrote; add to it with `winnow add`, give another folder, or build it anew with --restart."
        )
    is_known = isinstance(stored, dict) and stored.keys() == set(Progress._fields) and is_count(stored["shards"], 0)
    if not is_known or not isinstance(stored["description"], dict):
        raise IndexFormatError(
            f"the manifest of {folder} has the job {stored!r:.80}, which this release cannot read; update winnow-ir."
        )
    progress = Progress(**stored)
    now = description.remembered(description.shard_documents or progress.description.get("shard_documents", 0))
    if (differs := difference(progress.description, now)) is not None:
        raise WinnowError(f"{folder} was begun with {differs}; {GO_ON}.")
    return progress


def sound_part_of(commit: Commit, model: Part) -> Commit:
    """The commit with those of its segments all of whose parts are here: of one that was salvaged."""
    entries = [
        entry
        for entry in commit.contents["segments"]
        if entry["part"] in commit.parts and (entry["deletes"] is None or entry["deletes"] in commit.parts)
    ]
    contents = {"model": model.name, "segments": entries}
    return Commit(commit.number, commit.kind, contents, {**commit.parts, model.name: model})


def check_digests(snapshot: Snapshot) -> None:
    """Raise IndexFormatError for a changed byte in what says which documents are there: a job trusts it."""
    for part in (segment.part for segment, _, _ in snapshot.segments):
        if part is None or part.sha256 is None:
            continue
        stored = read_description(part.path, part.sha256).files
        for _, message in file_problems(
            part.path, {name: stored[name] for name in (DIGESTS,) if name in stored}, "full"
        ):
            raise IndexFormatError(f"{message} With --rebuild the job builds again what is damaged.")
