"""Qdrant: upsert bodies of points with a sparse vector, one a line, and the collection to create for them.

Weights are float32, and searches of a sparse index are exact. A point's id is a number, the document's place in the export; its payload
has the document's own id.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from retrieval.exports.collection import Batch, WeightedTerms
from retrieval.exports.lines import FIELD, as_json, in_numbers, query_terms, write_json, write_parts, write_vocabulary
from retrieval.exports.protocol import Format, Sizes

POINTS_A_BODY = 100
WEIGHTS_A_BODY = 500_000  # at some 20 bytes each, of a body of at most 32 MB


class Qdrant(Format):
    name = "qdrant"

    def write(self, batches: Iterator[Batch], terms: Sequence[str], sizes: Sizes, folder: Path) -> None:
        write_json(folder / "collection.json", {"vectors": {}, "sparse_vectors": {FIELD: {}}})
        write_vocabulary(folder, terms)
        write_parts(folder, "points-{}.jsonl", bodies(batches))

    def query_request(self, query: WeightedTerms, terms: Sequence[str], k: int) -> str:
        weighted = query_terms(query)
        vector = {"indices": [number for number, _ in weighted], "values": [weight for _, weight in weighted]}
        return as_json({"query": vector, "using": FIELD, "limit": k, "with_payload": True})


def bodies(batches: Iterator[Batch]) -> Iterator[str]:
    points: list[str] = []
    number, size = 0, 0
    for batch in batches:
        for doc_id, terms, weights in rows_of(batch):
            vector = f'{{"indices":[{",".join(map(str, terms))}],"values":[{",".join(weights)}]}}'
            named = f'{{"{FIELD}":{vector}}}' if terms else "{}"
            payload = json.dumps({"id": doc_id}, ensure_ascii=False)
            points.append(f'{{"id":{number},"vector":{named},"payload":{payload}}}')
            number, size = number + 1, size + len(terms)
            if len(points) == POINTS_A_BODY or size >= WEIGHTS_A_BODY:
                yield f'{{"points":[{",".join(points)}]}}\n'
                points, size = [], 0
    if points:
        yield f'{{"points":[{",".join(points)}]}}\n'


def rows_of(batch: Batch) -> Iterator[tuple[str, list[int], list[str]]]:
    """(id, term numbers, weights as text) of each document."""
    indptr, terms, weights = batch.rows
    numbers, told = np.asarray(terms).tolist(), in_numbers(weights)
    for doc_id, first, end in zip(batch.ids, indptr.tolist(), indptr[1:].tolist(), strict=False):
        yield doc_id, numbers[first:end], told[first:end]
