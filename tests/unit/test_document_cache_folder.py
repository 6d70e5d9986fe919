"""Whose folder it is: a document cache uses its own and leaves others alone."""

import os

import pytest
from document_cache_for_tests import filled, found_in, opened

from index.errors import WinnowError, WinnowWarning
from retrieval.rerankers import state_files
from retrieval.rerankers.document_cache import DocumentCache


def test_a_folder_serves_one_fingerprint_and_one_precision(tmp_path):
    filled(tmp_path, [1])
    with pytest.raises(
        WinnowError, match=r"precision 'same' of 'model A', where .* with 'same' of 'model B' is needed; remove it"
    ):
        opened(tmp_path, fingerprint="model B")
    with pytest.raises(
        WinnowError, match=r"precision 'same' of 'model A', where .* with 'int8' of 'model A' is needed"
    ):
        opened(tmp_path, precision="int8")
    path = tmp_path / "winnow-document-cache.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(WinnowError, match="is a cache of 'winnow-document-cache' 2 with"):
        opened(tmp_path)
    for damage in (b"", b"{", b"[]", b"\xff", b'{"format": 1}', b"[" * 100_000):
        path.write_bytes(damage)
        with pytest.raises(WinnowError, match=r"is damaged .*; remove .* or give another one"):
            opened(tmp_path)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(WinnowError, match=r"holds 'notes.txt' and no winnow-document-cache.json; give a new or empty"):
        opened(tmp_path)
    assert os.listdir(tmp_path) == ["notes.txt"]
    with pytest.raises(WinnowError, match=r"notes.txt.* cannot be read \(Not a directory\)"):
        opened(tmp_path / "notes.txt")


def test_a_folder_whose_writer_was_killed_before_it_began_is_a_new_one(tmp_path):
    (tmp_path / "winnow.lock").write_text("1 python\n")
    (tmp_path / "winnow-document-cache.json.new").write_text("{")
    (tmp_path / "states-000001.data").touch()
    (tmp_path / "winnow-document-cache.json").write_text(
        '{\n "format": "winnow-document-cache",\n "version": 1,\n "precision": "same",\n "fingerprint": "model A"\n}\n'
    )
    filled(tmp_path, [1])
    assert found_in(opened(tmp_path), [1]) == [1]


def test_a_folder_that_another_process_is_just_making_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(state_files, "WAIT_FOR_MANIFEST", 0.05)
    lock = state_files.WriterLock(tmp_path)
    with (
        pytest.warns(WinnowWarning, match="reads there"),
        pytest.raises(WinnowError, match=r"has no winnow-document-cache.json yet; try again"),
    ):
        opened(tmp_path)
    lock.release()
    filled(tmp_path, [1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"disk_bytes": 5}, "disk_bytes is 5 without a folder"),
        ({"folder": "x", "disk_bytes": -1}, "disk_bytes is -1; it must be a whole number of bytes"),
    ],
)
def test_budgets_that_make_no_sense_are_refused(options, message):
    with pytest.raises(WinnowError, match=message):
        DocumentCache(**options)
