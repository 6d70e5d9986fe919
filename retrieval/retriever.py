"""The way in: text in, ranked documents out.

`search` encodes the query and hands it to `InvertedIndex.search`, which calls one compiled loop.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from index.documents import Document, DocumentStore
from index.effort import EXACT, Effort
from index.errors import CorpusError, WinnowError
from index.inverted import InvertedIndex
from index.options import InvertedIndexOptions
from index.storage import Generation, Verify, commit, is_index, open_array, read_current, save_array
from index.vectors import empty_rows
from kernels.cpu.sparse import SparseRows
from retrieval.corpus import Corpus, FieldNames, read_corpus
from retrieval.encoders.loading import MODELS, load_encoder, read_encoder
from retrieval.encoders.protocol import SparseEncoder
from retrieval.hits import Explanation, Hit, TermMatch
from retrieval.progress import progress as counted

KIND = "retriever"
Impacts = Literal["u8", "u16", "f32"]


class IndexStatistics(NamedTuple):
    """The size of what is indexed."""

    documents: int
    documents_without_terms: int  # kept, but no query can match them
    postings: int
    bytes: int  # of the inverted index, all that scoring reads


@dataclass(frozen=True, slots=True)
class Collection:
    """All that a search reads, replaced as a whole: a search under way never sees half of a change."""

    encoder: SparseEncoder
    vectors: SparseRows  # as encoded; what a later addition and its index are built from
    inverted: InvertedIndex
    documents: DocumentStore | None

    def write(self, path: Path) -> dict[str, Any]:
        """Write all files into `path`; returns the description that `read` needs (docs/format.md)."""
        for name, array in self.vectors._asdict().items():
            save_array(path / f"vectors.{name}.npy", array)
        return {
            "model": self.encoder.name,
            "encoder": self.encoder.write(path),
            "vectors": {"entries": len(self.vectors.indices)},
            "inverted": self.inverted.write(path),
            "documents": self.documents.write(path) if self.documents else None,
        }

    @classmethod
    def read(cls, stored: Generation) -> Collection:
        """Open what `write` wrote; arrays are mapped, documents not read. Raises IndexFormatError."""
        path, contents = stored.path, stored.contents
        inverted = InvertedIndex.read(path, contents["inverted"])
        entries = contents["vectors"]["entries"]
        vectors = SparseRows(
            open_array(path / "vectors.indptr.npy", "int64", inverted.num_docs + 1),
            open_array(path / "vectors.indices.npy", "int32", entries),
            open_array(path / "vectors.data.npy", "float32", entries),
        )
        documents = DocumentStore.read(path, contents["documents"]) if contents["documents"] else None
        return cls(read_encoder(path, contents["encoder"]), vectors, inverted, documents)


class Retriever:
    """An encoder and the documents it has indexed.

    >>> retriever = Retriever.from_pretrained("bm25").index([{"_id": "a", "text": "green tea"}], progress=False)
    >>> [(hit.doc_id, hit.rank) for hit in retriever.search("tea")]
    [('a', 1)]
    """

    def __init__(self, encoder: SparseEncoder, *, impacts: Impacts = "u8"):
        """A retriever without documents. `impacts` is how weights are stored: see InvertedIndexOptions."""
        inverted = InvertedIndex.build(empty_rows(), InvertedIndexOptions(encoder.num_terms, impacts))
        self._collection = Collection(encoder, empty_rows(), inverted, None)

    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | Path, *, impacts: Impacts | None = None, verify: Verify = "quick"
    ) -> Retriever:
        """A model by name, with no documents, or a retriever that `save_pretrained` wrote, with its documents.

        An index in a folder called like a model is opened; any other such folder does not hide the model.

        impacts  how weights are stored ("u8" unless told); a saved retriever has its own
        verify   "full" reads every byte of a saved retriever and compares checksums

        Raises ModelError for an unknown name and IndexFormatError for a folder that is no index, damaged or newer.
        """
        if not isinstance(name_or_folder, str | os.PathLike):
            raise WinnowError(f"the model is {name_or_folder!r}; give a name or a folder.")
        is_folder = os.path.exists(name_or_folder) and (is_index(name_or_folder) or str(name_or_folder) not in MODELS)
        if is_folder:
            if impacts is not None:
                raise WinnowError(f"{name_or_folder} was saved with its own impacts; leave impacts={impacts!r} out.")
            return cls.from_folder(name_or_folder, verify=verify)
        return cls(load_encoder(str(name_or_folder)), impacts=impacts or "u8")

    @classmethod
    def from_folder(cls, folder: str | Path, *, verify: Verify = "quick") -> Retriever:
        """A retriever that `save_pretrained` wrote; unlike `from_pretrained`, never a model by name."""
        retriever = cls.__new__(cls)
        retriever._collection = read_current(folder, KIND, Collection.read, verify)
        return retriever

    def index(self, corpus: Corpus, *, names: FieldNames | None = None, progress: bool = True) -> Retriever:
        """Add the documents of `corpus` (see `retrieval.corpus.read_corpus`) and return this retriever.

        Raises CorpusError for an empty corpus, an id used twice, or a record that cannot be read; nothing of the
        corpus is then added.
        """
        old = self._collection
        records = counted(read_corpus(corpus, names), total=None, doing="reading", unit="documents", shown=progress)
        documents = DocumentStore.extended(old.documents, records)
        num_known = old.inverted.num_docs
        num_added = len(documents) - num_known
        if num_added == 0:
            raise CorpusError("the corpus holds no documents; give at least one.")
        new_texts = (document.searched_text for document in documents.starting_at(num_known))
        texts = counted(new_texts, total=num_added, doing="encoding", unit="documents", shown=progress)
        encoder, vectors = old.encoder.encode_documents(texts, old.vectors)
        options = InvertedIndexOptions(encoder.num_terms, old.inverted.options.impacts)
        self._collection = Collection(
            encoder, vectors, InvertedIndex.build(encoder.impacts(vectors), options), documents
        )
        return self

    def search(self, query: str, k: int = 10, *, effort: Effort = EXACT, stored: bool = True) -> list[Hit]:
        """The best k documents, best first; fewer where fewer share a term with the query.

        Equal scores rank in the order documents were added. `effort` asks for less than the exact answer (`index.effort`);
        `stored=False` leaves title, text and fields out.
        Raises WinnowError without documents, for k below 1, and for a query that is not a string.
        """
        collection, documents = self._searchable()
        terms, weights = collection.encoder.encode_query(checked_text("the query", query))
        scores, docs = collection.inverted.search(terms, weights, k, effort)
        return list(as_hits(documents, scores, docs, stored))

    def search_batch(
        self,
        queries: Iterable[str],
        k: int = 10,
        *,
        threads: int | None = None,
        effort: Effort = EXACT,
        stored: bool = True,
    ) -> list[list[Hit]]:
        """`search` for each query, in order; the hits do not depend on the number of threads (all cores unless told)."""
        collection, documents = self._searchable()
        if isinstance(queries, str) or not isinstance(queries, Iterable):
            raise WinnowError(f"queries is {type(queries).__name__} {queries!r:.60}; it must be a list of strings.")
        encoded = [collection.encoder.encode_query(checked_text("the query", query)) for query in queries]
        threads = (os.cpu_count() or 1) if threads is None else threads
        answers = collection.inverted.search_batch(encoded, k, threads, effort)
        return [list(as_hits(documents, scores, docs, stored)) for scores, docs in answers]

    def explain(self, query: str, doc_id: str) -> Explanation:
        """How the document's score for the query comes about, term by term.

        Raises WinnowError where `search` would, and for an id that is not indexed.
        """
        collection, documents = self._searchable()
        doc = documents.find(checked_text("doc_id", doc_id))
        if doc is None:
            raise WinnowError(f"no document has the id {doc_id!r}; give the doc_id of a hit.")
        terms, weights = collection.encoder.encode_query(checked_text("the query", query))
        order = np.argsort(terms)  # the order that the score is defined in
        terms, weights = terms[order], weights[order]
        impacts = collection.inverted.impacts(doc, terms)
        contributions = weights * impacts
        score = float(np.add.accumulate(contributions)[-1]) if len(terms) else 0.0
        own_terms = collection.encoder.terms_in(documents.get([doc])[0].searched_text)
        matches = [
            TermMatch(
                collection.encoder.term(term), weight, impact, contribution, contribution / score, term not in own_terms
            )
            for term, weight, impact, contribution in zip(
                *(array.tolist() for array in (terms, weights, impacts, contributions)), strict=True
            )
            if contribution > 0
        ]
        return Explanation(doc_id, score, sorted(matches, key=lambda match: -match.contribution))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model and documents to a folder, whole or not at all; an index there before is replaced.

        Raises WinnowError if the folder holds anything else.
        """
        collection = self._collection
        with commit(folder, KIND) as generation:
            generation.contents = collection.write(generation.path)

    def statistics(self) -> IndexStatistics:
        """How much is indexed."""
        inverted = self._collection.inverted
        without_terms = int(np.count_nonzero(np.diff(self._collection.vectors.indptr) == 0))
        return IndexStatistics(inverted.num_docs, without_terms, inverted.num_postings, inverted.nbytes)

    def __len__(self) -> int:
        """The number of documents."""
        return self._collection.inverted.num_docs

    @property
    def model(self) -> str:
        """The name of the encoder."""
        return self._collection.encoder.name

    def _searchable(self) -> tuple[Collection, DocumentStore]:
        collection = self._collection
        if collection.documents is None:
            raise WinnowError("there are no documents to search; add some first with retriever.index(corpus).")
        return collection, collection.documents


def as_hits(documents: DocumentStore, scores: np.ndarray, docs: np.ndarray, stored: bool) -> Iterator[Hit]:
    """Hits in the order of `docs`, ranked from 1."""
    numbers: list[int] = docs.tolist()
    found = documents.get(numbers) if stored else map(Document, documents.ids(numbers))
    for rank, (score, document) in enumerate(zip(scores.tolist(), found, strict=True), start=1):
        yield Hit(rank, document.doc_id, score, document.title, document.text, document.fields)


def checked_text(name: str, text: Any) -> str:
    """`text`; WinnowError unless it is a string of valid Unicode."""
    if not isinstance(text, str):
        raise WinnowError(f"{name} is {type(text).__name__} {text!r:.60}; it must be a string.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise WinnowError(f"{name} {text!r:.60} is not valid Unicode ({error.reason}); repair it.") from error
    return text
