"""What of the sources is new to an index: checked, each id once, compared by content, cut into shards.

A shard is the next so many documents that the index lacks or has otherwise. So shards of a job that goes on are those that it would have
had, and a source that has grown costs no more than what was added.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain, islice
from typing import Any, TypeVar

from index.documents import PAGE, Document, digest_of
from index.errors import CorpusError
from index.snapshot import Snapshot
from retrieval.corpus import Placed, Reading
from retrieval.encoders.protocol import Encoder
from retrieval.jobs.shards import StagedShard
from retrieval.vectors_by_id import RowIds, VectorsById

Item = TypeVar("Item")


class Counts:
    """Documents of this run."""

    def __init__(self) -> None:
        self.added = self.changed = self.unchanged = self.removed = 0

    @property
    def taken(self) -> int:
        """All but those that were rejected."""
        return self.added + self.changed + self.unchanged


class Intake:
    """One pass over the sources."""

    def __init__(
        self,
        placed: Iterable[Placed],
        before: Snapshot,
        encoder: Encoder,
        vectors: VectorsById | None,
        reading: Reading,
    ):
        """
        before   what is indexed already
        encoder  that takes the vectors which come with documents, if one does
        vectors  of the documents, by id
        reading  is told of documents that cannot be taken
        """
        self.counts = Counts()
        self.ids = RowIds()  # of all documents, on disk
        self._placed, self._before, self._encoder, self._vectors, self._reading = (
            iter(placed),
            before,
            encoder,
            vectors,
            reading,
        )

    def shards(self, first_number: int, documents_a_shard: int) -> Iterator[StagedShard]:
        """New and changed documents, in order. Raises what `reading` does for a document that cannot be taken."""
        documents, number = self.new(), first_number
        for first in documents:
            yield StagedShard.of(number, chain([first], islice(documents, documents_a_shard - 1)))
            number += 1

    def new(self) -> Iterator[Document]:
        """The documents that the index lacks, or has otherwise."""
        checked_ones = (one for page in pages(self._placed) for one in self._checked(self._with_vectors(page)))
        for checked in pages(checked_ones):
            known = self._known([document.doc_id for document, _ in checked])
            for document, digest in checked:
                before = known.get(document.doc_id)
                if before == digest:
                    self.counts.unchanged += 1
                    continue
                if before is None:
                    self.counts.added += 1
                else:
                    self.counts.changed += 1
                yield document

    def _with_vectors(self, page: list[Placed]) -> Iterator[Placed]:
        if self._vectors is None:
            yield from page
            return
        found = self._vectors.find([document.doc_id for _, document in page])
        for (where, document), vector in zip(page, found, strict=True):
            try:
                yield Placed(where, self._vectors.given(document, vector))
            except CorpusError as error:
                self._reading.refuse(where, error, as_record(document))

    def _checked(self, page: Iterable[Placed]) -> Iterator[tuple[Document, int]]:
        """Those that can be taken, with their digests."""
        for where, document in page:
            try:
                self._encoder.check(document)
                digest = digest_of(document)
                self.ids.add(document.doc_id, len(self.ids), where)
            except CorpusError as error:
                told = str(error) if str(error).startswith(where) else f"{where}: {error}"
                self._reading.refuse(where, CorpusError(told), as_record(document))
                continue
            yield document, digest

    def _known(self, doc_ids: Collection[str]) -> Mapping[str, int]:
        """Id to digest of those that are indexed."""
        if not self._before.segments or not doc_ids:
            return {}
        found = self._before.find(list(doc_ids))
        return dict(zip(found, self._before.digests(list(found.values())), strict=True))

    def let_go(self) -> None:
        """Of the index as it was, whose files may then be removed."""
        self._before = Snapshot()

    def vanished(self) -> Iterator[list[str]]:
        """Ids that are indexed and were not in the sources, some at a time."""
        for segment, live, _ in self._before.segments:
            for first in range(0, segment.num_docs, PAGE):
                docs = [
                    doc
                    for doc in range(first, min(first + PAGE, segment.num_docs))
                    if live.mask is None or live.mask[doc]
                ]
                ids = segment.documents.ids(docs)
                seen = self.ids.rows(ids) if ids else {}
                if gone := [doc_id for doc_id in ids if doc_id not in seen]:
                    yield gone


def pages(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Some at a time; before an error of theirs is raised those that came before it."""
    page: list[Item] = []
    try:
        for item in items:
            page.append(item)
            if len(page) == PAGE:
                yield page
                page = []
    except CorpusError:
        if page:
            yield page
        raise
    if page:
        yield page


def as_record(document: Document) -> dict[str, Any]:
    """A document as a line of JSONL could hold it."""
    record: dict[str, Any] = {"_id": document.doc_id, "title": document.title, "text": document.text}
    with suppress(TypeError, ValueError):
        record |= document.fields
    return record
