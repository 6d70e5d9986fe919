"""How many terms, and how good, is `mini` at each threshold, with one logarithm or two? (docs/decisions/0004)

    python benchmarks/mini_threshold.py --squad FOLDER --pubmed FILE --json out.json

Queries that no test uses: SQuAD-dev questions on articles without a test question, and PubMed titles that look for their
own abstracts. Prints nDCG@10 with float32 impacts, BM25 on the same queries first.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eval.datasets import load_dataset
from eval.measures import measure_run
from index.arm_segments import Encoded
from index.arms import SparseArm
from index.documents import Document
from index.inverted import InvertedIndex
from retrieval.corpus import read_corpus
from retrieval.encoders.bm25 import BM25Encoder
from retrieval.encoders.mini import mini
from retrieval.encoders.protocol import SparseEncoder

THRESHOLDS = (1.75, 2.0, 2.25, 2.5, 2.75, 3.0)
QUERIES = 2_000
SEED = 0


class Task(NamedTuple):
    name: str
    documents: dict[str, str]  # id -> text
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]


def squad(folder: Path) -> Task:
    """Questions of every article (the title of a paragraph) that has no line in the test split."""
    documents = {document.doc_id: document for document in read_corpus(folder)}
    every, test = load_dataset(folder, "all"), load_dataset(folder, "test")
    test_articles = {documents[doc_id].title for judged in test.qrels.values() for doc_id in judged}
    allowed = [q for q in sorted(every.qrels) if not {documents[d].title for d in every.qrels[q]} & test_articles]
    chosen = sampled(allowed)
    texts = {doc_id: document.searched_text for doc_id, document in documents.items()}
    return Task("squad", texts, {q: every.queries[q] for q in chosen}, {q: every.qrels[q] for q in chosen})


def pubmed(file: Path) -> Task:
    """Abstracts as documents, their titles as queries."""
    documents = {document.doc_id: document for document in read_corpus(file)}
    chosen = sampled(sorted(documents))
    texts = {doc_id: documents[doc_id].text for doc_id in chosen}
    return Task("pubmed", texts, {d: documents[d].title for d in chosen}, {d: {d: 1} for d in chosen})


def sampled(ids: list[str]) -> list[str]:
    return [ids[i] for i in np.random.default_rng(SEED).permutation(len(ids))[:QUERIES]]


def measured(task: Task, encoder: SparseEncoder, encoded: Encoded) -> dict[str, float]:
    index = InvertedIndex.build(encoded.vectors, encoded.options)
    arm, ids = SparseArm.alone(index, encoded.statistics, encoded.vocabulary), list(task.documents)
    run = {}
    for query, text in task.queries.items():
        scores, docs = arm.search(encoder.encode_query(text, arm), k=10)
        run[query] = {ids[doc]: score for doc, score in zip(docs.tolist(), scores.tolist(), strict=True)}
    return {**measure_run(task.qrels, run, ["nDCG@10"]), "terms": index.num_postings / len(ids)}


def results(task: Task) -> Iterator[dict[str, object]]:
    documents = [Document(doc_id, text=text) for doc_id, text in task.documents.items()]
    bm25 = BM25Encoder()
    yield {"task": task.name, "system": "bm25", **measured(task, bm25, bm25.encode_documents(documents))}
    encoder = mini("f32", threshold=min(THRESHOLDS))
    encoded = encoder.encode_documents(documents)
    logits = np.expm1(np.expm1(encoded.vectors.data)) + min(THRESHOLDS)  # undo the encoder's two logs
    for threshold in THRESHOLDS:
        once = np.log1p(np.maximum(logits - threshold, 0))
        for logs, weights in ((1, once), (2, np.log1p(once))):
            vectors = encoded.vectors._replace(data=weights.astype(np.float32))
            setting = {"task": task.name, "system": "mini", "threshold": threshold, "logs": logs}
            yield {**setting, **measured(task, encoder, encoded._replace(vectors=vectors))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--squad", type=Path, required=True, metavar="FOLDER", help="a BEIR folder with splits all, test"
    )
    parser.add_argument("--pubmed", type=Path, required=True, metavar="FILE", help="a corpus of titles and abstracts")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    arguments = parser.parse_args()
    rows = []
    for task in (squad(arguments.squad), pubmed(arguments.pubmed)):
        for row in results(task):
            print(json.dumps(row), flush=True)
            rows.append(row)
    arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
