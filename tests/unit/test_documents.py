import threading

import pytest

from index.documents import Document, DocumentStore
from index.errors import CorpusError, IndexFormatError, WinnowError

DOCUMENTS = [Document("a", "Tea", "green"), Document("b", fields={"year": 1999, "tags": ["x", None]}), Document("c")]


@pytest.fixture
def store():
    return DocumentStore.extended(None, DOCUMENTS)


def test_documents_come_back_by_number_in_the_order_asked(store):
    assert store.get([2, 0]) == [DOCUMENTS[2], DOCUMENTS[0]]
    assert store.ids([1, 2, 0]) == ["b", "c", "a"]
    assert list(store) == DOCUMENTS


def test_ids_lead_to_numbers(store):
    assert (store.find("b"), store.find("B"), len(store)) == (1, None, 3)


def test_extending_leaves_the_known_store_as_it_was(store):
    longer = DocumentStore.extended(store, [Document("d")])
    assert (len(store), len(longer), longer.find("d"), store.find("d")) == (3, 4, 3, None)


def test_an_id_used_twice_names_both_documents(store):
    with pytest.raises(CorpusError, match="document 5 has the id 'b' of document 2"):
        DocumentStore.extended(store, [Document("d"), Document("b")])
    assert len(store) == 3


def test_written_documents_are_read_back(store, tmp_path):
    description = store.write(tmp_path)
    assert list(DocumentStore.read(tmp_path, description)) == DOCUMENTS


def test_text_with_any_character_survives(tmp_path):
    odd = [
        Document("tab\tid", "null\0inside", "🇩🇪 \u202eright to left\r\nline", {"é": "e\u0301"}),
        Document("e\u0301"),
        Document("é"),
    ]
    store = DocumentStore.extended(None, odd)
    description = store.write(tmp_path)
    assert list(DocumentStore.read(tmp_path, description)) == odd


def test_text_that_is_not_unicode_is_refused():
    with pytest.raises(
        CorpusError, match=r"document 'a' holds text that is not valid Unicode \(surrogates not allowed\)"
    ):
        DocumentStore.extended(None, [Document("a", text="\ud800")])


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, object()])
def test_fields_that_json_cannot_hold_are_refused(value):
    with pytest.raises(CorpusError, match="document 'a' has a field that JSON cannot hold"):
        DocumentStore.extended(None, [Document("a", fields={"x": value})])


def test_more_numbers_than_one_statement_takes_are_found():
    store = DocumentStore.extended(None, (Document(str(number)) for number in range(1_200)))
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
        DocumentStore.read(tmp_path, {"documents": 1})


def test_a_file_with_other_documents_is_refused(store, tmp_path):
    store.write(tmp_path)
    with pytest.raises(IndexFormatError, match="holds 3 documents, its index says 4"):
        DocumentStore.read(tmp_path, {"documents": 4})


def test_a_full_disk_is_one_sentence_and_leaves_the_store_readable(store, tmp_path):
    (tmp_path / "documents.sqlite").mkdir()  # cannot be opened as a file, as on a disk without room
    with pytest.raises(WinnowError, match=r"documents.sqlite cannot be written \(unable to open database file\)"):
        store.write(tmp_path)
    assert list(store) == DOCUMENTS
