"""A job on Ray gives the bytes of the job of one process, whatever died. Skipped, saying so, where Ray is not installed."""

import json
import random
import time

import numpy as np
import pytest
from ray_for_tests import Cluster, need_ray

from index.arm_segments import UNLIMITED
from index.documents import Document
from index.errors import CorpusError, StorageError, WinnowError
from retrieval import Retriever
from retrieval.jobs import ray_engine
from retrieval.jobs.description import JobDescription
from retrieval.jobs.job import run_job
from retrieval.jobs.job_folder import JobFolder
from retrieval.jobs.pipeline import Stage, Stopping
from retrieval.jobs.ray_engine import Room, ShardBuilder, Work, built_of
from retrieval.jobs.written_documents import read_documents, write_documents, written_shards

WORDS = [f"word{i}" for i in range(500)]
SHARDS, A_SHARD = 12, 1_500


def corpus_file(path, count=SHARDS * A_SHARD - 700):
    rng = random.Random(1)
    lines = [json.dumps({"_id": f"d{i}", "title": WORDS[i % 500], "text": " ".join(rng.choices(WORDS, k=60)), "n": i / 7})
             for i in range(count)]  # fmt: skip
    path.write_text("\n".join(lines))
    return path


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_documents_come_back_as_they_were_written(tmp_path):
    documents = [
        Document("a\tb", "é", "x\n\u2028y \U0001f375", {"f": 0.1 + 0.2, "n": None, "deep": {"k": [1, 2.0, True]}}),
        Document("b", vector={"tea": 1, "é": 0.30000000000000004}),
        Document("c"),
    ]
    assert write_documents(tmp_path / "d.jsonl", iter(documents)) == 3
    found = list(read_documents(tmp_path / "d.jsonl"))
    assert found == documents
    assert [one.vector for one in found] == [one.vector for one in documents]
    assert [repr(one.fields) for one in found] == [repr(one.fields) for one in documents]
    with pytest.raises(StorageError):
        write_documents(tmp_path / "d.jsonl", documents)  # never over another


def test_shards_are_written_when_they_are_asked_for_and_the_last_is_shorter(tmp_path):
    shards = written_shards((Document(str(i)) for i in range(7)), 5, 3, tmp_path)
    assert next(shards)[::2] == (5, 3)
    assert len(list(tmp_path.iterdir())) == 1
    assert [shard[::2] for shard in shards] == [(6, 3), (7, 1)]
    assert [document.doc_id for document in read_documents(tmp_path / "shard-000007.jsonl")] == ["6"]


def test_groups_hold_all_items_once_and_those_before_an_error():
    def failing():
        yield from range(5)
        raise CorpusError("the sixth is bad; repair it.")

    assert [item for group in Stage(iter(range(9)), Stopping(), "t", 4).groups(3) for item in group] == list(range(9))
    taken = []
    with pytest.raises(CorpusError, match="the sixth"):
        taken.extend(item for group in Stage(failing(), Stopping(), "t", 4).groups(3) for item in group)
    assert taken == list(range(5))


def test_how_many_workers_fit():
    assert Room(2, 0).fits({"CPU": 5.0, "memory": 1e9}) == 2
    assert Room(1, 1).fits({"CPU": 8.0, "GPU": 3.0}) == 3
    assert Room(1, 1).fits({"CPU": 8.0}) == 0
    assert Room(1, 0).fits({}) == 0


def test_what_a_worker_fails_with_is_told_as_it_is(tmp_path):
    document = Document("a", text="tea")
    write_documents(tmp_path / "d.jsonl", [document, document])
    work = Work(JobDescription(("-",), model="bm25"), None, None, UNLIMITED, str(tmp_path))
    said = ShardBuilder(work)({"number": np.array([7]), "path": np.array([str(tmp_path / "d.jsonl")])})
    with pytest.raises(CorpusError, match="give each document its own id"):
        built_of(7, json.loads(said["said"][0]))


class Emptied:
    """A cluster whose last node goes."""

    def cluster_resources(self):
        return {"object_store_memory": 1.0}


def test_a_cluster_that_has_lost_all_room_ends_the_job(monkeypatch):
    monkeypatch.setattr(ray_engine, "LOST_SECONDS", 0.2)
    monkeypatch.setattr(ray_engine, "SECONDS_BETWEEN_LOOKS", 0.05)
    lasting, started = ray_engine.RoomLasting(Emptied(), Room(1, 0)), time.monotonic()
    with pytest.raises(WinnowError, match=r"no node with 1 CPUs for 0\.2 s; start nodes, then run the same command"):
        next(iter(Stage(never(), lasting, "t")))
    assert 0.2 < time.monotonic() - started < 10


def never():
    time.sleep(30)
    yield


def test_an_engine_that_there_is_not_is_refused(tmp_path):
    description = JobDescription((str(corpus_file(tmp_path / "c.jsonl", 3)),))
    with pytest.raises(WinnowError, match="engine is 'spark'"):
        run_job(description, tmp_path / "i", engine="spark")
    with pytest.raises(WinnowError, match="address and workers are of the engine ray"):
        run_job(description, tmp_path / "i", workers=2)


def test_a_node_that_is_killed_in_the_middle_changes_no_byte(tmp_path, monkeypatch):
    ray = need_ray()
    description = JobDescription((str(corpus_file(tmp_path / "c.jsonl")),), model="bm25", shard_documents=A_SHARD)
    plain = run_job(description, tmp_path / "plain", progress=False)
    commit, built_at_the_kill = JobFolder.commit_shard, []
    with Cluster() as cluster:

        def killing(job, shard):
            if shard.number == 1:
                cluster.kill_second()
                built_at_the_kill.append(len(list(job.scratch.glob("built-*"))))
            commit(job, shard)

        monkeypatch.setattr(JobFolder, "commit_shard", killing)
        try:
            on_ray = run_job(description, tmp_path / "ray", engine="ray", address=cluster.address, progress=False)
            with pytest.raises(WinnowError, match=r"the Ray cluster has .* a worker needs 64 CPUs"):
                run_job(description, tmp_path / "large", engine="ray", threads=64, progress=False)
            with pytest.raises(WinnowError, match="GPU"):
                run_job(description, tmp_path / "large", engine="ray", device="cuda", progress=False)
            assert not (tmp_path / "large").exists()
            corpus = tmp_path / "c.jsonl"
            corpus.write_text(corpus.read_text() + '\n{"_id": "new", "text": "word1 tea"}')
            with pytest.raises(WinnowError, match=r"^memory_limit is 1,000 bytes"):  # what a worker says, as it is
                run_job(description, tmp_path / "ray", engine="ray", memory_limit=1_000, progress=False)
        finally:
            ray.shutdown()
    assert built_at_the_kill[0] < SHARDS  # there was work left to lose
    assert on_ray == plain
    run_job(description, tmp_path / "plain", progress=False)
    again = run_job(description, tmp_path / "ray", progress=False)
    assert again.unchanged + again.added == SHARDS * A_SHARD - 700 + 1
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "plain")
    assert Retriever.from_folder(tmp_path / "ray").search("tea")[0].doc_id == "new"
