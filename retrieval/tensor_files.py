"""Sparse tensors in a file, as sentence-transformers' SparseEncoder encodes them: a row each document, a column each term.

`.pt`, `.pth`  what torch.save wrote: a sparse tensor, COO or CSR; a list of sparse rows; or a dictionary of one of them, `embeddings`, with
               `ids` and `terms`, lists of strings. Only tensors and plain values are unpickled (weights_only).
`.safetensors` the arrays of one: `crow_indices`, `col_indices` and `values` (CSR), or `indices` [2, entries], `values` and `size`
               [2] (COO).

Names that are not in the file are lines of `ids.txt` and `terms.txt` beside it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from index.errors import CorpusError, InvalidVectorsError
from index.vectors import checked_shape
from kernels.cpu.sparse import SparseRows
from retrieval.csr_files import describe, named_rows, names_of
from retrieval.vectors_by_id import VectorsById

if TYPE_CHECKING:
    import torch

EMBEDDINGS = "embeddings"
CSR = "crow_indices", "col_indices", "values"
COO = "indices", "values", "size"
MOST_EMPTY = 1 << 24  # rows without an entry: they take no bytes in the file and eight here
REMEDY = "save what SparseEncoder.encode gives, a sparse tensor, with torch.save or safetensors"


def read_tensors(path: Path) -> VectorsById:
    """The rows of the tensor by their ids. Raises CorpusError."""
    names: dict[str, list[str]] = {}
    try:
        if path.suffix == ".safetensors":
            rows = rows_of_arrays(read_safetensors(path))
        else:
            saved = read_saved(path)
            if isinstance(saved, Mapping):
                names = {name: strings(name, saved[name]) for name in ("ids", "terms") if name in saved}
                if EMBEDDINGS not in saved:
                    raise ValueError(f"it has no {EMBEDDINGS!r} among {list(saved)!s:.60}")
                saved = saved[EMBEDDINGS]
            rows = rows_of_saved(saved, path.stat().st_size)
        rows = checked_shape(rows)
    except (ValueError, InvalidVectorsError) as error:
        raise CorpusError(f"{path} holds no sparse vectors ({error!s:.160}); {REMEDY}.") from error
    ids, terms = (names[name] if name in names else names_of(path, name, {}) for name in ("ids", "terms"))
    return named_rows(path, rows, ids, list(terms))


def read_saved(path: Path) -> Any:
    """What torch.save wrote. Raises ValueError for any other file, and for one that unpacks to more than it is long."""
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise ValueError(f"it is no archive of torch.save: {describe(error)}") from error
    if unpacked > path.stat().st_size:  # torch.save does not compress
        raise ValueError(f"it unpacks to {unpacked:,} bytes, from {path.stat().st_size:,}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its own parts raise
        raise ValueError(f"torch cannot load it: {describe(error)}") from error


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """All arrays of the file. Raises ValueError."""
    from safetensors import SafetensorError

    from retrieval.encoders.safetensors_files import tensors_of

    try:
        return {name: as_array(tensor, path.stat().st_size) for name, tensor in tensors_of(path).items()}
    except (SafetensorError, OSError, KeyError) as error:
        raise ValueError(f"it is no whole safetensors file: {describe(error)}") from error


def strings(name: str, values: Any) -> list[str]:
    if (
        isinstance(values, str)
        or not isinstance(values, Sequence)
        or not all(isinstance(value, str) for value in values)
    ):
        raise ValueError(f"its {name} are {type(values).__name__} {values!r:.60}, no list of strings")
    return list(values)


def rows_of_saved(saved: Any, most_bytes: int) -> SparseRows:
    """Rows of a sparse tensor of two dimensions, or of a list of such of one."""
    import torch

    if isinstance(saved, torch.Tensor):
        return rows_of_arrays(arrays_of(saved, most_bytes))
    if not isinstance(saved, Sequence) or not saved or not all(isinstance(one, torch.Tensor) for one in saved):
        raise ValueError(f"it is {type(saved).__name__} {saved!r:.60}")
    rows = [arrays_of(one, most_bytes) for one in saved]
    if any(len(one["size"]) != 1 or one["size"][0] != rows[0]["size"][0] for one in rows):
        raise ValueError("its rows are not all of one length and one dimension")
    lengths = [len(one["values"]) for one in rows]
    columns = np.concatenate([one["indices"][0] for one in rows])
    entries = np.stack([np.repeat(np.arange(len(rows)), lengths), columns])
    values = np.concatenate([one["values"] for one in rows])
    return rows_of_arrays(
        {"indices": entries, "values": values, "size": np.array([len(rows), int(rows[0]["size"][0])])}
    )


def arrays_of(tensor: torch.Tensor, most_bytes: int) -> dict[str, np.ndarray]:
    """The arrays of a sparse tensor, by the names that a safetensors file has. Raises ValueError for a dense one."""
    import torch

    if tensor.layout == torch.sparse_csr:
        parts = {name: getattr(tensor, name)() for name in CSR}
    elif tensor.layout == torch.sparse_coo:
        parts = {"indices": tensor._indices(), "values": tensor._values()}  # as they are, unlike `indices()`
    else:
        raise ValueError(f"it is a tensor of the layout {tensor.layout}, of shape {tuple(tensor.shape)}")
    return {name: as_array(part, most_bytes) for name, part in parts.items()} | {"size": np.array(tensor.shape)}


def as_array(tensor: torch.Tensor, most_bytes: int) -> np.ndarray:
    """The tensor as an array; ValueError for one that claims more bytes than its file has, as a view of few may."""
    import torch

    if tensor.numel() * tensor.element_size() > most_bytes:
        raise ValueError(f"it has a tensor of {tensor.numel():,} values, more than its file holds")
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    array: np.ndarray = tensor.detach().numpy()
    return array


def rows_of_arrays(arrays: Mapping[str, np.ndarray]) -> SparseRows:
    """Rows, each ascending by column. Raises ValueError for arrays that do not fit each other."""
    wanted = CSR if CSR[0] in arrays else COO
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise ValueError(f"it has no {missing[0]!r} among {list(arrays)!s:.60}")
    if wanted is CSR:
        return SparseRows(*(flat(name, arrays[name]) for name in wanted))
    indices, values, size = arrays["indices"], flat("values", arrays["values"]), flat("size", arrays["size"])
    if indices.ndim != 2 or len(indices) != 2 or indices.dtype.kind not in "iu" or len(size) != 2:
        raise ValueError(
            f"its indices have the shape {indices.shape} and its size is {size.tolist()!s:.60}, not of a matrix"
        )
    rows, columns = indices
    num_rows = int(size[0])
    if len(values) != len(rows) or (len(rows) and (rows.min() < 0 or rows.max() >= num_rows)):
        raise ValueError(f"it has entries outside of its {num_rows:,} rows, or not a value for each")
    if num_rows > len(rows) + MOST_EMPTY:
        raise ValueError(f"it has {num_rows:,} rows, almost all of them empty")
    order = np.lexsort((columns, rows))
    indptr = np.zeros(num_rows + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=num_rows), out=indptr[1:])
    return SparseRows(indptr, columns[order], values[order])


def flat(name: str, array: np.ndarray) -> np.ndarray:
    if array.ndim != 1:
        raise ValueError(f"its {name} have the shape {array.shape}, not of a list")
    return array
