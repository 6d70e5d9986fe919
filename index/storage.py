"""A folder that changes as a whole or not at all, and knows when it is damaged.

Everything lies in one generation folder beside `winnow.json`, the manifest. A new generation is written and flushed
to disk first; renaming its manifest into place makes it current in one step; then the old one goes. A crash at any
point leaves the old content or the new one. Only this file renames, flushes or checksums. Format: docs/format.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from filelock import FileLock, Timeout

from index.errors import IndexFormatError, WinnowError

FORMAT, VERSION = "winnow", 1
MANIFEST, NEW_MANIFEST, LOCK = "winnow.json", "winnow.json.new", "winnow.lock"
MARKER = "winnow-generation"  # an empty file: tells our generation folders from those of other programs
GENERATION = re.compile(r"generation-([0-9]{6,12})")
MAX_MANIFEST_BYTES = 64 << 20
Verify = Literal["quick", "full"]
Content = TypeVar("Content")


@dataclass(slots=True)
class Generation:
    """One complete content of a folder: its files under `path`, and a description that only its writer understands."""

    path: Path
    contents: dict[str, Any] = field(default_factory=dict)


@contextmanager
def commit(folder: str | Path, kind: str) -> Iterator[Generation]:
    """A new generation to fill with files and `contents`; current once the block ends, discarded if it raises.

    Raises WinnowError before the block runs if `folder` holds anything but an index or an unfinished one of ours, or
    if another process is writing to it; and afterwards if the files cannot be written.
    """
    folder = Path(folder)
    if not (folder / LOCK).exists():
        check_target(folder)  # before a lock file is left in a folder that is not ours
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder):
        check_target(folder)
        number = 1 + max(generations(folder), default=0)
        generation = Generation(folder / f"generation-{number:06d}")
        try:
            generation.path.mkdir()
            (generation.path / MARKER).touch()
            yield generation
            write_manifest(folder, kind, generation)
        except BaseException as error:
            # an interruption may come after the rename: what the manifest names stays
            if current_generation(folder) != generation.path.name:
                shutil.rmtree(generation.path, ignore_errors=True)
                (folder / NEW_MANIFEST).unlink(missing_ok=True)
                if is_new and not is_index(folder):  # somebody else may have been first
                    shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, OSError):
                raise WinnowError(
                    f"{folder} could not be written ({error.strerror or error}); make room or choose another folder."
                ) from error
            raise
        for old in generations(folder):
            if old != number:
                # readers of the old generation keep their mapped files until they close them
                shutil.rmtree(folder / f"generation-{old:06d}", ignore_errors=True)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the operating system releases it if this process dies."""
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise WinnowError(f"another process is writing to {folder}; wait until it has finished.") from error
    try:
        yield
    finally:
        lock.release()


def read_current(
    folder: str | Path, kind: str, read: Callable[[Generation], Content], verify: Verify = "quick"
) -> Content:
    """What `read` makes of the current generation of `folder`.

    `quick` checks the manifest and that every file has its size; `full` also reads every byte and compares checksums.
    Raises IndexFormatError for a folder that is not an index, is unfinished, damaged, newer, or of another kind, and
    when what `read` finds is not what it looks for. A writer that replaces the index meanwhile is no error.
    """
    if verify not in ("quick", "full"):
        raise WinnowError(f'verify is {verify!r}; it must be "quick" or "full".')
    folder = Path(folder)
    while True:
        manifest = read_manifest(folder)
        if manifest["kind"] != kind:
            raise IndexFormatError(f"{folder} holds a {manifest['kind']}, not a {kind}; open it with what wrote it.")
        path = folder / manifest["generation"]
        try:
            for name, expected in manifest["files"].items():
                check_file(path, name, expected, verify)
            return read(Generation(path, manifest["contents"]))
        except (WinnowError, OSError, KeyError, TypeError, AttributeError) as error:
            if current_generation(folder) not in (manifest["generation"], None):
                continue  # replaced while we read: the files of its old generation are gone, the new ones are there
            if isinstance(error, WinnowError | OSError):
                raise
            raise IndexFormatError(
                f"{folder / MANIFEST} does not describe its contents as this release does ({error!r}); build it again."
            ) from error


def is_index(folder: str | Path) -> bool:
    """True when `folder` has a manifest, whatever its state."""
    return (Path(folder) / MANIFEST).is_file()


def check_target(folder: str | Path) -> None:
    """Raise WinnowError unless an index may be written to `folder`: absent, empty, an index, or an unfinished one."""
    folder = Path(folder)
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir():
        raise WinnowError(f"{folder} is not a folder; give a new or empty folder for the index.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise WinnowError(f"{folder} cannot be written to; change its permissions or give another folder.")
    foreign = sorted(entry.name for entry in os.scandir(folder) if not is_ours(entry))
    if foreign:
        raise WinnowError(
            f"{folder} holds {foreign[0]!r}, which is not part of an index; give a new or empty folder, or one that "
            "holds only an index to replace."
        )


def is_ours(entry: os.DirEntry[str]) -> bool:
    """True for the lock, a manifest of ours, and a generation folder that we made (or died before marking)."""
    if entry.is_dir(follow_symlinks=False):
        names = os.listdir(entry.path) if GENERATION.fullmatch(entry.name) else ["of somebody else"]
        return not names or MARKER in names
    if not entry.is_file(follow_symlinks=False):
        return False
    if entry.name == MANIFEST:
        return f'"format": "{FORMAT}"'.encode() in Path(entry.path).read_bytes()
    return entry.name in (NEW_MANIFEST, LOCK)


def current_generation(folder: Path) -> str | None:
    """Name of the generation that the manifest makes current; None without a manifest that can be read."""
    try:
        return str(read_manifest(folder)["generation"])
    except IndexFormatError:
        return None


def generations(folder: Path) -> list[int]:
    """Numbers of the generation folders present, finished or not."""
    return sorted(int(match[1]) for entry in os.scandir(folder) if (match := GENERATION.fullmatch(entry.name)))


def write_manifest(folder: Path, kind: str, generation: Generation) -> None:
    """Flush every file of the generation, then make it current by one rename."""
    files = {}
    for path in sorted(generation.path.rglob("*")):
        flush(path)
        if path.is_file():
            files[path.relative_to(generation.path).as_posix()] = {
                "bytes": path.stat().st_size,
                "sha256": sha256_of_file(path),
            }
    flush(generation.path)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "kind": kind,
        "generation": generation.path.name,
        "files": files,
        "contents": generation.contents,
    }
    manifest["sha256"] = sha256_of_manifest(manifest)
    new = folder / NEW_MANIFEST
    new.write_text(json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
    flush(new)
    flush(folder)
    os.replace(new, folder / MANIFEST)
    flush(folder)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, checked: version, checksum, and that no file name leaves the generation folder."""
    path = folder / MANIFEST
    if not is_index(folder):
        if folder.is_dir() and any(map(is_ours, os.scandir(folder))):
            raise IndexFormatError(f"{folder} holds an index whose build did not finish; build it again.")
        raise IndexFormatError(f"{folder} is not an index (it has no {MANIFEST}); make one with `winnow index`.")
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise ValueError("it is too large")
        manifest = json.loads(path.read_bytes())
        found_format, version, checksum = manifest["format"], manifest["version"], manifest.pop("sha256")
        is_named = isinstance(manifest["kind"], str) and GENERATION.fullmatch(manifest["generation"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IndexFormatError(f"{path} is damaged ({error!r}); restore it from a copy or build again.") from error
    if found_format != FORMAT or not isinstance(version, int) or version < 1:
        raise IndexFormatError(f"{path} says format {found_format!r}, version {version!r}; this is not our manifest.")
    if version > VERSION:
        raise IndexFormatError(
            f"{folder} has format version {version}, this release reads up to version {VERSION}; update winnow-ir or "
            "build the index again with this release."
        )
    if checksum != sha256_of_manifest(manifest):
        raise IndexFormatError(f"{path} does not match its own checksum; restore it from a copy or build again.")
    if not is_named:
        raise IndexFormatError(f"{path} names the generation {manifest['generation']!r}, which is not one of ours.")
    return dict(manifest)


def check_file(generation: Path, name: str, expected: dict[str, Any], verify: Verify) -> None:
    """Raise IndexFormatError unless the file lies inside its generation and is what the manifest says."""
    path = generation / name
    is_inside = path.resolve().is_relative_to(generation.resolve()) and path.resolve() == generation.resolve() / name
    if not is_inside or not path.is_file():
        raise IndexFormatError(f"{path} is missing or lies outside its index; restore it from a copy or build again.")
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise IndexFormatError(
            f"{path} has {size} bytes, its manifest says {expected['bytes']}; restore it from a copy or build again."
        )
    if verify == "full" and sha256_of_file(path) != expected["sha256"]:
        raise IndexFormatError(f"{path} does not match its checksum; restore it from a copy or build again.")


def sha256_of_file(path: str | Path) -> str:
    """In hexadecimal, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_manifest(manifest: dict[str, Any]) -> str:
    """Checksum of a manifest without its own `sha256` line: the text that json gives with sorted keys, no spaces."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def flush(path: Path) -> None:
    """Have the operating system put a file's or folder's content on disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a `.npy` file that `open_array` can map."""
    np.save(path, array, allow_pickle=False)


def open_array(path: Path, dtype: str, length: int) -> np.ndarray:
    """A memory-mapped, read-only one-dimensional array; IndexFormatError if it is not `length` values of `dtype`."""
    try:
        array = np.load(path, mmap_mode="r" if length else None, allow_pickle=False)
    except Exception as error:  # a damaged header makes numpy raise what its tokenizer raises
        raise IndexFormatError(f"{path} cannot be read as an array ({error}); build the index again.") from error
    if array.dtype != np.dtype(dtype) or array.shape != (length,):
        raise IndexFormatError(
            f"{path} holds {array.dtype} {array.shape}, its index needs {dtype} ({length},); build the index again."
        )
    return read_only(array)


def read_only(array: np.ndarray) -> np.ndarray:
    """A plain, read-only view: built and memory-mapped arrays then share one compiled kernel."""
    view = array.view(np.ndarray)
    view.setflags(write=False)
    return view
