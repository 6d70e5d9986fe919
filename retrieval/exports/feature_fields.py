"""What Elasticsearch's `sparse_vector` and OpenSearch's `rank_features` share: Lucene's FeatureField.

Lucene keeps a weight as a term's frequency, the upper 17 bits of its float32: sign and exponent, and 9 significant bits. It cuts the
rest off, so that a weight would lose up to 1/256. Weights are written rounded to the nearest that Lucene keeps as it is, and lose up to
1/512. A score is the sum of query weight times weight; query weights are kept as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from index.errors import WinnowError
from retrieval.exports.collection import Batch, WeightedTerms
from retrieval.exports.lines import FIELD, json_rows, query_terms, write_json, write_parts
from retrieval.exports.protocol import Format, Sizes

LOST_BITS = 15
LONGEST_ID = 512  # bytes
LONGEST_TERM = 32_766  # bytes, of Lucene
SMALLEST = float(np.finfo(np.float32).tiny)
LARGEST_QUERY_WEIGHT = 64.0  # of Lucene's FeatureField


class FeatureFields(Format):
    """Both engines but for the mapping of the field and the query."""

    mapping: Mapping[str, Any]  # of the field

    def check_ids(self, doc_ids: Sequence[str]) -> None:
        check_ids(self.name, doc_ids)

    def check_terms(self, terms: Iterable[str]) -> None:
        check_features(self.name, terms)

    def check_sizes(self, sizes: Sizes, num_terms: int) -> None:
        check_smallest(self.name, sizes)

    def written(self, weights: np.ndarray) -> np.ndarray:
        return rounded(weights)

    def write(self, batches: Iterator[Batch], terms: Sequence[str], sizes: Sizes, folder: Path) -> None:
        write_json(folder / "index.json", {"mappings": {"properties": {FIELD: self.mapping}}})
        write_parts(folder, "bulk-{}.ndjson", bulk_lines(batches, feature_keys(terms), FIELD))


def rounded(weights: np.ndarray) -> np.ndarray:
    """float32: the nearest with 9 significant bits, half to even. No finite weight becomes infinite: the largest are cut."""
    bits = weights.astype(np.float32).view(np.uint32)
    half = (np.uint32(1) << np.uint32(LOST_BITS - 1)) - np.uint32(1)
    is_odd = (bits >> np.uint32(LOST_BITS)) & np.uint32(1)
    kept = (bits + half + is_odd) >> np.uint32(LOST_BITS) << np.uint32(LOST_BITS)
    near = kept.view(np.float32)
    return np.where(np.isfinite(near), near, (bits >> np.uint32(LOST_BITS) << np.uint32(LOST_BITS)).view(np.float32))


def feature_name(term: str) -> str:
    """A term as a feature's name: without dots, which these fields refuse. No two terms get one name."""
    return term.replace("%", "%25").replace(".", "%2E")


def check_ids(name: str, doc_ids: Sequence[str]) -> None:
    """Raise WinnowError for ids of more than 512 bytes."""
    for doc_id in doc_ids:
        if len(doc_id.encode()) > LONGEST_ID:
            raise WinnowError(
                f"the document {doc_id!r:.60} has an id of {len(doc_id.encode()):,} bytes, and {name} takes {LONGEST_ID}; give it a shorter one."
            )


def check_features(name: str, terms: Iterable[str]) -> None:
    for term in terms:
        if not 0 < len(feature_name(term).encode()) <= LONGEST_TERM:
            raise WinnowError(
                f"the term {term!r:.60} has {len(term.encode()):,} bytes, and {name} takes 1 to {LONGEST_TERM:,}; leave it out."
            )


def check_smallest(name: str, sizes: Sizes) -> None:
    if sizes.weights and sizes.smallest < SMALLEST:
        raise WinnowError(
            f"the smallest weight is {sizes.smallest:.3g}, and {name} takes {SMALLEST:.3g} or more; leave such weights out."
        )


def bulk_lines(batches: Iterator[Batch], keys: Sequence[str], field: str) -> Iterator[str]:
    """An action and a document each, as the bulk interface reads them; a document without weights has no field."""
    for batch in batches:
        for doc_id, vector in json_rows(batch, keys):
            source = "{}" if vector == "{}" else f'{{"{field}":{vector}}}'
            yield f'{{"index":{{"_id":{doc_id}}}}}\n{source}\n'


def feature_keys(terms: Sequence[str]) -> list[str]:
    return [json.dumps(feature_name(term), ensure_ascii=False) for term in terms]


def query_features(name: str, query: WeightedTerms, terms: Sequence[str]) -> dict[str, float]:
    """Weight by feature. Raises WinnowError for one above 64."""
    if len(query.weights) and query.weights.max() > LARGEST_QUERY_WEIGHT:
        raise WinnowError(
            f"the query has a weight of {query.weights.max():.6g}, and {name} takes up to {LARGEST_QUERY_WEIGHT:.0f}; make its weights smaller."
        )
    return {feature_name(terms[number]): weight for number, weight in query_terms(query)}
