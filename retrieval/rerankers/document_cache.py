"""States of documents that a reranker computed before, found by the tokens of their blocks: in memory, and in a folder if wanted.

Keys and values of a document's block do not depend on the query where the prompt's instruction does not name it, so each document
needs the model once. What they do depend on, the fingerprint tells: a cache serves one fingerprint only.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from index.errors import WinnowError
from retrieval.rerankers.document_states import (
    DocumentStates,
    Precision,
    StoredStates,
    check_precision,
    check_states,
    restored,
    stored,
)
from retrieval.rerankers.state_files import StateFiles


class CacheStatistics(NamedTuple):
    """Of a cache since it was made; documents and bytes are those it holds now."""

    hits: int
    misses: int
    hits_on_disk: int  # of the hits
    evictions: int  # documents that left memory
    evictions_on_disk: int
    documents_in_memory: int
    bytes_in_memory: int
    documents_on_disk: int
    bytes_on_disk: int


class DocumentCache:
    """The least recently used documents leave memory first; those that were written first leave the disk. Threads may share it.

    memory_bytes  of states kept in memory, on the device they were computed on; a document larger than that is not kept
    folder        where states are kept beyond this process, made if need be. The first process to use it writes, others read
    disk_bytes    that its files may have; None: as many as it takes
    precision     "same": the dtype of the model, bit for bit; "bf16"; "int8": a scale for each vector (`document_states`)

    Raises WinnowError for options that make no sense.

    >>> cache = DocumentCache(memory_bytes=100 << 20, precision="bf16")
    >>> cache.bound_to("model A, layer 1, float32")
    >>> put = cache.put(np.array([7, 8]), DocumentStates(torch.ones(2, 2, 1, 4), torch.ones(1, 2, 1, 4)))
    >>> cache.get(np.array([7, 8])).keys.shape, cache.get(np.array([7, 9]))
    (torch.Size([2, 2, 1, 4]), None)
    """

    def __init__(
        self,
        *,
        memory_bytes: int = 1 << 30,
        folder: str | Path | None = None,
        disk_bytes: int | None = None,
        precision: Precision = "same",
    ):
        check_precision(precision)
        for name, budget in (("memory_bytes", memory_bytes), ("disk_bytes", disk_bytes)):
            if (budget is None and name == "memory_bytes") or (
                budget is not None and (type(budget) is not int or budget < 0)
            ):
                raise WinnowError(f"{name} is {budget!r:.40}; it must be a whole number of bytes, so give 0 or more.")
        if not isinstance(folder, str | Path | None):
            raise WinnowError(f"folder is {folder!r:.60}; give the path of a folder, or None.")
        if disk_bytes is not None and folder is None:
            raise WinnowError(f"disk_bytes is {disk_bytes:,} without a folder; give a folder too.")
        self.memory_bytes, self.disk_bytes, self.precision = memory_bytes, disk_bytes, precision
        self.folder = None if folder is None else Path(folder)
        self.fingerprint: str | None = None
        self._files: StateFiles | None = None
        self._lock = threading.Lock()
        self._documents: OrderedDict[bytes, StoredStates] = OrderedDict()  # the least recently used one first
        self._bytes = self._hits = self._hits_on_disk = self._misses = self._evictions = 0

    def bound_to(self, fingerprint: str) -> None:
        """Serve what has this fingerprint, which must tell all that states depend on but the document: the model's files, the dtype
        computed in, the score layer, the prompt's format and instruction, the position of the first token.

        Opens the folder, if there is one. Raises WinnowError for a cache or a folder that serves another one or has another
        precision, and StorageError where the folder cannot be made.
        """
        with self._lock:
            if self.fingerprint not in (None, fingerprint):
                raise WinnowError(
                    f"this document cache holds states of {self.fingerprint!r:.80}, not of {fingerprint!r:.80}; give each model, "
                    "dtype and prompt a cache of its own."
                )
            if self._files is None and self.folder is not None:
                self._files = StateFiles(self.folder, fingerprint, self.precision, self.disk_bytes)
            self.fingerprint = fingerprint

    def get(
        self, ids: np.ndarray, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> DocumentStates | None:
        """The states of the block of these token ids, not to be changed in place; None if they are not here.

        dtype, device  those the model computes with; by default as the states were given to `put`
        """
        key = self._key_of(ids)
        with self._lock:
            found = self._documents.get(key)
            if found is not None:
                self._documents.move_to_end(key)
                self._hits += 1
        if found is None and self._files is not None:
            found = self._from_disk(key, device)
        if found is None:
            with self._lock:
                self._misses += 1
            return None
        return restored(found, dtype, device)

    def put(self, ids: np.ndarray, states: DocumentStates) -> DocumentStates:
        """Keep a copy of the states of the block of these token ids; returned as later queries will get them.

        Raises ModelError for NaN, infinity and shapes that do not fit.
        """
        key = self._key_of(ids)
        check_states(states, len(ids))
        with self._lock:
            kept = self._documents.get(key)
            if kept is not None:
                self._documents.move_to_end(key)
        if kept is None:
            kept = stored(states, self.precision)
            self._keep(key, kept)
            if self._files is not None:
                self._files.put(key, kept)
        return restored(kept, states.keys.dtype, states.keys.device)

    def close(self) -> None:
        """Let another process write to the folder; what is here can still be used."""
        if self._files is not None:
            self._files.close()

    @classmethod
    def of(cls, given: DocumentCache | str | Path | None) -> DocumentCache | None:
        """The cache, or one in memory and the folder that is given. Raises WinnowError for anything else."""
        if given is None or isinstance(given, DocumentCache):
            return given
        if not isinstance(given, str | Path):
            raise WinnowError(f"cache is {given!r:.60}; give a DocumentCache, or the folder that it is to be kept in.")
        return cls(folder=given)

    @property
    def statistics(self) -> CacheStatistics:
        with self._lock:
            on_disk = (0, 0, 0)
            if self._files is not None:
                on_disk = (self._files.evictions, self._files.num_documents, self._files.num_bytes)
            return CacheStatistics(
                hits=self._hits,
                misses=self._misses,
                hits_on_disk=self._hits_on_disk,
                evictions=self._evictions,
                evictions_on_disk=on_disk[0],
                documents_in_memory=len(self._documents),
                bytes_in_memory=self._bytes,
                documents_on_disk=on_disk[1],
                bytes_on_disk=on_disk[2],
            )

    def _from_disk(self, key: bytes, device: torch.device | str | None) -> StoredStates | None:
        """Kept in memory from now on, on the device it is wanted on."""
        found = self._files.get(key) if self._files else None
        if found is not None:
            found = found if device is None else found.to(device)
            with self._lock:
                self._hits += 1
                self._hits_on_disk += 1
            self._keep(key, found)
        return found

    def _keep(self, key: bytes, states: StoredStates) -> None:
        """In memory, if it fits; others that were used less recently leave."""
        if states.num_bytes > self.memory_bytes:
            return
        with self._lock:
            if key in self._documents:  # another thread was faster
                return
            self._documents[key] = states
            self._bytes += states.num_bytes
            while self._bytes > self.memory_bytes:
                self._bytes -= self._documents.popitem(last=False)[1].num_bytes
                self._evictions += 1

    def _key_of(self, ids: np.ndarray) -> bytes:
        if self.fingerprint is None:
            raise WinnowError("this document cache is bound to no model yet; call bound_to(fingerprint) first.")
        return hashlib.sha256(np.ascontiguousarray(ids, "<i8").data).digest()
