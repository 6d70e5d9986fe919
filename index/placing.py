"""Files and folders that are whole or not there: one beside is filled, flushed, then renamed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from index.files import (
    close,
    created,
    flush_file,
    flush_folder,
    make_folder,
    open_file,
    remove_tree,
    rename,
    write_all,
    write_file,
)

COPIED_AT_ONCE = 1 << 20  # bytes


def whole(target: Path, fill: Callable[[Path], None]) -> None:
    """A folder that `fill` has filled, in the place of an old one."""
    partial = target.with_name(f".{target.name[:100]}.{uuid4().hex[:8]}.partial")
    try:
        make_folder(partial)
        fill(partial)
        for path in sorted(partial.rglob("*"), reverse=True):
            (flush_folder if path.is_dir() else flush_file)(path)
        flush_folder(partial)
        put_in_place(partial, target)
    except BaseException:
        if partial.exists():
            remove_tree(partial)
        raise


def append(path: Path, data: bytes) -> None:
    """At the end of a file, which may be new."""
    descriptor = open_file(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        write_all(descriptor, data, path)
    finally:
        close(descriptor, path)


def replace_file(path: Path, data: bytes) -> None:
    """The whole file in one step."""
    partial = path.with_name(f".{path.name}.partial")
    write_file(partial, data)
    flush_file(partial)
    rename(partial, path)
    flush_folder(path.parent)


def move_into(source: Path, target: Path) -> None:
    """All that a folder holds into another, perhaps on another disk; `source` itself goes. Not yet flushed."""
    is_same_disk = os.stat(source).st_dev == os.stat(target).st_dev
    for name in sorted(os.listdir(source)):
        if is_same_disk:
            rename(source / name, target / name)
        elif (source / name).is_dir():
            make_folder(target / name)
            move_into(source / name, target / name)
        else:
            copy_file(source / name, target / name)
    remove_tree(source)


def copy_file(source: Path, target: Path) -> None:
    """Of any size."""
    with open(source, "rb") as file, created(target) as descriptor:
        while data := file.read(COPIED_AT_ONCE):
            write_all(descriptor, data, target)


def put_in_place(partial: Path, folder: Path) -> None:
    """Between two renames nothing is called `folder`; what was there is still beside it."""
    if not folder.exists():
        rename(partial, folder)
    else:
        old = partial.with_suffix(".old")
        rename(folder, old)
        try:
            rename(partial, folder)
        except BaseException:
            rename(old, folder)
            raise
        remove_tree(old)
    flush_folder(folder.parent)
