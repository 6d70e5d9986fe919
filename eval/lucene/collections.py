"""What Lucene is given: the texts of a data set, or the vectors of an encoder in whole numbers, in the JSON of Anserini.

An impact is a term frequency to Lucene, so weights must be whole: hundredths, as SPLADE's collections for Anserini have them.
Lucene's scores are float32, exact for whole numbers up to 2**24.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from eval.datasets import Dataset
from eval.latency import Latency, timed
from index.arms import SparseArm
from index.documents import Document
from index.errors import WinnowError
from index.inverted import InvertedIndex
from index.options import InvertedIndexOptions
from kernels.cpu.sparse import SparseRows
from retrieval.encoders.loading import load_encoder
from retrieval.encoders.protocol import SparseEncoder
from retrieval.progress import progress as counted
from retrieval.vector_files import Vectors, documents_of

STEPS = 100  # of a weight of 1
LARGEST_WEIGHT = 65_535  # in steps: Lucene is given the term as many times
EXACT_SCORES = 2**24


class LuceneError(WinnowError):
    """Lucene cannot be asked: the extra is missing, the model has no impacts, or its process failed."""


class WholeVectors(NamedTuple):
    """Documents and queries as whole weights of numbered terms."""

    ids: list[str]
    documents: SparseRows  # whole numbers as float32, a row for each id
    queries: dict[str, dict[int, int]]  # query id -> term -> weight
    encode_seconds: float = 0.0  # of all documents
    encode_latency: Latency | None = None  # of a query

    def vectors(self) -> Iterator[tuple[str, dict[str, int]]]:
        """(id, {term: weight}) of each document; a term is called by its number, which no tokenizer takes apart."""
        indptr, terms, weights = self.documents
        for row, doc_id in enumerate(self.ids):
            own = slice(int(indptr[row]), int(indptr[row + 1]))
            yield doc_id, dict(zip(map(str, terms[own].tolist()), map(int, weights[own].tolist()), strict=True))

    def named_queries(self) -> dict[str, dict[str, int]]:
        """The queries with terms called in the same way."""
        return {one: {str(term): weight for term, weight in query.items()} for one, query in self.queries.items()}


def whole_vectors(model: str, dataset: Dataset, progress: bool, vectors: Vectors | None = None) -> WholeVectors:
    """Documents and queries of a data set by an encoder, each weight to the nearest hundredth; weights below half of one are left out.

    vectors  what the encoder made of the documents before, see `retrieval.vector_files.read_vectors`

    Raises LuceneError for a model that is not sparse or encodes no text, and for weights that Lucene could not score exactly.
    """
    encoder = load_encoder(model)
    if encoder.kind != "sparse" or encoder.needs_vectors:
        raise LuceneError(
            f"lucene:{model} has no impacts of texts to give to Lucene; name bm25 or a sparse model, as in lucene:winnow-mini."
        )
    encoder, ids, started = cast(SparseEncoder, encoder), list[str](), time.perf_counter()
    corpus = documents_of(dataset.folder, None, vectors, encoder)
    documents = counted(corpus, total=None, doing="encoding", unit="documents", shown=progress)
    encoded = encoder.encode_documents(noting(documents, ids))
    seconds = time.perf_counter() - started
    num_terms = encoded.options.num_terms
    # a query asks an arm for its statistics and its vocabulary alone, so its index may be of no document
    empty = InvertedIndex.build(no_rows(), InvertedIndexOptions(num_terms))
    arm = SparseArm.alone(empty, encoded.statistics, encoded.vocabulary)
    latency, found = timed(lambda text: encoder.encode_query(text, arm)[0], list(dataset.queries.values()))
    queries = {
        query: {int(term): weight for term, weight in zip(terms, in_steps(weights), strict=True) if weight}
        for query, (terms, weights) in zip(dataset.queries, found, strict=True)
    }
    whole = WholeVectors(ids, whole_rows(encoded.vectors), queries, seconds, latency)
    check_weights(model, whole, num_terms)
    return whole


def check_weights(model: str, whole: WholeVectors, num_terms: int) -> None:
    """Raise LuceneError where a weight or a score is larger than Lucene takes exactly."""
    _, terms, weights = whole.documents
    if len(weights) and weights.max() > LARGEST_WEIGHT:
        raise LuceneError(
            f"{model} has a document with the weight {weights.max() / STEPS:.6g}; Lucene is given weights up to "
            f"{LARGEST_WEIGHT / STEPS:.6g}, choose a model with logarithms in its weights."
        )
    largest = np.zeros(num_terms)
    np.maximum.at(largest, terms, weights)
    for query, asked in whole.queries.items():
        bound = sum(weight * largest[term] for term, weight in asked.items())
        if bound > EXACT_SCORES:
            raise LuceneError(
                f"the query {query!r:.60} of {model} may score {bound:.0f}; Lucene's scores are exact up to {EXACT_SCORES}, "
                "choose a model with smaller weights."
            )


def in_steps(weights: np.ndarray) -> list[int]:
    return [int(weight) for weight in np.rint(np.asarray(weights, np.float64) * STEPS)]


def whole_rows(rows: SparseRows) -> SparseRows:
    """The rows with their weights in steps, without those of 0 steps."""
    data = np.rint(np.asarray(rows.data, np.float64) * STEPS).astype(np.float32)
    kept = data > 0
    before = np.concatenate([[0], np.cumsum(kept)])
    return SparseRows(before[rows.indptr], rows.indices[kept], data[kept])


def no_rows() -> SparseRows:
    return SparseRows(np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))


def noting(documents: Iterable[Document], ids: list[str]) -> Iterator[Document]:
    """The documents, whose ids are appended to `ids` as they pass."""
    for document in documents:
        ids.append(document.doc_id)
        yield document


def write_texts(file: Path, documents: Iterable[Document]) -> int:
    """Records of Anserini's JsonCollection: title and text in one field. Returns how many."""
    return write_records(file, ({"id": one.doc_id, "contents": one.searched_text} for one in documents))


def write_vectors(file: Path, vectors: Iterable[tuple[str, dict[str, int]]]) -> int:
    """Records of Anserini's JsonVectorCollection. Returns how many."""
    return write_records(file, ({"id": one, "contents": "", "vector": vector} for one, vector in vectors))


def write_records(file: Path, records: Iterable[object]) -> int:
    count = 0
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", encoding="utf-8") as lines:
        for record in records:
            lines.write(json.dumps(record) + "\n")
            count += 1
    return count
