"""Vectors in JSONL: read_vectors against json.loads line by line."""

import numpy as np
from fuzz.corpus_jsonl import BOM, compare, finite, plain_document, refuse
from fuzz.watch import file_of, outcome, watched

from retrieval.vector_files import read_vectors

SEEDS = [
    b'{"id": "a", "contents": "x", "vector": {"tea": 1.5, "##s": 0, "tiny": 1e-60}}\n{"_id": "b", "vector": {}}\n',
    BOM + b'{"docid": "\\u00e9", "vector": {"": 3, "a b": 7e37}}\r\n\n{"id": "b", "vector": {"x": 340282346638528859811704183484516925440}}',
    b'{"id": "a", "vector": {"tea": 1e39}}',
    b'{"id": "a", "vector": {"tea": -0.0, "x": true}}',
    b'{"id": "a", "vector": {"\\ud800": 1}}',
    b'{"id": "a", "vector": [["tea", 1]]}',
    b'{"id": "a", "vector": {"tea": 1}}\n{"id": "a", "vector": {"tea": 1}}',
    b'{"id": "a", "vector": {"' + b"long " * 300 + b'": -1}}',
]  # fmt: skip


def plain_vectors(data):
    import json

    vectors = {}
    for line in data.removeprefix(BOM).split(b"\n"):
        if not line.strip(b" \r"):
            continue
        record = json.loads(line.decode(), parse_constant=refuse, parse_float=finite)
        if not isinstance(record, dict):
            raise ValueError("not an object")
        document = plain_document(record)
        vector = record.get("vector")
        if not isinstance(vector, dict) or document.doc_id in vectors:
            raise ValueError("no vector, or a second one")
        vectors[document.doc_id] = plain_weights(vector)
    return vectors


def plain_weights(vector):
    weights = {}
    for term, weight in vector.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
            raise ValueError("not a weight")
        if weight > float(np.finfo(np.float32).max) or any("\ud800" <= c <= "\udfff" for c in term):
            raise ValueError("not a weight of a term")
        if np.float32(weight) > 0:
            weights[term] = float(np.float32(weight))
    return weights


def as_dict(path):
    return {document.doc_id: document.vector for document in read_vectors(path).documents()}


def attack(data):
    path = file_of("v.jsonl", data)
    with watched(len(data)):
        vectors, error = outcome(as_dict, path)
    compare(vectors, error, plain_vectors, data, path)
