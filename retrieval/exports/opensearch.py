"""OpenSearch: bulk requests for a `rank_features` field, and for a `sparse_vector` field (Seismic, from 3.3 on).

`sparse_vector` calls terms by numbers of 16 bits and keeps weights as bytes: round(weight / ceiling * 255), what is above the ceiling
as 255. The mapping's ceiling for documents is the largest weight of the collection, where the engine's own would be 3; a query's is 16.
It searches so only in segments of a million documents or more (`approximate_threshold`), and then roughly: a list keeps its
`n_postings` heaviest documents, by default 0.0005 of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from index.errors import WinnowError
from retrieval.exports.collection import Batch, WeightedTerms
from retrieval.exports.feature_fields import FeatureFields, bulk_lines, check_ids, query_features
from retrieval.exports.lines import FIELD, as_json, query_terms, write_json, write_parts, write_vocabulary
from retrieval.exports.protocol import Format, Sizes

MOST_TERMS = 65_536  # beyond, the engine takes several for one
LEVELS = 255
QUERY_CEILING = 16.0


class OpenSearchRankFeatures(FeatureFields):
    name = "opensearch"
    mapping = {"type": "rank_features"}

    def query_request(self, query: WeightedTerms, terms: Sequence[str], k: int) -> str:
        tokens = query_features(self.name, query, terms)
        return as_json({"size": k, "_source": False, "query": {"neural_sparse": {FIELD: {"query_tokens": tokens}}}})


@dataclass(frozen=True, slots=True)
class OpenSearchSparseVector(Format):
    """ceiling  the weight that the engine keeps as 255; 0: not known yet"""

    ceiling: float = 0.0
    name = "opensearch-sparse-vector"

    def check_ids(self, doc_ids: Sequence[str]) -> None:
        check_ids(self.name, doc_ids)

    def check_sizes(self, sizes: Sizes, num_terms: int) -> None:
        if num_terms > MOST_TERMS:
            raise WinnowError(
                f"the collection has {num_terms:,} terms, and {self.name} tells {MOST_TERMS:,} apart; export to opensearch, whose terms are words."
            )

    def fitted(self, sizes: Sizes) -> OpenSearchSparseVector:
        return replace(self, ceiling=sizes.largest or 1.0)

    def held(self, written: np.ndarray) -> np.ndarray:
        return in_bytes(written, self.ceiling)

    def query_held(self, weights: np.ndarray) -> np.ndarray:
        return in_bytes(weights, QUERY_CEILING)

    def write(self, batches: Iterator[Batch], terms: Sequence[str], sizes: Sizes, folder: Path) -> None:
        ceilings = {"quantization_ceiling_ingest": self.ceiling, "quantization_ceiling_search": QUERY_CEILING}
        field = {"type": "sparse_vector", "method": {"name": "seismic", "parameters": ceilings}}
        mapping = {"settings": {"index": {"sparse": True}}, "mappings": {"properties": {FIELD: field}}}
        write_json(folder / "index.json", mapping)
        write_vocabulary(folder, terms)
        keys = [f'"{number}"' for number in range(len(terms))]
        write_parts(folder, "bulk-{}.ndjson", bulk_lines(batches, keys, FIELD))

    def query_request(self, query: WeightedTerms, terms: Sequence[str], k: int) -> str:
        tokens = {str(number): weight for number, weight in query_terms(query)}
        asked = {"query_tokens": tokens, "method_parameters": {"k": k, "top_n": max(len(tokens), 1)}}
        return as_json({"size": k, "_source": False, "query": {"neural_sparse": {FIELD: asked}}})


def in_bytes(weights: np.ndarray, ceiling: float) -> np.ndarray:
    """float64: what weights are worth as whole numbers up to 255 of a ceiling."""
    levels = np.floor(np.minimum(weights.astype(np.float64), ceiling) / ceiling * LEVELS + 0.5)
    return levels * (ceiling / LEVELS)
