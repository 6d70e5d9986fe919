"""What a retriever has open: encoders, the snapshot that a search reads, how arms are fused and what reranks; and the size of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from index.arm_segments import DenseArmSegment
from index.arms import DenseArm, SparseArm
from index.errors import IndexFormatError, WinnowError
from index.manifest import Verify
from index.snapshot import Snapshot
from index.storage import Commit, Part, read_current
from index.verification import check_snapshot
from retrieval.arm_search import ArmSearch, arm_search
from retrieval.conditions import Condition
from retrieval.encoders.loading import read_encoders, write_encoders
from retrieval.encoders.protocol import Encoder
from retrieval.filtered import filtered
from retrieval.fusion import Fusion
from retrieval.hybrid import Hybrid, checked_fusion
from retrieval.rerankers.protocol import Reranker
from retrieval.rerankers.stage import DEFAULT_DEPTH, Stage
from retrieval.rerankers.written import WrittenReranker, own_reranker, read_reranker, stored_reranker

if TYPE_CHECKING:
    from retrieval.written_system import WrittenSystem

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
    reranker: Reranker | None = None  # of every search that does not name another
    rerank_depth: int = DEFAULT_DEPTH

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

    def as_written(self, system: WrittenSystem, fusion: Fusion | None) -> Opened:
        """With the settings of a system, and a fusion that is given beside it. Raises WinnowError where both say one, and as `Retriever`'s
        properties do."""
        if fusion is not None and system.fusion is not None:
            raise WinnowError(f"the system {str(system)!r:.100} has a fusion, and so has fusion=; give it once.")
        found, fusion = self, system.fused() if fusion is None else fusion
        if fusion is not None:
            check_fusion(fusion, self.encoders)
            found = found._replace(fusion=fusion)
        if system.reranker is None:
            return found
        if not system.reranks:
            return found._replace(reranker=None)
        reranker = own_reranker(WrittenReranker(system.reranker, **system.reranker_options))
        return found._replace(reranker=reranker, rerank_depth=system.depth or DEFAULT_DEPTH)

    def searchable(self, filter: Mapping[str, Any] | Condition | None) -> Opened:
        """With what fits alone. Raises WinnowError without documents."""
        if self.snapshot.num_docs == 0:
            raise WinnowError("there are no documents to search; add some first with retriever.index(corpus).")
        return self if filter is None else self._replace(snapshot=filtered(self.snapshot, Condition.of(filter)))

    def hybrid(self, fusion: Fusion | None) -> Hybrid:
        """The arms that the fusion, unless told the retriever's own, has a weight for."""
        return Hybrid.of(self.arms, self.fusion if fusion is None else fusion)

    def stage(self, k: int, stored: bool, rerank: Any, depth: int | None) -> Stage:
        """What a search does after its first stage; without `rerank` it reranks as the retriever does, with False not at all."""
        if rerank is None and self.reranker is not None:
            return Stage.of(k, stored, self.reranker, self.rerank_depth if depth is None else depth)
        return Stage.of(k, stored, None if rerank is False else rerank, depth)

    def check_can_be_stored(self) -> None:
        """Raise WinnowError for a reranker that a folder cannot keep."""
        stored_reranker(self.reranker, self.rerank_depth)

    def write_model(self, part: Part) -> None:
        """All that `read` needs besides the documents."""
        part.contents = {"model": self.model, "encoder": write_encoders(self.encoders, part.path)}
        if len(self.encoders) > 1:
            part.contents["fusion"] = self.fusion.as_json()
        if (reranker := stored_reranker(self.reranker, self.rerank_depth)) is not None:
            part.contents["reranker"] = reranker

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
    def has_stored_fusion(self) -> bool:
        """True where the folder has the fusion as it is now."""
        part = self.snapshot.model
        return part is not None and (len(self.encoders) == 1 or part.contents["fusion"] == self.fusion.as_json())

    @property
    def has_stored_reranker(self) -> bool:
        """True where the folder has the reranker and its depth as they are now."""
        part = self.snapshot.model
        if part is None or not isinstance(self.reranker, WrittenReranker | None):
            return False
        return bool(part.contents.get("reranker") == stored_reranker(self.reranker, self.rerank_depth))

    @property
    def is_stored(self) -> bool:
        """True where the folder has the settings as they are now."""
        return self.has_stored_fusion and self.has_stored_reranker

    def keeping_settings(self, before: Opened) -> Opened:
        """With the fusion and the reranker that were set before and are not stored yet."""
        kept = self if before.has_stored_fusion else self._replace(fusion=before.fusion)
        if before.has_stored_reranker:
            return kept
        return kept._replace(reranker=before.reranker, rerank_depth=before.rerank_depth)

    @classmethod
    def read_model(cls, part: Part) -> Opened:
        """What `write_model` wrote, without documents. Raises IndexFormatError."""
        encoders = read_encoders(part.path, part.contents["encoder"])
        fusion = Fusion.of_json(part.contents["fusion"]) if len(encoders) > 1 else Fusion()
        reranker, depth = read_reranker(part.contents.get("reranker"))
        return cls(encoders, fusion, Snapshot(), reranker, DEFAULT_DEPTH if depth is None else depth)

    @classmethod
    def read(cls, folder: str | Path, verify: Verify = "quick", known: Opened | None = None) -> Opened:
        """The newest commit of a folder; what `known` has open is not opened again. Raises IndexFormatError."""

        def read(commit: Commit) -> Opened:
            snapshot = Snapshot.read(commit, None if known is None else known.snapshot)
            assert snapshot.model is not None
            if known is not None and known.snapshot.model is snapshot.model:
                opened = known._replace(snapshot=snapshot)
            else:
                opened = cls.read_model(snapshot.model)._replace(snapshot=snapshot)
            check_arms(folder, snapshot, opened.encoders)
            if verify == "full":
                check_snapshot(snapshot)
            return opened

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


def check_arms(folder: str | Path, snapshot: Snapshot, encoders: Sequence[Encoder]) -> None:
    """Raise IndexFormatError unless each encoder has an arm of its kind in the first segment, with which all others agree."""
    for segment, _, _ in snapshot.segments[:1]:
        kinds = {name: "dense" if isinstance(arm, DenseArmSegment) else "sparse" for name, arm in segment.arms.items()}
        wanted: dict[str, Any] = {encoder.arm: encoder.kind for encoder in encoders}
        if kinds != wanted:
            raise IndexFormatError(f"{folder} has the arms {kinds}, its model needs {wanted}; run `winnow verify`.")
