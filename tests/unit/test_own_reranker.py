"""A retriever's own reranker: used by every search that does not say otherwise, loaded when it is needed, kept as text."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from cross_encoders_for_tests import bert
from rerankers_for_tests import LongestFirst

from index.errors import IndexFormatError, ModelError, WinnowError
from retrieval import Fusion, Retriever, load_reranker
from retrieval.rerankers import loading
from retrieval.rerankers.written import WrittenReranker, read_reranker
from retrieval.training.negatives import found_beside
from winnow.cli import main

CORPUS = [{"_id": f"d{i}", "text": "tea " * (i + 1) + "and " * (9 * (i % 4))} for i in range(12)]


@pytest.fixture
def loaded(monkeypatch):
    """The rerankers that were loaded, with what they were asked, instead of models."""
    found = []

    def from_pretrained(model, *, sign=1, cache=None, device=None):
        found.append((model, sign, LongestFirst()))
        return found[-1][2]

    monkeypatch.setitem(loading.KINDS, "icr", lambda: from_pretrained)
    return found


def depths(loaded):
    return [len(texts) for _, _, reranker in loaded for _, texts in reranker.asked]


def retriever_of(system):
    return Retriever.from_pretrained(system).index(CORPUS, progress=False)


def ids(hits):
    return [hit.doc_id for hit in hits]


def test_a_written_system_reranks_every_search(loaded):
    retriever = retriever_of("bm25,rerank=icr:some/model,depth=5,sign=-1")
    assert loaded == []
    first = retriever.search("tea", 5, rerank=False)
    hits = retriever.search("tea", 3)
    assert ids(hits) == ids(retriever.search("tea", 3, rerank=LongestFirst(), depth=5))
    assert ids(hits) != ids(first)[:3]
    assert [hit.first_rank for hit in first] == [None] * 5
    assert retriever.search_batch(["tea", "tea tea"], 3) == [retriever.search(query, 3) for query in ("tea", "tea tea")]
    assert [(model, sign) for model, sign, _ in loaded] == [("some/model", -1)]  # once
    assert set(depths(loaded)) == {5}


def test_a_search_may_say_otherwise(loaded):
    retriever = retriever_of("bm25,rerank=icr:m,depth=5")
    own = LongestFirst()
    retriever.search("tea", 3, depth=7)
    retriever.search("tea", 3, rerank=own)
    retriever.search("tea", 3, rerank=False)
    retriever.search_batch(["tea"], 3, rerank=False)
    assert depths(loaded) == [7]
    assert [len(texts) for _, texts in own.asked] == [12]
    assert len(retriever.search("tea", 12, rerank=False)) == 12


def test_it_can_be_set_and_taken_away(loaded):
    retriever = retriever_of("bm25")
    assert (retriever.reranker, retriever.rerank_depth) == (None, 100)
    retriever.reranker = LongestFirst()
    longest = max(CORPUS, key=lambda one: len(one["text"].strip()))["_id"]
    assert retriever.search("tea", 1)[0].doc_id == longest == "d11"
    retriever.reranker, retriever.rerank_depth = "icr:m", 4
    retriever.search("tea", 1)
    assert (retriever.reranker.name, depths(loaded)) == ("icr:m", [4])
    retriever.reranker = None
    assert retriever.search("tea", 1)[0].first_rank is None


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"k": 6}, "k is 6, but only 5 documents are reranked"),
        ({"k": 3, "depth": 2}, "k is 3, but only 2 documents are reranked"),
        ({"rerank": False, "depth": 5}, "depth is 5, but nothing is reranked"),
        ({"rerank": True}, "rerank is True; give a reranker"),
        ({"query": {"tea": 1.0}}, "a reranker reads words, so give a string, or rerank=False"),
    ],
)
def test_what_cannot_be_reranked_is_told(loaded, asked, told):
    retriever = retriever_of("bm25,rerank=icr:m,depth=5")
    asked = {"query": "tea", "k": 3, **asked}
    query = asked.pop("query")
    with pytest.raises(WinnowError, match=told):
        retriever.search(query, **asked)
    with pytest.raises(WinnowError, match=told):
        retriever.search_batch([query], **asked)


@pytest.mark.parametrize(
    ("reranker", "told"),
    [
        ("minilm", "the reranker is 'minilm'; write its kind"),
        (LongestFirst, "reranker is <class .*; give a reranker"),
        (5, "reranker is 5; give a reranker"),
        (WrittenReranker("icr:m", poem=1), "icr has no option poem; it has cache, device, sign"),
        (WrittenReranker("icr:m", sign=object()), "the option sign of the reranker icr:m is <object"),
    ],
)
def test_what_is_no_reranker_cannot_be_set(loaded, reranker, told):
    retriever = Retriever.from_pretrained("bm25")
    with pytest.raises((WinnowError, ModelError), match=told):
        retriever.reranker = reranker
    with pytest.raises(WinnowError, match="rerank_depth is 0"):
        retriever.rerank_depth = 0
    assert retriever.reranker is None


def test_an_option_that_there_is_not_is_told_before_documents_are_indexed(loaded):
    with pytest.raises(WinnowError, match="icr has no option poem"):
        Retriever.from_pretrained("bm25,rerank=icr:m,poem=1")


def test_a_saved_reranker_is_loaded_by_the_first_search_that_needs_it(loaded, tmp_path):
    retriever = retriever_of("bm25+mini,fusion=rrf,rerank=icr:some/model,depth=5,sign=-1,cache=/nowhere,device=cpu")
    retriever.save_pretrained(tmp_path / "i")
    before = retriever.search("tea", 3)
    loaded.clear()
    opened = Retriever.from_folder(tmp_path / "i", verify="full")
    assert opened.search("tea", 3, rerank=False) == retriever.search("tea", 3, rerank=False)
    assert loaded == []
    assert opened.search("tea", 3) == before
    assert opened.search("tea", 3) == before
    assert [(model, sign) for model, sign, _ in loaded] == [("some/model", -1)]
    assert opened.reranker.options == {"sign": -1}  # where it runs and caches is of a machine
    assert (opened.rerank_depth, opened.fusion) == (5, Fusion("rrf"))


def test_settings_after_a_folder_take_the_place_of_its_own(loaded, tmp_path):
    retriever_of("bm25+mini,rerank=icr:one,depth=5").save_pretrained(tmp_path / "i")
    assert Retriever.from_pretrained(f"{tmp_path}/i,rerank=none").reranker is None
    other = Retriever.from_pretrained(f"{tmp_path}/i,rerank=icr:two,depth=7,fusion=rrf")
    assert (other.reranker.name, other.rerank_depth, other.fusion) == ("icr:two", 7, Fusion("rrf"))
    same = Retriever.from_pretrained(tmp_path / "i")
    assert (same.reranker.name, same.rerank_depth, same.fusion) == ("icr:one", 5, Fusion())


def test_a_reranker_in_a_folder_is_found_from_anywhere(tmp_path, monkeypatch):
    bert(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    retriever = retriever_of("bm25,rerank=cross-encoder:model,depth=6,max_length=20")
    retriever.save_pretrained("i")
    monkeypatch.chdir(tmp_path.parent)
    opened = Retriever.from_folder(tmp_path / "i")
    assert opened.reranker.name == f"cross-encoder:{tmp_path}/model"
    with_model = load_reranker(f"cross-encoder:{tmp_path}/model", max_length=20)
    assert opened.search("tea", 3) == opened.search("tea", 3, rerank=with_model, depth=6)


def test_a_model_that_is_gone_is_told_by_the_search_and_the_index_answers_without(tmp_path):
    retriever_of(f"bm25,rerank=cross-encoder:{tmp_path}/gone").save_pretrained(tmp_path / "i")
    opened = Retriever.from_folder(tmp_path / "i")
    with pytest.raises(ModelError, match="gone"):
        opened.search("tea", 3)
    assert len(opened.search("tea", 3, rerank=False)) == 3


def test_a_reranker_without_a_name_is_not_lost_in_silence(loaded, tmp_path):
    retriever = retriever_of("bm25")
    retriever.save_pretrained(tmp_path / "i")
    retriever.reranker = LongestFirst()
    for folder in ("i", "j"):
        with pytest.raises(
            WinnowError, match="reranker 'longest' is an object, which no index can keep; set it by name"
        ):
            retriever.save_pretrained(tmp_path / folder)
    assert not (tmp_path / "j").exists()
    retriever.add([{"_id": "new", "text": "tea"}], progress=False)
    with pytest.raises(WinnowError, match="no index can keep"):
        retriever.save_pretrained(tmp_path / "i")
    assert len(Retriever.from_folder(tmp_path / "i")) == len(CORPUS)  # nothing was done by halves
    retriever.commit(progress=False)
    assert Retriever.from_folder(tmp_path / "i").reranker is None
    retriever.reranker = "icr:m"
    retriever.save_pretrained(tmp_path / "i")
    assert Retriever.from_folder(tmp_path / "i").reranker.name == "icr:m"


def test_what_is_set_and_not_saved_stays_when_others_commit(loaded, tmp_path):
    retriever_of("bm25+mini,rerank=icr:one,depth=5").save_pretrained(tmp_path / "i")
    one, two = Retriever.from_folder(tmp_path / "i"), Retriever.from_folder(tmp_path / "i")
    own = LongestFirst()
    one.reranker = own
    two.fusion, two.rerank_depth = Fusion("rrf"), 9
    two.save_pretrained(tmp_path / "i")
    assert one.refresh()
    assert (one.reranker, one.fusion) == (own, Fusion("rrf"))
    three = Retriever.from_folder(tmp_path / "i")
    three.reranker = None
    three.save_pretrained(tmp_path / "i")
    assert two.refresh()
    assert two.reranker is None
    assert Retriever.from_folder(tmp_path / "i").reranker is None


def test_a_change_of_the_depth_alone_is_saved_and_nothing_is_not(loaded, tmp_path):
    retriever_of("bm25,rerank=icr:m").save_pretrained(tmp_path / "i")
    opened = Retriever.from_folder(tmp_path / "i")
    number = opened._opened.snapshot.number
    opened.save_pretrained(tmp_path / "i")
    assert opened._opened.snapshot.number == number
    opened.rerank_depth = 20
    opened.save_pretrained(tmp_path / "i")
    assert opened._opened.snapshot.number == number + 1
    assert Retriever.from_folder(tmp_path / "i").rerank_depth == 20


def test_an_index_without_a_reranker_has_the_bytes_it_had(loaded, tmp_path):
    retriever_of("bm25").save_pretrained(tmp_path / "i")
    contents = Retriever.from_folder(tmp_path / "i")._opened.snapshot.model.contents
    assert sorted(contents) == ["encoder", "model"]


@pytest.mark.parametrize(
    ("stored", "told"),
    [
        ([], "the stored reranker is \\[\\]; it must have exactly depth, name, options"),
        ({"name": "icr:m", "depth": 5}, "it must have exactly"),
        ({"name": "icr:m", "depth": 5, "options": {}, "more": 1}, "it must have exactly"),
        ({"name": "icr:m", "depth": 5, "options": []}, "it must have exactly"),
        ({"name": "poem:m", "depth": 5, "options": {}}, "cannot be used .the reranker is 'poem:m'"),
        ({"name": 7, "depth": 5, "options": {}}, "cannot be used .the reranker is 7"),
        ({"name": "icr:m", "depth": 0, "options": {}}, "cannot be used .depth is 0"),
        ({"name": "icr:m", "depth": 5, "options": {"self": 1}}, "cannot be used"),
        ({"name": "icr:m", "depth": 5, "options": {"x": {"y": 1}}}, "has the option 'x' = {'y': 1}, which no index keeps"),
        ({"name": "icr:m", "depth": 5, "options": {"cache": "/home"}}, "has the option 'cache'"),
        ({"name": "icr:m", "depth": 5, "options": {"trust_remote_code": True}}, "has the option 'trust_remote_code'"),
    ],
)  # fmt: skip
def test_what_no_retriever_has_stored_is_refused(stored, told):
    with pytest.raises(IndexFormatError, match=told):
        read_reranker(stored)


def test_joined_retrievers_and_the_mining_of_negatives_do_without(loaded):
    one, two = retriever_of("bm25,rerank=icr:m,depth=5"), retriever_of("mini")
    assert Retriever.joined(one, two).reranker is None
    found = found_beside(one, ["tea"], [{"d0"}], depth=9)
    assert [doc_id for doc_id, _ in found[0].documents] == [hit for hit in ids(one.search("tea", 10, rerank=False)) if hit != "d0"][:9]  # fmt: skip
    assert loaded == []


def test_the_commands_write_show_use_and_leave_out_the_reranker(loaded, tmp_path, capsys):
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(one) + "\n" for one in CORPUS))
    folder = str(tmp_path / "i")
    arguments = ["index", str(tmp_path / "c.jsonl"), "--out", folder, "--no-progress"]
    assert main([*arguments, "--model", "bm25,rerank=icr:some/model,depth=5,sign=-1"]) == 0
    assert main(["info", folder]) == 0
    assert "reranker icr:some/model (depth 5, sign -1)" in capsys.readouterr().out.splitlines()
    assert main(["info", folder, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reranker"] == {"name": "icr:some/model", "depth": 5, "options": {"sign": -1}}  # fmt: skip
    retriever = Retriever.from_folder(folder)
    for more, expected in (
        ([], retriever.search("tea", 3)),
        (["--depth", "7"], retriever.search("tea", 3, depth=7)),
        (["--rerank", "none"], retriever.search("tea", 3, rerank=False)),
        (["--rerank", "icr:other"], retriever.search("tea", 3, rerank=LongestFirst())),
    ):
        assert main(["search", folder, "tea", "-k", "3", "--json", "--explain", *more]) == 0
        hits = json.loads(capsys.readouterr().out)["hits"]
        assert [(hit["doc_id"], hit["score"], hit.get("first_rank")) for hit in hits] == [
            (hit.doc_id, hit.score, hit.first_rank) for hit in expected
        ]
    for more, told in (
        (["-o", "sign=1"], "'sign=1' is an option of a reranker; give --rerank too"),
        (["--rerank", "none", "--depth", "5"], "depth is 5, but nothing is reranked"),
    ):
        assert main(["search", folder, "tea", *more]) == 1
        assert told in capsys.readouterr().err


def test_a_model_is_loaded_once_by_several_threads(loaded, monkeypatch):
    load = loading.KINDS["icr"]()

    def slowly(model, **options):
        time.sleep(0.2)
        return load(model, **options)

    monkeypatch.setitem(loading.KINDS, "icr", lambda: slowly)
    retriever = retriever_of("bm25,rerank=icr:m,depth=5")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: ids(retriever.search("tea", 3)), range(12)))
    assert len(loaded) == 1
    assert len(set(map(tuple, found))) == 1
