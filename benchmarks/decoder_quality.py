"""How good is a decoder that nobody trained for retrieval? nDCG@10 on a BEIR folder, one JSON line a system, BM25 first.

    make smollm2
    python benchmarks/decoder_quality.py --data BEIR_FOLDER --model FOLDER --json OUT

promptreps-sparse, -dense and -both are one pass of the model (arXiv:2404.18424): texts of up to 512 tokens, 128 terms, no expansion;
`both` is the mean of the two runs' scores, each min-max scaled within its query, 0 where a run lacks the document. splade-max pools
ln(1 + relu) of the logits of each position over a text of up to 512 tokens, the 128 heaviest terms; splade-echo reads the text twice and
pools the second (arXiv:2402.15449, arXiv:2408.11119). Settings are the papers' or the library's own, none is chosen on BEIR_FOLDER.
Impacts are the library's own too (u8), depth is 1,000. A line is written as soon as its system is done.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from protocol import record
from sparse_search import environment

from eval.datasets import Dataset, load_dataset
from eval.measures import DEFAULT_MEASURES, Run, measure_run
from eval.systems import ranked
from index.inverted import InvertedIndex
from index.options import InvertedIndexOptions
from index.vectors import SparseQuery
from kernels.cpu.sparse import SparseRows
from retrieval import Retriever
from retrieval.corpus import read_corpus
from retrieval.encoders.learned import LearnedSparseEncoder
from retrieval.encoders.loading import load_encoder
from retrieval.encoders.neural_side import NeuralSide
from retrieval.encoders.prompt_reps import Both, PromptRepsSide
from retrieval.encoders.text_stream import TruncationWarning
from retrieval.progress import progress

DEPTH = 1_000
SYSTEMS = ("bm25", "promptreps", "splade-max", "splade-echo")
SPLADE: dict[str, Any] = {"activation": "log1p", "pooling": "max", "top_k": 128, "max_length": 512}
OPTIONS: dict[str, dict[str, Any]] = {
    "promptreps": {"method": "promptreps"},
    "splade-max": SPLADE,
    "splade-echo": {**SPLADE, "echo": True, "max_length": 2 * SPLADE["max_length"]},  # each copy as long as without
}


class Collection:
    """A BEIR folder in memory."""

    def __init__(self, folder: Path, split: str):
        documents = list(read_corpus(folder))
        self.dataset: Dataset = load_dataset(folder, split)
        self.doc_ids = [document.doc_id for document in documents]
        self.texts = [document.searched_text for document in documents]

    def run(self, answers: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, dict[str, float]]:
        """From (scores, documents) of each query."""
        return {
            query: {self.doc_ids[doc]: score for doc, score in zip(docs.tolist(), scores.tolist(), strict=True)}
            for query, (scores, docs) in zip(self.dataset.queries, answers, strict=True)
        }


def promptreps(encoder: LearnedSparseEncoder, collection: Collection) -> Iterator[tuple[str, Run, dict[str, Any]]]:
    assert isinstance(encoder.query, PromptRepsSide)
    documents, seconds = encoded_both(encoder.document, collection.texts, "encoding documents")
    queries, query_seconds = encoded_both(encoder.query, list(collection.dataset.queries.values()), "encoding queries")
    figures = {"document_seconds": seconds, "query_seconds": query_seconds, "terms": mean_terms(documents.sparse)}
    sparse = collection.run(sparse_answers(documents.sparse, queries.sparse, encoder.num_terms))
    yield "promptreps-sparse", sparse, figures
    dense = collection.run(dense_answers(documents.dense, queries.dense))
    yield "promptreps-dense", dense, figures
    yield "promptreps-both", fused(sparse, dense), figures


def encoded_both(side: NeuralSide, texts: Sequence[str], doing: str) -> tuple[Both, float]:
    """(the vectors, seconds)."""
    assert isinstance(side, PromptRepsSide)
    bar = progress(texts, total=len(texts), doing=doing, unit="texts", shown=True)
    _ = side.model  # loading is not encoding
    started = time.perf_counter()
    both = side.encode_both(bar)
    return both, time.perf_counter() - started


def splade(
    name: str, encoder: LearnedSparseEncoder, collection: Collection
) -> Iterator[tuple[str, Run, dict[str, Any]]]:
    assert isinstance(encoder.query, NeuralSide)
    documents, seconds = encoded(encoder.document, collection.texts, "encoding documents")
    queries, query_seconds = encoded(encoder.query, list(collection.dataset.queries.values()), "encoding queries")
    run = collection.run(sparse_answers(documents, queries, encoder.num_terms))
    yield name, run, {"document_seconds": seconds, "query_seconds": query_seconds, "terms": mean_terms(documents)}


def encoded(side: NeuralSide, texts: Sequence[str], doing: str) -> tuple[SparseRows, float]:
    bar = progress(texts, total=len(texts), doing=doing, unit="texts", shown=True)
    _ = side.model
    started = time.perf_counter()
    rows = concatenated(list(side.encode(bar)))
    return rows, time.perf_counter() - started


def concatenated(parts: Sequence[SparseRows]) -> SparseRows:
    lengths = np.concatenate([np.diff(part.indptr) for part in parts])
    indices, data = np.concatenate([part.indices for part in parts]), np.concatenate([part.data for part in parts])
    return SparseRows(np.concatenate([[0], lengths.cumsum()]), indices, data)


def mean_terms(rows: SparseRows) -> float:
    return len(rows.indices) / (len(rows.indptr) - 1)


def sparse_answers(documents: SparseRows, queries: SparseRows, num_terms: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(scores, documents) of each query."""
    index = InvertedIndex.build(documents, InvertedIndexOptions(num_terms))
    spans = [slice(a, b) for a, b in zip(queries.indptr[:-1], queries.indptr[1:], strict=True)]
    return index.search_batch([SparseQuery(queries.indices[span], queries.data[span]) for span in spans], DEPTH)


def dense_answers(documents: np.ndarray, queries: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """By inner product; of equal scores the lower documents."""
    answers = []
    for scores in queries @ documents.T:
        docs = np.lexsort((np.arange(len(scores)), -scores))[:DEPTH]
        answers.append((scores[docs], docs))
    return answers


def fused(*runs: Run) -> Run:
    """The mean of the runs' scores, each scaled to 0 to 1 within its query; 0 where a run lacks the document."""
    found: dict[str, dict[str, float]] = {query: {} for query in runs[0]}
    for run in runs:
        for query, scores in run.items():
            for doc, score in scaled(scores).items():
                found[query][doc] = found[query].get(doc, 0.0) + score / len(runs)
    return found


def scaled(scores: Mapping[str, float]) -> dict[str, float]:
    lowest, highest = min(scores.values(), default=0.0), max(scores.values(), default=0.0)
    return {doc: (score - lowest) / max(highest - lowest, 1e-9) for doc, score in scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="BEIR_FOLDER")
    parser.add_argument("--split", default="test")
    parser.add_argument("--model", required=True, metavar="FOLDER", help="a decoder: what `make smollm2` prints")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()

    collection = Collection(arguments.data, arguments.split)
    dataset = collection.dataset
    shared = {"dataset": dataset.name, "split": dataset.split, "documents": len(collection.texts), "depth": DEPTH}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, **environment()}
    warnings.simplefilter("once", TruncationWarning)
    for name in arguments.systems:
        if name == "bm25":
            run, _ = ranked(Retriever.from_pretrained(name).index(dataset.folder), dataset, DEPTH, None)
            runs = iter([(name, run, {"options": {}})])
        else:
            encoder = load_encoder(arguments.model, None, OPTIONS[name])
            assert isinstance(encoder, LearnedSparseEncoder)
            shared |= {"model": encoder.document.files.found_fingerprint, "options": OPTIONS[name]}
            runs = promptreps(encoder, collection) if name == "promptreps" else splade(name, encoder, collection)
        for system, run, figures in runs:
            measures = measure_run(dataset.qrels, run, DEFAULT_MEASURES)
            record(arguments.json, {"system": system, **measures, **shared, **figures, **versions})


if __name__ == "__main__":
    main()
