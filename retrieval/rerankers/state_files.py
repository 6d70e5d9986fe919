"""The folder of a document cache, read and written (`state_format` says what is in it).

Nothing is written twice and nothing is flushed: entries and states vouch for themselves, so whatever a killed process or a loss of
power leaves behind is a document less and never a wrong one.
"""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import torch

from index import files
from index.errors import LockedError, StorageError, WinnowError, WinnowWarning
from index.locks import WriterLock
from index.manifest import READ_FLAGS
from retrieval.rerankers.document_states import StoredStates
from retrieval.rerankers.state_format import (
    ENTRY,
    MANIFEST,
    NEW_MANIFEST,
    Entry,
    data_path,
    has_manifest,
    index_path,
    manifest_bytes,
    numbers_in,
)

LARGEST_FILE = 256 << 20  # bytes
FILES_IN_BUDGET = 8  # an eighth of the states goes at a time
WAIT_FOR_MANIFEST = 1.0  # seconds: of a folder that another process is just making


class StateFiles:
    """The first process to open a folder writes to it, until `close` or its end; the others read, also what it adds meanwhile.

    Raises WinnowError for a folder of something else, StorageError where it cannot be made. Threads may share it.
    """

    def __init__(self, folder: str | Path, fingerprint: str, precision: str, most_bytes: int | None = None):
        self.folder, self.most_bytes = Path(folder).absolute(), most_bytes
        self.evictions = 0
        self._entries: dict[bytes, tuple[int, Entry]] = {}
        self._pairs: dict[int, Pair] = {}
        self._lock = Lock()
        has_manifest(self.folder, fingerprint, precision)  # before anything is made in a folder that is not ours
        self._writer = self._writer_lock()
        try:
            self._check_manifest(fingerprint, precision)
            self._refresh()
        except BaseException:
            self.close()
            raise

    @property
    def num_documents(self) -> int:
        return len(self._entries)

    @property
    def num_bytes(self) -> int:
        return sum(pair.num_bytes for pair in list(self._pairs.values()))  # another thread may add one

    @property
    def is_writer(self) -> bool:
        """False where another process writes, after a failed write, after `close`, and in a forked child."""
        return self._writer is not None and self._writer.is_held

    def get(self, key: bytes) -> StoredStates | None:
        """The states, checked; None if they are not here or, with a warning, damaged."""
        with self._lock:
            if key not in self._entries and not self.is_writer:
                self._refresh()
            found = self._entries.get(key)
        if found is None:
            return None
        number, entry = found
        path = data_path(self.folder, number)
        try:
            content = content_of(path, entry)
            damage = f"is damaged in the {entry.length:,} bytes from {entry.first:,}"
        except FileNotFoundError:  # another process made room
            content, damage = None, ""
        except OSError as error:
            content, damage = None, f"cannot be read ({error.strerror})"
        if content is not None:
            return entry.states(content)
        with self._lock:
            self._entries.pop(key, None)
        if damage:
            tell(f"{path} {damage}; the document's states are computed again.")
        return None

    def put(self, key: bytes, states: StoredStates) -> None:
        """Append the states, unless they are here or larger than the budget, or another process writes."""
        content = [bytes_of(tensor) for tensor in states.tensors()]
        needed = sum(map(len, content)) + ENTRY
        with self._lock:
            is_too_large = self.most_bytes is not None and needed > self.most_bytes
            if self._writer is None or not self.is_writer or key in self._entries or is_too_large:
                return
            try:
                self._writer.check()
                number = self._with_room(needed)
                self._append(number, Entry.of(key, self._pairs[number].end, states, content), content)
            except StorageError as error:
                self._stop_writing()
                tell(f"{error} Until this process ends, documents are cached in memory only.")

    def close(self) -> None:
        """Let others write; what is here can still be read."""
        with self._lock:
            self._stop_writing()

    def _writer_lock(self) -> WriterLock | None:
        """None, with a warning, where we may only read."""
        try:
            return WriterLock(self.folder)
        except LockedError as error:
            tell(f"{str(error).split(';')[0]}; this document cache reads there and adds nothing.")
        except StorageError:
            if not (self.folder / MANIFEST).is_file():
                raise
            tell(f"{self.folder} cannot be written to; this document cache reads there and adds nothing.")
        return None

    def _check_manifest(self, fingerprint: str, precision: str) -> None:
        """Write it if it is missing: only now, as another process may have been making the folder."""
        deadline = time.monotonic() + WAIT_FOR_MANIFEST
        while not has_manifest(self.folder, fingerprint, precision):
            if self._writer is not None:
                files.write_file(self.folder / NEW_MANIFEST, manifest_bytes(fingerprint, precision))
                files.flush_file(self.folder / NEW_MANIFEST)
                files.rename(self.folder / NEW_MANIFEST, self.folder / MANIFEST)
            elif time.monotonic() > deadline:
                raise WinnowError(f"{self.folder} has no {MANIFEST} yet; try again, or give another folder.")
            else:
                time.sleep(WAIT_FOR_MANIFEST / 100)

    def _refresh(self) -> None:
        """Take what index files tell that they did not tell before, and forget files that are gone."""
        with suppress(OSError):
            numbers, newest = numbers_in(self.folder), max(self._pairs, default=0)
            for number in set(self._pairs) - set(numbers):
                self._forget(number)
            for number in numbers:
                if number >= newest:
                    self._take_entries(number, self._pairs.setdefault(number, Pair()))

    def _take_entries(self, number: int, pair: Pair) -> None:
        """Those at the end that are torn, or that a writer is just writing, are left for another time."""
        path, damaged, taken = index_path(self.folder, number), 0, 0
        data = read_from(path, pair.entries)
        for end in range(ENTRY, len(data) + 1, ENTRY):
            entry = Entry.parsed(data[end - ENTRY : end])
            if entry is not None:
                self._entries[entry.key] = number, entry
                pair.end = max(pair.end, entry.first + entry.length)
                damaged += (end - taken) // ENTRY - 1
                taken = end
        pair.entries += taken
        pair.num_bytes = size_of(path) + size_of(data_path(self.folder, number))
        if damaged:
            tell(f"{path} has {damaged:,} damaged entries; the states of their documents are computed again.")

    def _with_room(self, needed: int) -> int:
        """The number of the pair of files to append so many bytes to; the oldest ones leave until they fit."""
        most, newest = self.most_bytes, max(self._pairs, default=0)
        largest = LARGEST_FILE if most is None else min(LARGEST_FILE, most // FILES_IN_BUDGET)
        pair = self._pairs.get(newest)
        if pair is None or not self._ends_whole(newest) or (pair.end and pair.num_bytes + needed > largest):
            newest += 1
            self._pairs[newest] = Pair()
        while most is not None and self.num_bytes + needed > most:
            self._evict(min(self._pairs))
        return newest

    def _ends_whole(self, number: int) -> bool:
        """False where a writer was stopped in the middle: nothing can be appended there."""
        pair = self._pairs[number]
        sizes = size_of(index_path(self.folder, number)), size_of(data_path(self.folder, number))
        return sizes == (pair.entries, pair.end)

    def _append(self, number: int, entry: Entry, content: list[memoryview]) -> None:
        append(data_path(self.folder, number), content)
        append(index_path(self.folder, number), [memoryview(entry.as_bytes())])
        pair = self._pairs[number]
        pair.entries += ENTRY
        pair.end += entry.length
        pair.num_bytes += entry.length + ENTRY
        self._entries[entry.key] = number, entry

    def _evict(self, number: int) -> None:
        """The entries first: a pair without them is known as one that can go."""
        for path in (index_path(self.folder, number), data_path(self.folder, number)):
            if path.exists():
                files.remove_file(path)
        self.evictions += self._forget(number)

    def _forget(self, number: int) -> int:
        """How many documents were in the pair of files."""
        gone = [key for key, (place, _) in self._entries.items() if place == number]
        for key in gone:
            del self._entries[key]
        del self._pairs[number]
        return len(gone)

    def _stop_writing(self) -> None:
        if self._writer is not None and self.is_writer:
            self._writer.release()


@dataclass(slots=True)
class Pair:
    """What is known of a data file and its index."""

    entries: int = 0  # bytes of the index up to the last good entry
    end: int = 0  # of the last states in the data file
    num_bytes: int = 0  # of both files, with what is torn or damaged


def append(path: Path, content: list[memoryview]) -> None:
    """To a file, which is made if need be. Raises StorageError."""
    descriptor = files.open_file(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW)
    try:
        for piece in content:
            files.write_all(descriptor, piece, path)
    finally:
        files.close(descriptor, path)


def content_of(path: Path, entry: Entry) -> np.ndarray | None:
    """uint8: the bytes that an entry tells, None if they are others. Raises OSError."""
    with open(os.open(path, READ_FLAGS), "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size < entry.first + entry.length:  # before so much memory is asked for
            return None
        content = np.empty(entry.length, np.uint8)
        file.seek(entry.first)
        left = content.data
        while left:
            read = file.readinto(left)
            if not read:
                return None
            left = left[read:]
    return content if hashlib.sha256(content.data).digest() == entry.sha256 else None


def read_from(path: Path, first: int) -> bytes:
    """What a file holds from a byte on; nothing if it is not there."""
    try:
        with open(os.open(path, READ_FLAGS), "rb") as file:
            file.seek(first)
            return file.read()
    except OSError:
        return b""


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """Of its numbers as they lie in memory."""
    content: memoryview = tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data
    return content


def tell(message: str) -> None:
    warnings.warn(message, WinnowWarning, stacklevel=2)
