import os
import re
import resource
import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest

from index.documents import Document, DocumentStore, StagedDocuments
from index.errors import CorpusError, IndexFormatError, StorageError

DOCUMENTS = [Document("a", "Tea", "green"), Document("b", fields={"year": 1999, "tags": ["x", None]}), Document("c")]


@pytest.fixture
def store():
    return DocumentStore.of(DOCUMENTS)


@pytest.fixture
def staged():
    staged = StagedDocuments()
    staged.add(DOCUMENTS)
    return staged


def test_documents_come_back_by_number_in_the_order_asked(store):
    assert store.get([2, 0]) == [DOCUMENTS[2], DOCUMENTS[0]]
    assert list(store.each([2, 0])) == [DOCUMENTS[2], DOCUMENTS[0]]
    assert store.ids([1, 2, 0]) == ["b", "c", "a"]
    assert list(store) == DOCUMENTS


def test_ids_lead_to_numbers(store):
    assert (store.find(["b", "B", "c"]), len(store)) == ({"b": 1, "c": 2}, 3)


@pytest.mark.parametrize("in_files", [False, True])
def test_stores_are_merged_in_order_without_what_is_not_live(in_files, tmp_path):
    stores = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        store = DocumentStore.of([Document(f"{number}{letter}", text=letter) for letter in "abc"])
        if in_files:
            store.write(folder)
            store = DocumentStore.read(folder)
        stores.append(store)
    (tmp_path / "merged").mkdir()
    merged = DocumentStore.merged([(stores[0], np.array([True, False, True])), (stores[1], None)], tmp_path / "merged")
    assert [document.doc_id for document in merged] == ["0a", "0c", "1a", "1b", "1c"]
    assert (merged.find(["0b", "1a"]), merged.damage()) == ({"1a": 2}, None)


def test_a_used_id_is_refused_and_nothing_of_its_batch_is_staged(staged):
    with pytest.raises(CorpusError, match=r"document 2 has the id 'b' of a document added before"):
        staged.add([Document("d"), Document("b")])
    with pytest.raises(CorpusError, match=r"document 3 has the id 'd' of document 1"):
        staged.add([Document("d"), Document("e"), Document("d")])
    assert list(staged) == DOCUMENTS


def test_a_replaced_document_moves_to_the_end(staged):
    assert staged.add([Document("a", "Coffee"), Document("d"), Document("a", "Milk")], replace=True) == ["a", "d", "a"]
    assert [(document.doc_id, document.title) for document in staged] == [
        ("b", ""),
        ("c", ""),
        ("d", ""),
        ("a", "Milk"),
    ]


def test_removed_documents_leave_no_hole_in_what_is_sealed(staged):
    assert staged.remove(["b", "x"]) == ["b"]
    sealed = staged.sealed(None)
    assert (list(sealed), sealed.find(["c"])) == ([DOCUMENTS[0], DOCUMENTS[2]], {"c": 1})


def test_a_reason_against_a_page_is_an_error_and_nothing_of_the_batch_stays(staged):
    with pytest.raises(CorpusError, match="no e, please"):
        staged.add(map(Document, "de"), check=lambda ids: "no e, please" if "e" in ids else None)
    assert list(staged) == DOCUMENTS


def test_written_documents_are_read_back(store, tmp_path):
    store.write(tmp_path)
    assert list(DocumentStore.read(tmp_path)) == DOCUMENTS


@pytest.mark.parametrize("column", ["doc_id", "title", "text", "fields"])
@pytest.mark.parametrize("value", ["'x'", "x'ff'", "7", "NULL"])
def test_a_changed_document_is_never_taken_for_what_was_stored(store, tmp_path, column, value):
    store.write(tmp_path)
    with sqlite3.connect(tmp_path / "documents.sqlite") as connection:
        connection.execute("CREATE TABLE t AS SELECT * FROM documents")  # without its constraints
        connection.execute("DROP TABLE documents")
        connection.execute("ALTER TABLE t RENAME TO documents")
        connection.execute(f"UPDATE documents SET {column} = {value} WHERE doc = 1")
    damaged = DocumentStore.read(tmp_path)
    with pytest.raises(IndexFormatError, match="document 1 does not match its checksum"):
        damaged.get([0, 1])
    assert damaged.damage() is not None
    assert [doc for doc, _ in damaged.sound(range(3))] == [0, 2]


def many(tmp_path):
    """1,000 documents in a file of many pages."""
    written = [Document(str(number), text=f"text {number} " * 20) for number in range(1_000)]
    DocumentStore.of(written).write(tmp_path)
    return written, tmp_path / "documents.sqlite"


def test_a_damaged_index_of_the_ids_costs_no_document(tmp_path):
    written, file = many(tmp_path)
    with sqlite3.connect(file) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'ids'").fetchone()
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    with open(file, "r+b") as damaged:
        damaged.seek((page - 1) * page_size)
        damaged.write(b"\xff" * page_size)
    store = DocumentStore.read(tmp_path)
    assert (len(store), list(store)) == (1_000, written)
    assert list(store.sound(range(1_000))) == list(enumerate(written))
    assert store.damage() is not None


@pytest.mark.parametrize("lost_bytes", [1, 2_000, 4_096, 20_000, 150_000])
def test_of_a_file_that_lost_its_end_all_but_that_is_sound(tmp_path, lost_bytes):
    written, file = many(tmp_path)
    size = file.stat().st_size
    os.truncate(file, size - lost_bytes)
    sound = dict(DocumentStore.read(tmp_path, damaged=1_000).sound(range(1_000)))
    assert all(written[doc] == document for doc, document in sound.items())
    assert len(sound) >= 1_000 * (size - lost_bytes) // size - 20
    assert file.stat().st_size == size - lost_bytes


def test_a_number_that_no_file_of_its_size_could_hold_is_refused(store, tmp_path):
    store.write(tmp_path)
    with sqlite3.connect(tmp_path / "documents.sqlite") as connection:
        connection.execute("UPDATE documents SET doc = 9223372036854775806 WHERE doc = 2")
    with pytest.raises(IndexFormatError, match="has a document 9223372036854775806, for which it is too small"):
        DocumentStore.read(tmp_path)


def test_text_with_any_character_survives(tmp_path):
    odd = [
        Document("tab\tid", "null\0inside", "🇩🇪 \u202eright to left\r\nline", {"é": "e\u0301"}),
        Document("e\u0301"),
        Document("é"),
    ]
    store = DocumentStore.of(odd)
    store.write(tmp_path)
    assert list(DocumentStore.read(tmp_path)) == odd


def test_text_that_is_not_unicode_is_refused():
    with pytest.raises(
        CorpusError, match=r"document 'a' holds text that is not valid Unicode \(surrogates not allowed\)"
    ):
        DocumentStore.of([Document("a", text="\ud800")])


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, object()])
def test_fields_that_json_cannot_hold_are_refused(value):
    with pytest.raises(CorpusError, match="document 'a' has a field or vector that JSON cannot hold"):
        DocumentStore.of([Document("a", fields={"x": value})])


def test_more_numbers_than_one_statement_takes_are_found():
    store = DocumentStore.of(Document(str(number)) for number in range(1_200))
    assert store.ids(range(1_199, -1, -1)) == [str(number) for number in range(1_199, -1, -1)]
    assert [document.doc_id for document in store] == [str(number) for number in range(1_200)]


def test_several_threads_read_one_store(store):
    failures = []

    def read_often():
        for _ in range(200):
            if store.get([1]) != [DOCUMENTS[1]]:
                failures.append(1)

    threads = [threading.Thread(target=read_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_file_that_is_not_a_database_is_refused(tmp_path):
    (tmp_path / "documents.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(IndexFormatError, match=r"documents.sqlite cannot be read \(file is not a database\)"):
        DocumentStore.read(tmp_path)


def test_a_full_disk_is_one_sentence_and_leaves_the_store_readable(store, tmp_path):
    (tmp_path / "documents.sqlite").mkdir()  # cannot be opened as a file, as on a disk without room
    with pytest.raises(
        StorageError, match=r"documents.sqlite cannot hold the documents \(unable to open database file\)"
    ):
        store.write(tmp_path)
    assert list(store) == DOCUMENTS


def in_a_child(check):
    """Run `check` in a forked child, where limits may be set; it must return without an error."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            check()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("change", ["add", "replace", "remove"])
def test_staging_without_room_is_one_sentence_and_changes_nothing(change):
    before = [Document(str(number), text="x" * 1_000) for number in range(8_000)]  # more than SQLite keeps in memory

    def check():
        staged = StagedDocuments()
        staged.add(before)
        first = len(before) if change == "add" else 0
        new = [Document(str(number), text="y" * 1_000) for number in range(first, first + 8_000)]
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.RLIM_INFINITY))
        with pytest.raises(StorageError, match=r"documents cannot be held in a temporary file \(.*\); make room there"):
            staged.remove(list(map(str, range(8_000)))) if change == "remove" else staged.add(new, replace=first == 0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert list(staged) == before
        staged.add([Document("new")])
        assert len(staged) == len(before) + 1

    in_a_child(check)


def anonymous_memory():
    """KiB that this process holds of its own."""
    return int(re.search(r"Anonymous: *(\d+)", Path("/proc/self/smaps_rollup").read_text())[1])


def test_stores_that_are_opened_and_forgotten_leave_no_memory_behind(store, tmp_path):
    store.write(tmp_path)
    for _ in range(100):
        DocumentStore.read(tmp_path)
    before = anonymous_memory()
    for _ in range(3_000):
        DocumentStore.read(tmp_path)
    assert anonymous_memory() - before < 500  # left to the garbage collector, connections kept 2,000
