"""A collection in shards gives what one index gives: documents, scores and order, to the last bit.

Seen to fail on these planted bugs: a shard's own mean length; frequencies of one shard; numbers of documents moved the wrong way, so that ties
rank otherwise; a fusion's numbers not told back; a filter refused where one shard objects; a round that may take all the time there is;
frequencies kept although a shard had not told its own; hits whose documents a lost shard should have sent.
"""

import threading
import time

import numpy as np
import pytest
from encoders_for_tests import HashedWords, WordEncoder

from index.errors import CorpusError, DeadlineError, FilterError, WinnowError
from retrieval import Fusion, Retriever
from retrieval.encoders.bm25 import BM25Encoder
from retrieval.encoders.given_vectors import GivenVectors
from retrieval.opened import Opened
from retrieval.sharded import ShardedRetriever
from retrieval.sharded.retriever import runs
from retrieval.sharded.shard import Shard, ShardSource
from retrieval.sharded.shards import Answers, LocalShards, late

WORDS = "tea milk moon sun rain snow salt sand wind wood".split()
QUERIES = ["tea", "moon rain", "salt sand wind", "tea tea milk", "nothing here", "", "snow wood sun moon"]
BATCHES = 4


def documents(batch, count=23):
    """Few words, so that equal scores are common; each batch has words and a field that others lack."""
    rng = np.random.default_rng(batch)
    own = [*WORDS[:7], WORDS[7 + batch % 3], f"only{batch}"]
    found = []
    for i in range(count):
        text = " ".join(rng.choice(own, rng.integers(0, 6)))
        found.append({"_id": f"{batch}-{i}", "text": text, "year": 1990 + i % 4, f"field{batch}": i % 2})
    return found


def gone(batch):
    """Ids that are deleted afterwards: statistics must forget them."""
    return [f"{batch}-{i}" for i in range(batch)]


def filled(retriever, batches):
    for batch in batches:
        retriever.add(documents(batch), progress=False).commit(progress=False, merge=False)
    for batch in batches:
        retriever.delete(gone(batch))
    return retriever.commit(progress=False, merge=False)


def encoders(kinds):
    return [{"bm25": BM25Encoder, "words": WordEncoder, "hashed": HashedWords}[kind]() for kind in kinds]


@pytest.fixture(scope="module", params=[["bm25"], ["bm25", "words", "hashed"]], ids="+".join)
def whole_and_parts(request, tmp_path_factory):
    """(an index of all documents in one folder, the same documents in a folder each batch)."""
    root = tmp_path_factory.mktemp("sharded")
    whole = filled(Retriever(*encoders(request.param)), range(BATCHES))
    whole.save_pretrained(root / "whole", progress=False)
    for batch in range(BATCHES):
        filled(Retriever(*encoders(request.param)), [batch]).save_pretrained(root / str(batch), progress=False)
    return whole, root / "whole", [root / str(batch) for batch in range(BATCHES)]


def sharded_in_every_way(whole_and_parts):
    _, folder, parts = whole_and_parts
    yield ShardedRetriever.from_folders(folder, engine="local")
    yield ShardedRetriever.from_folders(folder, shards=3, engine="local")
    yield ShardedRetriever.from_folders(folder, shards=BATCHES, engine="local")
    yield ShardedRetriever.from_folders(parts, engine="local")


@pytest.mark.parametrize("k", [1, 10, 1000])
def test_hits_are_those_of_one_index(whole_and_parts, k):
    whole = whole_and_parts[0]
    expected = [whole.search(query, k) for query in QUERIES]
    assert any(len({hit.score for hit in hits}) < len(hits) for hits in expected) or k == 1  # ties there are
    for sharded in sharded_in_every_way(whole_and_parts):
        with sharded:
            assert len(sharded) == len(whole)
            assert [sharded.search(query, k) for query in QUERIES] == expected
            assert sharded.search_batch(QUERIES, k, threads=2) == expected


@pytest.mark.parametrize(
    "condition", [{"year": 1992}, {"field1": 1}, {"$or": [{"field0": 1}, {"field3": {"$exists": True}}]}, {"year": 1}]
)
def test_a_filter_means_what_it_means_in_one_index(whole_and_parts, condition):
    whole = whole_and_parts[0]
    expected = whole.search_batch(QUERIES, 10, filter=condition)
    for sharded in sharded_in_every_way(whole_and_parts):
        with sharded:
            assert sharded.search_batch(QUERIES, 10, filter=condition) == expected


@pytest.mark.parametrize("condition", [{"yeer": 1992}, {"year": "1992"}])
def test_a_filter_that_means_nothing_in_any_shard_is_refused(whole_and_parts, condition):
    for sharded in sharded_in_every_way(whole_and_parts):
        with sharded, pytest.raises(FilterError, match="filter"):
            sharded.search("tea", filter=condition)


def test_a_fusion_is_of_the_merged_lists(whole_and_parts):
    whole = whole_and_parts[0]
    if "+" not in whole.model:
        pytest.skip("of several arms")
    for fusion in (Fusion("rrf", depth=7), Fusion(depth=4), Fusion(normalisation="theoretical-min", per_query=True),
                   Fusion(weights={"bm25": 1, "hashed": 3}), Fusion(weights={"words": 1}), Fusion(weights={"hashed": 1})):  # fmt: skip
        expected = whole.search_batch(QUERIES, 5, fusion=fusion)
        for sharded in sharded_in_every_way(whole_and_parts):
            with sharded:
                assert sharded.search_batch(QUERIES, 5, fusion=fusion) == expected


def test_ids_alone_where_nothing_stored_is_wanted(whole_and_parts):
    whole, _, parts = whole_and_parts
    with ShardedRetriever.from_folders(parts, engine="local") as sharded:
        assert sharded.search("tea", 5, stored=False) == whole.search("tea", 5, stored=False)


def test_weights_by_term_and_vectors_are_queries_too(tmp_path):
    corpora = [
        [{"_id": "a", "vector": {"tea": 2.0, "sun": 1.0}}],
        [{"_id": "b", "vector": {"tea": 2.0}}, {"_id": "c", "vector": {"moon": 1.0}}],
    ]
    whole = Retriever(GivenVectors()).index([*corpora[0], *corpora[1]], progress=False)
    for name, corpus in zip("01", corpora, strict=True):
        Retriever(GivenVectors()).index(corpus, progress=False).save_pretrained(tmp_path / name, progress=False)
    with ShardedRetriever.from_folders([tmp_path / "0", tmp_path / "1"], engine="local") as sharded:
        for query in ("tea", "moon tea tea", {"tea": 0.5, "sun": 3.0, "unknown": 1.0}, "unknown"):
            assert sharded.search(query) == whole.search(query)


def test_a_frequency_is_asked_for_once(whole_and_parts):
    whole, _, parts = whole_and_parts
    if "bm25" not in whole.model:
        pytest.skip("of BM25")
    with ShardedRetriever.from_folders(parts, engine="local") as sharded:
        asked = []
        ask = sharded._shards.ask
        sharded._shards.ask = lambda calls, until: asked.append(next(iter(calls.values())).method) or ask(calls, until)
        sharded.search("tea milk")
        sharded.search("milk milk tea")
    assert asked == ["document_frequency", "search", "documents", "search", "documents"]


class SlowShards(LocalShards):
    """Of which some do not answer some methods before the deadline, or fail."""

    def __init__(self, sources, slow=(), methods=("search",), failure=None):
        super().__init__(sources)
        self.slow, self.methods, self.failure = set(slow), methods, failure

    def ask(self, asked, until):
        lost = {number for number, one in asked.items() if number in self.slow and one.method in self.methods}
        answers = super().ask({number: one for number, one in asked.items() if number not in lost}, until)
        return Answers(answers.found, {number: self.failure or late(number) for number in lost})


@pytest.mark.parametrize("method", ["document_frequency", "search", "documents"])
def test_a_shard_that_does_not_answer_is_named_and_its_documents_are_no_hits(whole_and_parts, method):
    whole, _, parts = whole_and_parts
    model = Opened.read(parts[0])
    shards = SlowShards([ShardSource(str(part)) for part in parts], slow=[1, 3], methods=[method])
    with ShardedRetriever(shards, model) as sharded:
        with pytest.raises(DeadlineError, match="shard 1 has not answered in time"):
            sharded.search("tea moon rain", 40, deadline=5)
        hits = sharded.search("tea moon rain", 40, deadline=5, partial=True)
        assert list(hits.missing) == ["shard 1", "shard 3"]
        assert "not answered in time" in hits.missing["shard 1"]
        assert {hit.doc_id.split("-")[0] for hit in hits} == {"0", "2"}
        assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
        if method != "document_frequency" and "+" not in whole.model:  # scores are of the whole collection still
            everywhere = [hit for hit in whole.search("tea moon rain", 1000) if hit.doc_id[0] in "02"]
            assert [(hit.doc_id, hit.score) for hit in hits] == [(hit.doc_id, hit.score) for hit in everywhere][:40]
        shards.slow = set()
        assert sharded.search("tea moon rain", 40) == whole.search("tea moon rain", 40)  # nothing wrong was kept
        assert sharded.search("tea moon rain", 40).missing == {}


def test_where_no_shard_answers_partial_results_are_an_error_too(whole_and_parts):
    _, _, parts = whole_and_parts
    shards = SlowShards([ShardSource(str(part)) for part in parts], slow=range(BATCHES))
    with ShardedRetriever(shards, Opened.read(parts[0])) as sharded, pytest.raises(DeadlineError):
        sharded.search("tea", partial=True, deadline=1)


def test_a_deadline_ends_the_wait_for_a_shard_that_hangs(whole_and_parts, monkeypatch):
    _, _, parts = whole_and_parts
    released, search = threading.Event(), Shard.search

    def hanging(shard, *arguments):
        if shard.source.folder.endswith("2"):
            released.wait(20)
        return search(shard, *arguments)

    monkeypatch.setattr(Shard, "search", hanging)
    with ShardedRetriever.from_folders(parts, engine="local") as sharded:
        started = time.monotonic()
        hits = sharded.search("tea", 50, deadline=2, partial=True)
        assert time.monotonic() - started < 2.5
        released.set()
    assert list(hits.missing) == ["shard 2"]
    assert hits


def test_what_is_wrong_is_said(tmp_path, whole_and_parts):
    _, folder, parts = whole_and_parts
    with pytest.raises(WinnowError, match="has 4 segments, and 5 shards were asked for"):
        ShardedRetriever.from_folders(folder, shards=5, engine="local")
    with pytest.raises(WinnowError, match="each is one shard"):
        ShardedRetriever.from_folders(parts, shards=2, engine="local")
    with pytest.raises(WinnowError, match="no folder"):
        ShardedRetriever.from_folders([], engine="local")
    with pytest.raises(WinnowError, match="engine is 'dask'"):
        ShardedRetriever.from_folders(parts, engine="dask")
    with pytest.raises(WinnowError, match="replicas are of engine ray"):
        ShardedRetriever.from_folders(parts, engine="local", replicas=2)
    other = tmp_path / "other"
    Retriever(*encoders(["bm25", "words"])).index([{"_id": "x", "text": "tea"}], progress=False).save_pretrained(other)
    with pytest.raises(WinnowError, match="shard 4 was written by another model than shard 0"):
        ShardedRetriever.from_folders([*parts, other], engine="local")
    with ShardedRetriever.from_folders(parts, engine="local") as sharded:
        for wrong in ({"k": 0}, {"deadline": 0}, {"fusion": "rrf"}, {"depth": 5}):
            with pytest.raises(WinnowError):
                sharded.search("tea", **wrong)
        with pytest.raises(WinnowError):
            sharded.search(7)


def test_a_shard_that_was_opened_anew_after_a_commit_does_not_answer_for_the_old_one(tmp_path):
    for name in "01":
        Retriever(BM25Encoder()).index([{"_id": name, "text": "tea"}], progress=False).save_pretrained(tmp_path / name)
    with ShardedRetriever.from_folders([tmp_path / "0", tmp_path / "1"], engine="local") as sharded:
        Retriever.from_folder(tmp_path / "1").index([{"_id": "2", "text": "tea"}], progress=False)
        assert [hit.doc_id for hit in sharded.search("tea")] == ["0", "1"]
        sharded._shards._shards[1] = Shard(
            ShardSource(str(tmp_path / "1"))
        )  # as a cluster does with an actor that died
        with pytest.raises(WinnowError, match="open the retriever anew"):
            sharded.search("tea")
        assert list(sharded.search("tea", partial=True).missing) == ["shard 1"]


def test_a_shard_all_of_whose_documents_are_deleted_is_searched_without(tmp_path):
    retriever = Retriever(BM25Encoder()).index([{"_id": "a", "text": "tea"}], progress=False)
    retriever.save_pretrained(tmp_path / "0")
    retriever.delete("a")
    retriever.commit(progress=False)
    nothing_left = ShardedRetriever.from_folders(tmp_path / "0", engine="local")
    with nothing_left, pytest.raises(WinnowError, match="no documents to search"):
        nothing_left.search("tea")
    with pytest.raises(CorpusError):
        retriever.index([], progress=False)
    Retriever(BM25Encoder()).index([{"_id": "b", "text": "tea"}], progress=False).save_pretrained(tmp_path / "1")
    with ShardedRetriever.from_folders([tmp_path / "0", tmp_path / "1"], engine="local") as sharded:
        assert [hit.doc_id for hit in sharded.search("tea", filter={"title": ""})] == ["b"]


def test_reranked_hits_are_those_of_one_index(whole_and_parts):
    from rerankers_for_tests import LongestFirst

    whole, _, parts = whole_and_parts
    with ShardedRetriever.from_folders(parts, engine="local") as sharded:
        assert sharded.search("tea moon", 4, rerank=LongestFirst(), depth=9) == whole.search(
            "tea moon", 4, rerank=LongestFirst(), depth=9
        )


@pytest.mark.parametrize("sizes", [[1], [5, 1, 1, 1, 4], [1] * 7, [100, 1, 1], [1, 1, 100], [0, 0, 3]])
def test_runs_hold_every_segment_once_and_none_is_empty(sizes):
    for count in range(1, len(sizes) + 1):
        found = runs(sizes, count)
        assert [position for first, end in found for position in range(first, end)] == list(range(len(sizes)))
        assert all(first < end for first, end in found)
        assert len(found) == count
