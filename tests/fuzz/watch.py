"""What all attacks share: the limits that a parser must keep to, and how one makes structure out of bytes.

A parser may refuse anything, by an error of ours that is one short printable line. It may not raise another error, take long,
or take memory that its input does not justify.
"""

import os
import tempfile
import time
import tracemalloc
import warnings
from contextlib import contextmanager
from pathlib import Path

from index.errors import WinnowError

MOST_BYTES = 64 << 20  # of memory, and
TIMES_INPUT = 20
MOST_SECONDS = 20
LONGEST_MESSAGE = 600  # characters, less the path
IN_MEMORY = "/dev/shm"  # files on a disk take ten times as long to write over
SCRATCH = tempfile.TemporaryDirectory(prefix="winnow-fuzz-", dir=IN_MEMORY if os.path.isdir(IN_MEMORY) else None)


class Broken(AssertionError):
    """What must never happen has happened."""


def demand(is_so, message):
    if not is_so:
        raise Broken(message)


@contextmanager
def watched(size):
    """Broken if the block takes too long, or more memory than `size` bytes of input justify."""
    started = time.monotonic()
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    seconds = time.monotonic() - started
    demand(seconds < MOST_SECONDS, f"it took {seconds:.0f} seconds for {size} bytes")
    demand(peak < MOST_BYTES + TIMES_INPUT * size, f"it took {peak:,} bytes of memory for {size:,} of input")


def outcome(call, *arguments):
    """(what the call returns, None), or (None, the error of ours)."""
    try:
        return call(*arguments), None
    except WinnowError as error:
        message = str(error)
        demand(message.isprintable(), f"not one printable line: {message!r}")
        length = len(message.replace(SCRATCH.name, ""))
        demand(length <= LONGEST_MESSAGE, f"a message of {length} characters: {message[:200]}")
        demand(message.endswith("."), f"not a sentence: {message}")
        return None, error


def file_of(name, data):
    """A file that holds `data`; the next call with this name writes over it."""
    path = Path(SCRATCH.name) / name
    path.write_bytes(data)
    return path


class Draw:
    """Choices taken from bytes, first to last; zeros once they are used up."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def bytes(self, count):
        taken = self.data[self.at : self.at + count]
        self.at += count
        return taken.ljust(count, b"\0")

    def number(self, below):
        return int.from_bytes(self.bytes(1 if below <= 256 else 8), "little") % below

    def choice(self, values):
        return values[self.number(len(values))]

    def text(self):
        """Up to 15 characters, some of them such as break things."""
        return self.bytes(self.number(16)).decode("utf-8", "surrogateescape")

    def rest(self):
        return self.data[self.at :]

    @property
    def is_used_up(self):
        return self.at >= len(self.data)
