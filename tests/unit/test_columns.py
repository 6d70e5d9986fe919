"""Columns of stored fields: coded once, kept within a limit, read again where they do not fit."""

import sqlite3
import threading

import numpy as np
import pytest

from index import columns
from index.columns import ABSENT, ROOM, Column, LongColumn, canonical, kinds_of, paths_in, value_at
from index.documents import Document, DocumentStore
from index.errors import IndexFormatError

FIELDS = [
    {"year": 1999, "tags": ["x", None]},
    {},
    {"year": 1999.0, "tags": []},
    {"year": "1999", "o": {"p": [{"q": 1}]}},
]


def store_of(fields):
    return DocumentStore.of(Document(f"d{number}", text="tea", fields=one) for number, one in enumerate(fields))


@pytest.fixture
def store():
    return store_of(FIELDS)


@pytest.fixture
def passes(monkeypatch):
    """The fields that each pass over the documents reads."""
    seen, read = [], columns.read_columns

    def counted(documents, paths, room):
        seen.append(list(paths))
        return read(documents, paths, room)

    monkeypatch.setattr(columns, "read_columns", counted)
    return seen


def test_equal_values_share_a_code_and_missing_ones_have_none(store):
    year = store.columns(["year"])["year"]
    assert (year.codes.tolist(), year.values) == ([0, -1, 0, 1], [1999, "1999"])
    assert year.codes.dtype == np.int32
    assert not year.codes.flags.writeable


def test_a_predicate_sees_each_distinct_value_once_and_what_is_missing(store):
    seen = []

    def holds(value):
        seen.append(value)
        return value is ABSENT or value == "1999"

    assert store.columns(["year"])["year"].holding(holds).tolist() == [False, True, False, True]
    assert seen == [1999, "1999", ABSENT]


@pytest.mark.parametrize(
    ("live", "kinds"),
    [(None, {"numbers", "strings"}), ([1, 1, 1, 0], {"numbers"}), ([0, 0, 0, 1], {"strings"}), ([0, 1, 0, 0], set())],
)
@pytest.mark.parametrize("room", [ROOM, 0])
def test_the_kinds_of_a_field_are_those_of_its_live_documents(store, live, kinds, room, monkeypatch):
    monkeypatch.setattr(columns, "ROOM", room)
    monkeypatch.setattr(columns, "ROOM_A_DOCUMENT", 0)
    column = store.columns(["year"])["year"]
    assert isinstance(column, LongColumn if room == 0 else Column)
    found = column.kinds(None if live is None else np.array(live, np.bool_))
    assert {name for kind, name in columns.KINDS.items() if found & kind} == kinds


def test_the_kinds_of_a_list_are_its_elements_too():
    assert kinds_of(["x", None]) == columns.LIST | columns.STRING | columns.NULL
    assert kinds_of([]) == columns.LIST
    assert kinds_of([[1]]) == columns.LIST


def test_several_fields_are_read_in_one_pass_and_never_again(store, passes):
    assert list(store.columns({"year", "tags", "_id"})) != []
    assert store.columns(["year"])["year"] is store.columns(["year", "year"])["year"]
    store.columns(["tags", "o.p.q"])
    assert passes == [["_id", "tags", "year"], ["o.p.q"]]


def test_own_fields_are_columns_too(store):
    found = store.columns(["_id", "title", "text"])
    assert found["_id"].values == ["d0", "d1", "d2", "d3"]
    assert (found["title"].values, found["text"].values) == ([""], ["tea"])


def test_values_too_long_to_keep_are_read_again(passes, monkeypatch):
    monkeypatch.setattr(columns, "ROOM", 3_000)
    monkeypatch.setattr(columns, "ROOM_A_DOCUMENT", 0)
    store = store_of([{"long": 7}] + [{"long": f"{number} {'x' * 900}"} for number in range(9)] + [{}])
    for _ in range(2):
        column = store.columns(["long"])["long"]
        assert isinstance(column, LongColumn)
        assert column.holding(lambda value: value is ABSENT or value == 7).tolist() == [True] + [False] * 9 + [True]
        assert column.kinds(None) == columns.STRING | columns.NUMBER
    assert passes == [["long"]]
    assert store._columns.nbytes == 11  # its kinds, a byte a document


def test_the_columns_used_longest_ago_make_room(passes, monkeypatch):
    monkeypatch.setattr(columns, "ROOM", 1_500)
    monkeypatch.setattr(columns, "ROOM_A_DOCUMENT", 0)
    store = store_of([{name: f"{name}{number}" for name in "abc"} for number in range(10)])
    for name in "abacb":  # a column takes 10 * (4 + 49 + 2 + 9) = 640 bytes
        store.columns([name])
        assert store._columns.nbytes <= 1_500
    assert passes == [["a"], ["b"], ["c"], ["b"]]
    assert store.columns(["a"])["a"].values[3] == "a3"


def test_names_of_fields_that_nobody_has_take_next_to_nothing(store, monkeypatch):
    monkeypatch.setattr(columns, "MOST_COLUMNS", 3)
    for number in range(9):
        column = store.columns([f"field {number}"])[f"field {number}"]
        assert column.holding(lambda value: value is ABSENT).tolist() == [True] * 4
        assert column.kinds(None) == 0
    assert (store._columns.nbytes, len(store._columns._kept)) == (0, 3)


def test_of_a_store_without_documents_columns_are_empty():
    column = store_of([]).columns(["year"])["year"]
    assert column.holding(lambda value: True).tolist() == []
    assert column.kinds(None) == column.kinds(np.zeros(0, np.bool_)) == 0


def test_threads_that_ask_at_once_share_one_pass(passes):
    store = store_of([{"year": number} for number in range(2_000)])
    barrier, found = threading.Barrier(4), []

    def ask():
        barrier.wait()
        found.append(store.columns(["year"])["year"])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert passes == [["year"]]
    assert all(column is found[0] for column in found)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("DELETE FROM documents WHERE doc = 1", "3 of 4 stored documents can be read to filter them"),
        ("UPDATE documents SET fields = '{}' WHERE doc = 0", "document 0 does not match its checksum"),
    ],
)
def test_documents_that_are_damaged_are_no_columns(store, tmp_path, damage, message):
    store.write(tmp_path)
    connection = sqlite3.connect(tmp_path / "documents.sqlite")
    with connection:
        connection.execute(damage)
    connection.close()
    damaged = DocumentStore.read(tmp_path)
    for _ in range(2):
        with pytest.raises(IndexFormatError, match=message):
            damaged.columns(["year"])


@pytest.mark.parametrize(
    ("fields", "path", "value"),
    [
        ({"a": 1}, "a", 1),
        ({"a": 1}, "b", ABSENT),
        ({"a": None}, "a", None),
        ({"a": None}, "a.b", ABSENT),
        ({"a": {"b": 1}}, "a.b", 1),
        ({"a": {"b": 1}, "a.b": 2}, "a.b", 2),
        ({"a.b": {"c": 1}}, "a.b.c", 1),
        ({"a": {"x": 0}, "a.b": {"c": 1}}, "a.b.c", 1),
        ({"a": [{"b": 1}, {"c": 2}, 3, {"b": [4, [5]]}]}, "a.b", [1, 4, [5]]),
        ({"a": [1, 2]}, "a.b", ABSENT),
        ({"a": [1, 2]}, "a.0", ABSENT),
        ({"a": {"b": {}}}, "a.b.c", ABSENT),
        ({"": {"": 1}}, ".", 1),
    ],
)
def test_a_dotted_path_leads_into_objects(fields, path, value):
    assert value_at(fields, path) == value


def test_every_path_that_is_listed_leads_to_something():
    fields = {"a": [{"b": {"c": 1}}, 2], "d.e": {"f": None}, "g": {}}
    paths = list(paths_in(fields))
    assert paths == ["a", "a.b", "a.b.c", "d.e", "d.e.f", "g"]
    assert ABSENT not in [value_at(fields, path) for path in paths]


@pytest.mark.parametrize(
    ("one", "other", "are_equal"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        (None, False, False),
        ("1", 1, False),
        ([1, [2]], (1.0, (2,)), True),
        ([1], [True], False),
        ([1, 2], [2, 1], False),
        ({"a": 1, "b": [True]}, {"b": [True], "a": 1.0}, True),
        ({"a": 1}, {"a": True}, False),
        ([], {}, False),
        (["boolean", True], True, False),
    ],
)
def test_values_are_equal_as_in_json(one, other, are_equal):
    assert (canonical(one) == canonical(other)) == are_equal
    assert not are_equal or hash(canonical(one)) == hash(canonical(other))
