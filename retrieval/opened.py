"""What a retriever has open, an encoder and the snapshot that a search reads, and the size of it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from index.errors import IndexFormatError
from index.manifest import Verify
from index.snapshot import Snapshot
from index.storage import Commit, read_current
from index.verification import check_snapshot
from retrieval.encoders.loading import read_encoder
from retrieval.encoders.protocol import SparseEncoder

KIND = "retriever"


class IndexStatistics(NamedTuple):
    """The size of what is indexed."""

    documents: int
    documents_without_terms: int  # kept, but no query can match them
    postings: int
    bytes: int  # of the inverted indexes, all that scoring reads
    segments: int
    deleted: int  # documents whose room a merge will reclaim


class Opened(NamedTuple):
    """All that a search reads, replaced as a whole: a search under way never sees half of a change."""

    encoder: SparseEncoder
    snapshot: Snapshot

    @classmethod
    def read(cls, folder: str | Path, verify: Verify = "quick", known: Opened | None = None) -> Opened:
        """The newest commit of a folder; what `known` has open is not opened again. Raises IndexFormatError."""

        def read(commit: Commit) -> Opened:
            snapshot = Snapshot.read(commit, None if known is None else known.snapshot)
            assert snapshot.model is not None
            if known is not None and known.snapshot.model is snapshot.model:
                encoder = known.encoder
            else:
                encoder = read_encoder(snapshot.model.path, snapshot.model.contents["encoder"])
            if snapshot.segments and encoder.arm not in snapshot.arms:
                raise IndexFormatError(f"{folder} has no index of its model {encoder.name}; run `winnow verify`.")
            if verify == "full":
                check_snapshot(snapshot)
            return cls(encoder, snapshot)

        return read_current(folder, KIND, read, verify, known.snapshot.parts if known else {})
