"""The way in: text in, ranked documents out.

`search` encodes the query for each arm and hands it to `SparseArm.search`, which has each segment's `InvertedIndex` call one
compiled loop, or to `DenseArm.search`, which has FAISS do so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import RLock
from typing import Any, Literal

from index.dense.search import DenseSearch
from index.documents import Document
from index.effort import EXACT, Effort
from index.errors import CorpusError, WinnowError
from index.folder_writer import FolderWriter
from index.manifest import Verify, is_index
from index.options import WeightImpacts
from index.snapshot import Snapshot
from index.storage import newest_manifest
from index.vectors import checked_count
from index.writer import Writer
from retrieval.arm_search import Trying
from retrieval.conditions import Condition, Where, going
from retrieval.corpus import Corpus, FieldNames
from retrieval.encoders.protocol import Encoder
from retrieval.encoding import read_encoder_of
from retrieval.explaining import explained
from retrieval.fusion import Fusion
from retrieval.hits import Explanation, Hits
from retrieval.joining import joined
from retrieval.judged_queries import tuned
from retrieval.opened import KIND, IndexStatistics, Opened, check_fusion
from retrieval.progress import progress as counted
from retrieval.progress import watched
from retrieval.queries import Query, checked_text, each_query
from retrieval.rerankers.protocol import Reranker
from retrieval.rerankers.written import own_reranker
from retrieval.side_by_side import checked_threads
from retrieval.tuning import Tuning
from retrieval.vector_files import Vectors, documents_of, is_encoded
from retrieval.written_system import WrittenSystem


class Retriever:
    """Encoders and the documents they have indexed, in memory or in a folder that it was opened from or saved to.

    Each encoder is an arm: BM25, learned sparse or dense. The arms hold the same documents, are searched side by side, and fused.

    `add`, `upsert` and `delete` are staged: `commit` makes them visible as a whole and, in a folder, durable; `rollback`
    forgets them. A search reads the last commit, also while another thread commits.

    >>> retriever = Retriever.from_pretrained("bm25").index([{"_id": "a", "text": "green tea"}], progress=False)
    >>> [(hit.doc_id, hit.rank) for hit in retriever.search("tea")]
    [('a', 1)]
    """

    def __init__(self, *encoders: Encoder, fusion: Fusion | None = None):
        """A retriever without documents.

        fusion  how the arms, one for each encoder, become one ranking (see `retrieval.fusion`)
        """
        self._opened = Opened.empty(encoders, fusion)
        self._folder: Path | None = None
        self._writer: Writer | None = None  # while changes are staged
        self._files: FolderWriter | None = None  # the same, of a folder: holds its lock
        self._writing = RLock()
        self._joined: tuple[Snapshot, ...] = ()  # whose files ours shares, and which hold them

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path | WrittenSystem,
        *,
        impacts: WeightImpacts | None = None,
        fusion: Fusion | None = None,
        verify: Verify = "quick",
        **options: Any,
    ) -> Retriever:
        """A model, or several, with no documents, or a retriever that `save_pretrained` wrote, with its documents.

        A model is one of ours (`winnow-mini`, `bm25`, `mini`, `minilm`, `vectors`), a name of docs/models.md, the folder of a checkpoint or its name on
        the hub; several have a `+` between them ("bm25+minilm"), and settings may follow, of a saved folder too (`retrieval.written_system`):
        "bm25+minilm,fusion=rrf,rerank=blockrank:MODEL,depth=50", or such a `WrittenSystem`. An index in a folder called like a model is opened; any other such folder does
        not hide the model. A folder of `encode_corpus` stands for the model that encoded it, with no documents: `index(corpus, vectors=folder)` adds them.

        impacts  how weights are stored (u8 unless told); a saved retriever has its own
        fusion   how several arms become one ranking; of a saved retriever, instead of its own
        verify   "full" reads every byte of a saved retriever and checks it
        options  of a checkpoint: activation="log1p", max_length=256, query_prefix="...", ... (docs/models.md); of several models
                 by name, as in minilm={"factory": "HNSW32"}

        Raises ModelError for an unknown name or a checkpoint that is no encoder, WinnowError for settings that mean nothing, and
        IndexFormatError for a folder that is neither an index nor a model, damaged or newer.
        """
        system = WrittenSystem.of_name_or_folder(name_or_folder)
        if not system.is_saved:
            retriever = cls(*system.encoders(impacts, options))
        elif is_encoded(Path(system.arms[0])):
            system.check_nothing_beside(None, options)
            retriever = cls(read_encoder_of(system.arms[0], impacts))
        else:
            system.check_nothing_beside(impacts, options)
            retriever = cls.from_folder(system.arms[0], verify=verify)
        retriever._opened = retriever._opened.as_written(system, fusion)
        return retriever

    @classmethod
    def from_folder(cls, folder: str | Path, *, verify: Verify = "quick") -> Retriever:
        """A retriever that `save_pretrained` wrote; unlike `from_pretrained`, never a model by name. Its reranker is loaded by the first
        search that needs it."""
        opened = Opened.read(folder, verify)
        retriever = cls(*opened.encoders)
        retriever._opened, retriever._folder = opened, Path(folder).absolute()
        return retriever

    @classmethod
    def joined(cls, *retrievers: Retriever, fusion: Fusion | None = None) -> Retriever:
        """One retriever, in memory, with the arms of several that hold the same documents, and no reranker; `save_pretrained` writes it.

        Stored fields are those of the first. Raises WinnowError where documents differ in number, order, id, title or text, where changes are staged, and for an arm given twice.
        """
        if strange := [one for one in retrievers if not isinstance(one, Retriever)]:
            raise WinnowError(f"{strange[0]!r:.60} is no retriever; give retrievers with the same documents.")
        if any(retriever._writer is not None for retriever in retrievers):
            raise WinnowError("there are staged changes; commit() or rollback() before joining.")
        parts = [retriever._opened for retriever in retrievers]
        retriever = cls(*(encoder for opened in parts for encoder in opened.encoders), fusion=fusion)
        retriever._opened = retriever._opened._replace(snapshot=joined(parts))
        retriever._joined = tuple(opened.snapshot for opened in parts)
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
        encoder = self._opened.taking_vectors(are_given=vectors is not None)
        documents = documents_of(corpus, names, vectors, encoder)
        records = counted(documents, total=None, doing="reading", unit="documents", shown=progress)
        with self._changes() as writer:
            if stage(writer, records) == 0:
                raise CorpusError("the corpus holds no documents; give at least one.")
        return self

    def delete(self, doc_ids: str | Iterable[str] | None = None, *, where: Where | None = None) -> list[str]:
        """Stage the deletion of documents; returns the ids of those that were there.

        doc_ids  one id or several
        where    instead: a condition on stored fields, as `filter` of a search ({"year": {"$lt": 1999}}), or a function of a
                 Document that says which go
        """
        goes = going(doc_ids, where)
        with self._changes() as writer:
            if callable(goes):
                return writer.delete([document.doc_id for document in writer.documents() if goes(document)])
            return writer.delete(goes)

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
                self._writer.commit(watched(self._writer, progress), progress)
                if merge:
                    self._writer.merge_due(progress)
            finally:
                self._show(self._writer.snapshot)
                if not self._writer.is_changed:
                    self._end()
        return self

    def rollback(self) -> None:
        """Forget what is staged."""
        with self._writing:
            self._end()

    def merge(self, *, progress: bool = True) -> Retriever:
        """Merge all segments into one and reclaim the room of deleted documents. Raises WinnowError if changes are staged."""
        with self._writing:
            if self._writer is not None:
                raise WinnowError("there are staged changes; commit() or rollback() before merge().")
            with self._changes() as writer:
                self._show(writer.merge_all(progress))
        return self

    def refresh(self) -> bool:
        """Move on to what others have committed to the folder since; True if there was something. A fusion or a reranker that was set
        here and not saved stays.

        Raises WinnowError if there was and changes are staged: they build on the present commit.
        """
        with self._writing:
            if self._folder is None or self._opened.snapshot.is_of(newest_manifest(self._folder)):
                return False
            if self._writer is not None:
                raise WinnowError("there are staged changes; commit() or rollback() before refresh().")
            self._opened = Opened.read(self._folder, known=self._opened).keeping_settings(self._opened)
        return True

    def save_pretrained(self, folder: str | Path, *, progress: bool = True) -> None:
        """Write model and documents to a folder, whole or not at all; an index there before is replaced.

        The first folder that a retriever is saved to becomes its own: from then on `commit` writes there. Saving to its own
        folder is a commit. Of a reranker its name and options are kept, but not where it runs and where it caches.
        Raises WinnowError if the folder holds anything else and for a reranker without a name, LockedError while another process writes.
        """
        with self._writing:
            self._opened.check_can_be_stored()
            is_own = self._folder is not None and os.path.realpath(folder) == os.path.realpath(self._folder)
            if is_own and is_index(folder):
                self.commit(progress=progress)
                self._commit_settings()
                return
            if self._folder is not None and self._writer is not None and not is_own:
                raise WinnowError("there are staged changes; commit() or rollback() before saving a copy.")
            with FolderWriter(folder, KIND, on_damage="replace") as files:
                model = files.new_part()
                self._opened.write_model(model)
                snapshot = replace(self._opened.snapshot, model=model)
                writer = (self._writer or self._new_writer()).copied_to(files, snapshot)
                snapshot = writer.commit(watched(writer, progress), progress)
            if self._folder is None or is_own:
                self._folder, self._opened = Path(folder).absolute(), self._opened._replace(snapshot=snapshot)
                self._end()

    def search(
        self,
        query: Query,
        k: int = 10,
        *,
        filter: Mapping[str, Any] | Condition | None = None,
        fusion: Fusion | None = None,
        effort: Effort = EXACT,
        dense: DenseSearch | None = None,
        deadline: float | None = None,
        partial: bool = False,
        rerank: Reranker | Literal[False] | None = None,
        depth: int | None = None,
        stored: bool = True,
    ) -> Hits:
        """The best k documents, best first; fewer where fewer match.

        query     words; or weights by term, which are looked up in the vocabulary as they are, unknown ones ignored; or, of a dense
                  arm, a vector; or of several arms a mapping that gives each its own query
        filter    only documents whose stored fields are so: {"year": {"$gte": 2000}, "lang": "en"} (`retrieval.conditions`); scores
                  do not depend on it
        fusion    for this search, instead of the retriever's own
        effort    asks sparse arms for less than the exact answer (`index.effort`)
        dense     how hard a dense arm tries that is not searched exactly (`index.DenseSearch`)
        deadline  seconds in which every arm must have answered
        partial   goes on without an arm that is late or fails; `missing` of the hits names it. Otherwise that is an error
        rerank    a reranker (`retrieval.load_reranker`), which orders the best `depth` documents (100 unless told) of this search
                  anew; hits then have its scores, and in `first_rank` and `first_score` those of this search. `deadline` is the arms'.
                  None: the retriever's own reranker and depth, where it has one; False: none
        stored    False leaves title, text and fields out

        Equal scores rank in the order documents were added, of a reranker in that of the search before it.
        Raises WinnowError without documents, for k below 1 or above depth, for a query that is none of these, and DeadlineError.
        """
        opened = self._opened.searchable(filter)
        hybrid, stage = opened.hybrid(fusion), opened.stage(k, stored, rerank, depth)
        stage.check([query])
        found = hybrid.search(query, stage.wanted, Trying(effort, dense), deadline, partial)
        return next(stage.hits(opened.snapshot, [query], [found]))

    def search_batch(
        self,
        queries: Iterable[Query],
        k: int = 10,
        *,
        filter: Mapping[str, Any] | Condition | None = None,
        fusion: Fusion | None = None,
        effort: Effort = EXACT,
        dense: DenseSearch | None = None,
        threads: int | None = None,
        deadline: float | None = None,
        partial: bool = False,
        rerank: Reranker | Literal[False] | None = None,
        depth: int | None = None,
        stored: bool = True,
    ) -> list[Hits]:
        """`search` for each query, in order; the hits do not depend on the number of threads (all cores unless told).

        deadline  seconds in which every arm must have answered all queries
        """
        opened, asked = self._opened.searchable(filter), each_query(queries)
        hybrid, stage = opened.hybrid(fusion), opened.stage(k, stored, rerank, depth)
        stage.check(asked)
        trying, threads = Trying(effort, dense), checked_threads(threads)
        found = hybrid.search_batch(asked, stage.wanted, threads, trying, deadline, partial)
        return list(stage.hits(opened.snapshot, asked, found))

    def explain(
        self,
        query: Query,
        doc_id: str,
        k: int = 10,
        *,
        filter: Mapping[str, Any] | Condition | None = None,
        fusion: Fusion | None = None,
        effort: Effort = EXACT,
        dense: DenseSearch | None = None,
    ) -> Explanation:
        """How the document's score for the query comes about: what each arm gave it and, of sparse arms, term by term. Of a search with
        a reranker, how its `first_score` does, with depth as k.

        The other arguments are those of the search that is explained; only a k beyond the fusion's depth changes a score.
        Raises WinnowError where `search` would, and for an id that is not indexed or that the filter leaves out.
        """
        opened = self._opened.searchable(filter)
        return explained(
            opened.hybrid(fusion), opened.snapshot, query, checked_text("doc_id", doc_id), k, Trying(effort, dense)
        )

    def tune(
        self,
        queries: Mapping[str, str],
        qrels: Mapping[str, Mapping[str, int]],
        *,
        measure: str = "nDCG@10",
        folds: int = 5,
        progress: bool = True,
    ) -> Tuning:
        """Find by judged queries how the arms are best fused, and fuse so from now on (`save_pretrained` keeps it).

        queries  query id -> text
        qrels    query id -> document id -> relevance; the queries without a judgment are left out
        measure  nDCG@k, R@k or RR@k

        Weights and normalisation are chosen by cross-validation. Where the gain over the best arm is not significant, that arm
        alone answers from now on: tuned, the fusion is never worse than its best arm, as far as these queries tell.
        Raises WinnowError for one arm alone, too few judged queries, and queries of which no document is judged.
        """
        opened = self._opened.searchable(None)
        hybrid = opened.hybrid(Fusion(depth=opened.fusion.depth))
        tuning = tuned(hybrid, opened.snapshot, queries, qrels, measure, folds, progress)
        self.fusion = tuning.fusion
        return tuning

    @property
    def fusion(self) -> Fusion:
        """How the arms become one ranking."""
        return self._opened.fusion

    @fusion.setter
    def fusion(self, fusion: Fusion) -> None:
        check_fusion(fusion, self._opened.encoders)
        with self._writing:  # a commit puts another snapshot in place
            self._opened = self._opened._replace(fusion=fusion)

    @property
    def reranker(self) -> Reranker | None:
        """What orders the best `rerank_depth` documents of every search anew; None: nothing. Set to a reranker, or to the name of one, as in
        "blockrank:MODEL", it is loaded by the first search that needs it and kept by `save_pretrained`."""
        return self._opened.reranker

    @reranker.setter
    def reranker(self, reranker: Reranker | str | None) -> None:
        with self._writing:
            self._opened = self._opened._replace(reranker=own_reranker(reranker))

    @property
    def rerank_depth(self) -> int:
        """How many documents the retriever's own reranker is given, unless a search says."""
        return self._opened.rerank_depth

    @rerank_depth.setter
    def rerank_depth(self, depth: int) -> None:
        with self._writing:
            self._opened = self._opened._replace(rerank_depth=checked_count("rerank_depth", depth))

    def statistics(self) -> IndexStatistics:
        """How much is indexed."""
        return self._opened.statistics()

    def __len__(self) -> int:
        """The number of documents."""
        return self._opened.snapshot.num_docs

    @property
    def model(self) -> str:
        """The names of the encoders, with `+` between them."""
        return self._opened.model

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
        encoders = {encoder.arm: encoder for encoder in self._opened.encoders}
        return Writer(self._opened.snapshot, encoders, self._files)

    def _commit_settings(self) -> None:
        """Make fusion and reranker durable, if the folder has others."""
        if self._opened.is_stored:
            return
        with self._changes() as writer:
            assert self._files is not None
            model = self._files.new_part()
            self._opened.write_model(model)
            self._show(writer.with_model(model))

    def _show(self, snapshot: Snapshot) -> None:
        self._opened = self._opened._replace(snapshot=snapshot)

    def _end(self) -> None:
        """Give up the writer and the folder's lock."""
        files, self._writer, self._files = self._files, None, None
        if files is not None:
            files.close()
