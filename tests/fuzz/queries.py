"""queries.jsonl: read_queries against json.loads line by line."""

from fuzz import corpus_jsonl
from fuzz.watch import file_of, outcome, watched

from retrieval.beir_folder import read_queries

SEEDS = [*corpus_jsonl.SEEDS, b'{"_id": "1", "text": "one"}\n{"_id": "1", "text": "two"}\n']


def plain_queries(data):
    queries = {}
    for query in corpus_jsonl.plain_documents(data):
        if query.doc_id in queries:
            raise ValueError("twice")
        queries[query.doc_id] = query.text
    return queries


def attack(data):
    path = file_of("queries.jsonl", data)
    with watched(len(data)):
        queries, error = outcome(read_queries, path)
    corpus_jsonl.compare(queries, error, plain_queries, data, path)
