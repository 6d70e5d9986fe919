"""The folder of a training run, which an interrupted run goes on from.

    run/run.json          what the run is: options, data, model; one that resumes it must be the same
    run/log.jsonl         a line for each step and each evaluation
    run/checkpoint-N/     all that step N + 1 depends on, and sha256.json, the checksums of its files
    run/tensorboard/      event files, if they are asked for
    model/                the best model so far, or without evaluation the last, as its own loader opens it

A checkpoint and a model are whole or not there: a folder beside is filled, flushed, then renamed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from index.errors import WinnowError
from index.files import remove_tree, rename, write_file
from index.locks import WriterLock
from index.manifest import as_json, sha256_of_file
from index.placing import append, replace_file, whole

FORMAT_VERSION = 2
LOG = "log.jsonl"
PREFIX = "checkpoint-"
CHECKSUMS = "sha256.json"


class TrainingError(WinnowError):
    """A training run cannot start, go on or be resumed."""


class RunFolder:
    """See the module."""

    def __init__(self, folder: str | Path, description: Mapping[str, Any], *, resume: bool):
        """Opens or makes it. Raises TrainingError for a folder that is not empty, unless it holds this run and is to be resumed, and
        LockedError while another process trains there."""
        self.folder = Path(os.path.realpath(folder))
        self.run = self.folder / "run"
        described = {"format_version": FORMAT_VERSION, **description}
        there = self.run / "run.json"
        check_folder(folder, resume=resume)
        if there.is_file():
            check_same(there, json.loads(as_json(described)))
        self.lock = WriterLock(self.run)
        if not there.is_file():
            replace_file(there, as_json(described))
        for old in self.folder.glob(".model.*.old"):  # a process was killed while one model took the place of another
            if not self.model.exists():
                rename(old, self.model)
        for left in (*self.run.glob(".*.partial"), *self.folder.glob(".model.*")):  # of a process that was killed
            remove_tree(left)

    def release(self) -> None:
        """Let others train in it."""
        self.lock.release()

    @property
    def model(self) -> Path:
        """Where the best model is."""
        return self.folder / "model"

    def write_model(self, save: Callable[[Path], None]) -> None:
        """`save` fills an empty folder, which takes the place of the model before."""
        whole(self.model, save)

    @property
    def tensorboard(self) -> Path:
        """Where event files are."""
        return self.run / "tensorboard"

    def write_checkpoint(self, step: int, save: Callable[[Path], None]) -> None:
        """After `step` steps; `save` fills an empty folder with files. The new one is there before the old ones go."""
        target = self.run / f"{PREFIX}{step:08d}"

        def fill(partial: Path) -> None:
            try:
                save(partial)
            except (OSError, RuntimeError, SafetensorError) as error:  # each library tells a full disk in its own way
                raise TrainingError(
                    f"{target} could not be written ({error!s:.120}); make room, then resume the run."
                ) from error
            write_file(partial / CHECKSUMS, as_json({path.name: sha256_of_file(path) for path in partial.iterdir()}))

        whole(target, fill)
        for path in self.checkpoints():
            if path != target:
                remove_tree(path)

    def checkpoints(self) -> list[Path]:
        """Oldest first."""
        return sorted(path for path in self.run.glob(f"{PREFIX}*") if path.name[len(PREFIX) :].isdecimal())

    def newest_checkpoint(self) -> tuple[Path, int] | None:
        """(folder, step), None before the first. Raises TrainingError for one that is not what was written."""
        found = self.checkpoints()
        if not found:
            return None
        path = found[-1]
        try:
            written = json.loads((path / CHECKSUMS).read_bytes())
            there = {file.name: sha256_of_file(file) for file in path.iterdir() if file.name != CHECKSUMS}
            if changed := sorted(name for name in {*written, *there} if written.get(name) != there.get(name)):
                raise ValueError(f"{changed[0]} is not what was written")
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise TrainingError(
                f"{path} is damaged ({type(error).__name__}: {error!s:.120}); bring it back, or train anew in another folder."
            ) from error
        return path, int(path.name[len(PREFIX) :])

    def log(self, record: Mapping[str, Any]) -> None:
        """Adds a line."""
        append(self.run / LOG, json.dumps(record).encode() + b"\n")

    def read_log(self) -> list[dict[str, Any]]:
        """All whole lines; an interruption may have cut the last."""
        path = self.run / LOG
        records = []
        for line in path.read_bytes().splitlines() if path.is_file() else ():
            try:
                records.append(json.loads(line))
            except ValueError:
                break
        return records

    def cut_log(self, step: int) -> None:
        """Leaves out what was logged after a step that the run goes on from."""
        kept = [line for line in self.read_log() if line["step"] <= step]
        replace_file(self.run / LOG, b"".join(json.dumps(line).encode() + b"\n" for line in kept))


def check_folder(folder: str | Path, *, resume: bool) -> None:
    """Raises TrainingError where a run could not begin there, or go on; before anything is computed for it."""
    path = Path(os.path.realpath(folder))
    if (path / "run" / "run.json").is_file():
        if not resume:
            raise TrainingError(f"{folder} holds a training run; resume it, or give a new or empty folder.")
    # a run that was killed at once has left an empty folder `run`
    elif path.exists() and (not path.is_dir() or set(os.listdir(path)) - {"run"}):
        raise TrainingError(f"{folder} is not empty and holds no training run; give a new or empty folder.")


def check_same(path: Path, described: Mapping[str, Any]) -> None:
    """Raises TrainingError unless the run in a folder is the one that is asked for."""
    try:
        found = json.loads(path.read_bytes())
        different = sorted(key for key in {*found, *described} if found.get(key) != described.get(key))
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(f"{path} cannot be read ({error!s:.100}); train anew in another folder.") from error
    if different:
        key = different[0]
        raise TrainingError(
            f"{path.parent.parent} holds a run with {key} {found.get(key)!r:.80}, this one has {described.get(key)!r:.80}; resume it with "
            "the same settings and data, or train in another folder."
        )
