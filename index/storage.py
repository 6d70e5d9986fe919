"""A folder that changes as a whole or not at all, and knows when it is damaged: reading it.

A commit is a manifest that names parts, folders that never change once they are committed. Writing another manifest over
it makes the next commit current in one step (index/folder_writer.py), and whoever reads the old one keeps its parts for as
long as it holds them. Format: docs/format.md.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np

from index.errors import IndexFormatError, WinnowError
from index.locks import take_lease
from index.manifest import (
    COPY,
    DESCRIPTION,
    FORMAT,
    LOCK,
    MANIFEST,
    MARKER,
    NEW_COPY,
    NEW_MANIFEST,
    PART,
    SCRATCH,
    Manifest,
    Verify,
    file_problems,
    parse_manifest,
    part_numbers,
    read_description,
    read_manifest,
    read_whole,
    soundest_manifest,
    unreadable,
)

Content = TypeVar("Content")


@dataclass(eq=False)
class Part:
    """Files under `path`, never changed once committed, and `contents`, which only their writer understands.

    While this object lives, no writer removes the files.
    """

    name: str
    path: Path
    contents: dict[str, Any] = field(default_factory=dict)
    sha256: str | None = None  # of its description; None before it is committed
    lease: Callable[[], Any] | None = field(default=None, repr=False)  # ends when called or with this object

    def hold(self) -> None:
        """Take the lease. Raises OSError if the part is gone or just being removed."""
        self.lease = weakref.finalize(self, os.close, take_lease(self.path))

    def let_go(self) -> None:
        """Allow the files to be removed, by ourselves too."""
        if self.lease:
            self.lease()


@dataclass(frozen=True)
class Commit:
    """One state of a folder: the parts that belong to it, by name, and `contents`, which only its writer understands."""

    number: int
    kind: str
    contents: dict[str, Any]
    parts: dict[str, Part]


class Damage(NamedTuple):
    """One thing that is wrong with a folder: in which part (None: none), in which file below it, and what, as a sentence."""

    part: str | None
    file: str
    message: str


LARGEST_READ = 1 << 16  # bytes of an array that is read at once, not mapped
NO_PARTS: Mapping[str, Part] = MappingProxyType({})


def read_current(
    folder: str | Path,
    kind: str,
    read: Callable[[Commit], Content],
    verify: Verify = "quick",
    known: Mapping[str, Part] = NO_PARTS,
) -> Content:
    """What `read` makes of the current commit of `folder`; it must keep the parts that it will go on reading.

    `quick` checks manifest and descriptions, and of every file its size and first bytes; `full` reads every byte. Parts
    among `known`, those of an earlier commit that is still held, are not checked again unless `verify` is `full`.
    Raises IndexFormatError for a folder that is not an index, is unfinished, damaged, of another version or kind, and when
    what `read` finds is not what it looks for. A writer that commits meanwhile is no error.
    """
    check_verify(verify)
    folder = Path(folder).absolute()  # what is open stays open when the process changes its folder
    while True:
        manifest = read_manifest(folder)
        try:
            check_kind(folder, manifest, kind)
            return read(open_commit(folder, manifest, verify, known))
        except (ValueError, OSError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            if newest_manifest(folder) not in (manifest, None):
                continue  # committed while we read: parts of the old commit may be gone, those of the new one are there
            if isinstance(error, WinnowError | OSError):
                raise
            raise IndexFormatError(
                f"{folder / MANIFEST} does not describe its contents as this release does ({error!r}); build it again."
            ) from error


def newest_commit(folder: str | Path) -> int | None:
    """The number of the current commit; None without a manifest that can be read. Cheap: one small file is read."""
    manifest = newest_manifest(Path(folder))
    return manifest.commit if manifest else None


def newest_manifest(folder: Path) -> Manifest | None:
    """None without a manifest that can be read."""
    try:
        return read_manifest(folder)
    except IndexFormatError:
        return None


def open_commit(folder: Path, manifest: Manifest, verify: Verify, known: Mapping[str, Part] = NO_PARTS) -> Commit:
    """All its parts, held, then checked. Raises IndexFormatError."""
    parts = {}
    for name, sha256 in manifest.parts.items():
        part = known.get(name)
        if part is None or (part.path, part.sha256) != (folder / name, sha256) or verify == "full":
            part = open_part(folder / name, sha256, verify)
        parts[name] = part
    return Commit(manifest.commit, manifest.kind, manifest.contents, parts)


def open_part(path: Path, sha256: str, verify: Verify) -> Part:
    """A part, held and checked. Raises IndexFormatError."""
    part = held_part(path, sha256)
    description = read_description(path, sha256)
    for _, message in file_problems(path, description.files, verify):
        raise IndexFormatError(message)
    part.contents = description.contents
    return part


def held_part(path: Path, sha256: str) -> Part:
    """A part, held but not looked into. Raises IndexFormatError."""
    part = Part(path.name, path, sha256=sha256)
    try:
        part.hold()
    except OSError as error:
        raise unreadable(path / MARKER, error) from error
    return part


def check_kind(folder: Path, manifest: Manifest, kind: str) -> None:
    if manifest.kind != kind:
        raise IndexFormatError(f"{folder} holds a {manifest.kind}, not a {kind}; open it with what wrote it.")


def check_verify(verify: str) -> None:
    if verify not in ("quick", "full"):
        raise WinnowError(f'verify is {verify!r}; it must be "quick" or "full".')


def damage(folder: str | Path, verify: Verify = "quick") -> list[Damage]:
    """Everything that is wrong with a folder, of whatever kind; empty if nothing is.

    Where the manifest is damaged, the parts are those that its copy names. A missing or older copy is no damage: the next
    writer writes it anew. Raises IndexFormatError only for a folder that is not an index at all.
    """
    check_verify(verify)
    folder = Path(folder)
    if not is_any_index(folder):
        read_manifest(folder)  # says what it lacks
    while True:
        manifest = soundest_manifest(folder)
        found = manifest_damage(folder)
        for name, sha256 in manifest.parts.items() if manifest else ():
            found += part_damage(folder / name, sha256, verify)
        if not found or soundest_manifest(folder) == manifest:
            return found


def is_any_index(folder: Path) -> bool:
    """True for a folder with a manifest, a copy of one or a part, in whatever state."""
    is_there = any(os.path.lexists(folder / name) for name in (MANIFEST, COPY))
    return is_there or (folder.is_dir() and bool(part_numbers(folder)))


def manifest_damage(folder: Path) -> list[Damage]:
    """What is wrong with the manifest and, where there is one, with its copy."""
    found = []
    try:
        read_manifest(folder)
    except IndexFormatError as error:
        found.append(Damage(None, MANIFEST, str(error)))
    if os.path.lexists(folder / COPY):
        try:
            parse_manifest(read_whole(folder / COPY), folder / COPY)
        except IndexFormatError as error:
            found.append(Damage(None, COPY, str(error)))
    return found


def part_damage(path: Path, sha256: str, verify: Verify) -> list[Damage]:
    """What is wrong with one part."""
    found = []
    try:
        part = held_part(path, sha256)  # kept until the files are checked
    except IndexFormatError as error:
        found.append(Damage(path.name, MARKER, str(error)))
    try:
        stored = read_description(path, sha256).files
    except IndexFormatError as error:
        return [*found, Damage(path.name, DESCRIPTION, str(error))]
    found += [Damage(path.name, name, message) for name, message in file_problems(path, stored, verify)]
    if not found:
        part.let_go()
    return found


def check_target(folder: str | Path) -> None:
    """Raise WinnowError unless an index may be written to `folder`: absent, empty, an index, or an unfinished one."""
    folder = Path(folder)
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir():
        raise WinnowError(f"{folder} is not a folder; give a new or empty folder for the index.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise WinnowError(f"{folder} cannot be written to; change its permissions or give another folder.")
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    has_part = any(is_part(entry) for entry in entries)
    foreign = [entry.name for entry in entries if not is_ours(entry, has_part)]
    if foreign:
        raise WinnowError(
            f"{folder} holds {foreign[0]!r}, which is not part of an index; remove it, or give a new or empty folder, or "
            "one that holds only an index."
        )


def is_ours(entry: os.DirEntry[str], has_part: bool) -> bool:
    """True for a part, the lock, and the manifest: one that says so or, however damaged, lies beside a part of ours."""
    if entry.is_dir(follow_symlinks=False):
        is_named_so = PART.fullmatch(entry.name) is not None or entry.name == SCRATCH
        return is_part(entry) or (is_named_so and (is_marked(entry) or not os.listdir(entry.path)))
    if not entry.is_file(follow_symlinks=False):
        return False
    if entry.name in (MANIFEST, COPY):
        return has_part or f'"format": "{FORMAT}"'.encode() in Path(entry.path).read_bytes()
    return entry.name in (NEW_MANIFEST, NEW_COPY, LOCK)


def is_part(entry: os.DirEntry[str]) -> bool:
    """True for a folder that a writer of ours has marked."""
    is_folder = PART.fullmatch(entry.name) is not None and entry.is_dir(follow_symlinks=False)
    return is_folder and is_marked(entry)


def is_marked(entry: os.DirEntry[str]) -> bool:
    return os.path.isfile(os.path.join(entry.path, MARKER))


def open_array(path: Path, dtype: str, length: int) -> np.ndarray:
    """A read-only one-dimensional array, mapped unless it is small; IndexFormatError if it is not `length` values of `dtype`."""
    try:
        with open(path, "rb") as file:
            shape, found, start = read_array_header(file)
            if (found, shape) == (np.dtype(dtype), (length,)):
                if length * found.itemsize > LARGEST_READ:
                    return read_only(np.memmap(file, found, "r", start, shape))
                # a mapping keeps a descriptor open: a dozen for every small segment would soon be all that a process may have
                return read_only(np.frombuffer(file.read(length * found.itemsize), found, length))
    except Exception as error:  # a damaged header makes numpy raise what its tokenizer raises
        raise IndexFormatError(f"{path} cannot be read as an array ({error!r:.80}); build the index again.") from error
    raise IndexFormatError(
        f"{path} holds {found!s:.60} {shape!s:.60}, its index needs {dtype} ({length!r:.40},); build the index again."
    )


def read_array_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """(shape, dtype, where its values start) of a `.npy` file of version 1.0. Raises whatever numpy raises."""
    # np.load would also read zip archives, and headers of later versions, of up to 4 GB
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"version {version} instead of 1.0")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return shape, dtype, file.tell()


def read_only(array: np.ndarray) -> np.ndarray:
    """A plain, read-only view: built and memory-mapped arrays then share one compiled kernel."""
    view = array.view(np.ndarray)
    view.setflags(write=False)
    return view
