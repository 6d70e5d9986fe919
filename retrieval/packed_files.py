"""Files as they are and packed ones (.gz, .zst), read alike; one that is cut off or is not what its name says is told."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from index.errors import CorpusError

PACKED = (".gz", ".zst")
EXTRA = "pip install 'winnow-ir[eval]'"


@contextmanager
def unpacked(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """(what the file holds, unpacked; the file itself, whose position says how much of it is read)."""
    with open(path, "rb") as raw:
        if path.suffix == ".gz":
            with gzip.GzipFile(fileobj=raw, mode="rb") as file:
                yield cast(BinaryIO, file), raw
        elif path.suffix == ".zst":
            arrow = pyarrow_for(path)
            yield io.BufferedReader(arrow.CompressedInputStream(arrow.PythonFile(raw, "r"), "zstd")), raw
        else:
            yield raw, raw


@contextmanager
def as_packed(path: Path) -> Iterator[None]:
    """What a packed file does to the block that reads it, told as CorpusError."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CorpusError(f"{path} is not a whole gzip file ({error}); fetch it again.") from error
    except OSError as error:
        if path.suffix != ".zst" or error.errno is not None:  # pyarrow gives no number for what it finds in a file
            raise
        raise CorpusError(f"{path} is not a whole zstd file ({error}); fetch it again.") from error


def pyarrow_for(path: Path) -> Any:
    """The package that reads the file. Raises CorpusError where it is not installed."""
    try:
        import pyarrow
    except ImportError as error:
        raise CorpusError(f"{path} is read with the package pyarrow, which is not installed; {EXTRA}.") from error
    return pyarrow
