"""Filters, as JSON gives them: taken or refused in a sentence, and what is taken decides alike by document and by column."""

import json

from fuzz.watch import demand, outcome, watched

from index.documents import Document, DocumentStore
from index.errors import FilterError
from retrieval.conditions import Condition

DOCUMENTS = [
    Document("a", "Tea", "green", {"year": 1999, "tags": ["x", 1, None], "in": {"a": [1, {"b": "y"}]}}),
    Document("b", "", "black tea", {"year": 2000.0, "tags": "x", "ok": True, "a.b": 3}),
    Document("c", fields={"year": "2000", "tags": [], "ok": None, "in": [{"a": False}, {"a": 2}]}),
    Document("d"),
]
STORE = DocumentStore.of(DOCUMENTS)
SEEDS = [
    b'{"year": 1999}',
    b'{"year": {"$gte": 2000, "$lt": 2001}, "ok": true}',
    b'{"$or": [{"tags": "x"}, {"$not": {"in.a": {"$exists": true}}}]}',
    b'{"$and": [{"_id": {"$in": ["a", "b"]}}, {"tags": {"$nin": [1, null, []]}}]}',
    b'{"in": {"a": false}, "a.b": {"$ne": 3}, "title": {"$not": {"$gt": "T"}}}',
]


def attack(data):
    try:
        given = json.loads(data.decode())
    except (ValueError, RecursionError):
        return
    with watched(len(data)):
        condition, error = outcome(Condition.of, given)
    if error is not None:
        demand(isinstance(error, FilterError), f"{given!r:.200} is refused by {error!r}")
        return
    with watched(len(data)):
        columns = STORE.columns({one.path for one in condition.comparisons()})
        masks = condition.evaluate(lambda one: columns[one.path].holding(one.holds))
    for number, document in enumerate(DOCUMENTS):
        by_column = bool(masks if isinstance(masks, bool) else masks[number])
        demand(condition.fits(document) == by_column, f"{given!r:.200} decides {document.doc_id} otherwise by column")
    demand(hash(Condition.of(given)) == hash(condition), f"{given!r:.200} has two hashes")
    demand(Condition.of(given) == condition, f"{given!r:.200} is not equal to itself")
