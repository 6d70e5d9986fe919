"""Milvus: rows with a `SPARSE_FLOAT_VECTOR`, one a line, and the collection to create for them.

Weights are float32. An index of the type SPARSE_INVERTED_INDEX searches exactly as long as no `drop_ratio` is above 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from index.errors import WinnowError
from retrieval.exports.collection import Batch, WeightedTerms
from retrieval.exports.lines import FIELD, as_json, json_rows, query_terms, write_json, write_parts, write_vocabulary
from retrieval.exports.protocol import Format, Sizes

LONGEST_ID = 65_535  # bytes of a VARCHAR
COLLECTION = "documents"


class Milvus(Format):
    name = "milvus"

    def check_ids(self, doc_ids: Sequence[str]) -> None:
        for doc_id in doc_ids:
            if len(doc_id.encode()) > LONGEST_ID:
                raise WinnowError(
                    f"the document {doc_id!r:.60} has an id of {len(doc_id.encode()):,} bytes, and milvus takes {LONGEST_ID:,}; give it a shorter one."
                )

    def write(self, batches: Iterator[Batch], terms: Sequence[str], sizes: Sizes, folder: Path) -> None:
        fields = [
            {"fieldName": "id", "dataType": "VarChar", "isPrimary": True, "elementTypeParams": {"max_length": LONGEST_ID}},
            {"fieldName": FIELD, "dataType": "SparseFloatVector"},
        ]  # fmt: skip
        index = {"fieldName": FIELD, "indexName": FIELD, "metricType": "IP", "indexType": "SPARSE_INVERTED_INDEX"}
        schema = {"autoId": False, "enableDynamicField": False, "fields": fields}
        created = {"collectionName": COLLECTION, "schema": schema, "indexParams": [index]}
        write_json(folder / "collection.json", created)
        write_vocabulary(folder, terms)
        keys = [f'"{number}"' for number in range(len(terms))]
        lines = (
            f'{{"id":{doc_id},"{FIELD}":{vector}}}\n' for batch in batches for doc_id, vector in json_rows(batch, keys)
        )
        write_parts(folder, "rows-{}.jsonl", lines)

    def query_request(self, query: WeightedTerms, terms: Sequence[str], k: int) -> str:
        vector = {str(number): weight for number, weight in query_terms(query)}
        search = {"metricType": "IP", "params": {"drop_ratio_search": 0.0}}
        return as_json({"collectionName": COLLECTION, "data": [vector], "annsField": FIELD, "limit": k, "outputFields": ["id"], "searchParams": search})  # fmt: skip
