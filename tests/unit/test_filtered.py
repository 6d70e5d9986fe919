"""A filtered snapshot: what is found, what is refused, what is kept."""

import gc
import threading
import weakref

import numpy as np
import pytest
from encoders_for_tests import WordEncoder

from index import columns
from index.documents import Document
from index.errors import FilterError
from index.folder_writer import FolderWriter
from index.snapshot import MOST_KEPT, Snapshot
from index.storage import read_current
from index.writer import Writer
from retrieval.conditions import Condition
from retrieval.encoders.bm25 import BM25Encoder
from retrieval.encoders.given_vectors import GivenVectors
from retrieval.filtered import filtered

TEXTS = ["green tea", "black tea milk", "milk and rain", "rain on the sea", "tea tea sea", ""]
TERMS = ["tea", "milk", "rain", "sea"]
QUERIES = ["tea", "milk rain", "green sea tea"]


def document(number):
    weights = {term: 1.0 + (number * 7 + place) % 5 for place, term in enumerate(TERMS) if (number + place) % 3}
    fields = {"year": 1990 + number, "lang": "en" if number % 3 else "de", "tags": TEXTS[number % 6].split()}
    return Document(str(number), f"T{number % 2}", TEXTS[number % 6], fields, weights)


ENCODERS = {"bm25": BM25Encoder(), "words": WordEncoder(), "vectors": GivenVectors()}


def committed(writer):
    writer.commit()
    return writer.snapshot


def grown(writer):
    """Three segments with deletes in two of them."""
    for first in range(0, 18, 6):
        writer.add([document(number) for number in range(first, first + 6)])
        writer.commit()
    writer.delete(["1", "4", "17"])
    return committed(writer)


@pytest.fixture
def writer():
    return Writer(Snapshot(), ENCODERS)


@pytest.fixture
def snapshot(writer):
    return grown(writer)


def having(snapshot, filter):
    return [document.doc_id for document in filtered(snapshot, Condition.of(filter)).documents()]


def ranking(snapshot, arm, query, k=50):
    found = snapshot.arms[arm]
    scores, docs = found.search(ENCODERS[arm].encode_query(query, found), k)
    return list(zip(snapshot.ids(docs.tolist()), scores.view(np.uint32).tolist(), strict=True))


FILTERS = [
    {"year": {"$gte": 1995}, "lang": "en"},
    {"tags": "tea"},
    {"tags": {"$nin": ["tea", "milk"]}},
    {"_id": {"$in": ["0", "1", "2", "9", "none", "\ud800", 7]}},
    {"$or": [{"_id": "3"}, {"title": "T1"}], "_id": {"$ne": "5"}},
    {"text": {"$gte": "m"}},
    {"year": 1},
    {},
]


@pytest.mark.parametrize("filter", FILTERS, ids=str)
def test_a_filtered_ranking_is_the_whole_ranking_without_the_others(snapshot, filter):
    allowed = {document.doc_id for document in snapshot.documents() if Condition.of(filter).fits(document)}
    assert having(snapshot, filter) == [doc_id for doc_id in map(str, range(18)) if doc_id in allowed]
    some = filtered(snapshot, Condition.of(filter))
    assert some.num_docs == len(allowed)
    for arm in ENCODERS:
        assert some.arms[arm].num_live == len(allowed)
        for query in QUERIES:
            whole = ranking(snapshot, arm, query)
            for k in (1, 3, 50):
                assert ranking(some, arm, query, k) == [hit for hit in whole if hit[0] in allowed][:k]


@pytest.mark.parametrize("filter", FILTERS, ids=str)
def test_where_scores_do_not_depend_on_the_collection_it_is_an_index_of_the_documents_that_fit(snapshot, filter):
    some = filtered(snapshot, Condition.of(filter))
    fresh = Writer(Snapshot(), ENCODERS)
    fresh.add([document(int(doc_id)) for doc_id in having(snapshot, filter)])
    alone = committed(fresh)
    for query in QUERIES if alone.num_docs else ():
        assert ranking(some, "vectors", query) == ranking(alone, "vectors", query)


def test_the_same_filter_again_is_the_same_snapshot(snapshot):
    first = filtered(snapshot, Condition.of({"year": {"$in": [1, 1995]}}))
    assert filtered(snapshot, Condition.of({"year": {"$in": {1995.0, 1}}})) is first
    assert filtered(snapshot, Condition.of({"year": {"$nin": [1, 1995]}})) is not first
    assert filtered(snapshot.only([np.ones(6, np.bool_)] * 3), Condition.of({"year": {"$in": [1, 1995]}})) is not first


def test_filters_used_longest_ago_go_and_all_go_with_the_snapshot(writer):
    snapshot = grown(writer)
    conditions = [Condition.of({"year": {"$gt": year}}) for year in range(MOST_KEPT + 1)]
    first, second = filtered(snapshot, conditions[0]), weakref.ref(filtered(snapshot, conditions[1]))
    for condition in conditions[2:]:
        assert filtered(snapshot, conditions[0]) is first
        filtered(snapshot, condition)
    gc.collect()
    assert second() is None
    kept = weakref.ref(first)
    del first, snapshot
    writer.add([document(20)])
    writer.commit()
    gc.collect()
    assert kept() is None


def test_filters_follow_commits_deletes_and_merges_and_old_snapshots_stay(writer, monkeypatch):
    read, passes = columns.read_columns, []

    def counted(documents, paths, room):
        passes.append(len(documents))
        return read(documents, paths, room)

    monkeypatch.setattr(columns, "read_columns", counted)
    snapshot, late = grown(writer), {"year": {"$gte": 2005}}
    assert having(snapshot, late) == ["15", "16"]
    writer.delete(["16"])
    writer.add([document(20), document(3000)])
    after = committed(writer)
    assert having(after, late) == ["15", "20", "3000"]
    assert passes == [6, 6, 6, 2]  # only the new segment was read
    merged = writer.merge_all()
    assert having(merged, late) == ["15", "20", "3000"]
    assert (having(snapshot, late), having(after, late)) == (["15", "16"], ["15", "20", "3000"])


def test_a_folder_that_is_opened_filters_alike(tmp_path):
    with FolderWriter(tmp_path / "i", "three arms") as files:
        grown(Writer(Snapshot(model=files.new_part()), ENCODERS, files))
    snapshot = read_current(tmp_path / "i", "three arms", Snapshot.read)
    assert having(snapshot, {"year": {"$gte": 2004}}) == ["14", "15", "16"]
    some = filtered(snapshot, Condition.of({"year": {"$gte": 2004}}))
    assert [hit[0] for hit in ranking(some, "bm25", "tea sea")] == ["16", "15"]


def test_threads_filter_one_snapshot(snapshot):
    barrier, found = threading.Barrier(4), []

    def ask():
        barrier.wait()
        for year in range(1990, 2008):
            found.append((year, having(snapshot, {"year": year})))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gone = {1991, 1994, 2007}
    assert len(found) == 4 * 18
    assert all(ids == ([] if year in gone else [str(year - 1990)]) for year, ids in found)


@pytest.fixture
def mixed(writer):
    fields = [
        {"year": 1, "name": "x", "flag": True, "mix": 1, "only": None, "o": {"inner": 5}, "list": ["a"], "none": []},
        {"year": 2.5, "name": "y", "flag": False, "mix": "1", "null": None, "list": [], "numbers": [1, 2]},
        {"gone": 1, "mixed once": True, "null": 3, "name": None},
        {"mixed once": 1},
    ]
    writer.add([Document(str(n), text="tea", fields=one, vector={"tea": 1.0}) for n, one in enumerate(fields)])
    writer.commit()
    writer.delete(["2"])
    return committed(writer)


@pytest.mark.parametrize(
    ("filter", "message"),
    [
        ({"yaer": 1}, "filter asks for the field 'yaer', which no document has; there is 'year'"),
        ({"x": {"$ne": 1}}, "'x', which no document has; there are 'year', 'name', 'flag', 'mix', 'only' and others"),
        ({"o.iner": 5}, "'o.iner', which no document has; there is 'o.inner'"),
        ({"gone": 1}, "'gone', which no document has"),  # its only document was deleted
        ({"Title": "x"}, "there is 'title'"),
        ({"$or": [{"year": 1}, {"$not": {"yaer": 1}}]}, "'yaer', which no document has"),
        ({"name": 5}, "filter compares 'name' with 5, but the field has no numbers, only strings; compare it with strings"),
        ({"name": {"$ne": 5}}, "'name' with 5, but the field has no numbers"),
        ({"year": "1"}, "filter compares 'year' with '1', but the field has no strings, only numbers"),
        ({"year": True}, "'year' with True, but the field has no booleans, only numbers"),
        ({"flag": 1}, "'flag' with 1, but the field has no numbers, only booleans"),
        ({"year": [1, 2]}, r'the field has no lists, only numbers; give \{"\$in": \[\.\.\.\]\} for any of several'),
        ({"year": {"$in": ["1", "2"]}}, r"'year' with \['1', '2'\], but the field has no strings"),
        ({"year": {"$gt": "1"}}, "'year' with '1', but the field has no strings, only numbers"),
        ({"list": {"$lt": 1}}, "'list' with 1, but the field has no numbers, only strings and lists; compare it with strings"),
        ({"o": {"inner": 5, "x": 1}, "o.inner": "5"}, "'o.inner' with '5', but the field has no strings"),
        ({"null": "x", "name": 1}, "'name' with 1"),
        ({"flag": {"$gt": 0}}, "'flag' with 0, but the field has no numbers, only booleans"),
        ({"_id": 5}, "'_id' with 5, but the field has no numbers, only strings"),
        ({"text": {"$gt": 5}}, "'text' with 5, but the field has no numbers, only strings"),
    ],
    ids=str,
)  # fmt: skip
def test_what_no_document_could_answer_is_one_sentence(mixed, filter, message):
    for _ in range(2):
        with pytest.raises(FilterError, match=message) as caught:
            filtered(mixed, Condition.of(filter))
        assert str(caught.value).endswith(".")
        assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("filter", "ids"),
    [
        ({"year": 7}, []),
        ({"mix": "1"}, ["1"]),
        ({"mix": 1}, ["0"]),
        ({"mix": {"$gt": 0}}, ["0"]),  # and the one with a string does not spoil it
        ({"year": {"$in": ["1", 1]}}, ["0"]),
        ({"year": {"$in": []}}, []),
        ({"year": None}, []),
        ({"null": None}, ["1"]),
        ({"null": "x"}, []),  # null may stand for any type
        ({"none": "x"}, []),
        ({"yaer": {"$exists": True}}, []),
        ({"yaer": {"$exists": False}}, ["0", "1", "3"]),
        ({"mixed once": {"$gt": 0}}, ["3"]),  # the document with another type is gone
        ({"numbers": {"$gt": 1}}, ["1"]),
        ({"list": "a"}, ["0"]),
        ({"list": []}, ["1"]),
    ],
    ids=str,
)
def test_what_merely_no_document_has_is_no_error(mixed, filter, ids):
    assert having(mixed, filter) == ids


def test_documents_without_fields_are_told_so_and_an_empty_collection_has_no_slips(writer):
    writer.add([Document("a", text="tea", vector={"tea": 1.0})])
    with pytest.raises(FilterError, match="documents have no fields but _id, title and text"):
        filtered(committed(writer), Condition.of({"year": 1}))
    assert filtered(Snapshot(), Condition.of({"year": 1})).num_docs == 0


def test_a_filter_that_everything_fits_costs_a_search_nothing(snapshot):
    some = filtered(snapshot, Condition.of({"year": {"$gt": 0}}))
    assert [live for _, live, _ in some.segments] == [live for _, live, _ in snapshot.segments]
    assert some.segments[0].live is snapshot.segments[0].live
