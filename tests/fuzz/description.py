"""part.json, vouched for by the manifest, in a folder with real files and links that lead out of it."""

import os
from functools import cache
from pathlib import Path

from forgery import replace_description
from fuzz.watch import SCRATCH, demand, outcome, watched

from index.folder_writer import FolderWriter
from index.manifest import Description, describe_file, read_description
from index.storage import damage, read_current

KIND, PART = "note", "part-000001"


@cache
def folder():
    """A commit with a file, a file in a folder, and beside them links and a file from outside."""
    path = Path(SCRATCH.name) / "described"
    with FolderWriter(path, KIND) as writer:
        part = writer.new_part()
        (part.path / "a.txt").write_bytes(b"one")
        (part.path / "sub").mkdir()
        (part.path / "sub" / "b.bin").write_bytes(bytes(range(200)))
        part.contents = {"length": 3}
        writer.commit({"part": part.name}, [part])
    (path / "outside").write_bytes(b"one")
    os.symlink("../outside", path / PART / "link")
    os.symlink("..", path / PART / "up")
    os.mkfifo(path / PART / "pipe")
    return path


@cache
def seeds():
    inside = folder() / PART
    sound = (inside / "part.json").read_bytes()
    file = describe_file(inside / "a.txt")
    names = [
        "link",
        "up/outside",
        "pipe",
        "../outside",
        "/etc/passwd",
        "sub",
        "a.txt/",
        "sub//b.bin",
        "a\0",
        "a/" * 999 + "a",
    ]
    lies = [Description({name: file}, {}).as_bytes() for name in names]
    return [
        sound,
        sound.replace(b'"bytes": 3', b'"bytes": 9223372036854775807'),
        b'{"files": {}, "contents": {}}',
        *lies,
    ]


def attack(data):
    path = folder()
    replace_description(path, data)
    for verify in ("quick", "full"):
        with watched(len(data)):
            commit, error = outcome(read_current, path, KIND, lambda commit: commit, verify)
            found, refused = outcome(damage, path, verify)
        demand(refused is None, f"damage is not told but raised: {refused}")
        demand((error is None) == (found == []), f"opening says {error}, verification {found}")
        if error is not None:
            continue
        part = commit.parts[PART]
        for name, file in read_description(part.path, part.sha256).files.items():
            place = part.path / name
            demand(place.resolve().is_relative_to(part.path.resolve()), f"{name!r} leads out of the part")
            demand(place.is_file() and not place.is_symlink(), f"{name!r} is no file of the part")
            demand(place.stat().st_size == file.bytes, f"{name!r} has another size")
