"""Shards as Ray actors, on a cluster of two nodes: answers, replicas, nodes that are killed. Skipped, saying so, without Ray."""

import socket
import time

import pytest
from ray_for_tests import Cluster, need_ray

from index.errors import WinnowError
from retrieval import Retriever
from retrieval.ray_cluster import check_answers, check_listens
from retrieval.sharded import ShardedRetriever

QUERIES = ["tea", "moon rain", "salt tea rain", "nothing here"]


def test_a_cluster_that_is_not_there_is_told_in_seconds():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(WinnowError, match=r"no Ray cluster can be reached at 127\.0\.0\.1"):
            check_answers(address)
        assert time.monotonic() - started < 5
    for wrong in ("", "nonsense", "127.0.0.1:", ":x"):
        with pytest.raises(WinnowError, match="it must be host:port"):
            check_listens(wrong)


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    Retriever.from_pretrained("bm25").index([{"_id": "a", "text": "tea"}], progress=False).save_pretrained(
        tmp_path / "i"
    )
    with pytest.raises(WinnowError, match=r"pip install 'winnow-ir\[ray\]'"):
        ShardedRetriever.from_folders(tmp_path / "i")


def test_shards_on_a_cluster_whose_node_is_killed(tmp_path):
    ray = need_ray()
    texts = ["tea moon", "rain", "salt tea tea", "moon moon rain", "wind", "tea", "salt", "rain tea"]
    whole = Retriever.from_pretrained("bm25+winnow-mini")
    for number in range(4):
        some = [{"_id": f"{number}-{i}", "text": text, "year": i} for i, text in enumerate(texts[number:])]
        whole.add(some, progress=False).commit(progress=False, merge=False)
    whole.save_pretrained(tmp_path / "whole", progress=False)
    expected = whole.search_batch(QUERIES, 9)
    with Cluster() as cluster:
        try:
            how = {"address": cluster.address, "start_seconds": 300}  # on a busy machine Python alone takes a minute
            with ShardedRetriever.from_folders(tmp_path / "whole", shards=2, replicas=2, **how) as sharded:
                assert [sharded.search(query, 9) for query in QUERIES] == expected
                assert sharded.search_batch(QUERIES, 9) == expected
                assert sharded.search("tea", 3, filter={"year": 2}) == whole.search("tea", 3, filter={"year": 2})
                for replicas in sharded._shards._actors:
                    assert len({node_of(ray, actor) for actor in replicas}) == 2
                cluster.kill_second()
                started = time.monotonic()
                while time.monotonic() - started < 15:  # while the cluster finds out, and after
                    hits = sharded.search_batch(QUERIES, 9, deadline=20)
                    assert hits == expected
                    assert [one.missing for one in hits] == [{}] * len(QUERIES)
            with ShardedRetriever.from_folders(tmp_path / "whole", shards=2, **how) as sharded:
                assert sharded.search("tea", 9) == whole.search("tea", 9)  # its actors have their compiled code now
                hang(ray, sharded._shards._actors[1][0])
                late = sharded.search("tea", 50, deadline=12, partial=True)
                assert list(late.missing) == ["shard 1"]
                assert {hit.doc_id[0] for hit in late} == {"0", "1"}
        finally:
            ray.shutdown()


def node_of(ray, actor):
    return ray.get(actor.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id()))


def hang(ray, actor):
    """Keep all its threads busy for a while."""
    for _ in range(4):
        actor.__ray_call__.remote(lambda _: time.sleep(30))
    time.sleep(0.5)
