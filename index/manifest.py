"""What a folder says about itself: its manifest and the descriptions of its parts, written, read and checked.

The manifest vouches for itself and for the description of each part, and that for every file. Format: docs/format.md.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeGuard

from index.errors import IndexFormatError, WinnowError

FORMAT, VERSION = "winnow", 2
MANIFEST, COPY, LOCK = "winnow.json", "winnow.json.copy", "winnow.lock"
NEW_MANIFEST, NEW_COPY = f"{MANIFEST}.new", f"{COPY}.new"
SCRATCH = "winnow-scratch"  # a folder in which a writer prepares what will be a part
MARKER, DESCRIPTION = "winnow-part", "part.json"  # of a part
PART = re.compile(r"part-([0-9]{6,12})")
SHA256 = re.compile(r"[0-9a-f]{64}")
CHECKSUM_LINE = re.compile(rb'^ "sha256": "([0-9a-f]{64})",\n', re.MULTILINE)  # deeper ones are indented more
MOST_BYTES = 64 << 20  # of a manifest or a description
MOST = (1 << 63) - 1
LONGEST_PATH = 255  # characters below a part; each folder of it is opened within the one above
HEAD = 128  # bytes of a file that a quick check reads: a whole `.npy` header
READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a named pipe must not make us wait
REMEDY = "run `winnow repair`, restore it from a backup, or build it again"
SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM}  # no sign of damage
Verify = Literal["quick", "full"]


@dataclass(frozen=True, slots=True)
class Manifest:
    """One commit: the parts that it needs, each with the sha256 of its description, and what only its writer understands."""

    kind: str
    commit: int
    next_part: int  # greater than the number of every part there ever was
    parts: dict[str, str]
    contents: dict[str, Any]

    def as_bytes(self) -> bytes:
        """The file, with its own checksum: of all its bytes without the line that holds it."""
        fields = {
            "format": FORMAT,
            "version": VERSION,
            "kind": self.kind,
            "commit": self.commit,
            "next_part": self.next_part,
            "parts": {name: {"sha256": sha256} for name, sha256 in self.parts.items()},
            "contents": self.contents,
        }
        return as_json({**fields, "sha256": hashlib.sha256(as_json(fields)).hexdigest()})


class StoredFile(NamedTuple):
    """What the description of a part says about one of its files."""

    bytes: int
    sha256: str
    head: str  # sha256 of its first HEAD bytes


class Description(NamedTuple):
    """What `part.json` says: the files of the part by their path below it, and what only its writer understands."""

    files: dict[str, StoredFile]
    contents: dict[str, Any]

    def as_bytes(self) -> bytes:
        return as_json(
            {"files": {name: file._asdict() for name, file in self.files.items()}, "contents": self.contents}
        )


def part_name(number: int) -> str:
    return f"part-{number:06d}"


def as_json(value: dict[str, Any]) -> bytes:
    """The one way in which we write JSON: equal values are equal bytes. Raises TypeError or ValueError for other values."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"


def is_index(folder: str | Path) -> bool:
    """True when `folder` has a manifest, whatever its state."""
    return (Path(folder) / MANIFEST).is_file()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the folder's newest commit. Raises IndexFormatError."""
    path = folder / MANIFEST
    if not os.path.lexists(path):
        if os.path.lexists(folder / COPY):
            raise IndexFormatError(f"{folder} has lost its {MANIFEST}; {REMEDY}.")
        if folder.is_dir() and part_numbers(folder):
            raise IndexFormatError(f"{folder} holds an index whose build did not finish; build it again.")
        raise IndexFormatError(f"{folder} is not an index (it has no {MANIFEST}); make one with `winnow index`.")
    return parse_manifest(read_whole(path), path)


def soundest_manifest(folder: str | Path) -> Manifest | None:
    """The manifest, or else its copy, whichever is sound, the newer of two; None where neither is."""
    sound = []
    for name in (MANIFEST, COPY):
        try:
            sound.append(parse_manifest(read_whole(Path(folder) / name), Path(folder) / name))
        except IndexFormatError:
            continue
    return max(sound, key=lambda manifest: manifest.commit, default=None)


def part_numbers(folder: Path) -> list[int]:
    """Numbers of the folders called like parts, finished or not."""
    names = (PART.fullmatch(entry.name) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
    return sorted(int(match[1]) for match in names if match and match[0] == part_name(int(match[1])))


def parse_manifest(data: bytes, path: Path) -> Manifest:
    """Checked as a whole: version, checksum, and that every field is of its type. Raises IndexFormatError."""
    fields = parse_json(data, path)
    found_format, version = fields.get("format"), fields.get("version")
    if found_format != FORMAT or not is_count(version, 1):
        raise IndexFormatError(
            f"{path} says format {found_format!r:.40}, version {version!r:.40}, which is no index of ours; {REMEDY}."
        )
    if version != VERSION:
        remedy = "update winnow-ir or build" if version > VERSION else "build"
        raise IndexFormatError(
            f"{path.parent} has format version {version}, this release reads version {VERSION}; {remedy} the index again "
            "with this release."
        )
    lines = CHECKSUM_LINE.findall(data)
    if len(lines) != 1 or hashlib.sha256(CHECKSUM_LINE.sub(b"", data)).hexdigest().encode() != lines[0]:
        raise IndexFormatError(f"{path} does not match its own checksum; {REMEDY}.")
    known = {"format", "version", "kind", "commit", "next_part", "parts", "contents", "sha256"}
    require_keys(fields, known, path)
    require(isinstance(fields["kind"], str), "kind", fields["kind"], path)
    require(is_count(fields["commit"], 1), "commit", fields["commit"], path)
    is_number = is_count(fields["next_part"], 1) and PART.fullmatch(part_name(fields["next_part"])) is not None
    require(is_number, "next_part", fields["next_part"], path)
    require(isinstance(fields["contents"], dict), "contents", fields["contents"], path)
    require(isinstance(fields["parts"], dict), "parts", fields["parts"], path)
    for name, part in fields["parts"].items():
        match = PART.fullmatch(name)
        is_ours = match is not None and name == part_name(int(match[1])) and int(match[1]) < fields["next_part"]
        require(is_ours, "part", name, path)
        require_keys(part, {"sha256"}, path)
        require(is_sha256(part["sha256"]), "sha256", part["sha256"], path)
    parts = {name: part["sha256"] for name, part in fields["parts"].items()}
    return Manifest(fields["kind"], fields["commit"], fields["next_part"], parts, fields["contents"])


def read_description(part: Path, sha256: str) -> Description:
    """What `part.json` says; every path in it stays inside the part. Raises IndexFormatError."""
    path = part / DESCRIPTION
    if part.is_symlink():
        raise IndexFormatError(f"{part} is a link and not the part itself; {REMEDY}.")
    data = read_whole(path)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise IndexFormatError(f"{path} does not match its checksum; {REMEDY}.")
    fields = parse_json(data, path)
    require_keys(fields, {"files", "contents"}, path)
    require(isinstance(fields["contents"], dict), "contents", fields["contents"], path)
    require(isinstance(fields["files"], dict), "files", fields["files"], path)
    for name, file in fields["files"].items():
        require(stays_inside(name), "file", name, path)
        require_keys(file, set(StoredFile._fields), path)
        require(is_count(file["bytes"], 0), "bytes", file["bytes"], path)
        require(is_sha256(file["sha256"]), "sha256", file["sha256"], path)
        require(is_sha256(file["head"]), "head", file["head"], path)
    return Description({name: StoredFile(**file) for name, file in fields["files"].items()}, fields["contents"])


def file_problems(part: Path, stored: dict[str, StoredFile], verify: Verify) -> Iterator[tuple[str, str]]:
    """(file, sentence) for each file that is not what it should be.

    `quick` looks at type, size and the first bytes, with four system calls a file; `full` reads every byte. Raises WinnowError
    for a file that may be sound but cannot be read now.
    """
    with ExitStack() as opened:
        folders: dict[str, int] = {}  # folder below the part -> descriptor

        def folder(name: str) -> int:
            if name not in folders:
                above, _, last = name.rpartition("/")
                flags = READ_FLAGS | os.O_DIRECTORY
                descriptor = os.open(last, flags, dir_fd=folder(above)) if name else os.open(part, flags)
                opened.callback(os.close, descriptor)
                folders[name] = descriptor
            return folders[name]

        for name, expected in stored.items():
            above, _, last = name.rpartition("/")
            try:
                descriptor = os.open(last, READ_FLAGS, dir_fd=folder(above))
                try:
                    problem = content_problem(descriptor, expected, verify)
                finally:
                    os.close(descriptor)
            except OSError as error:
                if error.errno in SHORTAGES:
                    raise unreadable(part / name, error) from error
                problem = f"is missing, a link, or cannot be read ({error.strerror})"
            if problem:
                yield name, f"{part / name} {problem}; {REMEDY}."


def content_problem(descriptor: int, expected: StoredFile, verify: Verify) -> str:
    """What is wrong with an open file, or nothing. Raises OSError."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    if status.st_size != expected.bytes:
        return f"has {status.st_size} bytes, its index says {expected.bytes}"
    if hashlib.sha256(os.pread(descriptor, HEAD, 0)).hexdigest() != expected.head:
        return "does not begin as it should"
    if verify == "full" and digest(descriptor) != expected.sha256:
        return "does not match its checksum"
    return ""


def describe_file(path: Path) -> StoredFile:
    """Of a file as it is now."""
    descriptor = os.open(path, READ_FLAGS)
    try:
        head = hashlib.sha256(os.pread(descriptor, HEAD, 0)).hexdigest()
        return StoredFile(os.fstat(descriptor).st_size, digest(descriptor), head)
    finally:
        os.close(descriptor)


def digest(descriptor: int) -> str:
    """sha256 of an open file from where it stands, read in pieces."""
    with open(descriptor, "rb", closefd=False) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_file(path: str | Path) -> str:
    """In hexadecimal, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_whole(path: Path) -> bytes:
    """A manifest or description, if it is a regular file of a sane size. Raises IndexFormatError or what `unreadable` says."""
    try:
        descriptor = os.open(path, READ_FLAGS)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_BYTES:
                raise IndexFormatError(
                    f"{path} is no regular file of at most {MOST_BYTES:,} bytes ({status.st_size:,}); {REMEDY}."
                )
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(status.st_size)  # a larger number would be allocated
        finally:
            os.close(descriptor)
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> WinnowError:
    """An IndexFormatError, unless the reason may lie outside the index: nobody shall repair what is sound."""
    if error.errno in SHORTAGES:
        return WinnowError(f"{path} cannot be read ({error.strerror}); allow it and try again.")
    return IndexFormatError(f"{path} cannot be read ({error.strerror}); {REMEDY}.")


def parse_json(data: bytes, path: Path) -> dict[str, Any]:
    """A JSON object without what JSON leaves open: names given twice, NaN, 1e999, other encodings. Raises IndexFormatError."""
    try:
        fields = json.loads(data.decode(), object_pairs_hook=once_each, parse_constant=not_json, parse_float=finite)
        if not isinstance(fields, dict):
            raise ValueError("it is not an object")
    except (ValueError, RecursionError) as error:
        raise IndexFormatError(f"{path} is damaged ({error!s:.80}); {REMEDY}.") from error
    return fields


def once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name is given twice")
    return fields


def not_json(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def finite(number: str) -> float:
    """For `json.loads`, which takes a number that is too large for infinity, as no JSON can be written of. Raises ValueError."""
    if math.isinf(value := float(number)):
        raise ValueError(f"{number:.20} is too large")
    return value


def require_keys(fields: Any, keys: Iterable[str], path: Path) -> None:
    """IndexFormatError unless `fields` is an object with exactly these names."""
    if not isinstance(fields, dict) or fields.keys() != set(keys):
        found = sorted(fields) if isinstance(fields, dict) else fields
        raise IndexFormatError(f"{path} has {found!r:.80} where {', '.join(sorted(keys))} should be; {REMEDY}.")


def require(is_right: bool, name: str, value: Any, path: Path) -> None:
    if not is_right:
        raise IndexFormatError(f"{path} has the {name} {value!r:.80}, which cannot be; {REMEDY}.")


def is_count(value: Any, least: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= MOST


def is_sha256(value: Any) -> bool:
    return isinstance(value, str) and SHA256.fullmatch(value) is not None


def stays_inside(name: str) -> bool:
    """True for a path below a part that is none of the part's own two files."""
    is_path = name.isprintable() and len(name) <= LONGEST_PATH and not {"", ".", ".."} & set(name.split("/"))
    return is_path and name not in (MARKER, DESCRIPTION)
