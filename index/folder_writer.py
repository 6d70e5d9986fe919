"""A folder that changes as a whole or not at all: changing it.

New parts are filled and flushed to disk first, then the manifest that names them is renamed into place, then what no
commit needs any more is removed. After a crash or a loss of power at any point the folder holds the last commit or the new one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from index import files
from index.errors import IndexFormatError, StorageError, WinnowError
from index.locks import WriterLock, take_for_removal
from index.manifest import (
    COPY,
    DESCRIPTION,
    LOCK,
    MANIFEST,
    MARKER,
    NEW_COPY,
    NEW_MANIFEST,
    SCRATCH,
    Description,
    Manifest,
    StoredFile,
    describe_file,
    parse_manifest,
    part_name,
    part_numbers,
    read_manifest,
    read_whole,
    sha256_of_file,
    soundest_manifest,
)
from index.storage import Commit, Part, check_kind, check_target, newest_manifest, open_commit, open_part

OnDamage = Literal["refuse", "replace", "salvage"]


class FolderWriter:
    """The one process that may change a folder, from when it is made until `close`; a context manager.

    on_damage  what to do with an index that is damaged, of another version or of another kind: "refuse" it; have the next
               commit "replace" it as a whole (`current` is None); or "salvage" what is sound in every byte: `current` is
               then its newest sound manifest with the sound ones of its parts, perhaps fewer than `contents` needs

    Raises LockedError while somebody else changes the folder, WinnowError where an index may not be written,
    IndexFormatError for damage that is refused, StorageError. What dead writers left is removed.
    """

    def __init__(self, folder: str | Path, kind: str, on_damage: OnDamage = "refuse"):
        self.folder, self.kind = Path(folder).absolute(), kind
        self.current: Commit | None = None  # what is committed; None for a folder without an index
        self._new: dict[str, Part] = {}
        if not (self.folder / LOCK).is_file() or (self.folder / LOCK).is_symlink():
            check_target(self.folder)  # before a lock is left in a folder that is not ours
        self._lock = WriterLock(self.folder)
        try:
            check_target(self.folder)
            self._last_number, self._next_part = self._look_at_folder(on_damage)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> FolderWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def new_part(self) -> Part:
        """An empty part to be filled with files and folders; gone with this writer unless it is committed."""
        self._check_open()
        part = Part(part_name(self._next_part), self.folder / part_name(self._next_part))
        self._next_part += 1
        self._new[part.name] = part
        with files.told(part.path):
            make_marked(part.path)
            part.hold()
        return part

    def scratch(self) -> Path:
        """An empty folder on the same disk to prepare parts in, which takes no number; gone with this writer."""
        self._check_open()
        self._remove_scratch()
        make_marked(self.folder / SCRATCH)
        return self.folder / SCRATCH

    def discard(self, part: Part) -> None:
        """Remove a new part that is not wanted after all."""
        if self._new.pop(part.name, None) is part and part.name not in self._published_parts():
            part.let_go()
            with suppress(StorageError):  # a later writer tries again
                remove_part(part.path)

    def commit(self, contents: dict[str, Any], parts: Iterable[Part]) -> Commit:
        """Make `contents` and exactly these parts current, on disk when this returns.

        parts  new ones of this writer, not to be changed afterwards, and those of `current` that are still needed

        If it raises, the folder holds the old commit or, where only the last flush failed, the new one: `current` tells.
        New parts that were to be committed are gone then, as a disk that failed once cannot be trusted with them.
        """
        self._check_open()
        wanted = {part.name: part for part in parts}
        for part in wanted.values():
            self._check_mine(part)
        new = [part for part in wanted.values() if part.name in self._new]
        data, manifest = b"", None
        try:
            for part in new:
                seal(part)
            digests = {name: part.sha256 or "" for name, part in wanted.items()}
            data = Manifest(self.kind, self._last_number + 1, self._next_part, digests, contents).as_bytes()
            manifest = parse_manifest(data, self.folder / MANIFEST)  # what readers could not read is not written
            self._lock.check()
            self._publish(MANIFEST, NEW_MANIFEST, data)
            committed = self._adopt(manifest, wanted)
        except BaseException:
            # an interruption may come at any moment, also between the rename and whatever follows it
            if manifest and self._is_published(data):
                self._adopt(manifest, wanted)
            for part in new:
                self.discard(part)
            self._remove_temporary_manifests()
            raise
        self._tidy(data)
        return committed

    def close(self) -> None:
        """Remove what was not committed and let others write; a folder that was new and has no commit goes again."""
        if not self._lock.is_held:
            return
        has_nothing = False
        try:
            for part in list(self._new.values()):
                self.discard(part)
            with suppress(StorageError):
                self._remove_scratch()
            if self.current is not None:
                self._remove_leftovers()  # once more: what our own readers held at the commit may be free now
            self.current = None
            has_nothing = os.listdir(self.folder) == [LOCK]
        finally:
            self._lock.release(remove=has_nothing)

    def _look_at_folder(self, on_damage: OnDamage) -> tuple[int, int]:
        """Set `current` and remove leftovers; returns (number of the last commit, number of the next part)."""
        with suppress(StorageError):
            self._remove_scratch()
        if not any(os.path.lexists(self.folder / name) for name in (MANIFEST, COPY)):
            self._remove_temporary_manifests()
            self._remove_leftovers()
            return 0, self._past_last()
        try:
            manifest = read_manifest(self.folder)
            check_kind(self.folder, manifest, self.kind)
            self.current = open_commit(self.folder, manifest, "quick")
        except IndexFormatError:
            if on_damage == "refuse":
                raise
            sound = soundest_manifest(self.folder)
            if on_damage == "salvage":
                if sound is None:
                    raise
                check_kind(self.folder, sound, self.kind)
                self.current = self._salvaged(sound)
            # nothing is removed before there is a commit to take its place; a lost number is replaced by a greater one
            past_last = self._past_last()
            return (sound.commit, max(sound.next_part, past_last)) if sound else (past_last, past_last)
        if on_damage == "salvage":
            self.current = self._salvaged(manifest)
        else:
            self._tidy(read_whole(self.folder / MANIFEST))
        # what a dead writer left is gone and was in no commit: who does its work again gets the numbers that it had
        return manifest.commit, max(manifest.next_part, self._past_last())

    def _past_last(self) -> int:
        return 1 + max(part_numbers(self.folder), default=0)

    def _salvaged(self, manifest: Manifest) -> Commit:
        """The commit with only those parts in which every byte is right."""
        parts = {}
        for name, sha256 in manifest.parts.items():
            with suppress(IndexFormatError):
                parts[name] = open_part(self.folder / name, sha256, "full")
        return Commit(manifest.commit, manifest.kind, manifest.contents, parts)

    def _publish(self, name: str, new_name: str, data: bytes) -> None:
        """Flush data under another name, then rename."""
        files.write_file(self.folder / new_name, data)
        files.flush_file(self.folder / new_name)
        files.flush_folder(self.folder)  # also the names of new parts, which the manifest will need
        files.rename(self.folder / new_name, self.folder / name)
        files.flush_folder(self.folder)

    def _write_copy(self, data: bytes) -> None:
        """The manifest once more, from which a damaged one is repaired."""
        with suppress(IndexFormatError):
            if read_whole(self.folder / COPY) == data:
                return
        self._publish(COPY, NEW_COPY, data)

    def _is_published(self, data: bytes) -> bool:
        try:
            return read_whole(self.folder / MANIFEST) == data
        except IndexFormatError:
            return False

    def _adopt(self, manifest: Manifest, parts: dict[str, Part]) -> Commit:
        """Go on from a commit that readers see."""
        self._last_number = manifest.commit
        self.current = Commit(manifest.commit, manifest.kind, manifest.contents, parts)
        for name in parts:
            self._new.pop(name, None)
        return self.current

    def _published_parts(self) -> Collection[str]:
        """Names of the parts that the manifest on disk needs, whatever we think we committed."""
        manifest = newest_manifest(self.folder)
        return manifest.parts if manifest else ()

    def _tidy(self, data: bytes) -> None:
        """Do what does not belong to a commit but should follow it; what fails is left to the next writer."""
        with suppress(StorageError):
            self._write_copy(data)
        self._remove_temporary_manifests()
        self._remove_leftovers()

    def _remove_temporary_manifests(self) -> None:
        for name in (NEW_MANIFEST, NEW_COPY):
            with suppress(StorageError):
                if os.path.lexists(self.folder / name):
                    files.remove_file(self.folder / name)

    def _remove_leftovers(self) -> None:
        """Parts that neither the current commit nor this writer nor any reader needs; one that cannot be removed does no harm."""
        needed = {*self._new, *(self.current.parts if self.current else ()), *self._published_parts()}
        for number in part_numbers(self.folder):
            if part_name(number) not in needed:
                with suppress(StorageError):
                    remove_part(self.folder / part_name(number))

    def _remove_scratch(self) -> None:
        if os.path.lexists(self.folder / SCRATCH):
            remove_part(self.folder / SCRATCH)

    def _check_open(self) -> None:
        if not self._lock.is_held:
            raise WinnowError(f"the writer of {self.folder} is closed; make another one.")

    def _check_mine(self, part: Part) -> None:
        kept = self.current.parts.get(part.name) if self.current else None
        is_kept = kept is not None and (part.path, part.sha256) == (kept.path, kept.sha256)
        if self._new.get(part.name) is not part and not is_kept:
            raise WinnowError(
                f"{part.path} is neither new nor in the current commit of {self.folder}; commit parts of this writer."
            )


def make_marked(folder: Path) -> None:
    """A new folder that is known as ours, whatever else gets lost. Raises StorageError."""
    files.make_folder(folder)
    files.write_file(folder / MARKER, b"")
    files.flush_file(folder / MARKER)
    files.flush_folder(folder)


def seal(part: Part) -> None:
    """Flush all files and folders of a part and write its description. Raises StorageError."""
    stored: dict[str, StoredFile] = {}
    for name, folders, names in os.walk(part.path, topdown=False):
        for entry in sorted(names):
            path = Path(name, entry)
            files.flush_file(path)
            if path != part.path / MARKER:
                with files.told(path):
                    stored[path.relative_to(part.path).as_posix()] = describe_file(path)
        if any(Path(name, folder).is_symlink() for folder in folders):
            raise WinnowError(f"{name} holds a link to a folder; a part may hold only files and folders.")
        if name != str(part.path):
            files.flush_folder(Path(name))
    data = Description(stored, part.contents).as_bytes()
    files.write_file(part.path / DESCRIPTION, data)
    files.flush_file(part.path / DESCRIPTION)
    files.flush_folder(part.path)
    part.contents = json.loads(data)["contents"]  # as readers will see it
    part.sha256 = sha256_of_file(part.path / DESCRIPTION)


def remove_part(path: Path) -> None:
    """Remove a part unless somebody reads it, its marker last: the rest of it would look foreign without. StorageError."""
    with files.told(path):
        names = set(os.listdir(path))
    if MARKER in names:
        descriptor = take_for_removal(path)
        if descriptor is None:
            return
        try:
            for name in sorted(names - {MARKER}):
                files.remove_tree(path / name)
            files.flush_folder(path)
            files.remove_file(path / MARKER)
        finally:
            files.close(descriptor, path)
    files.remove_folder(path)
