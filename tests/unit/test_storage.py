"""Folders as they are read and written; tests/unit/test_faults.py has the disks that fail."""

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from conftest import ROOT
from forgery import edit_description, edit_manifest, replace_description

from index import files, locks
from index.errors import IndexFormatError, LockedError, StorageError, WinnowError
from index.folder_writer import FolderWriter
from index.manifest import soundest_manifest
from index.storage import check_target, damage, newest_commit, read_current

OTHERS = ["winnow.json", "winnow.json.copy", "winnow.lock"]


def save(folder, text="one", keep=False):
    """A commit of one more part, or of one in the place of all others."""
    with FolderWriter(folder, "note", "refuse" if keep else "replace") as writer:
        part = writer.new_part()
        files.write_file(part.path / "a.txt", text.encode())
        files.make_folder(part.path / "sub")
        files.write_file(part.path / "sub" / "b.txt", b"b" * 300)
        part.contents = {"length": len(text)}
        kept = writer.current.parts.values() if keep and writer.current else []
        writer.commit({"newest": part.name}, [*kept, part])


def newest_text(commit):
    part = commit.parts[commit.contents["newest"]]
    return (part.path / "a.txt").read_text(), part.contents["length"]


def read(folder, verify="quick"):
    return read_current(folder, "note", newest_text, verify)


def read_commit(folder, **options):
    return read_current(folder, "note", lambda commit: commit, **options)


def names(folder):
    return sorted(os.listdir(folder))


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))


def run_python(code, *arguments):
    """A child process with the code; `argv[1:]` are the arguments."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)], stdout=subprocess.PIPE, env=environment
    )


def test_what_was_committed_is_read_back(tmp_path):
    save(tmp_path / "i")
    assert read(tmp_path / "i", "full") == ("one", 3)
    assert names(tmp_path / "i") == ["part-000001", *OTHERS]
    assert names(tmp_path / "i" / "part-000001") == ["a.txt", "part.json", "sub", "winnow-part"]
    assert (tmp_path / "i" / "winnow.lock").read_bytes() == b""


def test_equal_commits_are_equal_files(tmp_path):
    for folder in ("i", "j"):
        save(tmp_path / folder)
    for path in (tmp_path / "i").rglob("*"):
        other = tmp_path / "j" / path.relative_to(tmp_path / "i")
        assert path.is_dir() or path.read_bytes() == other.read_bytes()


def test_a_commit_in_the_place_of_another_leaves_no_trace_of_it(tmp_path):
    save(tmp_path / "i")
    save(tmp_path / "i", "three")
    assert read(tmp_path / "i") == ("three", 5)
    assert names(tmp_path / "i") == ["part-000002", *OTHERS]


def test_a_commit_keeps_the_parts_it_names_as_they_are(tmp_path):
    save(tmp_path / "i")
    before = os.stat(tmp_path / "i" / "part-000001" / "a.txt")
    save(tmp_path / "i", "three", keep=True)
    commit = read_commit(tmp_path / "i", verify="full")
    assert (commit.number, list(commit.parts)) == (2, ["part-000001", "part-000002"])
    assert os.stat(tmp_path / "i" / "part-000001" / "a.txt") == before


def test_a_writer_may_commit_often_and_what_it_returns_is_what_readers_see(tmp_path):
    with FolderWriter(tmp_path / "i", "note") as writer:
        assert writer.current is None
        for number in (1, 2, 3):
            part = writer.new_part()
            part.contents = {"numbers": (number, 2.5)}
            returned = writer.commit({"of": (number,)}, [part])
            found = read_commit(tmp_path / "i")
            assert writer.current is returned
            assert (found.number, found.kind, found.contents) == (number, "note", {"of": [number]})
            assert returned.contents == found.contents
            assert returned.parts[part.name].contents == found.parts[part.name].contents == {"numbers": [number, 2.5]}
            assert returned.parts[part.name].sha256 == found.parts[part.name].sha256
            assert newest_commit(tmp_path / "i") == number
            del found, returned  # they hold their parts
        assert names(tmp_path / "i") == ["part-000003", *OTHERS]


def test_part_numbers_that_a_commit_has_passed_are_never_used_again(tmp_path):
    save(tmp_path / "i")
    with FolderWriter(tmp_path / "i", "note") as writer:
        assert writer.new_part().name == "part-000002"
        writer.discard(writer.new_part())
        writer.commit({}, [])
    assert names(tmp_path / "i") == OTHERS
    save(tmp_path / "i")
    assert names(tmp_path / "i") == ["part-000004", *OTHERS]


def test_a_block_that_fails_leaves_the_old_commit(tmp_path):
    save(tmp_path / "i")
    with pytest.raises(TypeError), FolderWriter(tmp_path / "i", "note") as writer:
        files.write_file(writer.new_part().path / "x", "text")
    assert read(tmp_path / "i") == ("one", 3)
    assert names(tmp_path / "i") == ["part-000001", *OTHERS]


@pytest.mark.parametrize("is_there", [False, True])
def test_a_first_block_that_fails_leaves_nothing(tmp_path, is_there):
    if is_there:
        (tmp_path / "i").mkdir()
    with pytest.raises(TypeError), FolderWriter(tmp_path / "i", "note") as writer:
        files.write_file(writer.new_part().path / "x", "text")
    assert names(tmp_path) == ["i"] * is_there
    assert not is_there or names(tmp_path / "i") == []


def test_what_cannot_be_committed_is_refused_and_the_old_commit_stays(tmp_path):
    save(tmp_path / "i")
    with FolderWriter(tmp_path / "i", "note") as writer:
        with pytest.raises(TypeError):
            writer.commit({"set": {1}}, [writer.new_part()])
        with pytest.raises(ValueError, match="Out of range float"):
            writer.commit({"nan": float("nan")}, [])
        linked = writer.new_part()
        (linked.path / "link").symlink_to(tmp_path)
        with pytest.raises(WinnowError, match="holds a link"):
            writer.commit({}, [linked])
        linked = writer.new_part()
        (linked.path / "link").symlink_to(tmp_path / "i" / "winnow.json")
        with pytest.raises(StorageError, match="link could not be written"):
            writer.commit({}, [linked])
        assert writer.current.number == 1
    with (
        FolderWriter(tmp_path / "other", "note") as other,
        FolderWriter(tmp_path / "i", "note") as writer,
        pytest.raises(WinnowError, match="neither new nor in the current commit"),
    ):
        writer.commit({}, [other.new_part()])
    with pytest.raises(WinnowError, match=r"the writer of .*i is closed; make another one"):
        writer.commit({}, [])
    assert read(tmp_path / "i", "full") == ("one", 3)
    assert names(tmp_path / "i") == ["part-000001", *OTHERS]


def test_a_failing_commit_says_what_to_do(tmp_path, monkeypatch):
    save(tmp_path / "i")
    real, full = files.rename, OSError(28, "No space left on device")

    def fail_once(old, new):
        monkeypatch.setattr(files, "rename", real)
        with files.told(new):
            raise full

    monkeypatch.setattr(files, "rename", fail_once)
    with FolderWriter(tmp_path / "i", "note") as writer:
        part = writer.new_part()
        with pytest.raises(
            StorageError, match=r"winnow.json could not be written \(No space left on device\); make room"
        ):
            writer.commit({}, [part])
        assert not part.path.exists()
        assert writer.commit({}, [writer.new_part()]).number == 2


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()], ids=["EIO", "Ctrl-C"])
def test_after_a_failing_last_flush_the_writer_knows_which_commit_stands(tmp_path, monkeypatch, error):
    save(tmp_path / "i")
    real = files.flush_folder

    def fail_after_rename(path):
        if path == tmp_path / "i" and newest_commit(path) == 2:
            monkeypatch.setattr(files, "flush_folder", real)
            with files.told(path):
                raise error
        real(path)

    with FolderWriter(tmp_path / "i", "note") as writer:
        monkeypatch.setattr(files, "flush_folder", fail_after_rename)
        part = writer.new_part()
        with pytest.raises((StorageError, KeyboardInterrupt)):
            writer.commit({}, [part])
        assert writer.current.number == newest_commit(tmp_path / "i") == 2
        assert list(writer.current.parts) == [part.name]
        assert writer.commit({}, [part]).number == 3
    assert damage(tmp_path / "i", "full") == []


CALLS = {"fsync": [1, 2, 4, 7, 9, 10, 11, 12, 13, 14, 15], "replace": [1, 2], "unlink": [1, 3], "rmdir": [1, 2]}


@pytest.mark.parametrize(("name", "call"), [(name, call) for name, calls in CALLS.items() for call in calls])
def test_killed_at_any_step_the_folder_holds_the_old_content_or_the_new(tmp_path, name, call):
    """The process dies at its `call`-th call of one kind; what is on disk then opens as one commit, and can be replaced."""
    save(tmp_path / "i", "old")
    code = """
        import os, signal, sys
        sys.path += [sys.argv[4]]
        from test_storage import save
        name, left = sys.argv[2], int(sys.argv[3])
        real = getattr(os, name)
        def dying(*arguments, **options):
            global left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)
        setattr(os, name, dying)
        save(sys.argv[1], "newer")
    """
    child = run_python(f"import sys; sys.path += [{str(ROOT / 'tests')!r}]\n" + textwrap.dedent(code),
                       tmp_path / "i", name, call, Path(__file__).parent)  # fmt: skip
    assert child.wait() == -signal.SIGKILL
    assert read(tmp_path / "i", "full") in (("old", 3), ("newer", 5))
    assert damage(tmp_path / "i", "full") == []
    with FolderWriter(tmp_path / "i", "note") as writer:
        assert set(names(tmp_path / "i")) == {*OTHERS, *writer.current.parts}
    save(tmp_path / "i", "again")
    assert read(tmp_path / "i", "full") == ("again", 5)


def test_a_build_that_never_finished_is_not_an_index_and_can_be_built_again(tmp_path):
    files.make_folders(tmp_path / "i" / "part-000001")
    files.write_file(tmp_path / "i" / "part-000001" / "winnow-part", b"")
    files.write_file(tmp_path / "i" / "part-000001" / "a.txt", b"half")
    with pytest.raises(IndexFormatError, match="whose build did not finish; build it again"):
        read(tmp_path / "i")
    assert newest_commit(tmp_path / "i") is None
    assert [found.file for found in damage(tmp_path / "i")] == ["winnow.json"]
    save(tmp_path / "i", keep=True)
    assert read(tmp_path / "i") == ("one", 3)
    assert names(tmp_path / "i") == ["part-000001", *OTHERS]


def test_a_folder_that_is_not_an_index_says_so(tmp_path):
    for ask in (read, damage):
        with pytest.raises(IndexFormatError, match=r"is not an index \(it has no winnow.json\)"):
            ask(tmp_path)
        with pytest.raises(IndexFormatError, match=r"is not an index \(it has no winnow.json\)"):
            ask(tmp_path / "nowhere")
    assert newest_commit(tmp_path) is None


# ---- who writes and who reads


def test_a_second_writer_in_the_same_process_is_refused(tmp_path):
    message = r"this process is already writing to .*i; commit or roll back there first"
    with FolderWriter(tmp_path / "i", "note"), pytest.raises(LockedError, match=message):
        FolderWriter(tmp_path / "i", "note")
    save(tmp_path / "i")


HOLD = """
    import sys, time
    from index.folder_writer import FolderWriter
    writer = FolderWriter(sys.argv[1], "note")
    writer.new_part()
    print(flush=True)
    time.sleep(60)
"""


def test_a_writer_of_another_process_is_named_and_one_that_died_is_no_obstacle(tmp_path):
    save(tmp_path / "i")
    child = run_python(HOLD, tmp_path / "i")
    child.stdout.readline()
    with pytest.raises(LockedError, match=rf"process {child.pid} \(.*python.* -c .*\) is writing to .*i; wait until"):
        save(tmp_path / "i", "two")
    assert read(tmp_path / "i") == ("one", 3)
    child.kill()
    child.wait()
    assert (tmp_path / "i" / "winnow.lock").read_text().startswith(f"{child.pid} ")
    with FolderWriter(tmp_path / "i", "note") as writer:
        assert names(tmp_path / "i") == ["part-000001", *OTHERS]
        assert writer.new_part().name == "part-000002"  # as a writer that was not killed would have called it


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"12 bad\x1b[2J", b"word", b"9" * 5000])
def test_a_lock_that_names_nobody_is_told_as_another_process(tmp_path, text):
    with FolderWriter(tmp_path / "i", "note"):
        (tmp_path / "i" / "winnow.lock").write_bytes(text)
        with pytest.raises(LockedError) as told:
            FolderWriter(tmp_path / "i", "note")
    assert str(told.value).isprintable()


def test_a_forked_child_neither_holds_the_lock_nor_writes(tmp_path):
    writer = FolderWriter(tmp_path / "i", "note")
    writer.new_part()
    (has_closed, tell_closed), (may_end, let_end) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover
        with contextlib.suppress(BaseException):
            writer.close()
            os.write(tell_closed, b"x")
            os.close(let_end)
            os.read(may_end, 1)  # until the parent lets it go
        os._exit(0)
    os.read(has_closed, 1)
    assert names(tmp_path / "i") == ["part-000001", "winnow.lock"]
    with pytest.raises(LockedError):
        FolderWriter(tmp_path / "i", "note")
    os.close(writer._lock._close.peek()[2][0])  # as when the parent is killed
    save(tmp_path / "i")  # while the child lives
    for descriptor in (let_end, may_end, has_closed, tell_closed):
        os.close(descriptor)
    os.waitpid(child, 0)
    writer._lock._close.detach()


def test_a_writer_that_was_dropped_without_closing_holds_nothing(tmp_path):
    FolderWriter(tmp_path / "i", "note").new_part()
    gc.collect()
    save(tmp_path / "i")
    assert names(tmp_path / "i") == ["part-000001", *OTHERS]


def test_the_scratch_folder_of_a_dead_writer_goes_and_a_folder_of_somebody_else_stays(tmp_path):
    save(tmp_path / "i")
    with FolderWriter(tmp_path / "i", "note") as writer:
        files.write_file(writer.scratch() / "half", b"x")
        assert names(tmp_path / "i" / "winnow-scratch") == ["half", "winnow-part"]
        assert names(writer.scratch()) == ["winnow-part"]  # a second one is the same, empty again
    assert names(tmp_path / "i") == ["part-000001", *OTHERS]
    for content in ([], ["winnow-part", "half"]):
        (tmp_path / "i" / "winnow-scratch").mkdir()
        for name in content:
            (tmp_path / "i" / "winnow-scratch" / name).write_bytes(b"")
        FolderWriter(tmp_path / "i", "note").close()
        assert names(tmp_path / "i") == ["part-000001", *OTHERS]
    (tmp_path / "i" / "winnow-scratch").mkdir()
    (tmp_path / "i" / "winnow-scratch" / "thesis.txt").write_text("mine")
    with pytest.raises(WinnowError, match="holds 'winnow-scratch', which is not part of an index"):
        FolderWriter(tmp_path / "i", "note")
    assert (tmp_path / "i" / "winnow-scratch" / "thesis.txt").read_text() == "mine"


def test_a_folder_removed_just_before_the_lock_is_had_is_made_again(tmp_path, monkeypatch):
    """Another writer that had nothing to commit takes its new folder away while we wait at the lock's file."""
    real, others = locks.lock_without_waiting, []

    def take_away_first(descriptor, operation):
        if not others:
            others.append(os.unlink(tmp_path / "i" / "winnow.lock"))
            os.rmdir(tmp_path / "i")
        return real(descriptor, operation)

    monkeypatch.setattr(locks, "lock_without_waiting", take_away_first)
    save(tmp_path / "i")
    assert read(tmp_path / "i") == ("one", 3)


def test_what_somebody_reads_stays_until_he_lets_it_go(tmp_path):
    save(tmp_path / "i")
    commit = read_commit(tmp_path / "i")
    save(tmp_path / "i", "two")
    save(tmp_path / "i", "three")
    assert names(tmp_path / "i") == ["part-000001", "part-000003", *OTHERS]
    assert newest_text(commit) == ("one", 3)
    part = commit.parts["part-000001"]
    del commit
    save(tmp_path / "i", "four")
    assert (part.path / "a.txt").read_text() == "one"
    del part
    save(tmp_path / "i", "five")
    assert names(tmp_path / "i") == ["part-000005", *OTHERS]


def test_what_another_process_reads_stays_until_it_ends(tmp_path):
    save(tmp_path / "i")
    child = run_python(
        """
        import sys, time
        from index.storage import read_current
        commit = read_current(sys.argv[1], "note", lambda commit: commit)
        print(flush=True)
        time.sleep(60)
        """,
        tmp_path / "i",
    )
    child.stdout.readline()
    save(tmp_path / "i", "two")
    assert names(tmp_path / "i") == ["part-000001", "part-000002", *OTHERS]
    child.kill()
    child.wait()
    with FolderWriter(tmp_path / "i", "note"):
        assert names(tmp_path / "i") == ["part-000002", *OTHERS]


def test_a_reader_that_comes_while_a_part_is_removed_reads_the_next_commit(tmp_path, monkeypatch):
    """Between opening the marker and locking it, its part goes: an empty one, so that nothing else is missing."""
    with FolderWriter(tmp_path / "i", "note") as writer:
        writer.commit({}, [writer.new_part()])
    real, others = locks.lock_without_waiting, []

    def commit_first(descriptor, operation):
        if not others:
            others.append(1)
            save(tmp_path / "i", "two")
        return real(descriptor, operation)

    monkeypatch.setattr(locks, "lock_without_waiting", commit_first)
    commit = read_commit(tmp_path / "i")
    assert (commit.number, newest_text(commit)) == (2, ("two", 3))


def test_a_reader_whose_files_are_replaced_starts_over_and_one_whose_are_not_fails(tmp_path):
    save(tmp_path / "i")
    seen = []

    def fail_at_first(commit):
        seen.append(commit.number)
        if len(seen) == 1:
            save(tmp_path / "i", "two")
        if commit.number == 1:
            raise FileNotFoundError("a.txt")
        return newest_text(commit)

    assert read_current(tmp_path / "i", "note", fail_at_first) == ("two", 3)
    assert seen == [1, 2]
    with pytest.raises(FileNotFoundError):
        read_current(tmp_path / "i", "note", lambda commit: (_ for _ in ()).throw(FileNotFoundError("a.txt")))


def test_descriptors_neither_leak_nor_reach_other_programs(tmp_path):
    save(tmp_path / "i")
    before = open_descriptors()
    commit = read_commit(tmp_path / "i")
    for number in range(200):
        if number % 20 == 0:
            save(tmp_path / "i", str(number), keep=True)
        commit = read_commit(tmp_path / "i", known=commit.parts)
    assert open_descriptors() == before + len(commit.parts) == before + 11
    seen = subprocess.run(["ls", "-l", "/proc/self/fd"], capture_output=True, text=True, close_fds=False).stdout
    assert "winnow" not in seen
    del commit
    assert open_descriptors() == before


def test_known_parts_are_handed_back_unchecked_unless_they_differ_or_all_is_verified(tmp_path):
    save(tmp_path / "i")
    first = read_commit(tmp_path / "i")
    save(tmp_path / "i", "two", keep=True)
    second = read_commit(tmp_path / "i", known=first.parts)
    assert second.parts["part-000001"] is first.parts["part-000001"]
    assert (
        read_commit(tmp_path / "i", known=first.parts, verify="full").parts["part-000001"]
        is not first.parts["part-000001"]
    )
    save(tmp_path / "j", "other")
    assert read_commit(tmp_path / "j", known=first.parts).parts["part-000001"].path == tmp_path / "j" / "part-000001"


def test_a_file_system_without_locks_is_done_without(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    save(tmp_path / "i")
    commit = read_commit(tmp_path / "i")
    save(tmp_path / "i", "two")
    assert read(tmp_path / "i") == ("two", 3)
    assert names(tmp_path / "i") == ["part-000002", *OTHERS]
    del commit


def test_a_folder_that_cannot_be_written_to_can_be_read(tmp_path, monkeypatch):
    save(tmp_path / "i")
    real = os.open

    def refuse_writing(path, flags, *arguments, **options):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(30, "Read-only file system", str(path))
        return real(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse_writing)
    assert read(tmp_path / "i", "full") == ("one", 3)
    assert (newest_commit(tmp_path / "i"), damage(tmp_path / "i", "full")) == (1, [])
    with pytest.raises(
        StorageError, match=r"winnow.lock could not be written \(Read-only file system\); choose another"
    ):
        save(tmp_path / "i", "two")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(WinnowError, match="cannot be written to; change its permissions"):
        check_target(tmp_path / "i")


def test_many_writers_and_readers_at_once_always_find_one_whole_commit(tmp_path):
    save(tmp_path / "i", "0")
    done, failures, reads = threading.Event(), [], []

    def write(name):
        for number in range(40):
            with contextlib.suppress(LockedError):
                save(tmp_path / "i", f"{name}{number}", keep=number % 3 != 0)

    def read_often(verify):
        commit = None
        while not done.is_set():
            try:
                commit = read_commit(tmp_path / "i", verify=verify, known=commit.parts if commit else {})
                for part in commit.parts.values():
                    assert len((part.path / "a.txt").read_text()) == part.contents["length"]
                reads.append(commit.number)
            except Exception as error:
                failures.append(error)

    readers = [threading.Thread(target=read_often, args=(verify,)) for verify in ("quick", "full")]
    writers = [threading.Thread(target=write, args=(name,)) for name in ("a", "bb", "ccc")]
    for thread in readers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()
    assert not failures
    assert len(set(reads)) > 1
    gc.collect()
    with FolderWriter(tmp_path / "i", "note") as writer:
        assert names(tmp_path / "i") == [*writer.current.parts, *OTHERS]


# ---- what is not ours


def test_folders_and_files_of_other_programs_are_left_alone_even_if_called_like_ours(tmp_path):
    (tmp_path / "ga" / "part-000001").mkdir(parents=True)
    (tmp_path / "ga" / "part-000001" / "thesis.txt").write_text("mine")
    with pytest.raises(WinnowError, match="holds 'part-000001', which is not part of an index"):
        save(tmp_path / "ga")
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "winnow.json").write_text('{"my": "settings"}')
    with pytest.raises(WinnowError, match=r"holds 'winnow.json', which is not part of an index"):
        save(tmp_path / "w")
    assert (tmp_path / "w" / "winnow.json").read_text() == '{"my": "settings"}'
    assert names(tmp_path / "w") == ["winnow.json"]


@pytest.mark.parametrize("name", ["thesis.doc", "part-1", "winnow.json.bak", ".hidden"])
def test_a_folder_with_anything_else_is_left_alone(tmp_path, name):
    save(tmp_path / "i")
    (tmp_path / "i" / name).write_text("mine")
    for keep in (False, True):
        with pytest.raises(WinnowError, match=f"holds '{name}', which is not part of an index"):
            save(tmp_path / "i", "two", keep)
    assert (tmp_path / "i" / name).read_text() == "mine"
    assert read(tmp_path / "i") == ("one", 3)


@pytest.mark.parametrize("name", ["part-000007", "winnow.lock", "winnow.json.new"])
def test_links_called_like_ours_are_not_ours(tmp_path, name):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "winnow-part").touch()
    (tmp_path / "i").mkdir()
    (tmp_path / "i" / name).symlink_to(tmp_path / "mine")
    with pytest.raises(WinnowError, match=f"holds '{name}', which is not part of an index"):
        save(tmp_path / "i")
    assert names(tmp_path / "mine") == ["winnow-part"]


def test_a_file_in_the_place_of_the_folder_is_left_alone(tmp_path):
    (tmp_path / "f").write_text("mine")
    with pytest.raises(WinnowError, match="is not a folder"):
        check_target(tmp_path / "f")
    with pytest.raises(WinnowError, match="is not a folder"):
        save(tmp_path / "f")


# ---- damage and lies


@pytest.mark.parametrize(("version", "remedy"), [(1, "build the index"), (9, "update winnow-ir or build the index")])
def test_another_version_of_the_format_names_both(tmp_path, version, remedy):
    save(tmp_path / "i")
    edit_manifest(tmp_path / "i", lambda fields: fields.update(version=version), seal=False)
    message = rf"i has format version {version}, this release reads version 2; {remedy} again"
    with pytest.raises(IndexFormatError, match=message):
        read(tmp_path / "i")
    with pytest.raises(IndexFormatError, match=message):
        save(tmp_path / "i", "two", keep=True)
    assert message.split("; ")[1].split(" again")[0] in damage(tmp_path / "i")[0].message
    save(tmp_path / "i", "two")
    assert read(tmp_path / "i") == ("two", 3)


DIGEST = "0" * 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format="other"), "is no index of ours"),
        (lambda m: m.update(version="2"), "is no index of ours"),
        (lambda m: m.update(version=True), "is no index of ours"),
        (lambda m: m.update(kind="retriever"), "holds a retriever, not a note"),
        (lambda m: m.update(kind=7), "kind 7, which cannot be"),
        (lambda m: m.update(commit=True), "commit True, which cannot be"),
        (lambda m: m.update(commit=0), "commit 0, which cannot be"),
        (lambda m: m.update(commit=1 << 63), "which cannot be"),
        (lambda m: m.update(next_part=1.5), "next_part 1.5, which cannot be"),
        (lambda m: m.update(next_part=1), "part 'part-000001', which cannot be"),
        (lambda m: m.update(contents=None), "contents None, which cannot be"),
        (lambda m: m.update(contents={}), "does not describe its contents as this release does"),
        (lambda m: m.update(contents={"newest": [1]}), "does not describe its contents as this release does"),
        (lambda m: m.update(parts=[1]), r"parts \[1\], which cannot be"),
        (lambda m: m.update(parts={"../elsewhere": {"sha256": DIGEST}}), "part '../elsewhere', which cannot be"),
        (lambda m: m.update(parts={"part-0000001": {"sha256": DIGEST}}), "part 'part-0000001', which cannot be"),
        (lambda m: m.update(parts={"part-000001": {"sha256": "x"}}), "sha256 'x', which cannot be"),
        (lambda m: m.update(parts={"part-000001": {"sha256": DIGEST}}), "part.json does not match its checksum"),
        (lambda m: m.update(parts={"part-000001": DIGEST}), "where sha256 should be"),
        (lambda m: m.update(parts={"part-000001": {"sha256": DIGEST, "x": 1}}), "where sha256 should be"),
        (lambda m: m.update(next_part=3, parts={"part-000002": {"sha256": DIGEST}}), "winnow-part cannot be read"),
        (lambda m: m.update(more=1), "where commit, contents, format, kind"),
        (lambda m: m.pop("kind"), "where commit, contents, format, kind"),
    ],
)
def test_a_manifest_that_lies_is_refused(tmp_path, change, message):
    save(tmp_path / "i")
    edit_manifest(tmp_path / "i", change)
    with pytest.raises(IndexFormatError, match=message):
        read(tmp_path / "i")
    assert isinstance(damage(tmp_path / "i", "full"), list)


def stored(**fields):
    return {"bytes": 1, "sha256": DIGEST, "head": DIGEST, **fields}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["files"].update({"../../x": stored()}), "file '../../x', which cannot be"),
        (lambda d: d["files"].update({"/etc/hostname": stored()}), "file '/etc/hostname', which cannot be"),
        (lambda d: d["files"].update({"sub/./b.txt": stored()}), "which cannot be"),
        (lambda d: d["files"].update({"": stored()}), "file '', which cannot be"),
        (lambda d: d["files"].update({"a\0b": stored()}), "which cannot be"),
        (lambda d: d["files"].update({"\ud800": stored()}), "which cannot be"),
        (lambda d: d["files"].update({"part.json": stored()}), "file 'part.json', which cannot be"),
        (lambda d: d["files"].update({"b.txt": stored()}), r"b.txt is missing, a link, or cannot be read \(No such"),
        (lambda d: d["files"].update({"sub": stored()}), "sub is not a regular file"),
        (lambda d: d["files"].update({"a.txt/b": stored()}), r"cannot be read \(Not a directory"),
        (lambda d: d["files"].update({"x" * 300: stored()}), "which cannot be; run"),
        (lambda d: d["files"]["a.txt"].update(bytes=4), "a.txt has 3 bytes, its index says 4"),
        (lambda d: d["files"]["a.txt"].update(bytes=True), "bytes True, which cannot be"),
        (lambda d: d["files"]["a.txt"].update(bytes=-1), "bytes -1, which cannot be"),
        (lambda d: d["files"]["a.txt"].update(bytes=10**30), "which cannot be"),
        (lambda d: d["files"]["a.txt"].update(bytes=3.0), "bytes 3.0, which cannot be"),
        (lambda d: d["files"]["a.txt"].update(head=DIGEST), "a.txt does not begin as it should"),
        (lambda d: d["files"]["a.txt"].update(head=None), "head None, which cannot be"),
        (lambda d: d["files"]["a.txt"].update(more=1), "where bytes, head, sha256 should be"),
        (lambda d: d["files"].update({"a.txt": 3}), "where bytes, head, sha256 should be"),
        (lambda d: d.update(files=[1]), r"files \[1\], which cannot be"),
        (lambda d: d.update(contents=[1]), r"contents \[1\], which cannot be"),
        (lambda d: d.update(contents={}), "does not describe its contents as this release does"),
        (lambda d: d.update(more=1), "where contents, files should be"),
    ],
)
def test_a_description_that_lies_is_refused(tmp_path, change, message):
    save(tmp_path / "i")
    edit_description(tmp_path / "i", change)
    with pytest.raises(IndexFormatError, match=message):
        read(tmp_path / "i")
    assert isinstance(damage(tmp_path / "i", "full"), list)


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"null", b"\xff", b'{"files": {}, "files": {}, "contents": {}}', b'{"contents": {"x": NaN}, "files": {}}',
     b"[" * 1_000_000, b'{"contents":' + b'{"a":' * 200_000, b"9" * 5_000, "\ufeff{}".encode()],
    ids=lambda data: repr(data[:30]),
)  # fmt: skip
def test_json_that_is_not_ours_is_refused(tmp_path, data):
    save(tmp_path / "i")
    replace_description(tmp_path / "i", data)
    with pytest.raises(IndexFormatError, match=r"part.json is damaged|where contents, files should be"):
        read(tmp_path / "i")
    (tmp_path / "i" / "winnow.json").write_bytes(data)
    with pytest.raises(IndexFormatError):
        read(tmp_path / "i")
    assert damage(tmp_path / "i")[0].file == "winnow.json"


def test_a_huge_manifest_is_not_read(tmp_path):
    save(tmp_path / "i")
    os.truncate(tmp_path / "i" / "winnow.json", 1 << 40)
    with pytest.raises(IndexFormatError, match=r"is no regular file of at most 67,108,864 bytes \(1,099,511,627,776\)"):
        read(tmp_path / "i")


@pytest.mark.parametrize("name", ["winnow.json", "part-000001/part.json"])
def test_every_changed_byte_and_every_truncation_of_what_vouches_for_the_rest_is_found(tmp_path, name):
    save(tmp_path / "i")
    path = tmp_path / "i" / name
    whole = path.read_bytes()
    for position in range(len(whole)):
        for changed in (bytes([whole[position] ^ 1]), bytes([whole[position] ^ 32]), b""):
            path.write_bytes(whole[:position] + changed + whole[position + 1 :])
            with pytest.raises(IndexFormatError):
                read(tmp_path / "i")
        path.write_bytes(whole[:position])
        with pytest.raises(IndexFormatError):
            read(tmp_path / "i")
    path.write_bytes(whole + b"\n")
    with pytest.raises(IndexFormatError):
        read(tmp_path / "i")


def replace_by_link(path, tmp_path):
    path.rename(tmp_path / "else")
    path.symlink_to(tmp_path / "else")


def replace_by_pipe(path, tmp_path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("name", ["part-000001", "part-000001/a.txt", "part-000001/sub", "part-000001/sub/b.txt",
                                  "part-000001/part.json", "part-000001/winnow-part", "winnow.json"])  # fmt: skip
def test_symbolic_links_out_of_the_folder_are_refused(tmp_path, name):
    save(tmp_path / "i")
    replace_by_link(tmp_path / "i" / name, tmp_path)
    with pytest.raises(IndexFormatError):
        read(tmp_path / "i")
    assert damage(tmp_path / "i")


@pytest.mark.parametrize("name", ["part-000001/a.txt", "part-000001/part.json", "winnow.json"])
def test_a_named_pipe_is_refused_without_waiting(tmp_path, name):
    save(tmp_path / "i")
    replace_by_pipe(tmp_path / "i" / name, tmp_path)
    with pytest.raises(IndexFormatError):
        read(tmp_path / "i")


def test_a_link_to_the_whole_folder_is_followed(tmp_path):
    save(tmp_path / "i")
    (tmp_path / "link").symlink_to("i")
    assert read(tmp_path / "link", "full") == ("one", 3)
    save(tmp_path / "link", "two")
    assert read(tmp_path / "i", "full") == ("two", 3)


def test_what_a_quick_check_sees_and_what_only_a_full_one(tmp_path):
    save(tmp_path / "i")
    path = tmp_path / "i" / "part-000001" / "sub" / "b.txt"
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + b"x" + whole[position + 1 :])
        with pytest.raises(
            IndexFormatError, match=r"b.txt does not match its checksum|b.txt does not begin as it should"
        ):
            read(tmp_path / "i", "full")
        if position < 128:
            with pytest.raises(IndexFormatError, match=r"b.txt does not begin as it should"):
                read(tmp_path / "i")
        else:
            assert read(tmp_path / "i") == ("one", 3)
        path.write_bytes(whole[:position])
        with pytest.raises(IndexFormatError, match=rf"b.txt has {position} bytes, its index says 300"):
            read(tmp_path / "i")


def test_every_damage_is_told_not_only_the_first(tmp_path):
    for text in ("one", "two", "three"):
        save(tmp_path / "i", text, keep=True)
    assert damage(tmp_path / "i", "full") == []
    part = tmp_path / "i" / "part-000001"
    (part / "a.txt").unlink()
    (part / "sub" / "b.txt").write_bytes(b"b" * 299 + b"x")
    (tmp_path / "i" / "part-000002" / "winnow-part").unlink()
    (tmp_path / "i" / "part-000003" / "part.json").write_bytes(b"{}")
    (tmp_path / "i" / "winnow.json").write_bytes(b"{}")
    found = damage(tmp_path / "i", "full")
    assert [(each.part, each.file) for each in found] == [
        (None, "winnow.json"),
        ("part-000001", "a.txt"),
        ("part-000001", "sub/b.txt"),
        ("part-000002", "winnow-part"),
        ("part-000003", "part.json"),
    ]
    assert all(str(tmp_path / "i") in each.message and each.message.endswith(".") for each in found)
    assert ("part-000001", "sub/b.txt") not in [each[:2] for each in damage(tmp_path / "i")]
    (tmp_path / "i" / "winnow.json.copy").write_bytes(b"")
    assert [each.file for each in damage(tmp_path / "i")] == ["winnow.json", "winnow.json.copy"]


def test_unknown_verification_is_refused(tmp_path):
    for ask in (read, damage):
        with pytest.raises(WinnowError, match="verify is 'some'"):
            ask(tmp_path, "some")


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_damaged_index_is_refused_replaced_or_salvaged_as_the_writer_wants(tmp_path, is_lost):
    for text in ("one", "two"):
        save(tmp_path / "i", text, keep=True)
    manifest = tmp_path / "i" / "winnow.json"
    manifest.unlink() if is_lost else manifest.write_text(
        manifest.read_text().replace('"version": 2', '"version": 2.5')
    )
    (tmp_path / "i" / "part-000001" / "sub" / "b.txt").write_bytes(b"c" * 300)
    before = names(tmp_path / "i")
    with pytest.raises(IndexFormatError, match="has lost its winnow.json" if is_lost else "is no index of ours"):
        save(tmp_path / "i", "three", keep=True)
    with FolderWriter(tmp_path / "i", "note", "replace") as writer:
        assert writer.current is None
    assert names(tmp_path / "i") == before
    assert soundest_manifest(tmp_path / "i").commit == 2
    with FolderWriter(tmp_path / "i", "note", "salvage") as writer:
        assert (writer.current.number, list(writer.current.parts)) == (2, ["part-000002"])
        assert names(tmp_path / "i") == before
        assert writer.commit(writer.current.contents, writer.current.parts.values()).number == 3
    assert read(tmp_path / "i", "full") == ("two", 3)
    assert names(tmp_path / "i") == ["part-000002", *OTHERS]


def test_a_writer_that_replaces_goes_on_counting_where_nothing_can_be_read(tmp_path):
    save(tmp_path / "i")
    for name in ("winnow.json", "winnow.json.copy"):
        (tmp_path / "i" / name).write_bytes(b"")
    with pytest.raises(IndexFormatError, match="damaged"):
        FolderWriter(tmp_path / "i", "note", "salvage")
    save(tmp_path / "i", "again")
    assert newest_commit(tmp_path / "i") > 1
    assert names(tmp_path / "i") == ["part-000002", *OTHERS]


def test_an_index_of_another_kind_is_replaced_only_by_who_wants_to(tmp_path):
    save(tmp_path / "i")
    for on_damage in ("refuse", "salvage"):
        with pytest.raises(IndexFormatError, match="holds a note, not a poem"):
            FolderWriter(tmp_path / "i", "poem", on_damage)
    with FolderWriter(tmp_path / "i", "poem", "replace") as writer:
        assert writer.current is None
        writer.commit({}, [writer.new_part()])
    assert read_current(tmp_path / "i", "poem", lambda commit: commit.number) == 2


def test_too_many_open_files_is_not_taken_for_damage(tmp_path, monkeypatch):
    save(tmp_path / "i")
    real = os.open

    def refuse(path, *arguments, **options):
        if str(path).endswith("a.txt"):
            raise OSError(24, "Too many open files")
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    for on_damage in ("refuse", "replace", "salvage"):
        with pytest.raises(WinnowError, match=r"a.txt cannot be read \(Too many open files\)"):
            FolderWriter(tmp_path / "i", "note", on_damage)
    monkeypatch.undo()
    assert read(tmp_path / "i", "full") == ("one", 3)


def test_a_quick_check_takes_microseconds_a_file(tmp_path):
    with FolderWriter(tmp_path / "i", "note") as writer:
        part = writer.new_part()
        for number in range(300):
            files.write_file(part.path / f"{number}.npy", bytes(1000))
        writer.commit({}, [part])
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        read_commit(tmp_path / "i")
        seconds.append(time.perf_counter() - started)
    assert min(seconds) / 300 < 100e-6  # typically 11; the bound only catches many more system calls


def test_the_manifest_is_what_the_format_says(tmp_path):
    """A reader that shares no code with ours."""
    import hashlib

    save(tmp_path / "i")
    raw = (tmp_path / "i" / "winnow.json").read_bytes()
    fields = json.loads(raw)
    (line,) = [line for line in raw.splitlines(True) if line.startswith(b' "sha256"')]
    assert hashlib.sha256(raw.replace(line, b"")).hexdigest() == fields["sha256"]
    described = (tmp_path / "i" / "part-000001" / "part.json").read_bytes()
    assert hashlib.sha256(described).hexdigest() == fields["parts"]["part-000001"]["sha256"]
    assert list(json.loads(described)["files"]) == ["a.txt", "sub/b.txt"]
    for name, file in json.loads(described)["files"].items():
        content = (tmp_path / "i" / "part-000001" / name).read_bytes()
        assert file == {
            "bytes": len(content),
            "head": hashlib.sha256(content[:128]).hexdigest(),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    assert (tmp_path / "i" / "winnow.json.copy").read_bytes() == raw
