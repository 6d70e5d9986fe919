"""After any sequence of changes an index answers as one built fresh from the surviving documents: same scores, same order."""

import shutil
import tempfile
from pathlib import Path

import pytest
from encoders_for_tests import HashedWords, WordEncoder
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from index.errors import CorpusError
from retrieval import Retriever
from retrieval.encoders.bm25 import BM25Encoder

WORDS = ["tea", "milk", "green", "black", "cup", "the", "rain", "sea"]
QUERIES = ["tea", "milk milk sea", "green tea rain cup black", "the", "sea cup"]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)
IDS = st.sampled_from([f"d{number}" for number in range(12)])
CORPUS = st.lists(st.tuples(IDS, TEXTS, st.integers(0, 2)), min_size=1, max_size=6, unique_by=lambda one: one[0])
OPERATIONS = st.one_of(
    st.tuples(st.sampled_from(["add", "upsert", "index"]), CORPUS),
    st.tuples(st.just("delete"), st.lists(IDS, min_size=1, max_size=5)),
    st.tuples(st.just("delete where"), st.integers(0, 2)),
    st.tuples(st.sampled_from(["commit", "commit", "commit", "rollback", "merge", "reopen"]), st.none()),
)
ENCODERS = {
    "bm25": lambda: [BM25Encoder()],
    "u8": lambda: [WordEncoder("u8")],
    "u16": lambda: [WordEncoder("u16")],
    "f32": lambda: [WordEncoder("f32")],
    "dense": lambda: [HashedWords()],
    "hybrid": lambda: [BM25Encoder(), WordEncoder("u8"), HashedWords()],
}


def records(corpus):
    return [{"_id": doc_id, "text": text, "year": year} for doc_id, text, year in corpus]


class Model:
    """What the index should hold: dictionaries, in order."""

    def __init__(self):
        self.committed, self.staged = {}, {}

    def apply(self, retriever, operation, given):
        if operation == "add" or operation == "index":
            taken = [doc_id for doc_id, _, _ in given if doc_id in self.staged]
            change = retriever.add if operation == "add" else retriever.index
            if taken:
                with pytest.raises(CorpusError, match="id"):
                    change(records(given), progress=False)
                return
            change(records(given), progress=False)
            self.staged |= {doc_id: (text, year) for doc_id, text, year in given}
        elif operation == "upsert":
            retriever.upsert(records(given), progress=False)
            for doc_id, text, year in given:
                self.staged.pop(doc_id, None)
                self.staged[doc_id] = text, year
        elif operation == "delete":
            there = [doc_id for doc_id in dict.fromkeys(given) if doc_id in self.staged]
            assert retriever.delete(given) == there
            self.staged = {doc_id: one for doc_id, one in self.staged.items() if doc_id not in given}
        elif operation == "delete where":
            retriever.delete(where={"year": given})
            self.staged = {doc_id: one for doc_id, one in self.staged.items() if one[1] != given}
        elif operation == "rollback":
            retriever.rollback()
            self.staged = dict(self.committed)
        if operation in ("commit", "index", "merge", "reopen"):
            retriever.commit(progress=False)
            self.committed = dict(self.staged)
        if operation == "merge":
            retriever.merge()
            assert retriever.statistics().segments <= 1
            assert retriever.statistics().deleted == 0


def check(retriever, model, encoders):
    assert len(retriever) == len(model.committed)
    if not model.committed:
        return
    fresh = Retriever(*encoders()).index(
        [{"_id": doc_id, "text": text, "year": year} for doc_id, (text, year) in model.committed.items()],
        progress=False,
    )
    for query in QUERIES:
        for k in (1, 3, 100):
            assert retriever.search(query, k) == fresh.search(query, k)
        for hit in retriever.search(query, 2):
            explained = retriever.explain(query, hit.doc_id)
            assert explained.score == hit.score
            assert explained == fresh.explain(query, hit.doc_id)
    assert retriever.search_batch(QUERIES, 3) == fresh.search_batch(QUERIES, 3)
    mine, its = retriever.statistics(), fresh.statistics()
    assert (mine.documents, mine.documents_without_terms) == (its.documents, its.documents_without_terms)


@pytest.mark.parametrize("in_folder", [False, True], ids=["memory", "folder"])
@pytest.mark.parametrize("name", ENCODERS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(operations=st.lists(OPERATIONS, min_size=1, max_size=14))
@example(
    operations=[
        ("index", [("a", "tea", 0)]),
        ("index", [("b", "tea tea milk sea", 0)]),
        ("delete", ["a"]),
        ("commit", None),
    ]
)
@example(
    operations=[("index", [(f"d{n}", "tea milk", n % 2)]) for n in range(9)]
    + [("delete where", 0), ("commit", None), ("merge", None)]
)
@example(operations=[("index", [(f"d{n}", "tea" * (n == 2), 0)]) for n in range(5)] + [("merge", None)])  # no terms
@example(operations=[("index", [(f"d{n}", "", 0)]) for n in range(5)] + [("merge", None)])
@example(operations=[("index", [("a", "", 0)]), ("delete", ["a"]), ("commit", None), ("index", [("a", "sea", 1)])])
def test_any_sequence_of_changes_equals_a_fresh_build(name, in_folder, operations):
    encoders, model = ENCODERS[name], Model()
    retriever = Retriever(*encoders())
    folder = Path(tempfile.mkdtemp())
    try:
        if in_folder:
            retriever.save_pretrained(folder / "i")
        for operation, given_ in operations:
            model.apply(retriever, operation, given_)
            if operation == "reopen" and in_folder:
                retriever = Retriever.from_folder(folder / "i")
            if operation in ("commit", "index", "merge", "reopen", "rollback"):
                check(retriever, model, encoders)
        retriever.rollback()
        check(retriever, model, encoders)
        if in_folder:
            assert len(Retriever.from_folder(folder / "i", verify="full")) == len(model.committed)
    finally:
        shutil.rmtree(folder)
