"""What a retriever has open: encoders, the snapshot that a search reads, how arms are fused; and the size of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from index.arm_segments import DenseArmSegment
from index.arms import DenseArm, SparseArm
from index.errors import IndexFormatError, WinnowError
from index.manifest import Verify
from index.snapshot import Snapshot
from index.storage import Commit, Part, read_current
from index.verification import check_snapshot
from retrieval.arm_search import ArmSearch, arm_search
from retrieval.encoders.loading import read_encoders, write_encoders
from retrieval.encoders.protocol import Encoder
from retrieval.fusion import Fusion
from retrieval.hybrid import checked_fusion

KIND = "retriever"


class IndexStatistics(NamedTuple):
    """The size of what is indexed."""

    documents: int
    documents_without_terms: int  # kept, but no query can match them
    postings: int  # of sparse arms
    bytes: int  # of the indexes of all arms, all that scoring reads
    segments: int
    deleted: int  # documents whose room a merge will reclaim
    vectors: int = 0  # of dense arms


class Opened(NamedTuple):
    """All that a search reads, replaced as a whole: a search under way never sees half of a change."""

    encoders: tuple[Encoder, ...]
    fusion: Fusion
    snapshot: Snapshot

    @classmethod
    def empty(cls, encoders: Sequence[Encoder], fusion: Fusion | None) -> Opened:
        """Without documents. Raises WinnowError for encoders that cannot be arms of one retriever."""
        names = [encoder.arm for encoder in encoders]
        if not names:
            raise WinnowError("a retriever needs at least one encoder; give one, or a name to from_pretrained.")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise WinnowError(f"two encoders are called {twice[0]}; a retriever tells its arms apart by name.")
        takers = [encoder.name for encoder in encoders if takes_vectors(encoder)]
        if len(takers) > 1 and any(encoder.needs_vectors for encoder in encoders):
            raise WinnowError(
                f"{' and '.join(takers)} would both take the vectors that come with documents; a retriever has one such arm."
            )
        fusion = Fusion() if fusion is None else fusion
        check_fusion(fusion, encoders)
        return cls(tuple(encoders), fusion, Snapshot())

    @property
    def model(self) -> str:
        """The names of all encoders."""
        return "+".join(encoder.name for encoder in self.encoders)

    @property
    def arms(self) -> dict[str, ArmSearch]:
        """What can be searched, by name. There must be documents."""
        return {encoder.arm: arm_search(encoder, self.snapshot.arms[encoder.arm]) for encoder in self.encoders}

    def taking_vectors(self, *, are_given: bool) -> Encoder:
        """The encoder whose vectors may come with documents; any where none takes them. WinnowError where several do."""
        takers = [encoder for encoder in self.encoders if takes_vectors(encoder)]
        if len(takers) > 1 and are_given:
            raise WinnowError(
                f"{' and '.join(encoder.name for encoder in takers)} both take vectors, and nothing says whose these are; "
                "index with one of them."
            )
        return (takers or self.encoders)[0]

    def write_model(self, part: Part) -> None:
        """All that `read` needs besides the documents."""
        part.contents = {"model": self.model, "encoder": write_encoders(self.encoders, part.path)}
        if len(self.encoders) > 1:
            part.contents["fusion"] = self.fusion.as_json()

    def statistics(self) -> IndexStatistics:
        """How much is indexed."""
        snapshot, arms = self.snapshot, self.snapshot.arms.values()
        return IndexStatistics(
            snapshot.num_docs,
            snapshot.num_docs - max((arm.num_findable for arm in arms), default=0),
            sum(index.num_postings for arm in arms if isinstance(arm, SparseArm) for index in arm.indexes),
            sum(arm.nbytes for arm in arms),
            len(snapshot.segments),
            snapshot.first_docs[-1] - snapshot.num_docs,
            sum(arm.num_findable for arm in arms if isinstance(arm, DenseArm)),
        )

    @property
    def is_stored(self) -> bool:
        """True where the folder has the fusion as it is now."""
        part = self.snapshot.model
        return part is not None and (len(self.encoders) == 1 or part.contents["fusion"] == self.fusion.as_json())

    def keeping_fusion(self, before: Opened) -> Opened:
        """With the fusion that was set before and is not stored yet."""
        return self if before.is_stored else self._replace(fusion=before.fusion)

    @classmethod
    def read(cls, folder: str | Path, verify: Verify = "quick", known: Opened | None = None) -> Opened:
        """The newest commit of a folder; what `known` has open is not opened again. Raises IndexFormatError."""

        def read(commit: Commit) -> Opened:
            snapshot = Snapshot.read(commit, None if known is None else known.snapshot)
            assert snapshot.model is not None
            if known is not None and known.snapshot.model is snapshot.model:
                encoders, fusion = known.encoders, known.fusion
            else:
                encoders, fusion = read_model(snapshot.model)
            check_arms(folder, snapshot, encoders)
            if verify == "full":
                check_snapshot(snapshot)
            return cls(encoders, fusion, snapshot)

        return read_current(folder, KIND, read, verify, known.snapshot.parts if known else {})


def check_fusion(fusion: Fusion, encoders: Sequence[Encoder]) -> None:
    """Raise WinnowError for what is no fusion of these encoders' arms."""
    weights = checked_fusion(fusion).weights_of([encoder.arm for encoder in encoders])
    if fusion.normalisation != "theoretical-min" or fusion.method == "rrf" or len(weights) == 1:
        return
    for encoder in encoders:
        if encoder.arm in weights and getattr(encoder, "similarity", "cosine") == "dot":
            raise WinnowError(
                f"{encoder.arm} compares vectors by dot product, which has no least value; give a normalisation other than "
                "theoretical-min."
            )


def takes_vectors(encoder: Encoder) -> bool:
    """True where a document may bring the vector that the encoder would make."""
    return encoder.needs_vectors or encoder.terms is not None


def read_model(part: Part) -> tuple[tuple[Encoder, ...], Fusion]:
    """What `Opened.write_model` wrote."""
    encoders = read_encoders(part.path, part.contents["encoder"])
    return encoders, Fusion.of_json(part.contents["fusion"]) if len(encoders) > 1 else Fusion()


def check_arms(folder: str | Path, snapshot: Snapshot, encoders: Sequence[Encoder]) -> None:
    """Raise IndexFormatError unless each encoder has an arm of its kind in the first segment, with which all others agree."""
    for segment, _, _ in snapshot.segments[:1]:
        kinds = {name: "dense" if isinstance(arm, DenseArmSegment) else "sparse" for name, arm in segment.arms.items()}
        wanted: dict[str, Any] = {encoder.arm: encoder.kind for encoder in encoders}
        if kinds != wanted:
            raise IndexFormatError(f"{folder} has the arms {kinds}, its model needs {wanted}; run `winnow verify`.")
