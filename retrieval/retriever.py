"""The way in: text in, ranked documents out.

`search` encodes the query and hands it to `Arm.search`, which has each segment's `InvertedIndex` call one compiled loop.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np

from index.documents import Document
from index.effort import EXACT, Effort
from index.errors import CorpusError, WinnowError
from index.folder_writer import FolderWriter
from index.manifest import Verify, is_index
from index.options import WeightImpacts
from index.snapshot import Arm, Snapshot
from index.storage import newest_manifest
from index.writer import Watch, Writer
from retrieval.conditions import Where, fits
from retrieval.corpus import Corpus, FieldNames
from retrieval.encoders.loading import MODELS, is_checkpoint, load_encoder
from retrieval.encoders.protocol import SparseEncoder
from retrieval.encoding import read_encoder_of
from retrieval.hits import Explanation, Hit, TermMatch
from retrieval.opened import KIND, IndexStatistics, Opened
from retrieval.progress import progress as counted
from retrieval.queries import Query, checked_text, numbered
from retrieval.vector_files import Vectors, documents_of, is_encoded


class Retriever:
    """An encoder and the documents it has indexed, in memory or in a folder that it was opened from or saved to.

    `add`, `upsert` and `delete` are staged: `commit` makes them visible as a whole and, in a folder, durable; `rollback`
    forgets them. A search reads the last commit, also while another thread commits.

    >>> retriever = Retriever.from_pretrained("bm25").index([{"_id": "a", "text": "green tea"}], progress=False)
    >>> [(hit.doc_id, hit.rank) for hit in retriever.search("tea")]
    [('a', 1)]
    """

    def __init__(self, encoder: SparseEncoder):
        """A retriever without documents."""
        self._opened = Opened(encoder, Snapshot())
        self._folder: Path | None = None
        self._writer: Writer | None = None  # while changes are staged
        self._files: FolderWriter | None = None  # the same, of a folder: holds its lock
        self._writing = RLock()

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        *,
        impacts: WeightImpacts | None = None,
        verify: Verify = "quick",
        **options: Any,
    ) -> Retriever:
        """A model, with no documents, or a retriever that `save_pretrained` wrote, with its documents.

        A model is one of ours (`bm25`, `mini`, `vectors`), a name of docs/models.md, the folder of a checkpoint or its name on the hub. An
        index in a folder called like a model is opened; any other such folder does not hide the model. A folder of `encode_corpus` stands
        for the model that encoded it, with no documents: `index(corpus, vectors=folder)` adds them.

        impacts  how weights are stored (u8 unless told); a saved retriever has its own
        verify   "full" reads every byte of a saved retriever and checks it
        options  of a checkpoint: activation="log1p", max_length=256, query_prefix="...", ... (docs/models.md)

        Raises ModelError for an unknown name or a checkpoint that is no sparse encoder, and IndexFormatError for a folder that is
        neither an index nor a model, damaged or newer.
        """
        if not isinstance(name_or_folder, str | os.PathLike):
            raise WinnowError(f"the model is {name_or_folder!r}; give a name or a folder.")
        is_model = str(name_or_folder) in MODELS or is_checkpoint(name_or_folder)
        if os.path.exists(name_or_folder) and (is_index(name_or_folder) or not is_model):
            if is_encoded(Path(name_or_folder)):
                return cls(read_encoder_of(name_or_folder, impacts))
            if impacts is not None:
                raise WinnowError(f"{name_or_folder} was saved with its own impacts; leave impacts={impacts!r} out.")
            if options:
                raise WinnowError(f"{name_or_folder} was saved with its own options; leave {', '.join(options)} out.")
            return cls.from_folder(name_or_folder, verify=verify)
        return cls(load_encoder(str(name_or_folder), impacts, options))

    @classmethod
    def from_folder(cls, folder: str | Path, *, verify: Verify = "quick") -> Retriever:
        """A retriever that `save_pretrained` wrote; unlike `from_pretrained`, never a model by name."""
        opened = Opened.read(folder, verify)
        retriever = cls(opened.encoder)
        retriever._opened, retriever._folder = opened, Path(folder).absolute()
        return retriever

    def index(
        self,
        corpus: Corpus,
        *,
        names: FieldNames | None = None,
        vectors: Vectors | None = None,
        progress: bool = True,
    ) -> Retriever:
        """`add` and `commit`: the documents of `corpus` can be searched at once.

        Raises CorpusError for an empty corpus, an id used twice, or a record that cannot be read; nothing of the
        corpus is then added.
        """
        with self._writing:
            had_changes = self._writer is not None
            try:
                return self.add(corpus, names=names, vectors=vectors, progress=progress).commit(progress=progress)
            except BaseException:
                if not had_changes:
                    self.rollback()
                raise

    def add(
        self,
        corpus: Corpus,
        *,
        names: FieldNames | None = None,
        vectors: Vectors | None = None,
        progress: bool = True,
    ) -> Retriever:
        """Stage new documents, all of `corpus` (see `retrieval.corpus.read_corpus`) or none.

        vectors  the vectors of these documents by id (see `retrieval.vector_files.read_vectors`), instead of encoding them

        Raises CorpusError for an empty corpus, an id in use, a record that cannot be read, and a vector that is missing or that
        the model cannot take, and LockedError while another process writes to the folder.
        """
        return self._stage(Writer.add, corpus, names, vectors, progress)

    def upsert(
        self,
        corpus: Corpus,
        *,
        names: FieldNames | None = None,
        vectors: Vectors | None = None,
        progress: bool = True,
    ) -> Retriever:
        """Stage documents that take the place of those with the same ids, all of `corpus` or none.

        A document replaced moves to the end of the order that decides between equal scores; of two records of `corpus` with
        one id the last counts. Raises as `add` does, but for ids in use.
        """
        return self._stage(Writer.upsert, corpus, names, vectors, progress)

    def _stage(
        self,
        stage: Callable[[Writer, Iterable[Document]], int],
        corpus: Corpus,
        names: FieldNames | None,
        vectors: Vectors | None,
        progress: bool,
    ) -> Retriever:
        documents = documents_of(corpus, names, vectors, self._opened.encoder)
        records = counted(documents, total=None, doing="reading", unit="documents", shown=progress)
        with self._changes() as writer:
            if stage(writer, records) == 0:
                raise CorpusError("the corpus holds no documents; give at least one.")
        return self

    def delete(self, doc_ids: str | Iterable[str] | None = None, *, where: Where | None = None) -> list[str]:
        """Stage the deletion of documents; returns the ids of those that were there.

        doc_ids  one id or several
        where    instead: stored fields with their values, all of which must hold ({"year": 1999}; True is not 1), or a function
                 of a Document that says which go
        """
        if (doc_ids is None) == (where is None):
            raise WinnowError("delete takes ids, or where=; give one of the two.")
        if where is not None and not callable(where) and not (isinstance(where, Mapping) and where):
            raise WinnowError(f"where is {where!r:.60}; it must be a mapping of fields, or a function of a document.")
        given = [doc_ids] if isinstance(doc_ids, str) else doc_ids
        if given is not None and not isinstance(given, Iterable):
            raise WinnowError(f"doc_ids is {given!r:.60}; it must be an id or a list of ids.")
        with self._changes() as writer:
            if where is not None:
                return writer.delete([document.doc_id for document in writer.documents() if fits(document, where)])
            return writer.delete([checked_text("doc_id", doc_id) for doc_id in given or ()])

    def commit(self, *, progress: bool = True, merge: bool = True) -> Retriever:
        """Make what is staged visible as a whole and, in a folder, durable. Without staged changes nothing happens.

        merge  then merge segments where they have become many (`index.merge_policy`); also costs time now and then

        Raises StorageError where the disk cannot take it: the changes stay staged, and the last commit stays. Where only the
        merging fails, it raises too, but nothing is staged any more: the commit stands, and the next one merges.
        """
        with self._writing:
            if self._writer is None:
                return self
            try:
                self._writer.commit(watched(self._writer, progress))
                if merge:
                    self._writer.merge_due()
            finally:
                self._show(self._writer.snapshot)
                if not self._writer.is_changed:
                    self._end()
        return self

    def rollback(self) -> None:
        """Forget what is staged."""
        with self._writing:
            self._end()

    def merge(self) -> Retriever:
        """Merge all segments into one and reclaim the room of deleted documents. Raises WinnowError if changes are staged."""
        with self._writing:
            if self._writer is not None:
                raise WinnowError("there are staged changes; commit() or rollback() before merge().")
            with self._changes() as writer:
                self._show(writer.merge_all())
        return self

    def refresh(self) -> bool:
        """Move on to what others have committed to the folder since; True if there was something.

        Raises WinnowError if there was and changes are staged: they build on the present commit.
        """
        with self._writing:
            if self._folder is None or self._opened.snapshot.is_of(newest_manifest(self._folder)):
                return False
            if self._writer is not None:
                raise WinnowError("there are staged changes; commit() or rollback() before refresh().")
            self._opened = Opened.read(self._folder, known=self._opened)
        return True

    def save_pretrained(self, folder: str | Path, *, progress: bool = True) -> None:
        """Write model and documents to a folder, whole or not at all; an index there before is replaced.

        The first folder that a retriever is saved to becomes its own: from then on `commit` writes there. Saving to its own
        folder is a commit. Raises WinnowError if the folder holds anything else, and LockedError while another process writes.
        """
        with self._writing:
            is_own = self._folder is not None and os.path.realpath(folder) == os.path.realpath(self._folder)
            if is_own and is_index(folder):
                self.commit(progress=progress)
                return
            if self._folder is not None and self._writer is not None and not is_own:
                raise WinnowError("there are staged changes; commit() or rollback() before saving a copy.")
            with FolderWriter(folder, KIND, on_damage="replace") as files:
                model = files.new_part()
                model.contents = {"model": self.model, "encoder": self._opened.encoder.write(model.path)}
                snapshot = replace(self._opened.snapshot, model=model)
                writer = (self._writer or self._new_writer()).copied_to(files, snapshot)
                snapshot = writer.commit(watched(writer, progress))
            if self._folder is None or is_own:
                self._folder, self._opened = Path(folder).absolute(), self._opened._replace(snapshot=snapshot)
                self._end()

    def search(self, query: Query, k: int = 10, *, effort: Effort = EXACT, stored: bool = True) -> list[Hit]:
        """The best k documents, best first; fewer where fewer share a term with the query.

        query  words, or weights by term: these are looked up in the vocabulary as they are, and unknown ones ignored

        Equal scores rank in the order documents were added. `effort` asks for less than the exact answer (`index.effort`);
        `stored=False` leaves title, text and fields out.
        Raises WinnowError without documents, for k below 1, and for a query that is neither.
        """
        (encoder, snapshot), arm = self._searchable()
        queries = numbered(query, encoder, arm)
        return list(as_hits(snapshot, *arm.search(queries, k, effort), stored))

    def search_batch(
        self,
        queries: Iterable[Query],
        k: int = 10,
        *,
        threads: int | None = None,
        effort: Effort = EXACT,
        stored: bool = True,
    ) -> list[list[Hit]]:
        """`search` for each query, in order; the hits do not depend on the number of threads (all cores unless told)."""
        (encoder, snapshot), arm = self._searchable()
        if isinstance(queries, str | Mapping) or not isinstance(queries, Iterable):
            raise WinnowError(
                f"queries is {type(queries).__name__} {queries!r:.60}; it must be a list of strings or of mappings."
            )
        encoded = [numbered(query, encoder, arm) for query in queries]
        threads = (os.cpu_count() or 1) if threads is None else threads
        answers = arm.search_batch(encoded, k, threads, effort)
        return [list(as_hits(snapshot, scores, docs, stored)) for scores, docs in answers]

    def explain(self, query: Query, doc_id: str) -> Explanation:
        """How the document's score for the query comes about, term by term.

        Raises WinnowError where `search` would, and for an id that is not indexed.
        """
        (encoder, snapshot), arm = self._searchable()
        found = snapshot.find([checked_text("doc_id", doc_id)])
        if doc_id not in found:
            raise WinnowError(f"no document has the id {doc_id!r:.60}; give the doc_id of a hit.")
        position, doc = snapshot.place(found[doc_id])
        terms, weights = numbered(query, encoder, arm)[position]
        order = np.argsort(terms)  # the order that the score is defined in
        terms, weights = terms[order], weights[order]
        impacts = arm.indexes[position].impacts(doc, terms)
        contributions = weights * impacts
        score = float(np.add.accumulate(contributions)[-1]) if len(terms) else 0.0
        vocabulary = arm.vocabularies[position]
        own_terms = encoder.terms_in(snapshot.get([found[doc_id]])[0].searched_text, vocabulary)
        matches = [
            TermMatch(
                encoder.term(term, vocabulary),
                weight,
                impact,
                contribution,
                contribution / score,
                term not in own_terms,
            )
            for term, weight, impact, contribution in zip(
                *(array.tolist() for array in (terms, weights, impacts, contributions)), strict=True
            )
            if contribution > 0
        ]
        return Explanation(doc_id, score, sorted(matches, key=lambda match: -match.contribution))

    def statistics(self) -> IndexStatistics:
        """How much is indexed."""
        _, snapshot = self._opened
        indexes = [index for arm in snapshot.arms.values() for index in arm.indexes]
        return IndexStatistics(
            snapshot.num_docs,
            snapshot.num_docs - sum(index.num_live_with_terms for index in indexes),
            sum(index.num_postings for index in indexes),
            sum(index.nbytes for index in indexes),
            len(snapshot.segments),
            snapshot.first_docs[-1] - snapshot.num_docs,
        )

    def __len__(self) -> int:
        """The number of documents."""
        return self._opened.snapshot.num_docs

    @property
    def model(self) -> str:
        """The name of the encoder."""
        return self._opened.encoder.name

    @contextmanager
    def _changes(self) -> Iterator[Writer]:
        """The writer, begun if there is none, and given up again if nothing came of it."""
        with self._writing:
            if self._writer is None:
                if self._folder is not None:
                    self._files = FolderWriter(self._folder, KIND)
                try:
                    self.refresh()  # nobody else can commit any more
                    self._writer = self._new_writer()
                except BaseException:
                    self._end()
                    raise
            writer = self._writer
            try:
                yield writer
            finally:
                if self._writer is writer and not writer.is_changed:
                    self._end()

    def _new_writer(self) -> Writer:
        encoder, snapshot = self._opened
        return Writer(snapshot, {encoder.arm: encoder}, self._files)

    def _searchable(self) -> tuple[Opened, Arm]:
        opened = self._opened
        if opened.snapshot.num_docs == 0:
            raise WinnowError("there are no documents to search; add some first with retriever.index(corpus).")
        return opened, opened.snapshot.arms[opened.encoder.arm]

    def _show(self, snapshot: Snapshot) -> None:
        self._opened = self._opened._replace(snapshot=snapshot)

    def _end(self) -> None:
        """Give up the writer and the folder's lock."""
        files, self._writer, self._files = self._files, None, None
        if files is not None:
            files.close()


def watched(writer: Writer, progress: bool) -> Watch:
    """Counts the documents that a commit encodes on a progress bar, if there is to be one."""
    return lambda documents: counted(
        documents, total=writer.num_staged, doing="encoding", unit="documents", shown=progress
    )


def as_hits(snapshot: Snapshot, scores: np.ndarray, docs: np.ndarray, stored: bool) -> Iterator[Hit]:
    """Hits in the order of `docs`, ranked from 1."""
    numbers: list[int] = docs.tolist()
    found = snapshot.get(numbers) if stored else map(Document, snapshot.ids(numbers))
    for rank, (score, document) in enumerate(zip(scores.tolist(), found, strict=True), start=1):
        yield Hit(rank, document.doc_id, score, document.title, document.text, document.fields)
