import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from index import storage
from index.errors import IndexFormatError, WinnowError
from index.storage import check_target, commit, read_current


def save(folder, text="one"):
    with commit(folder, "note") as generation:
        (generation.path / "a.txt").write_text(text)
        generation.contents = {"length": len(text)}


def read(folder, verify="quick"):
    return read_current(
        folder, "note", lambda stored: ((stored.path / "a.txt").read_text(), stored.contents["length"]), verify
    )


def edit_manifest(folder, change, seal=True):
    path = folder / "winnow.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    if seal:
        manifest.pop("sha256", None)
        manifest["sha256"] = storage.sha256_of_manifest(manifest)
    path.write_text(json.dumps(manifest))


def test_what_was_committed_is_read_back(tmp_path):
    save(tmp_path / "i")
    assert read(tmp_path / "i", "full") == ("one", 3)


def test_a_second_commit_replaces_the_first_and_leaves_no_trace(tmp_path):
    save(tmp_path / "i")
    save(tmp_path / "i", "three")
    assert read(tmp_path / "i") == ("three", 5)
    assert sorted(entry.name for entry in (tmp_path / "i").iterdir()) == [
        "generation-000002",
        "winnow.json",
        "winnow.lock",
    ]


def test_a_commit_that_fails_leaves_the_old_content(tmp_path):
    save(tmp_path / "i")
    with (
        pytest.raises(WinnowError, match=r"could not be written \(Is a directory\)"),
        commit(tmp_path / "i", "note") as generation,
    ):
        generation.path.write_text("over the folder")
    assert read(tmp_path / "i") == ("one", 3)
    assert sorted(entry.name for entry in (tmp_path / "i").iterdir()) == [
        "generation-000001",
        "winnow.json",
        "winnow.lock",
    ]


def test_a_first_commit_that_fails_leaves_nothing(tmp_path):
    with (
        pytest.raises(WinnowError, match=r"i could not be written \(disk full\); make room"),
        commit(tmp_path / "i", "note"),
    ):
        raise OSError("disk full")
    assert not (tmp_path / "i").exists()


@pytest.mark.parametrize("call", range(1, 12))
def test_killed_at_any_flush_or_rename_the_folder_holds_the_old_content_or_the_new(tmp_path, call):
    """The process dies at its `call`-th fsync or rename; what is on disk then opens as one commit, and can be replaced."""
    save(tmp_path / "i", "old")
    script = textwrap.dedent(
        """
        import os, signal, sys
        sys.path.insert(0, sys.argv[3])
        from index.storage import commit
        remaining = int(sys.argv[2])
        def dying(real):
            def call(*arguments):
                global remaining
                remaining -= 1
                if remaining == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments)
            return call
        os.fsync, os.replace = dying(os.fsync), dying(os.replace)
        with commit(sys.argv[1], "note") as generation:
            (generation.path / "a.txt").write_text("newer")
            generation.contents = {"length": 5}
        """
    )
    root = os.path.dirname(os.path.dirname(storage.__file__))
    status = subprocess.run([sys.executable, "-c", script, str(tmp_path / "i"), str(call), root]).returncode
    flushes_before_rename = 5  # two files, their folder, the manifest, the index folder
    assert status == (-signal.SIGKILL if call <= flushes_before_rename + 2 else 0)  # the rename, and one flush after it
    assert read(tmp_path / "i", "full") == (("old", 3) if call <= flushes_before_rename + 1 else ("newer", 5))
    save(tmp_path / "i", "again")
    assert read(tmp_path / "i", "full") == ("again", 5)


def test_a_build_that_never_finished_is_not_an_index_and_can_be_built_again(tmp_path):
    (tmp_path / "i" / "generation-000001").mkdir(parents=True)
    (tmp_path / "i" / "generation-000001" / "winnow-generation").touch()
    (tmp_path / "i" / "generation-000001" / "a.txt").write_text("half")
    with pytest.raises(IndexFormatError, match="whose build did not finish; build it again"):
        read(tmp_path / "i")
    save(tmp_path / "i")
    assert read(tmp_path / "i") == ("one", 3)


def test_a_folder_that_is_not_an_index_says_so(tmp_path):
    with pytest.raises(IndexFormatError, match=r"is not an index \(it has no winnow.json\)"):
        read(tmp_path)


@pytest.mark.parametrize("call", range(1, 9))
@pytest.mark.parametrize("error", [OSError("Input/output error"), KeyboardInterrupt()], ids=["EIO", "Ctrl-C"])
def test_an_error_at_any_flush_or_rename_leaves_the_old_content_or_the_new(tmp_path, monkeypatch, call, error):
    save(tmp_path / "i", "old")
    calls = 0

    def failing(real):
        def attempt(*arguments):
            nonlocal calls
            calls += 1
            if calls == call:
                raise error
            return real(*arguments)

        return attempt

    monkeypatch.setattr(os, "fsync", failing(os.fsync))
    monkeypatch.setattr(os, "replace", failing(os.replace))
    with contextlib.suppress(WinnowError, KeyboardInterrupt):
        save(tmp_path / "i", "newer")
    monkeypatch.undo()
    assert read(tmp_path / "i", "full") == (("old", 3) if call <= 6 else ("newer", 5))
    save(tmp_path / "i", "again")
    assert read(tmp_path / "i", "full") == ("again", 5)


def test_a_second_writer_is_told_to_wait(tmp_path):
    with commit(tmp_path / "i", "note") as generation:
        (generation.path / "a.txt").write_text("first")
        generation.contents = {"length": 5}
        with pytest.raises(WinnowError, match=r"another process is writing to .*i; wait until it has finished"):
            save(tmp_path / "i", "second")
    assert read(tmp_path / "i") == ("first", 5)


def test_many_writers_and_readers_at_once_always_find_one_whole_commit(tmp_path):
    save(tmp_path / "i", "0")
    done, failures = threading.Event(), []

    def write(name):
        for number in range(60):
            with contextlib.suppress(WinnowError):  # somebody else is writing
                save(tmp_path / "i", f"{name}{number}")

    def read_often():
        while not done.is_set():
            try:
                text, length = read(tmp_path / "i", "full")
                assert len(text) == length
            except Exception as error:
                failures.append(error)

    readers = [threading.Thread(target=read_often) for _ in range(2)]
    writers = [threading.Thread(target=write, args=(name,)) for name in ("a", "bb", "ccc")]
    for thread in readers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()
    assert not failures
    assert sorted(entry.name for entry in (tmp_path / "i").iterdir())[1:] == ["winnow.json", "winnow.lock"]


def test_folders_and_files_of_other_programs_are_left_alone_even_if_called_like_ours(tmp_path):
    (tmp_path / "ga" / "generation-000001").mkdir(parents=True)
    (tmp_path / "ga" / "generation-000001" / "thesis.txt").write_text("mine")
    with pytest.raises(WinnowError, match="holds 'generation-000001', which is not part of an index"):
        save(tmp_path / "ga")
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "winnow.json").write_text('{"my": "settings"}')
    with pytest.raises(WinnowError, match=r"holds 'winnow.json', which is not part of an index"):
        save(tmp_path / "w")
    assert (tmp_path / "w" / "winnow.json").read_text() == '{"my": "settings"}'


@pytest.mark.parametrize("name", ["thesis.doc", "generation-1", "winnow.json.bak", ".hidden"])
def test_a_folder_with_anything_else_is_left_alone(tmp_path, name):
    save(tmp_path)
    (tmp_path / name).write_text("mine")
    with pytest.raises(WinnowError, match=f"holds '{name}', which is not part of an index"):
        save(tmp_path, "two")
    assert (tmp_path / name).read_text() == "mine"
    assert read(tmp_path) == ("one", 3)


def test_a_file_in_the_place_of_the_folder_is_left_alone(tmp_path):
    (tmp_path / "f").write_text("mine")
    with pytest.raises(WinnowError, match="is not a folder"):
        check_target(tmp_path / "f")


def test_a_newer_format_names_both_versions(tmp_path):
    save(tmp_path)
    edit_manifest(tmp_path, lambda manifest: manifest.update(version=9), seal=False)
    with pytest.raises(IndexFormatError, match=r"format version 9, this release reads up to version 1; update"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format="other"), "this is not our manifest"),
        (lambda m: m.update(version="1"), "this is not our manifest"),
        (lambda m: m.update(kind="retriever"), "holds a retriever, not a note"),
        (lambda m: m.update(generation="../elsewhere"), "which is not one of ours"),
        (lambda m: m["files"].update({"../../x": {"bytes": 1, "sha256": ""}}), "missing or lies outside"),
        (lambda m: m["files"].update({"/etc/hostname": {"bytes": 1, "sha256": ""}}), "missing or lies outside"),
        (lambda m: m["files"].update({"b.txt": {"bytes": 1, "sha256": ""}}), "missing or lies outside"),
        (lambda m: m["files"]["a.txt"].update(bytes=4), "has 3 bytes, its manifest says 4"),
        (lambda m: m.update(files=[1]), "does not describe its contents as this release does"),
        (lambda m: m.update(files={"a.txt": 3}), "does not describe its contents as this release does"),
        (lambda m: m.update(contents=None), "does not describe its contents as this release does"),
        (lambda m: m.update(contents={}), "does not describe its contents as this release does"),
        (lambda m: m.pop("kind"), "is damaged"),
        (lambda m: m.update(generation=7), "is damaged"),
    ],
)
def test_a_manifest_that_lies_is_refused(tmp_path, change, message):
    save(tmp_path / "i")
    edit_manifest(tmp_path / "i", change)
    with pytest.raises(IndexFormatError, match=message):
        read(tmp_path / "i")


def test_a_symbolic_link_out_of_the_folder_is_refused(tmp_path):
    save(tmp_path / "i")
    file = tmp_path / "i" / "generation-000001" / "a.txt"
    (tmp_path / "else").write_text("one")
    file.unlink()
    file.symlink_to(tmp_path / "else")
    with pytest.raises(IndexFormatError, match="lies outside its index"):
        read(tmp_path / "i")


def test_every_single_byte_change_of_the_manifest_is_found(tmp_path):
    save(tmp_path)
    path = tmp_path / "winnow.json"
    original = path.read_bytes()
    for position in range(len(original)):
        if original[position : position + 1].isspace():
            continue  # white space between tokens carries nothing
        path.write_bytes(original[:position] + bytes([original[position] ^ 1]) + original[position + 1 :])
        with pytest.raises(IndexFormatError):
            read(tmp_path)


def test_every_truncation_of_the_manifest_is_found(tmp_path):
    save(tmp_path)
    path = tmp_path / "winnow.json"
    original = path.read_bytes()
    for length in range(len(original) - 1):  # without its last newline it is still whole
        path.write_bytes(original[:length])
        with pytest.raises(IndexFormatError):
            read(tmp_path)


def test_a_changed_byte_is_found_by_a_full_verification_only(tmp_path):
    save(tmp_path)
    (tmp_path / "generation-000001" / "a.txt").write_text("two")
    read(tmp_path)
    with pytest.raises(IndexFormatError, match=r"a.txt does not match its checksum"):
        read(tmp_path, "full")


def test_unknown_verification_is_refused(tmp_path):
    with pytest.raises(WinnowError, match="verify is 'some'"):
        read(tmp_path, "some")


def test_an_index_with_a_damaged_manifest_can_be_replaced_and_a_failure_while_doing_so_is_told(tmp_path):
    save(tmp_path / "i")
    manifest = tmp_path / "i" / "winnow.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 1.5'))
    with pytest.raises(WinnowError, match="could not be written"), commit(tmp_path / "i", "note") as generation:
        generation.path.write_text("over the folder")
    save(tmp_path / "i", "again")
    assert read(tmp_path / "i", "full") == ("again", 5)
