"""A sparse matrix in a `.npz` file, as scipy.sparse.save_npz writes CSR, with the names of its rows and columns.

`indptr`, `indices` and `data` are the matrix; `ids` (a row each) and `terms` (a column each) are arrays of strings in the same
file, or lines of `ids.txt` and `terms.txt` beside it. No objects are unpickled.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from index.errors import CorpusError, InvalidVectorsError
from index.scratch import GrowingArray
from index.storage import read_array_header
from index.vectors import check_range, check_weights, checked_shape
from kernels.cpu.sparse import SparseRows
from retrieval.corpus import LONGEST_UNPACKED, TIMES_PACKED
from retrieval.vectors_by_id import RowIds, VectorsById

CHUNK = 1 << 20  # bytes, or entries, in memory at a time
LAST_CHARACTER, SURROGATES = 0x10FFFF, 0xD800 >> 11
CSR = "indptr", "indices", "data"
REMEDY = "save it again with scipy.sparse.save_npz or numpy.savez"


def read_npz(path: Path) -> VectorsById:
    """The rows of the matrix by their ids. Raises CorpusError."""
    arrays = read_arrays(path)
    missing = [name for name in CSR if name not in arrays]
    if missing:
        raise CorpusError(f"{path} has no array {missing[0]!r}, as a CSR matrix has; {REMEDY}.")
    try:
        rows = checked_shape(SparseRows(*(arrays[name] for name in CSR)))
    except InvalidVectorsError as error:
        raise CorpusError(f"{path}: {error}") from error
    return named_rows(path, rows, names_of(path, "ids", arrays), list(names_of(path, "terms", arrays)))


def named_rows(path: Path, rows: SparseRows, doc_ids: Iterable[str], terms: list[str]) -> VectorsById:
    """The rows of a matrix, which fit each other, by the names of its rows and columns. Raises CorpusError."""
    try:
        ids = RowIds()
        for row, doc_id in enumerate(doc_ids):
            ids.add(doc_id, row, f"{path}: row {row}")
        if len(ids) != len(rows.indptr) - 1:
            raise CorpusError(
                f"{path} has {len(rows.indptr) - 1} rows and {len(ids)} ids; give each row its document's id."
            )
        if len(set(terms)) < len(terms):
            raise CorpusError(f"{path} names a term twice; each column needs its own.")
        indices, data = GrowingArray("int32"), GrowingArray("float32")
        for start in range(0, len(rows.indices), CHUNK):
            numbers, weights = rows.indices[start : start + CHUNK], rows.data[start : start + CHUNK]
            check_range(numbers, len(terms))
            check_weights(numbers, weights)
            indices.append(numbers)
            data.append(weights)
    except InvalidVectorsError as error:
        raise CorpusError(f"{path}: {error}") from error
    return VectorsById(str(path), ids, terms, SparseRows(rows.indptr.astype(np.int64), indices.mapped(), data.mapped()))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of the file that are of use here, mapped from temporary files."""
    size, arrays = path.stat().st_size, {}
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.infolist() and all(info.header_offset for info in archive.infolist()):
                raise ValueError("it begins with something else")  # zipfile would pass over it, NumPy does not
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = {name: members[name] for name in (*CSR, "ids", "terms", "format") if name in members}
            unpacked, most = sum(info.file_size for info in wanted.values()), max(LONGEST_UNPACKED, TIMES_PACKED * size)
            if unpacked > most:
                raise CorpusError(
                    f"{path} unpacks to {unpacked:,} bytes, from {size:,}; save it without compression if that is right."
                )
            for name, info in wanted.items():
                arrays[name] = read_member(archive, info)
    except CorpusError:
        raise
    except Exception as error:  # zipfile and numpy raise what their own parts raise
        raise CorpusError(f"{path} is no whole archive of arrays ({describe(error)}); {REMEDY}.") from error
    kind = arrays.pop("format", None)
    if kind is not None and kind.tobytes().replace(b"\0", b"") != b"csr":
        raise CorpusError(f"{path} holds a matrix of the format {kind.tobytes()!r:.40}; save it as CSR.")
    return arrays


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """One array, at most one-dimensional. Raises ValueError for one of objects, and whatever zipfile and numpy raise."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("it is compressed in an unusual way")
    with archive.open(info) as file:
        shape, dtype, start = read_array_header(file)  # type: ignore[arg-type]
        if dtype.kind not in "biufSU" or len(shape) > 1 or dtype.itemsize == 0:
            raise ValueError(f"{info.filename} is an array of {dtype!s:.40} {shape!s:.40}")
        if start + int(np.prod(shape, dtype=object)) * dtype.itemsize != info.file_size:
            raise ValueError(f"{info.filename} is not as long as it says")
        data = GrowingArray("uint8")
        while chunk := file.read(CHUNK):
            data.append(np.frombuffer(chunk, np.uint8))
    return data.mapped().view(dtype)


def names_of(path: Path, name: str, arrays: dict[str, np.ndarray]) -> Iterator[str]:
    """The strings of an array, or of the text file beside it. Raises CorpusError."""
    beside = path.with_name(f"{name}.txt")
    if name not in arrays:
        if not beside.is_file():
            raise CorpusError(
                f"{path} has no array {name!r}, and there is no {beside.name} beside it; give one of them."
            )
        yield from lines_of(beside)
        return
    array = arrays[name]
    if array.dtype.kind != "U":
        raise CorpusError(
            f"{path} has {name} of {array.dtype!s:.40}; they must be strings (numpy.array(..., dtype=str))."
        )
    step = max(1, CHUNK // array.itemsize)
    for start in range(0, len(array), step):
        some = np.ascontiguousarray(array[start : start + step])
        codes = some.view(np.dtype(np.uint32).newbyteorder(some.dtype.byteorder))
        if np.any(codes > LAST_CHARACTER) or np.any(codes >> 11 == SURROGATES):
            raise CorpusError(f"{path} has {name} from {start} on that are not valid Unicode; {REMEDY}.")
        yield from some.tolist()


def lines_of(path: Path) -> Iterator[str]:
    """Every line of a text file, blank ones too: each numbers a row or a column."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield line.decode().rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise CorpusError(f"{path}:{number} is not valid UTF-8; convert the file to UTF-8.") from error


def describe(error: Any) -> str:
    """An error of others on one short printable line."""
    text = f"{type(error).__name__}: {error}"
    return "".join(c if c.isprintable() else " " for c in text)[:80]
