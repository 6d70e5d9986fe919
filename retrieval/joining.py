"""Arms that were built apart, over the same documents, as one collection."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from index.documents import Document
from index.errors import WinnowError
from index.segment import Live, Segment
from index.snapshot import LiveSegment, Snapshot
from index.writer import Writer
from retrieval.opened import Opened


def joined(parts: Sequence[Opened]) -> Snapshot:
    """One snapshot with the arms of all, in memory, which shares their files; stored fields are those of the first.

    Raises WinnowError unless all hold documents of the same ids, titles and texts, in the same order.
    """
    snapshots = [as_one_segment(one) for one in parts]
    first, model = snapshots[0], parts[0].model
    for other, opened in zip(snapshots[1:], parts[1:], strict=True):
        check_same_documents(first, model, other, opened.model)
    segments = [one for snapshot in snapshots for one in snapshot.segments]
    if not segments:
        return Snapshot()
    arms = {name: arm for one in segments for name, arm in one.segment.arms.items()}
    segment = Segment(segments[0].segment.documents, arms)
    return Snapshot((LiveSegment(segment, Live.all_of(segment)),))


def as_one_segment(opened: Opened) -> Snapshot:
    """The documents that are left, merged in memory if they are not in one segment."""
    return Writer(opened.snapshot, {encoder.arm: encoder for encoder in opened.encoders}).merge_all()


def check_same_documents(one: Snapshot, model: str, other: Snapshot, other_model: str) -> None:
    """Raise WinnowError for the first document in which they differ."""
    pairs = zip_longest(one.documents(), other.documents())
    for number, (document, counterpart) in enumerate(pairs, start=1):
        if searched(document) != searched(counterpart):
            ids = [repr(found.doc_id)[:60] if found else "nothing" for found in (document, counterpart)]
            what = f"{ids[0]} and {ids[1]}" if ids[0] != ids[1] else f"{ids[0]} with another text"
            raise WinnowError(
                f"document {number:,} of {model} and {other_model} is {what}; arms must be built over the same documents, in the same "
                "order."
            )


def searched(document: Document | None) -> tuple[str, str, str] | None:
    """What arms are made of."""
    return None if document is None else (document.doc_id, document.title, document.text)
