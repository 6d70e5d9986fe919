"""Elasticsearch: bulk requests for a `sparse_vector` field, with token pruning off, which new fields have on.

Pruning leaves out query terms that are five times as frequent as the mean and weigh less than 0.4 of the heaviest; then scores are no
longer dot products. `index_options` of a mapping are known from 8.19 and 9.1 on; leave them out before, and rely on the query's `prune`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from retrieval.exports.collection import Batch, WeightedTerms
from retrieval.exports.feature_fields import (
    bulk_lines,
    check_features,
    check_ids,
    check_smallest,
    feature_keys,
    query_features,
    rounded,
)
from retrieval.exports.lines import FIELD, as_json, write_json, write_parts
from retrieval.exports.protocol import Format, Sizes


class Elasticsearch(Format):
    name = "elasticsearch"

    def check_ids(self, doc_ids: Sequence[str]) -> None:
        check_ids(self.name, doc_ids)

    def check_terms(self, terms: Iterable[str]) -> None:
        check_features(self.name, terms)

    def check_sizes(self, sizes: Sizes, num_terms: int) -> None:
        check_smallest(self.name, sizes)

    def written(self, weights: np.ndarray) -> np.ndarray:
        return rounded(weights)

    def write(self, batches: Iterator[Batch], terms: Sequence[str], sizes: Sizes, folder: Path) -> None:
        field = {"type": "sparse_vector", "index_options": {"prune": False}}
        write_json(folder / "index.json", {"mappings": {"properties": {FIELD: field}}})
        write_parts(folder, "bulk-{}.ndjson", bulk_lines(batches, feature_keys(terms), FIELD))

    def query_request(self, query: WeightedTerms, terms: Sequence[str], k: int) -> str:
        vector = query_features(self.name, query, terms)
        asked = {"field": FIELD, "query_vector": vector, "prune": False}
        return as_json({"size": k, "_source": False, "query": {"sparse_vector": asked}})
