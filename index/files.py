"""The only way to the disk for writing: each function about one system call, its failure told as a StorageError.

Tests put a disk that fails or forgets under this module (tests/faults.py), so nothing else of ours opens a file for
writing, flushes, renames or removes.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from index.errors import StorageError

REMEDIES = {
    errno.EMFILE: "close some files or raise the limit (ulimit -n)",
    errno.ENFILE: "close some files",
    errno.EACCES: "change its permissions or choose another folder",
    errno.EPERM: "change its permissions or choose another folder",
    errno.EROFS: "choose another folder",
}


@contextmanager
def told(path: str | Path) -> Iterator[None]:
    """An OSError of the block is told as a StorageError that names `path`."""
    try:
        yield
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "make room or choose another folder")
        raise StorageError(f"{path} could not be written ({error.strerror or error}); {remedy}.") from error


def open_file(path: Path, flags: int) -> int:
    """A descriptor that no other program inherits."""
    with told(path):
        return os.open(path, flags | os.O_CLOEXEC, 0o666)


def close(descriptor: int, path: Path) -> None:
    """Some file systems tell only now that a write failed."""
    with told(path):
        os.close(descriptor)


@contextmanager
def created(path: Path) -> Iterator[int]:
    """A descriptor of a new, empty file, or of an old one without its content."""
    descriptor = open_file(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        close(descriptor, path)


def write_all(descriptor: int, data: bytes | memoryview, path: Path) -> None:
    """Write every byte, however few the system takes at a time."""
    left = memoryview(data)
    with told(path):
        while left:
            written = os.write(descriptor, left)
            if written == 0:
                raise OSError(errno.EIO, "nothing is written and no reason given")
            left = left[written:]


def truncate(descriptor: int, path: Path) -> None:
    """Leave an empty file."""
    with told(path):
        os.ftruncate(descriptor, 0)


def reserve(descriptor: int, size: int, path: Path) -> None:
    """Have room for `size` bytes from the start of the file, zero where nothing was written."""
    with told(path):
        os.posix_fallocate(descriptor, 0, size)


def flush_file(path: Path) -> None:
    """Have the operating system put a file's content on disk now, whoever wrote it; its name may still get lost."""
    flush(path)


def flush_folder(path: Path) -> None:
    """Have the operating system put the names in a folder on disk now; their content may still get lost."""
    flush(path)


def flush(path: Path) -> None:
    """Of a file or folder."""
    descriptor = open_file(path, os.O_RDONLY)
    try:
        with told(path):
            os.fsync(descriptor)
    finally:
        close(descriptor, path)


def rename(old: Path, new: Path) -> None:
    """In one step; a file that was called `new` is gone."""
    with told(new):
        os.replace(old, new)


def make_folder(path: Path) -> None:
    """One folder that does not exist yet, in one that does."""
    with told(path):
        os.mkdir(path)


def make_folders(path: Path) -> bool:
    """The folder and those above it where they are missing, on disk when this returns; whether `path` itself was."""
    if not path.parent.is_dir():
        make_folders(path.parent)
    try:
        make_folder(path)
    except StorageError as error:
        if isinstance(error.__cause__, FileExistsError):
            return False
        raise
    flush_folder(path.parent)
    return True


def remove_file(path: Path) -> None:
    """Also a symbolic link, never what it points to."""
    with told(path):
        os.unlink(path)


def remove_folder(path: Path) -> None:
    """An empty one."""
    with told(path):
        os.rmdir(path)


def remove_tree(path: Path) -> None:
    """A folder with all that is in it, or a file; nothing that links point to."""
    if path.is_symlink() or not path.is_dir():
        remove_file(path)
        return
    with told(path):
        names = os.listdir(path)
    for name in names:
        remove_tree(path / name)
    remove_folder(path)


def write_file(path: Path, data: bytes) -> None:
    """A whole file, not yet flushed."""
    with created(path) as descriptor:
        write_all(descriptor, data, path)


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a `.npy` file, not yet flushed, that `open_array` can map."""
    array = np.ascontiguousarray(array)
    with created(path) as descriptor:
        write_all(descriptor, array_header(array.dtype, array.shape), path)
        if array.size:  # there is no view of nothing
            write_all(descriptor, array.reshape(-1).view(np.uint8).data, path)


def new_array(path: Path, dtype: str, length: int) -> np.ndarray:
    """A writable array of zeros mapped from a new `.npy` file; StorageError unless the disk has room for all of it."""
    header = array_header(np.dtype(dtype), (length,))
    with created(path) as descriptor:
        write_all(descriptor, header, path)
        if length:
            reserve(descriptor, len(header) + length * np.dtype(dtype).itemsize, path)
    if length == 0:
        return np.empty(0, dtype)
    with told(path):
        return np.memmap(path, dtype, "r+", offset=len(header), shape=(length,))


def array_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """What a `.npy` file of version 1.0 in C order begins with."""
    header = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, description)
    return header.getvalue()
