"""Stored states of documents in a folder: files that only grow, read by several processes while one writes.

    winnow-document-cache.json    what the states depend on and their precision
    states-NNNNNN.data            states end to end: float32 scales of 8-bit numbers, then keys, then values, as they lie in memory
    states-NNNNNN.index           an entry of 112 bytes for each, little-endian:

        0  32s  sha256 of the token ids, as int64      64  u64  first byte in the data file    80  u32 x 4  layers + 1, tokens,
       32  32s  sha256 of the bytes in the data file   72  u64  number of bytes                             kv_heads, size
       96  u8 x 2  numbers of the dtypes stored and given (DTYPE_NUMBERS), 6 zeros             104  8s  first bytes of the sha256
                                                                                                        of the 104 before

An entry is written after its states, and both vouch for themselves, so that a process killed at any moment, a lost buffer or a
damaged disk cost documents but never give wrong states. Nothing is written twice: what a writer left unfinished at the end of a file
stays there, and the next writer begins other files. When the budget is used up, the oldest pair of files goes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from index.errors import WinnowError
from index.manifest import LOCK
from retrieval.rerankers.document_states import StoredStates

FORMAT, VERSION = "winnow-document-cache", 1
MANIFEST = f"{FORMAT}.json"
NEW_MANIFEST = f"{MANIFEST}.new"
STATES_FILE = re.compile(r"states-([0-9]{6,12})\.(?:data|index)")
LAYOUT = struct.Struct("<32s32sQQIIIIBB6x")
CHECKSUM = 8  # bytes
ENTRY = LAYOUT.size + CHECKSUM
DTYPE_NUMBERS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int8)


class Entry(NamedTuple):
    """Where the states of a document lie, and what they are."""

    key: bytes
    sha256: bytes
    first: int
    length: int
    layers: int  # of keys; one fewer of values
    tokens: int
    kv_heads: int
    size: int
    stored_dtype: int
    dtype: int

    @classmethod
    def of(cls, key: bytes, first: int, states: StoredStates, content: list[memoryview]) -> Entry:
        digest = hashlib.sha256()
        for piece in content:
            digest.update(piece)
        dtypes = DTYPE_NUMBERS.index(states.keys.dtype), DTYPE_NUMBERS.index(states.dtype)
        layers, tokens, kv_heads, size = states.keys.shape
        return cls(key, digest.digest(), first, sum(map(len, content)), layers, tokens, kv_heads, size, *dtypes)

    @classmethod
    def parsed(cls, data: bytes) -> Entry | None:
        """None for bytes that do not vouch for themselves, or tell what cannot be."""
        if hashlib.sha256(data[: LAYOUT.size]).digest()[:CHECKSUM] != data[LAYOUT.size :]:
            return None
        entry = cls._make(LAYOUT.unpack_from(data))
        can_be = max(entry.stored_dtype, entry.dtype) < len(DTYPE_NUMBERS) and entry.layers > 0
        return entry if can_be and entry.length == sum(section.length for section in entry.sections()) else None

    def as_bytes(self) -> bytes:
        data = LAYOUT.pack(*self)
        return data + hashlib.sha256(data).digest()[:CHECKSUM]

    def sections(self) -> list[Section]:
        """What lies in the data file, in its order."""
        dtype, layers = DTYPE_NUMBERS[self.stored_dtype], (self.layers, self.layers - 1)
        numbers = [Section(dtype, [each, self.tokens, self.kv_heads, self.size]) for each in layers]
        scales = [Section(torch.float32, section.shape[:3]) for section in numbers]
        return [*scales, *numbers] if dtype == torch.int8 else numbers

    def states(self, content: np.ndarray) -> StoredStates:
        """Views of the bytes of the data file, uint8."""
        sections = self.sections()
        pieces = torch.from_numpy(content).split([section.length for section in sections])
        *scales, keys, values = (
            piece.view(section.dtype).reshape(section.shape) for piece, section in zip(pieces, sections, strict=True)
        )
        of_keys, of_values = scales or (None, None)
        return StoredStates(keys, values, of_keys, of_values, DTYPE_NUMBERS[self.dtype])


class Section(NamedTuple):
    """A tensor in a data file."""

    dtype: torch.dtype
    shape: list[int]

    @property
    def length(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * int(self.dtype.itemsize)


def data_path(folder: Path, number: int) -> Path:
    return folder / f"states-{number:06}.data"


def index_path(folder: Path, number: int) -> Path:
    return folder / f"states-{number:06}.index"


def numbers_in(folder: Path) -> list[int]:
    """Of the pairs of files that are there, at least one of each pair, the oldest first."""
    names = map(STATES_FILE.fullmatch, os.listdir(folder))
    return sorted({int(name[1]) for name in names if name})


def manifest_bytes(fingerprint: str, precision: str) -> bytes:
    """Equal for equal caches."""
    fields = {"format": FORMAT, "version": VERSION, "precision": precision, "fingerprint": fingerprint}
    return (json.dumps(fields, indent=1) + "\n").encode()


def has_manifest(folder: Path, fingerprint: str, precision: str) -> bool:
    """True if the folder is a cache of this fingerprint and precision, False if it is absent or empty. Raises WinnowError otherwise."""
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        foreign = sorted(
            each.name for each in (folder.iterdir() if folder.is_dir() else ()) if each.name not in (LOCK, NEW_MANIFEST)
        )
        if foreign:
            raise WinnowError(
                f"{folder} holds {foreign[0]!r} and no {MANIFEST}; give a new or empty folder for the cache."
            ) from None
        return False
    except OSError as error:
        raise WinnowError(f"{path} cannot be read ({error.strerror}); allow it or give another folder.") from error
    if data == manifest_bytes(fingerprint, precision):
        return True
    try:
        fields = json.loads(data)
        found = [fields[name] for name in ("format", "version", "precision", "fingerprint")]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise WinnowError(f"{path} is damaged ({error!s:.80}); remove {folder} or give another one.") from error
    raise WinnowError(
        f"{folder} is a cache of {found[0]!r:.40} {found[1]!r:.40} with the precision {found[2]!r:.40} of {found[3]!r:.80}, where "
        f"{FORMAT!r} {VERSION} with {precision!r} of {fingerprint!r:.80} is needed; remove it or give another folder."
    )
