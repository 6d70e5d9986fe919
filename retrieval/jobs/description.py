"""What a job is to do: sources, how they are read, the model; and what of it an index folder remembers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from index.errors import WinnowError
from index.options import WeightImpacts
from index.vectors import checked_count
from retrieval.corpus import FieldNames
from retrieval.encoders.protocol import Encoder
from retrieval.encoders.shipped import DEFAULT_MODEL
from retrieval.encoding import read_encoder_of
from retrieval.opened import Opened
from retrieval.vector_files import is_encoded, is_vector_file
from retrieval.written_system import WrittenSystem

SHARD_DOCUMENTS = 16_000  # four of these are exactly one size class up (index/merge_policy.py)


@dataclass(frozen=True)
class JobDescription:
    """What becomes of which documents. Can be pickled: any machine makes the same encoders of it.

    sources          as `retrieval.jobs.sources.sources_of` takes them
    model            as `Retriever.from_pretrained` takes it, a folder of `encode_corpus` too; None: what made the vectors, or the default
    options, impacts of the model, the same
    names            which field of a record is what
    vectors          where the documents' vectors are found by id, instead of encoding
    shard_documents  documents that are committed together; None: what the folder was begun with, or 16,000
    """

    sources: tuple[str, ...]
    model: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    impacts: WeightImpacts | None = None
    names: FieldNames = field(default_factory=FieldNames)
    vectors: str | None = None
    shard_documents: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.sources, str) or not all(isinstance(one, str | Path) for one in self.sources):
            raise WinnowError(f"sources is {self.sources!r:.60}; give a list of paths.")
        object.__setattr__(self, "sources", tuple(map(str, self.sources)))
        if self.shard_documents is not None:
            checked_count("shard_documents", self.shard_documents)

    @property
    def system(self) -> WrittenSystem:
        """The model as it is written, or the folder of vectors that says what made them."""
        if self.model is not None:  # a model, whatever index lies in a folder called like it
            return WrittenSystem.of(self.model, may_be_saved=False)
        if self.vectors is not None and is_encoded(Path(self.vectors)):
            return WrittenSystem.of_name_or_folder(self.vectors)
        gives_vectors = self.vectors is not None or any(map(is_vector_file, self.sources))
        return WrittenSystem.of("vectors" if gives_vectors else DEFAULT_MODEL)

    def opened(self, device: str | None = None, batch_tokens: int | None = None) -> Opened:
        """The encoders, with fusion and reranker, without documents.

        device        where models run, as PyTorch calls it; None: on a CUDA device where there is one
        batch_tokens  that a model reads at a time; None: what is fast there

        Raises ModelError for a model that cannot be had, WinnowError for options that mean nothing.
        """
        system = self.system
        if is_encoded(Path(system.arms[0])):
            system.check_nothing_beside(None, self.options)
            encoders: tuple[Encoder, ...] = (read_encoder_of(system.arms[0], self.impacts),)
        else:
            encoders = system.encoders(self.impacts, self.options)
        opened = Opened.empty(encoders, None).as_written(system, None)
        for side in sides_with_a_model(opened):
            side.device = device if device is not None else side.device
            side.tokens_a_batch = batch_tokens if batch_tokens is None else checked_count("batch_tokens", batch_tokens)
        return opened

    def remembered(self, shard_documents: int) -> dict[str, Any]:
        """What the folder keeps: all that the next run must have alike, beside the model, which has a part of its own. No paths."""
        names = {name: list(value) for name, value in asdict(self.names).items()}
        return {"names": names, "vectors": self.vectors is not None, "shard_documents": shard_documents}


def sides_with_a_model(opened: Opened) -> list[Any]:
    """What encodes documents by a model that is loaded when it is first needed (retrieval.encoders.text_stream.TextStream)."""
    return [encoder.document for encoder in opened.encoders if hasattr(encoder, "document")]
