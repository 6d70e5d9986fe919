"""Commits on a disk that fails at any call, takes few bytes at a time, or loses whatever was not flushed."""

import errno
import os

import faults
import numpy as np
import pytest

from index import files, folder_writer
from index.errors import WinnowError
from index.folder_writer import FolderWriter
from index.storage import damage, open_array, read_current

NUMBERS = np.arange(40, dtype=np.float32)


def commit(folder, text, keep=True):
    """A part with files of every origin, added to those of before or in their place."""
    with FolderWriter(folder, "note") as writer:
        kept = list(writer.current.parts.values())[-1:] if writer.current and keep else []
        part = writer.new_part()
        files.make_folder(part.path / "arm")
        files.write_file(part.path / "arm" / "text", text.encode())
        files.save_array(part.path / "saved.npy", NUMBERS)
        files.new_array(part.path / "mapped.npy", "float32", len(NUMBERS))[:] = NUMBERS
        (part.path / "foreign").write_text(text)  # as SQLite does
        unwanted = writer.new_part()
        files.write_file(unwanted.path / "x", b"x")
        writer.discard(unwanted)
        part.contents = {"text": text}
        writer.commit({"newest": part.name}, [*kept, part])


def texts(folder):
    """What every part of the folder holds, checked byte by byte; nothing for a folder without an index."""
    if not folder.exists() or not any(name.startswith("winnow.json") for name in os.listdir(folder)):
        return []
    if not (folder / "winnow.json").exists():
        assert os.listdir(folder)
        return []
    assert damage(folder, "full") == []

    def read(commit):
        found = []
        for part in commit.parts.values():
            for name in ("saved.npy", "mapped.npy"):
                assert np.array_equal(open_array(part.path / name, "float32", len(NUMBERS)), NUMBERS)
            assert (part.path / "arm" / "text").read_text() == part.contents["text"]
            found.append((part.path / "foreign").read_text())
        assert commit.contents["newest"] == list(commit.parts)[-1]
        return found

    return read_current(folder, "note", read, "full")


def add(folder):
    commit(folder, "new")


def is_old_or_new(folder):
    assert texts(folder) in (["old"], ["old", "new"])


def is_new(folder):
    assert texts(folder)[-1:] == ["new"]


def has_no_leftovers(folder):
    """Once the next writer was there."""
    with FolderWriter(folder, "note") as writer:
        needed = {*writer.current.parts, "winnow.json", "winnow.json.copy", "winnow.lock"}
    assert set(os.listdir(folder)) == needed
    assert (folder / "winnow.json").read_bytes() == (folder / "winnow.json.copy").read_bytes()


def is_new_and_tidy(folder):
    is_new(folder)
    has_no_leftovers(folder)


def is_none_or_new(folder):
    assert texts(folder) in ([], ["new"])


@pytest.fixture
def old(tmp_path):
    commit(tmp_path / "i", "older")
    commit(tmp_path / "i", "old", keep=False)
    return tmp_path / "i"


def test_an_error_at_any_call_is_ours_and_leaves_the_old_commit_or_the_new(old, tmp_path):
    tried = faults.after_every_error(old, tmp_path / "s", add, is_old_or_new, is_new_and_tidy)
    assert tried > 150


def test_an_error_at_any_call_of_a_first_commit_leaves_nothing_or_the_commit(tmp_path):
    first = tmp_path / "none" / "i"
    faults.after_every_error(first, tmp_path / "s", add, is_none_or_new, is_new_and_tidy, [errno.ENOSPC])


def test_power_lost_at_any_call_leaves_the_old_commit_or_the_new(old, tmp_path):
    tried = faults.after_every_power_loss(old, tmp_path / "s", add, is_old_or_new, is_new_and_tidy)
    assert tried > 150


def test_power_lost_at_any_call_of_a_first_commit_leaves_nothing_or_the_commit(tmp_path):
    faults.after_every_power_loss(tmp_path / "none" / "i", tmp_path / "s", add, is_none_or_new, is_new_and_tidy)


def test_power_lost_while_old_parts_are_removed_leaves_a_folder_that_is_still_ours(old, tmp_path):
    def replace(folder):
        commit(folder, "new", keep=False)

    def is_sound(folder):
        assert texts(folder) in (["old"], ["new"])

    faults.after_every_power_loss(old, tmp_path / "s", replace, is_sound, is_new_and_tidy)


@pytest.mark.parametrize("most_bytes", [1, 7])
def test_short_writes_are_continued(tmp_path, most_bytes):
    commit(tmp_path / "a" / "i", "new")
    with faults.disk(most_bytes=most_bytes):
        commit(tmp_path / "b" / "i", "new")
    for path in sorted((tmp_path / "a").rglob("*")):
        other = tmp_path / "b" / path.relative_to(tmp_path / "a")
        assert path.is_dir() or path.read_bytes() == other.read_bytes()
    assert texts(tmp_path / "b" / "i") == ["new"]


def test_a_write_that_takes_nothing_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "write", lambda *_: 0)
    with pytest.raises(WinnowError, match="nothing is written and no reason given"):
        files.write_file(tmp_path / "x", b"x")


def test_no_descriptor_is_left_open_by_any_error(old, tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    faults.after_every_error(old, tmp_path / "s", add, is_old_or_new, is_new_and_tidy, [errno.EIO], most_calls=40)
    assert len(os.listdir("/proc/self/fd")) == before


def nothing(*_):
    """In the place of a flush."""


def publish_without_flushing(writer, name, new_name, data):
    files.write_file(writer.folder / new_name, data)
    files.flush_folder(writer.folder)
    files.rename(writer.folder / new_name, writer.folder / name)
    files.flush_folder(writer.folder)
    files.flush_file(writer.folder / name)


def publish_in_place(writer, name, new_name, data):
    files.write_file(writer.folder / name, data)
    files.flush_file(writer.folder / name)
    files.flush_folder(writer.folder)


def publish_before_the_names_of_parts(writer, name, new_name, data):
    files.write_file(writer.folder / new_name, data)
    files.flush_file(writer.folder / new_name)
    files.rename(writer.folder / new_name, writer.folder / name)
    files.flush_folder(writer.folder)


def publish_without_the_last_flush(writer, name, new_name, data):
    files.write_file(writer.folder / new_name, data)
    files.flush_file(writer.folder / new_name)
    if name == "winnow.json":  # that of the copy would come to its help
        files.flush_folder(writer.folder)
    files.rename(writer.folder / new_name, writer.folder / name)


def remove_the_marker_first(path):
    names = sorted(os.listdir(path), key=lambda name: name != "winnow-part")
    for name in names:
        files.remove_tree(path / name)
    files.remove_folder(path)


@pytest.mark.parametrize(
    ("target", "name", "bug"),
    [
        (files, "flush_file", nothing),
        (files, "flush_folder", nothing),
        (FolderWriter, "_publish", publish_without_flushing),
        (FolderWriter, "_publish", publish_in_place),
        (FolderWriter, "_publish", publish_before_the_names_of_parts),
        (FolderWriter, "_publish", publish_without_the_last_flush),
        (folder_writer, "remove_part", remove_the_marker_first),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_the_loss_of_power_finds_a_forgotten_flush(old, tmp_path, monkeypatch, target, name, bug):
    monkeypatch.setattr(target, name, bug)

    def replace(folder):
        commit(folder, "new", keep=False)

    def is_sound(folder):
        assert texts(folder) in (["old"], ["new"])

    with pytest.raises(AssertionError, match="power gone before call"):
        faults.after_every_power_loss(old, tmp_path / "s", replace, is_sound, is_new_and_tidy)
