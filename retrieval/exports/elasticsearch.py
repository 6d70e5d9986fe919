"""Elasticsearch: bulk requests for a `sparse_vector` field, with token pruning off, which new fields have on.

Pruning leaves out query terms that are five times as frequent as the mean and weigh less than 0.4 of the heaviest; then scores are no
longer dot products. `index_options` of a mapping are known from 8.19 and 9.1 on; leave them out before, and rely on the query's `prune`.
"""

from __future__ import annotations

from collections.abc import Sequence

from retrieval.exports.collection import WeightedTerms
from retrieval.exports.feature_fields import FeatureFields, query_features
from retrieval.exports.lines import FIELD, as_json


class Elasticsearch(FeatureFields):
    name = "elasticsearch"
    mapping = {"type": "sparse_vector", "index_options": {"prune": False}}

    def query_request(self, query: WeightedTerms, terms: Sequence[str], k: int) -> str:
        vector = query_features(self.name, query, terms)
        asked = {"field": FIELD, "query_vector": vector, "prune": False}
        return as_json({"size": k, "_source": False, "query": {"sparse_vector": asked}})
