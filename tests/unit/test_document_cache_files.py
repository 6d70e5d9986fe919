"""The folder of a document cache: whatever happens to it costs documents and never gives wrong states."""

import errno
import hashlib
import json
import os
import random
import signal
import struct
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from document_cache_for_tests import BYTES, ENTRY, HEADS, LAYERS, SIZE, document, filled, found_in, opened, states_of

from index.errors import StorageError, WinnowWarning
from retrieval.rerankers import state_files
from retrieval.rerankers.document_cache import DocumentCache


@pytest.mark.parametrize("precision", ["same", "bf16", "int8"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_another_process_finds_what_memory_would_give(tmp_path, precision, dtype):
    in_memory, on_disk = DocumentCache(precision=precision), opened(tmp_path, precision=precision)
    in_memory.bound_to("model A")
    for cache in (in_memory, on_disk):
        for number in range(4):
            cache.put(document(number), states_of(number, dtype))
    on_disk.close()
    again = opened(tmp_path, precision=precision, memory_bytes=1 << 20)
    for _ in range(2):  # from disk, then from memory
        for number in range(4):
            for side, expected in zip(again.get(document(number)), in_memory.get(document(number)), strict=True):
                assert side.dtype == dtype
                assert torch.equal(side, expected)
    assert again.get(document(4)) is None
    found = again.statistics
    assert (found.hits, found.hits_on_disk, found.misses) == (8, 4, 1)
    assert (found.documents_on_disk, found.documents_in_memory) == (4, 4)
    assert found.bytes_on_disk == sum(path.stat().st_size for path in tmp_path.glob("states-*"))


def test_the_files_are_as_documented(tmp_path):
    ids = document(1)
    cache = opened(tmp_path, precision="int8")
    cache.put(ids, states_of(1))
    cache.close()
    expected = b""
    steps = [side.abs().amax(-1) / 127 for side in states_of(1)]
    expected += b"".join(step.numpy().tobytes() for step in steps)
    for side, step in zip(states_of(1), steps, strict=True):
        expected += (side / step[..., None]).round().to(torch.int8).numpy().tobytes()
    assert (tmp_path / "states-000001.data").read_bytes() == expected
    entry = hashlib.sha256(np.array(ids, "<i8").tobytes()).digest() + hashlib.sha256(expected).digest()
    entry += struct.pack("<QQIIIIBB6x", 0, len(expected), LAYERS + 1, 3, HEADS, SIZE, 4, 1)
    entry += hashlib.sha256(entry).digest()[:8]
    assert (tmp_path / "states-000001.index").read_bytes() == entry
    assert json.loads((tmp_path / "winnow-document-cache.json").read_text()) == {
        "format": "winnow-document-cache",
        "version": 1,
        "precision": "int8",
        "fingerprint": "model A",
    }


def test_what_is_there_is_not_written_again(tmp_path):
    for _ in range(3):
        filled(tmp_path, [1, 2])
    assert (tmp_path / "states-000001.data").stat().st_size == 2 * BYTES
    assert len(list(tmp_path.glob("states-*"))) == 2  # later writers go on in the files of the first


def test_while_one_process_writes_others_read_what_it_adds(tmp_path):
    writer = opened(tmp_path)
    writer.put(document(1), states_of(1))
    with pytest.warns(
        WinnowWarning, match="is already writing to .*; this document cache reads there and adds nothing"
    ):
        reader = opened(tmp_path)
    assert found_in(reader, [1]) == [1]
    reader.put(document(2), states_of(2))
    assert reader.statistics.documents_on_disk == 1
    assert found_in(writer, [2]) == []
    writer.put(document(3), states_of(3))
    assert found_in(reader, [1, 2, 3]) == [1, 3]
    writer.close()
    writer.put(document(4), states_of(4))
    assert found_in(writer, [1, 3, 4]) == [1, 3]
    heir = opened(tmp_path)
    heir.put(document(4), states_of(4))
    assert found_in(reader, [4]) == [4]


@pytest.mark.parametrize("name", ["states-000001.index", "states-000001.data"])
def test_files_cut_anywhere_lose_only_what_was_cut_off(tmp_path, name):
    filled(tmp_path / "whole", [1, 2, 3])
    whole = (tmp_path / "whole" / name).read_bytes()
    one = len(whole) // 3
    for length in {*range(0, len(whole), len(whole) // 30), one - 1, one, one + 1, len(whole) - 1}:
        folder = tmp_path / str(length)
        filled(folder, [1, 2, 3])
        (folder / name).write_bytes(whole[:length])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", WinnowWarning)
            cache = opened(folder)
            assert found_in(cache, [1, 2, 3]) == [1, 2, 3][: length // one]
            for number in (1, 2, 3, 4):
                cache.put(document(number), states_of(number))
            assert found_in(cache, [1, 2, 3, 4]) == [1, 2, 3, 4]
            cache.close()
        assert found_in(opened(folder), [1, 2, 3, 4]) == [1, 2, 3, 4]  # without a warning


@pytest.mark.parametrize("name", ["states-000001.index", "states-000001.data"])
def test_a_flipped_bit_costs_its_document_and_is_told(tmp_path, name):
    filled(tmp_path, [1, 2, 3])
    whole = (tmp_path / name).read_bytes()
    one = len(whole) // 3
    for place in random.Random(0).sample(range(len(whole)), 60):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        (tmp_path / name).write_bytes(damaged)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            cache = opened(tmp_path)
            left = [number for number in (1, 2, 3) if number != 1 + place // one]
            assert found_in(cache, [1, 2, 3]) == left
            cache.close()
        is_last_entry = name.endswith("index") and place // one == 2  # as if its writer had been killed
        assert [each.category for each in told] == [WinnowWarning] * (not is_last_entry)


def test_a_damaged_document_is_written_again(tmp_path):
    filled(tmp_path, [1, 2])
    path = tmp_path / "states-000001.data"
    path.write_bytes(bytes(BYTES) + path.read_bytes()[BYTES:])
    cache = opened(tmp_path)
    with pytest.warns(WinnowWarning, match=f"data is damaged in the {BYTES} bytes from 0; the document's states are"):
        assert found_in(cache, [1, 2]) == [2]
    cache.put(document(1), states_of(1))
    assert found_in(cache, [1, 2]) == [1, 2]
    cache.close()
    assert found_in(opened(tmp_path), [1, 2]) == [1, 2]


def test_an_entry_that_tells_another_size_than_its_states_is_not_believed(tmp_path):
    filled(tmp_path, [1])
    path = tmp_path / "states-000001.index"
    entry = bytearray(path.read_bytes()[:104])
    struct.pack_into("<I", entry, 84, 4_000_000_000)  # tokens
    path.write_bytes(bytes(entry) + hashlib.sha256(entry).digest()[:8])
    assert found_in(opened(tmp_path), [1]) == []


def put_until_killed(folder, first, tell):
    """In a child: every document from `first` on, its number told once it is put."""
    cache = opened(folder)
    while True:
        cache.put(document(first), states_of(first))
        os.write(tell, b"%d\n" % first)
        first += 1


def test_a_writer_killed_at_any_moment_loses_nothing_that_it_had_put(tmp_path):
    told, first = [], 0
    for attempt in range(12):
        listen, tell = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                put_until_killed(tmp_path, first, tell)
            finally:
                os._exit(1)
        os.close(tell)
        with open(listen) as lines:
            told.append(int(lines.readline()))  # it has begun
            time.sleep(random.Random(attempt).random() / 100)
            os.kill(child, signal.SIGKILL)
            told += map(int, lines)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        first = max(told) + 2  # one more may be there
    cache = opened(tmp_path)
    assert len(told) > 24
    assert found_in(cache, told) == told
    cache.put(document(first), states_of(first))
    assert found_in(cache, [first]) == [first]


def test_the_oldest_documents_leave_the_disk_and_the_budget_holds_at_every_moment(tmp_path):
    budget = 20 * (BYTES + ENTRY)
    cache = opened(tmp_path, disk_bytes=budget)
    for number in range(100):
        cache.put(document(number), states_of(number))
        assert sum(path.stat().st_size for path in tmp_path.glob("states-*")) <= budget
    there = found_in(cache, range(100))
    assert there == list(range(100 - len(there), 100))
    assert 20 * 7 // 8 <= len(there) <= 20  # an eighth goes at a time
    assert cache.statistics.evictions_on_disk == 100 - len(there)
    cache.close()
    assert found_in(opened(tmp_path, disk_bytes=budget), range(100)) == there
    smaller = filled(tmp_path, [100], disk_bytes=budget // 4) or opened(tmp_path)
    assert len(found_in(smaller, range(101))) <= 5
    assert found_in(smaller, [100]) == [100]


@pytest.mark.parametrize("disk_bytes", [0, BYTES + ENTRY - 1])
def test_a_document_larger_than_the_budget_is_not_written(tmp_path, disk_bytes):
    cache = opened(tmp_path, disk_bytes=disk_bytes)
    cache.put(document(1), states_of(1))
    assert not list(tmp_path.glob("states-*"))
    assert found_in(cache, [1]) == []


def test_a_document_of_the_whole_budget_is_kept(tmp_path):
    cache = opened(tmp_path, disk_bytes=BYTES + ENTRY)
    for number in (1, 2):
        cache.put(document(number), states_of(number))
        assert found_in(cache, [1, 2]) == [number]


def test_readers_miss_what_the_writer_evicted_without_a_warning(tmp_path):
    filled(tmp_path, [1])
    writer = opened(tmp_path, disk_bytes=2 * (BYTES + ENTRY))
    with pytest.warns(WinnowWarning):
        reader = opened(tmp_path)
    for number in range(2, 6):
        writer.put(document(number), states_of(number))
    assert found_in(reader, range(6)) == [4, 5]
    found = reader.statistics
    assert (found.documents_on_disk, found.bytes_on_disk) == (2, 2 * (BYTES + ENTRY))


@pytest.mark.parametrize("room", [0, 1, BYTES - 1, BYTES, BYTES + 1, BYTES + ENTRY - 1])
def test_a_full_disk_is_told_once_and_memory_goes_on(tmp_path, monkeypatch, room):
    filled(tmp_path, [1])
    cache = opened(tmp_path, memory_bytes=1 << 20)
    left = room

    def write(descriptor, data):
        nonlocal left
        if left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real_write(descriptor, data[:left])
        left -= written
        return written

    real_write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.warns(WinnowWarning, match=r"No space left.*documents are cached in memory only\."):
            cache.put(document(2), states_of(2))
        with warnings.catch_warnings(action="error"):
            cache.put(document(3), states_of(3))
    assert found_in(cache, [1, 2, 3]) == [1, 2, 3]
    assert found_in(opened(tmp_path), [1, 2, 3]) == [1]
    filled(tmp_path, [2])
    assert found_in(opened(tmp_path), [1, 2]) == [1, 2]


def test_a_folder_that_cannot_be_written_to_is_read(tmp_path, monkeypatch):
    filled(tmp_path, [1])

    def refuse(folder):
        raise StorageError(f"{folder} could not be written (Permission denied); change its permissions.")

    monkeypatch.setattr(state_files, "WriterLock", refuse)
    with pytest.warns(WinnowWarning, match="cannot be written to; this document cache reads there and adds nothing"):
        cache = opened(tmp_path)
    cache.put(document(2), states_of(2))
    assert found_in(cache, [1, 2]) == [1]
    with pytest.raises(StorageError, match="could not be written"):
        opened(tmp_path / "new")


def test_a_folder_replaced_under_the_writer_is_not_written_to(tmp_path):
    cache = opened(tmp_path / "cache")
    (tmp_path / "cache").rename(tmp_path / "moved")
    filled(tmp_path / "cache", [1], fingerprint="model B")
    with pytest.warns(WinnowWarning, match="is not the folder that this writer opened"):
        cache.put(document(2), states_of(2))
    assert found_in(opened(tmp_path / "cache", fingerprint="model B"), [1, 2]) == [1]


def test_a_forked_child_reads_and_leaves_the_folder_to_its_parent(tmp_path):
    cache = opened(tmp_path / "cache")
    cache.put(document(1), states_of(1))
    other = tmp_path / "other"
    other.write_text("not of the cache")
    child = os.fork()
    if child == 0:
        try:
            cache.put(document(2), states_of(2))
            is_right = found_in(cache, [1, 2]) == [1]
            for _ in range(3):  # under the number that the lock's descriptor had before the fork
                os.open(other, os.O_RDWR)
            cache.close()
            os._exit(0 if is_right else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert other.read_text() == "not of the cache"
    cache.put(document(3), states_of(3))
    assert found_in(cache, [1, 2, 3]) == [1, 3]
    with pytest.warns(WinnowWarning, match="reads there"):
        opened(tmp_path / "cache")


def test_threads_may_share_a_folder_while_the_oldest_documents_leave(tmp_path):
    cache, right = opened(tmp_path, disk_bytes=6 * (BYTES + ENTRY)), []

    def work(seed):
        for number in np.random.default_rng(seed).integers(0, 12, 150).tolist():
            if not found_in(cache, [number]):
                cache.put(document(number), states_of(number))
            assert cache.statistics.bytes_on_disk <= 6 * (BYTES + ENTRY)
        right.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    with warnings.catch_warnings(action="error"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(right) == [0, 1, 2, 3]
    found = cache.statistics
    assert found.hits + found.misses == 600
    assert found.bytes_on_disk == sum(path.stat().st_size for path in tmp_path.glob("states-*"))
