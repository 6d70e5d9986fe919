"""Several arms in one retriever: searched side by side, fused, saved, changed and explained together."""

import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import ROOT
from encoders_for_tests import HashedWords, WordEncoder
from forgery import edit_description

from index.errors import CorpusError, DeadlineError, IndexFormatError, WinnowError
from index.verification import find_damage
from retrieval import Fusion, Retriever
from retrieval.encoders.bm25 import BM25Encoder
from retrieval.side_by_side import side_by_side
from winnow.cli import main

TEXTS = ["green tea", "black tea milk", "milk and rain", "rain on the sea", "tea tea sea", "", "the moon over the sea"]
QUERIES = ["tea", "milk rain", "green sea", "moon", "unheard"]


def corpus(numbers=range(28)):
    return [
        {
            "_id": f"d{number}",
            "text": TEXTS[number % len(TEXTS)] + (f" w{number % 5}" if number % 7 != 5 else ""),
            "year": number,
        }
        for number in numbers
    ]


def hybrid(fusion=None, encoders=None):
    return Retriever(*(encoders or (BM25Encoder(), WordEncoder(), HashedWords())), fusion=fusion)


def shown(hits):
    return [(hit.doc_id, hit.score) for hit in hits]


def answers(retriever):
    return {query: shown(retriever.search(query, 28)) for query in QUERIES}


@pytest.fixture(scope="module")
def retriever():
    return hybrid().index(corpus(), progress=False)


def alone(retriever, arm, query, k=28):
    return {hit.doc_id: hit.score for hit in retriever.search(query, k, fusion=Fusion(weights={arm: 1}))}


def min_max(scores):
    low, high = min(scores.values()), max(scores.values())
    return {doc_id: (score - low) / (high - low) if high > low else 1.0 for doc_id, score in scores.items()}


@pytest.mark.parametrize("query", QUERIES[:4])
def test_the_default_is_the_mean_of_min_max_normalised_scores(retriever, query):
    parts = [min_max(alone(retriever, arm, query)) for arm in ("bm25", "words", "hashed")]
    expected = {doc_id: sum(part.get(doc_id, 0) for part in parts) / 3 for part in parts for doc_id in part}
    hits = retriever.search(query, 28)
    assert {hit.doc_id: hit.score for hit in hits} == pytest.approx(expected)
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_one_arm_alone_gives_what_a_retriever_of_it_alone_gives(retriever):
    only = Retriever(BM25Encoder()).index(corpus(), progress=False)
    fusion = Fusion(weights={"bm25": 2})
    assert {query: shown(retriever.search(query, 5, fusion=fusion)) for query in QUERIES} == {
        query: shown(only.search(query, 5)) for query in QUERIES
    }


def test_an_arm_without_weight_is_not_asked(retriever, monkeypatch):
    monkeypatch.setattr(HashedWords, "encode_query", lambda self, text: pytest.fail("asked"))
    assert retriever.search("tea", fusion=Fusion(weights={"bm25": 1, "words": 1, "hashed": 0}))


def test_a_batch_answers_like_single_searches_whatever_the_threads(retriever):
    expected = [retriever.search(query, 4) for query in QUERIES]
    assert retriever.search_batch(QUERIES, 4, threads=1) == expected
    assert retriever.search_batch(QUERIES, 4, threads=2) == expected
    assert retriever.search_batch([]) == []


def test_depth_bounds_what_each_arm_gives_and_more_hits_may_be_asked_for(retriever):
    shallow = retriever.search("tea", 28, fusion=Fusion(depth=2))
    assert len(shallow) == 28 or len(shallow) > 2  # k of 28 asks each arm for as many
    assert len(retriever.search("tea", 1, fusion=Fusion(depth=1))) == 1


def test_each_arm_can_be_given_a_query_of_its_own(retriever):
    vector = HashedWords().encode_query("tea")
    asked = {"bm25": "tea", "words": "tea", "hashed": vector}
    assert retriever.search(asked) == retriever.search("tea")
    assert retriever.search({**asked, "hashed": vector.tolist()}) == retriever.search("tea")
    weights = {"bm25": {"tea": 1.0}, "words": {"tea": 1.0}, "hashed": vector}
    assert retriever.search(weights)[0].doc_id in {hit.doc_id for hit in retriever.search("tea")}
    dense = Fusion(weights={"hashed": 1})
    assert retriever.search(vector, fusion=dense) == retriever.search("tea", fusion=dense)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"tea": 1.0}, "with the arms bm25, words, hashed it must be a string, or a mapping that gives each of them"),
        ({"bm25": "tea", "words": "tea"}, "gives each of them a query of its own"),
        (7, "the query is int 7"),
        (np.zeros(16), "it must be a string, or a mapping"),
        ({"bm25": "tea", "words": "tea", "hashed": [1.0]}, r"a vector of shape \(1,\)"),
        ({"bm25": "tea", "words": "tea", "hashed": [float("nan")] * 16}, "it must be 16 finite numbers"),
        ({"bm25": "tea", "words": "tea", "hashed": {"tea": 1}}, "it must be a string, or a vector of 16 numbers"),
        ({"bm25": "tea", "words": [1.0], "hashed": "tea"}, "it must be a string, or a mapping of terms to weights"),
    ],
)
def test_what_is_no_query_for_the_arms_is_one_sentence(retriever, query, message):
    with pytest.raises(WinnowError, match=message):
        retriever.search(query)


def test_a_query_of_nothing_finds_nothing_in_any_arm(retriever):
    assert retriever.search("") == []
    assert retriever.search("", fusion=Fusion(weights={"hashed": 1})) == []


@pytest.mark.parametrize(
    ("fusion", "message"),
    [
        (
            {"weights": {"bm52": 1}},
            "weights names the arm 'bm52', which there is not; the arms are bm25, hashed, words",
        ),
        ({"weights": {"bm25": -1}}, "must be a number of at least 0"),
        ({"weights": {"bm25": 0}}, "at least one must be above 0"),
    ],
)
def test_weights_of_no_use_are_refused(retriever, fusion, message):
    with pytest.raises(WinnowError, match=message):
        retriever.search("tea", fusion=Fusion(**fusion))
    with pytest.raises(WinnowError, match=message):
        retriever.fusion = Fusion(**fusion)
    with pytest.raises(WinnowError, match=message):
        hybrid(Fusion(**fusion))


def test_arms_are_told_apart_by_name():
    with pytest.raises(WinnowError, match="two encoders are called bm25"):
        Retriever(BM25Encoder(), BM25Encoder())
    with pytest.raises(WinnowError, match="at least one encoder"):
        Retriever()


def test_changes_give_what_a_fresh_build_gives(tmp_path):
    retriever = hybrid()
    retriever.save_pretrained(tmp_path / "i")
    for first in range(0, 28, 7):
        retriever.index(corpus(range(first, first + 7)), progress=False)
    retriever.delete(["d1", "d4", "d17"])
    retriever.upsert([{"_id": "d2", "text": "green moon"}], progress=False).commit(progress=False)
    left = [one for one in corpus() if one["_id"] not in ("d1", "d2", "d4", "d17")]
    expected = answers(hybrid().index([*left, {"_id": "d2", "text": "green moon"}], progress=False))
    assert retriever.statistics().segments > 1
    assert answers(retriever) == expected
    assert answers(Retriever.from_folder(tmp_path / "i", verify="full")) == expected
    assert find_damage(tmp_path / "i") == []
    assert answers(retriever.merge(progress=False)) == expected
    assert answers(Retriever.from_folder(tmp_path / "i", verify="full")) == expected
    assert find_damage(tmp_path / "i") == []


def test_a_failing_arm_leaves_all_arms_as_they_were(retriever, tmp_path, monkeypatch):
    own = hybrid().index(corpus(range(7)), progress=False)
    own.save_pretrained(tmp_path / "i")
    before = answers(own)
    own.add([{"_id": "new", "text": "tea"}], progress=False)
    monkeypatch.setattr(HashedWords, "encode_documents", lambda self, documents: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        own.commit(progress=False)
    assert answers(own) == before == answers(Retriever.from_folder(tmp_path / "i"))
    monkeypatch.undo()
    assert len(own.commit(progress=False)) == 8


def test_the_fusion_is_saved_with_the_index_and_saved_again_when_it_changes(tmp_path):
    fusion = Fusion("rrf", weights={"bm25": 1, "hashed": 3}, k=7)
    retriever = hybrid(fusion).index(corpus(), progress=False)
    retriever.save_pretrained(tmp_path / "i")
    opened = Retriever.from_pretrained(tmp_path / "i")
    assert opened.fusion == fusion
    assert answers(opened) == answers(retriever)
    reader = Retriever.from_folder(tmp_path / "i")
    opened.fusion = Fusion(normalisation="z-score")
    assert Retriever.from_folder(tmp_path / "i").fusion == fusion
    opened.save_pretrained(tmp_path / "i")
    assert Retriever.from_folder(tmp_path / "i").fusion == opened.fusion
    assert reader.fusion == fusion
    assert reader.refresh()
    assert reader.fusion == opened.fusion
    assert Retriever.from_pretrained(tmp_path / "i", fusion=fusion).fusion == fusion
    assert find_damage(tmp_path / "i") == []


def test_a_fusion_that_cannot_be_is_damage(tmp_path):
    hybrid().index(corpus(), progress=False).save_pretrained(tmp_path / "i")
    (part,) = [path for path in (tmp_path / "i").glob("part-*/part.json") if "fusion" in path.read_text()]

    edit_description(tmp_path / "i", lambda fields: fields["contents"]["fusion"].update(method="sum"), part.parent.name)
    with pytest.raises(IndexFormatError, match="the stored fusion cannot be used"):
        Retriever.from_folder(tmp_path / "i")


def test_arms_of_another_kind_than_the_model_says_are_damage(tmp_path):
    hybrid(encoders=(BM25Encoder(),)).index(corpus(), progress=False).save_pretrained(tmp_path / "i")
    hybrid(encoders=(WordEncoder(),)).index(corpus(), progress=False).save_pretrained(tmp_path / "j")

    (part,) = [path for path in (tmp_path / "i").glob("part-*/part.json") if '"family"' in path.read_text()]
    edit_description(
        tmp_path / "i", lambda fields: fields["contents"].update(encoder=HashedWords().write(None)), part.parent.name
    )
    with pytest.raises(IndexFormatError, match="has the arms"):
        Retriever.from_folder(tmp_path / "i")


def test_an_explanation_shows_what_each_arm_gave(retriever):
    (best, *_) = retriever.search("tea sea", 3)
    explanation = retriever.explain("tea sea", best.doc_id)
    assert explanation.score == best.score
    assert {arm.arm for arm in explanation.arms} == {"bm25", "words", "hashed"}
    for arm in explanation.arms:
        own = alone(retriever, arm.arm, "tea sea")
        assert arm.score == own[best.doc_id]
        assert arm.rank == list(own).index(best.doc_id) + 1
        assert arm.normalised == pytest.approx(min_max(own)[best.doc_id])
        assert arm.weight == pytest.approx(1 / 3)
    assert sum(arm.weight * arm.normalised for arm in explanation.arms) == pytest.approx(best.score)
    assert sum(arm.share for arm in explanation.arms) == pytest.approx(1)
    sparse = {arm.arm: arm.terms for arm in explanation.arms}
    assert [match.term for match in sparse["bm25"]] == ["tea", "sea"] or [match.term for match in sparse["bm25"]] == [
        "sea",
        "tea",
    ]
    assert sparse["hashed"] == []
    assert explanation.terms == sparse["bm25"] + sparse["words"] or set(explanation.terms) == {
        *sparse["bm25"],
        *sparse["words"],
    }


def test_a_document_that_no_arm_returned_is_explained_with_its_scores(retriever):
    explanation = retriever.explain("tea", "d5")  # it has no text
    assert explanation.score == 0
    assert [arm.rank for arm in explanation.arms] == [None, None, None]
    assert [arm.score for arm in explanation.arms] == [0, 0, 0]
    with pytest.raises(WinnowError, match="no document has the id 'nobody'"):
        retriever.explain("tea", "nobody")


def test_an_explanation_of_one_arm_is_its_score(retriever):
    fusion = Fusion(weights={"bm25": 1})
    (hit, *_) = retriever.search("tea", fusion=fusion)
    explanation = retriever.explain("tea", hit.doc_id, fusion=fusion)
    assert explanation.score == hit.score
    ((arm, rank, score, _, weight, share, terms),) = explanation.arms
    assert (arm, rank, score, weight, share) == ("bm25", 1, hit.score, 1.0, 1.0)
    assert terms == explanation.terms


@pytest.mark.parametrize("method", ["convex", "rrf", "combsum", "combmnz"])
def test_an_explanation_is_of_the_search_that_was_made(retriever, method):
    fusion = Fusion(method, depth=3)
    for hit in retriever.search("tea sea", 20, fusion=fusion):
        explanation = retriever.explain("tea sea", hit.doc_id, 20, fusion=fusion)
        assert explanation.score == hit.score
        factor = sum(arm.rank is not None for arm in explanation.arms) if method == "combmnz" else 1
        assert sum(arm.weight * arm.normalised for arm in explanation.arms) * factor == pytest.approx(hit.score)


def test_what_is_no_fusion_is_one_sentence(retriever):
    for fusion in ("rrf", {"bm25": 1}):
        with pytest.raises(WinnowError, match="give a Fusion"):
            retriever.search("tea", fusion=fusion)
        with pytest.raises(WinnowError, match="give a Fusion"):
            retriever.fusion = fusion
        with pytest.raises(WinnowError, match="give a Fusion"):
            hybrid(fusion)
    with pytest.raises(WinnowError, match="is no retriever"):
        Retriever.joined(retriever, "x")


def test_dot_products_have_no_theoretical_minimum(monkeypatch):
    monkeypatch.setattr(HashedWords, "similarity", "dot")
    fusion = Fusion(normalisation="theoretical-min")
    with pytest.raises(WinnowError, match="hashed compares vectors by dot product, which has no least value"):
        hybrid(fusion)
    own = hybrid(fusion, encoders=(BM25Encoder(), WordEncoder()))
    assert own.fusion == fusion


def test_of_two_that_set_a_fusion_the_last_to_save_wins(tmp_path):
    hybrid().index(corpus(), progress=False).save_pretrained(tmp_path / "i")
    one, other = Retriever.from_folder(tmp_path / "i"), Retriever.from_folder(tmp_path / "i")
    one.fusion, other.fusion = Fusion("combsum"), Fusion("rrf")
    one.save_pretrained(tmp_path / "i")
    other.save_pretrained(tmp_path / "i")
    assert other.fusion == Fusion("rrf") == Retriever.from_folder(tmp_path / "i").fusion
    one.add([{"_id": "new", "text": "tea"}], progress=False)  # begins with what others have committed
    assert one.fusion == Fusion("rrf")


@pytest.mark.parametrize("arm", ["bm25", "hashed"])
def test_a_merge_does_not_vouch_for_what_was_damaged(arm, tmp_path):
    retriever = hybrid().index(corpus(range(14)), progress=False)
    retriever.save_pretrained(tmp_path / "i")
    (file,) = (tmp_path / "i").glob(f"part-*/{arm}/{'vectors' if arm == 'hashed' else 'forward.levels'}.npy")
    data = bytearray(file.read_bytes())
    data[-16:-8], data[-8:] = data[-8:], data[-16:-8]
    data[-1] ^= 1
    file.write_bytes(data)
    retriever = Retriever.from_folder(tmp_path / "i")
    retriever.add(corpus(range(14, 28)), progress=False).commit(progress=False, merge=False)
    with pytest.raises(IndexFormatError, match="does not match its checksum"):
        retriever.merge(progress=False)
    assert find_damage(tmp_path / "i")


def test_vectors_that_were_damaged_under_a_search_are_told(tmp_path):
    retriever = hybrid(encoders=(HashedWords(),)).index(corpus(), progress=False)
    retriever.save_pretrained(tmp_path / "i")
    (file,) = (tmp_path / "i").glob("part-*/hashed/vectors.npy")
    for value in (np.nan, 1e30):
        data = np.load(file)
        data[:16] = value
        file.write_bytes(file.read_bytes()[:128] + data.tobytes())
        with pytest.raises(IndexFormatError, match="winnow verify --full"):
            Retriever.from_folder(tmp_path / "i").search("tea", 28)


def test_a_filter_is_applied_inside_every_arm(retriever):
    wanted = {"year": {"$gte": 10, "$lt": 20}}
    kept = [one for one in corpus() if 10 <= one["year"] < 20]
    for arm in ("bm25", "words", "hashed"):
        fusion = Fusion(weights={arm: 1})
        for query in QUERIES:
            found = shown(retriever.search(query, 28, filter=wanted, fusion=fusion))
            ids = {one["_id"] for one in kept}
            assert found == [one for one in shown(retriever.search(query, 28, fusion=fusion)) if one[0] in ids]
    dense = hybrid(encoders=(HashedWords(),))
    dense.index(kept, progress=False)
    for query in QUERIES:
        filtered = retriever.search(query, 3, filter=wanted, fusion=Fusion(weights={"hashed": 1}))
        assert shown(filtered) == shown(dense.search(query, 3))
    assert retriever.search_batch(QUERIES, 3, filter=wanted) == [retriever.search(q, 3, filter=wanted) for q in QUERIES]
    assert retriever.search("tea", filter={"year": 10_000}) == []
    with pytest.raises(WinnowError, match="the field 'yaer', which no document has; there is 'year'"):
        retriever.search("tea", filter={"yaer": 3})
    with pytest.raises(WinnowError, match="the field has no strings, only numbers"):
        retriever.search("tea", filter={"year": "1999"})


class Slow(HashedWords):
    """Waits for a sign."""

    sign = threading.Event()

    def encode_query(self, text):
        self.sign.wait(20)
        return super().encode_query(text)


class Failing(HashedWords):
    """Cannot encode a query."""

    def encode_query(self, text):
        raise RuntimeError("the model is gone")


def test_a_late_arm_is_an_error_or_left_out_as_the_caller_says():
    retriever = hybrid(encoders=(BM25Encoder(), Slow())).index(corpus(), progress=False)
    Slow.sign.clear()
    try:
        started = time.perf_counter()
        with pytest.raises(DeadlineError, match=r"hashed has not answered within 0\.05 s"):
            retriever.search("tea", deadline=0.05)
        hits = retriever.search("tea", deadline=0.05, partial=True)
        assert time.perf_counter() - started < 10
    finally:
        Slow.sign.set()
    assert list(hits.missing) == ["hashed"]
    assert "has not answered within" in hits.missing["hashed"]
    assert [hit.doc_id for hit in hits] == list(alone(retriever, "bm25", "tea", 10))
    assert retriever.search("tea", deadline=30).missing == {}
    assert retriever.search("tea", deadline=30) == retriever.search("tea")


def test_a_failing_arm_is_an_error_or_left_out_as_the_caller_says():
    retriever = hybrid(encoders=(BM25Encoder(), Failing())).index(corpus(), progress=False)
    with pytest.raises(RuntimeError, match="the model is gone"):
        retriever.search("tea")
    hits = retriever.search("tea", partial=True)
    assert hits.missing == {"hashed": "the model is gone"}
    assert hits
    with pytest.raises(RuntimeError, match="the model is gone"):  # with nothing left there is no partial result
        retriever.search("tea", partial=True, fusion=Fusion(weights={"hashed": 1}))
    for deadline in (0, -1, "soon", True):
        with pytest.raises(WinnowError, match="it must be a number of seconds above 0"):
            retriever.search("tea", deadline=deadline)


def test_work_that_is_late_holds_up_nobody():
    late = [threading.Event() for _ in range(40)]
    try:
        for event in late:
            with pytest.raises(DeadlineError):
                side_by_side({"late": lambda event=event: event.wait(20)}, deadline=0.001)
        started = time.perf_counter()
        assert side_by_side({"a": lambda: 1, "b": lambda: 2}, deadline=5) == ({"a": 1, "b": 2}, {})
        assert time.perf_counter() - started < 4
    finally:
        for event in late:
            event.set()


def test_the_process_does_not_wait_for_late_work():
    code = (
        "import time\nfrom retrieval.side_by_side import side_by_side\n"
        "works = {'fast': lambda: 1, 'slow': lambda: time.sleep(60)}\n"
        "print(side_by_side(works, deadline=0.2, partial=True)[0])"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=40)
    assert (finished.stdout, finished.returncode) == ("{'fast': 1}\n", 0)


def test_a_batch_has_one_deadline_and_partial_results_too():
    retriever = hybrid(encoders=(BM25Encoder(), Failing())).index(corpus(), progress=False)
    with pytest.raises(RuntimeError, match="the model is gone"):
        retriever.search_batch(["tea"])
    found = retriever.search_batch(["tea", "milk"], partial=True)
    assert [hits.missing for hits in found] == [{"hashed": "the model is gone"}] * 2
    assert found == [retriever.search(query, partial=True) for query in ("tea", "milk")]
    slow = hybrid(encoders=(BM25Encoder(), Slow())).index(corpus(), progress=False)
    Slow.sign.clear()
    try:
        with pytest.raises(DeadlineError, match="hashed has not answered"):
            slow.search_batch(["tea"] * 3, deadline=0.05)
        assert list(slow.search_batch(["tea"] * 3, deadline=0.05, partial=True)[2].missing) == ["hashed"]
    finally:
        Slow.sign.set()


def test_arms_run_at_the_same_time():
    both = threading.Barrier(2, timeout=20)
    found, missing = side_by_side({"a": both.wait, "b": both.wait})
    assert sorted(found.values()) == [0, 1]
    assert missing == {}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process")
def test_a_forked_process_searches_on(retriever):
    expected = shown(retriever.search("tea"))
    child = os.fork()
    if child == 0:
        os._exit(0 if shown(retriever.search("tea")) == expected else 1)
    for _ in range(600):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.1)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert done
    assert status == 0


def judged(count=20):
    queries = {f"q{i}": f"w{i % 5} {TEXTS[i % 3]}" for i in range(count)}
    qrels = {query: {f"d{j}": 1 for j in range(28) if f"w{j % 5}" in text} for query, text in queries.items()}
    return queries, qrels


def test_tuning_fuses_so_from_now_on_and_is_never_below_its_best_arm(tmp_path):
    retriever = hybrid().index(corpus(), progress=False)
    queries, qrels = judged()
    tuning = retriever.tune(queries, qrels, progress=False)
    assert retriever.fusion == tuning.fusion
    assert set(tuning.arms) == {"bm25", "words", "hashed"}
    if not tuning.is_adopted:
        assert tuning.fusion.weights == {tuning.best_arm: 1.0}
    assert tuning.best_arm == max(tuning.arms, key=tuning.arms.get)
    assert tuning.best_arm in str(tuning)
    retriever.save_pretrained(tmp_path / "i")
    assert Retriever.from_folder(tmp_path / "i").fusion == tuning.fusion


@pytest.mark.parametrize(
    ("queries", "qrels", "message"),
    [
        ({}, {}, "none of the 0 queries has judgments"),
        ({"a": "tea"}, {"b": {"d1": 1}}, "none of the 1 queries has judgments among the 1"),
        ({"a": "tea"}, {"a": {"d1": 1}}, "there are 1 judged queries, fewer than the 5 folds"),
        (["tea"], {"a": {"d1": 1}}, "queries is list"),
        ({"a": "tea"}, {"a": ["d1"]}, "they must map document ids to whole numbers"),
        ({"a": "tea"}, {"a": {"d1": "1"}}, "they must map document ids to whole numbers"),
        (
            {str(i): "tea" for i in range(9)},
            {str(i): {"nobody": 1} for i in range(9)},
            "no arm ranked a relevant document",
        ),
        ({str(i): 7 for i in range(9)}, {str(i): {"d1": 1} for i in range(9)}, "it must be a string"),
    ],
)
def test_what_cannot_be_tuned_with_is_one_sentence(retriever, queries, qrels, message):
    before = retriever.fusion
    with pytest.raises(WinnowError, match=message):
        retriever.tune(queries, qrels, progress=False)
    assert retriever.fusion == before


def test_one_arm_has_nothing_to_tune():
    with pytest.raises(WinnowError, match="there is nothing to fuse with bm25 alone"):
        Retriever(BM25Encoder()).index(corpus(), progress=False).tune(*judged(), progress=False)


def test_retrievers_over_the_same_documents_are_joined(retriever, tmp_path):
    parts = [Retriever(encoder) for encoder in (BM25Encoder(), WordEncoder(), HashedWords())]
    for number, part in enumerate(parts):
        part.save_pretrained(tmp_path / str(number))
        for first in range(0, 28, 14 if number else 7):  # in other segments each
            part.add(corpus(range(first, first + (14 if number else 7))), progress=False).commit(
                progress=False, merge=False
            )
    together = Retriever.joined(*parts)
    assert answers(together) == answers(retriever)
    together.save_pretrained(tmp_path / "i")
    assert answers(Retriever.from_folder(tmp_path / "i", verify="full")) == answers(retriever)
    assert len(together.index([{"_id": "new", "text": "tea"}], progress=False)) == 29


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        (corpus(range(27)), "document 28 of bm25 and hashed is 'd27' and nothing"),
        (corpus([1, 0, *range(2, 28)]), "document 1 of bm25 and hashed is 'd0' and 'd1'"),
        (
            [*corpus(range(27)), {"_id": "d27", "text": "other"}],
            "document 28 of bm25 and hashed is 'd27' with another text",
        ),
    ],
)
def test_arms_over_other_documents_are_not_joined(documents, message):
    one, other = Retriever(BM25Encoder()), Retriever(HashedWords())
    with pytest.raises(WinnowError, match=message):
        Retriever.joined(one.index(corpus(), progress=False), other.index(documents, progress=False))


def test_joining_wants_no_staged_changes_and_other_arms():
    one = Retriever(BM25Encoder()).index(corpus(), progress=False)
    with pytest.raises(WinnowError, match="two encoders are called bm25"):
        Retriever.joined(one, one)
    one.add([{"_id": "new", "text": "tea"}], progress=False)
    with pytest.raises(WinnowError, match="there are staged changes"):
        Retriever.joined(one, Retriever(HashedWords()))


def test_names_with_a_plus_between_them_are_arms():
    retriever = Retriever.from_pretrained("bm25+mini", mini={"impacts": "f32", "max_length": 64})
    assert retriever.model == "bm25+mini"
    assert retriever._opened.encoders[1].impacts == "f32"
    for options, message in (
        ({"max_length": 64}, "the option max_length=64 is of none of the models bm25, mini"),
        ({"impacts": "f32"}, "impacts='f32' is of no one of bm25, mini"),
        ({"mini": {"max_lenght": 64}}, "max_lenght"),
    ):
        with pytest.raises(WinnowError, match=message):
            Retriever.from_pretrained("bm25+mini", **options)


def test_vectors_that_come_with_documents_go_to_the_one_arm_that_takes_them():
    retriever = Retriever.from_pretrained("bm25+vectors")
    retriever.index(
        [{"_id": "a", "text": "tea", "vector": {"moon": 2.0}}, {"_id": "b", "text": "moon", "vector": {}}],
        progress=False,
    )
    assert [hit.doc_id for hit in retriever.search("moon", fusion=Fusion(weights={"vectors": 1}))] == ["a"]
    assert [hit.doc_id for hit in retriever.search("moon", fusion=Fusion(weights={"bm25": 1}))] == ["b"]
    with pytest.raises(WinnowError, match="mini and vectors would both take the vectors"):
        Retriever.from_pretrained("mini+vectors")
    with pytest.raises(CorpusError, match="brings a vector"):
        hybrid(encoders=(BM25Encoder(), HashedWords())).index(
            corpus(), vectors={f"d{i}": {} for i in range(28)}, progress=False
        )


def test_a_damaged_arm_is_built_again_from_the_documents(tmp_path, capsys):
    retriever = hybrid().index(corpus(), progress=False)
    retriever.save_pretrained(tmp_path / "i")
    retriever.delete(["d3"])
    retriever.commit(progress=False)
    (file,) = (tmp_path / "i").glob("part-*/hashed/vectors.npy")
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    assert [one.file for one in find_damage(tmp_path / "i")] == ["hashed/vectors.npy"]
    assert main(["repair", str(tmp_path / "i")]) == 0
    assert "built again from its documents" in capsys.readouterr().out
    assert answers(Retriever.from_folder(tmp_path / "i", verify="full")) == answers(retriever)


def test_the_command_indexes_searches_filters_and_explains_several_arms(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({**one, "vector": {"sea": 1.5}}) + "\n" for one in corpus()))
    assert main(["index", "c.jsonl", "--model", "bm25+vectors", "--out", "i", "--no-progress"]) == 0
    assert "indexed 28 documents with bm25+vectors" in capsys.readouterr().out
    assert main(["search", "i", "sea", "-k", "1", "--explain", "--filter", '{"year": {"$lt": 7}}', "--json"]) == 0
    (hit,) = json.loads(capsys.readouterr().out)["hits"]
    assert hit["fields"]["year"] < 7
    assert [arm["arm"] for arm in hit["arms"]] == ["bm25", "vectors"]
    assert main(["search", "i", "sea", "-k", "1", "--explain"]) == 0
    out = capsys.readouterr().out
    assert "arm " in out
    assert "vectors" in out
    assert main(["search", "i", "sea", "--filter", "[1]"]) == 1
    assert "--filter '[1]' cannot be used (it is list)" in capsys.readouterr().err
    assert main(["search", "i", "sea", "--filter", '{"yera": 1}']) == 1
    assert "there is 'year'" in capsys.readouterr().err
    assert main(["info", "i"]) == 0
    out = capsys.readouterr().out
    assert "model bm25 (" in out
    assert "fusion convex, min-max" in out


def test_the_command_tunes_an_index(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    queries, qrels = judged()
    (tmp_path / "data" / "qrels").mkdir(parents=True)
    (tmp_path / "data" / "corpus.jsonl").write_text(
        "".join(json.dumps({**one, "vector": {f"w{one['year'] % 5}": 1.0}}) + "\n" for one in corpus())
    )
    (tmp_path / "data" / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": query, "text": text}) + "\n" for query, text in queries.items())
    )
    lines = [f"{query}\t{doc_id}\t{rel}\n" for query, own in qrels.items() for doc_id, rel in own.items()]
    (tmp_path / "data" / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    assert main(["index", "data", "--model", "bm25+vectors", "--out", "i", "--no-progress"]) == 0
    assert main(["tune", "i", "--data", "data", "--no-progress", "--dry-run"]) == 0
    assert Retriever.from_folder(tmp_path / "i").fusion == Fusion()
    assert main(["tune", "i", "--data", "data", "--no-progress"]) == 0
    out = capsys.readouterr().out
    assert "nDCG@10 of 20 queries" in out
    assert "from now on" in out
    assert Retriever.from_folder(tmp_path / "i").fusion.weights is not None
