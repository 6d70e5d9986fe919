"""Arrays in temporary files that nobody else sees: what would not fit in memory while something is made ready."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from index.files import reserve, told, write_all
from index.storage import read_only


class GrowingArray:
    """An array in a temporary file that grows at its end; the file goes with the last array mapped from it.

    >>> array = GrowingArray("int32")
    >>> array.append(np.array([3, 1])), array.append(np.array([4])), array.mapped().tolist()
    (None, None, [3, 1, 4])
    """

    def __init__(self, dtype: str | np.dtype):
        self.dtype, self._length = np.dtype(dtype), 0
        with told(tempfile.gettempdir()):
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (open for as long as this object)

    def __len__(self) -> int:
        return self._length

    def append(self, values: np.ndarray) -> None:
        """Write values, cast to the array's type, behind those that are there. Raises StorageError without room."""
        values = np.ascontiguousarray(values, self.dtype)
        if values.size:  # there is no view of nothing
            write_all(self._file.fileno(), values.reshape(-1).view(np.uint8).data, Path(tempfile.gettempdir()))
        self._length += values.size

    def mapped(self) -> np.ndarray:
        """All of it as it is now, read-only."""
        if self._length == 0:
            return read_only(np.empty(0, self.dtype))
        return read_only(np.memmap(self._file, self.dtype, "r", shape=(self._length,)))


def scratch_array(dtype: str, length: int) -> np.ndarray:
    """A writable array of zeros in a temporary file, gone with the array; StorageError unless the disk has room for all of it."""
    if length == 0:
        return np.empty(0, dtype)
    folder = Path(tempfile.gettempdir())
    with told(folder), tempfile.TemporaryFile() as file:  # the mapping keeps it
        reserve(file.fileno(), length * np.dtype(dtype).itemsize, folder)
        return np.memmap(file, dtype, "r+", shape=(length,))
