"""Our systems in beir and in mteb: what these harnesses measure is what we measure."""

import json
import logging
import os
import re

import cross_encoders_for_tests
import pytest
from beir.retrieval.evaluation import EvaluateRetrieval
from conftest import ROOT
from encoders_for_tests import WordEncoder

from eval.measures import measure_run
from eval.plugs.beir_search import BeirSearch
from eval.plugs.mteb_search import MtebSearch
from eval.plugs.searcher import Searcher
from index.errors import CorpusError, WinnowError
from retrieval import Fusion, Ranked, Retriever, load_reranker

CORPUS = {
    "a": {"title": "Tides", "text": "The moon pulls the water of the sea."},
    "b": {"title": "", "text": "Mix flour, water, salt and yeast."},
    "c": {"title": None, "text": "Walk the dog before the sea rises."},
    "d": {"title": "Moon", "text": None},
    "2": {"title": "Tea", "text": "Green tea needs water that does not boil."},
}
QUERIES = {"1": "moon water", "2": "tea water", "3": "xylophone", "4": "the dog"}
QRELS = {"1": {"a": 2, "d": 1}, "2": {"2": 1, "b": 1}, "3": {"c": 1}, "4": {"c": 1}}
RECORDS = [{"_id": doc_id, **record} for doc_id, record in CORPUS.items()]


class Backwards:
    """The first stage's list, last one first."""

    name = "backwards"

    def rank(self, query, documents, top_k=None):
        last = len(documents) - 1
        return [Ranked(last - place, float(-place)) for place in range(len(documents))][:top_k]

    def rank_batch(self, queries, lists, top_k=None):
        return [self.rank(query, documents, top_k) for query, documents in zip(queries, lists, strict=True)]


def ranked(retriever, **options):
    """What the retriever itself finds, deeper than the corpus."""
    found = retriever.search_batch(QUERIES.values(), k=1000, **options)
    return {query: {hit.doc_id: hit.score for hit in hits} for query, hits in zip(QUERIES, found, strict=True)}


def in_order(run):
    return {query: list(found.items()) for query, found in run.items()}


@pytest.mark.parametrize("system", ["bm25", "bm25+winnow-mini"])
def test_beir_finds_what_the_retriever_finds_and_measures_what_we_measure(system):
    ours = ranked(Retriever.from_pretrained(system).index(RECORDS, progress=False))
    harness = EvaluateRetrieval(BeirSearch(system, progress=False))  # of k up to 1000, with five documents
    results = harness.retrieve(CORPUS, QUERIES)
    assert in_order(results) == in_order(ours)
    assert results["1"]
    ndcg, _, recall, _ = harness.evaluate(QRELS, results, [10, 100], ignore_identical_ids=False)
    mrr = harness.evaluate_custom(QRELS, results, [10], "mrr")
    expected = measure_run(QRELS, ours)
    assert (ndcg["NDCG@10"], recall["Recall@100"], mrr["MRR@10"]) == pytest.approx(
        (expected["nDCG@10"], expected["R@100"], expected["MRR@10"]), abs=5e-6
    )


def test_a_query_without_results_has_an_entry_and_beir_counts_it():
    results = BeirSearch("bm25", progress=False).search(CORPUS, QUERIES, 10, "cos_sim")
    assert list(results) == list(QUERIES)
    assert results["3"] == {}
    recall = EvaluateRetrieval.evaluate(QRELS, results, [10], ignore_identical_ids=False)[2]
    assert recall["Recall@10"] == (1 + 1 + 0 + 1) / 4
    del results["3"]
    assert EvaluateRetrieval.evaluate(QRELS, results, [10], ignore_identical_ids=False)[2]["Recall@10"] == 1


def test_a_document_with_the_id_of_a_query_is_left_to_beir():
    results = BeirSearch("bm25", progress=False).search(CORPUS, QUERIES, 10)
    assert "2" in results["2"]
    recall = EvaluateRetrieval.evaluate(QRELS, results, [10])[2]  # which removes it unless told
    assert recall["Recall@10"] == (1 + 1 / 2 + 0 + 1) / 4


def test_top_k_is_kept():
    results = BeirSearch("bm25", progress=False).search(CORPUS, QUERIES, 2)
    assert [len(found) for found in results.values()] == [2, 2, 0, 1]


def test_a_corpus_is_indexed_once_and_another_one_anew():
    search = BeirSearch("bm25", progress=False)
    first = search.search(CORPUS, QUERIES, 10)
    held = search.searcher._retriever
    assert search.search(dict(CORPUS), QUERIES, 10) == first
    assert search.searcher._retriever is held
    changed = {**CORPUS, "b": {"title": "", "text": "The moon, the moon."}}
    assert "b" in search.search(changed, QUERIES, 10)["1"]
    assert "b" not in search.search({"a": CORPUS["a"]}, QUERIES, 10)["1"]


def test_a_retriever_that_holds_the_corpus_is_searched_as_it_is():
    retriever = Retriever(WordEncoder()).index(RECORDS, progress=False)
    statistics = retriever.statistics()
    assert in_order(BeirSearch(retriever).search(CORPUS, QUERIES, 10)) == in_order(ranked(retriever))
    assert retriever.statistics() == statistics


def test_an_empty_retriever_takes_the_first_corpus():
    search = BeirSearch(Retriever(WordEncoder()), progress=False)
    expected = ranked(Retriever(WordEncoder()).index(RECORDS, progress=False))
    assert in_order(search.search(CORPUS, QUERIES, 10)) == in_order(expected)


def test_a_saved_retriever_is_searched_as_it_is(tmp_path):
    retriever = Retriever.from_pretrained("bm25").index(RECORDS, progress=False)
    retriever.save_pretrained(tmp_path / "index", progress=False)
    assert in_order(BeirSearch(tmp_path / "index").search(CORPUS, QUERIES, 10)) == in_order(ranked(retriever))


def test_a_retriever_of_other_documents_is_refused():
    retriever = Retriever.from_pretrained("bm25").index(RECORDS, progress=False)
    with pytest.raises(WinnowError, match="holds 5 documents, and the corpus has 1"):
        BeirSearch(retriever).search({"a": CORPUS["a"]}, QUERIES, 10)
    others = {**CORPUS, "e": CORPUS["a"]}
    del others["a"]
    with pytest.raises(WinnowError, match="found the document 'a', which the corpus lacks"):
        BeirSearch(retriever).search(others, QUERIES, 10)


def test_a_fusion_and_impacts_are_heeded():
    options = {"fusion": Fusion(method="rrf"), "winnow-mini": {"impacts": "f32"}}
    ours = ranked(Retriever.from_pretrained("bm25+winnow-mini", **options).index(RECORDS, progress=False))
    found = BeirSearch("bm25+winnow-mini", progress=False, **options).search(CORPUS, QUERIES, 10)
    assert in_order(found) == in_order(ours)
    assert in_order(found) != in_order(BeirSearch("bm25+winnow-mini", progress=False).search(CORPUS, QUERIES, 10))


def test_only_documents_that_were_reranked_are_found():
    search = BeirSearch("bm25", rerank=Backwards(), depth=2, progress=False)
    first = BeirSearch("bm25", progress=False).search(CORPUS, QUERIES, 2)
    assert [list(found) for found in search.search(CORPUS, QUERIES, 1000).values()] == [
        list(found)[::-1] for found in first.values()
    ]


def test_a_system_may_be_written_with_its_reranker(tmp_path):
    folder = cross_encoders_for_tests.bert(tmp_path / "model")
    written = f"bm25,rerank=cross-encoder:{folder},depth=2"
    search = BeirSearch(written, progress=False)
    reranker = load_reranker(f"cross-encoder:{folder}")
    retriever = Retriever.from_pretrained("bm25").index(RECORDS, progress=False)
    expected = retriever.search_batch(QUERIES.values(), k=2, rerank=reranker, depth=2)
    assert list(in_order(search.search(CORPUS, QUERIES, 1000)).values()) == [
        [(hit.doc_id, hit.score) for hit in hits] for hits in expected
    ]
    with pytest.raises(WinnowError, match="names a reranker, and rerank= is another"):
        BeirSearch(written, rerank=reranker)


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ([{"_id": "a", "text": "tea"}], "the corpus is list"),
        ({"a": "tea"}, "document 'a' is str 'tea'"),
        ({"a": {"text": 5}}, "int 5 as its text"),
        ({7: {"text": "tea"}}, "has the id 7"),
        ({}, "holds no documents"),
    ],
)
def test_what_is_no_corpus_is_told(corpus, message):
    with pytest.raises(CorpusError, match=message):
        BeirSearch("bm25", progress=False).search(corpus, QUERIES, 10)


def test_a_corpus_that_failed_is_not_taken_for_indexed():
    search = BeirSearch("bm25", progress=False)
    first = search.search(CORPUS, QUERIES, 10)
    for _ in range(2):
        with pytest.raises(CorpusError, match="int 5 as its text"):
            search.search({"a": {"text": 5}}, QUERIES, 10)
    assert search.search(CORPUS, QUERIES, 10) == first


def test_other_misuse_is_told():
    with pytest.raises(WinnowError, match="the query '1' is NoneType None"):
        BeirSearch("bm25", progress=False).search(CORPUS, {"1": None}, 10)
    with pytest.raises(WinnowError, match="leave the options impacts out"):
        Searcher(Retriever(WordEncoder()), impacts="f32")
    with pytest.raises(WinnowError, match="depth is 5, but nothing is reranked"):
        Searcher("bm25", depth=5)
    with pytest.raises(WinnowError, match="has no corpus to search yet"):
        Searcher("bm25").search(QUERIES, 10)


def test_encode_writes_an_index_and_search_from_files_reads_it(tmp_path):
    search = BeirSearch("bm25+winnow-mini", fusion=Fusion(method="rrf"), progress=False)
    harness = EvaluateRetrieval(search)
    folder = str(tmp_path / "encoded")
    found = harness.encode_and_retrieve(CORPUS, QUERIES, encode_output_path=folder)
    assert in_order(found) == in_order(search.search(CORPUS, QUERIES, 1000))
    assert json.loads((tmp_path / "encoded" / "queries.pkl").read_text()) == QUERIES
    with pytest.raises(WinnowError, match=r"corpus\.0\.pkl exists"):
        harness.encode_and_retrieve(CORPUS, QUERIES, encode_output_path=folder)
    smaller = {"a": CORPUS["a"]}
    again = harness.encode_and_retrieve(smaller, QUERIES, encode_output_path=folder, overwrite=True)
    assert list(again["1"]) == ["a"]
    search.search(CORPUS, QUERIES, 10)  # another corpus, which the folder does not become
    kept = search.search_from_files(f"{folder}/queries.pkl", [f"{folder}/corpus.0.pkl"], 10)
    assert in_order(kept) == in_order(again)


def test_a_retriever_that_encode_saved_stays_its_owners(tmp_path):
    retriever = Retriever(WordEncoder()).index(RECORDS, progress=False)
    BeirSearch(retriever, progress=False).encode(CORPUS, QUERIES, str(tmp_path))
    retriever.index([{"_id": "new", "text": "moon"}], progress=False)  # in memory, as before
    assert len(Retriever.from_folder(tmp_path / "corpus.0.pkl")) == len(CORPUS)


def test_files_that_encode_did_not_write_are_told(tmp_path):
    search = BeirSearch("bm25", progress=False)
    search.encode(CORPUS, QUERIES, str(tmp_path))
    index = str(tmp_path / "corpus.0.pkl")
    with pytest.raises(WinnowError, match="there are 0 files of the corpus"):
        search.search_from_files(str(tmp_path / "queries.pkl"), [], 10)
    for content in (b"\x80\x04\x95", b"[1, 2]"):
        (tmp_path / "queries.pkl").write_bytes(content)
        with pytest.raises(WinnowError, match="run encode first"):
            search.search_from_files(str(tmp_path / "queries.pkl"), [index], 10)


# mteb, where it is installed; the rows are dictionaries like those of a datasets.Dataset

ROWS = [{"id": doc_id, **{name: text or "" for name, text in record.items()}} for doc_id, record in CORPUS.items()]
QUERY_ROWS = [{"id": query, "text": text} for query, text in QUERIES.items()]
TASK = {"task_metadata": None, "hf_split": "test", "hf_subset": "default", "encode_kwargs": {}, "num_proc": None}


def held_by_mteb(system="bm25", **options):
    search = MtebSearch(system, progress=False, **options)
    search.index(ROWS, **TASK)
    return search


def test_mteb_finds_what_the_retriever_finds():
    found = held_by_mteb().search(QUERY_ROWS, top_k=1000, **TASK)
    assert in_order(found) == in_order(ranked(Retriever.from_pretrained("bm25").index(RECORDS, progress=False)))


def test_a_task_that_reranks_is_searched_among_its_candidates():
    search = held_by_mteb()
    everything = search.search(QUERY_ROWS, top_k=10, **TASK)
    assert {"d", "2"} < set(everything["1"])  # which are no candidates
    found = search.search(QUERY_ROWS, top_k=10, top_ranked={"1": ["b", "a", "c"], "2": []}, **TASK)
    kept = {doc_id: score for doc_id, score in everything["1"].items() if doc_id in ("a", "b")}
    assert in_order(found) == in_order({"1": kept, "2": {}, "3": {}, "4": {}})


def test_conversations_and_instructions_are_read():
    turns = [{"role": "user", "content": "sea"}, {"role": "assistant", "content": "moon"}]
    asked = [
        {"id": "1", "text": [*turns, {"role": "user", "content": "dog"}]},
        {"id": "2", "text": ["yeast", "dog"]},
        {"id": "3", "text": "dog", "instruction": "about tea"},
        {"id": "4", "text": "dog", "instruction": None},
    ]
    found = held_by_mteb().search(asked, top_k=10, **TASK)
    assert {query: set(docs) for query, docs in found.items()} == {
        "1": {"a", "c", "d"},
        "2": {"b", "c"},
        "3": {"2", "c"},
        "4": {"c"},
    }


def test_a_task_without_texts_is_told():
    with pytest.raises(CorpusError, match="the row 'a' has no text, only id, image"):
        MtebSearch("bm25", progress=False).index([{"id": "a", "image": b""}], **TASK)
    with pytest.raises(WinnowError, match="the query '1' has None as its text"):
        held_by_mteb().search([{"id": "1", "image": b""}], top_k=10, **TASK)


@pytest.fixture(scope="module")
def mteb(tmp_path_factory):
    os.environ.setdefault("MTEB_CACHE", str(tmp_path_factory.mktemp("mteb")))  # its results, never in the user's home
    found = pytest.importorskip("mteb", reason="NOT RUN: mteb is not installed; pip install mteb")
    logging.getLogger("mteb").setLevel(logging.ERROR)
    return found


@pytest.fixture
def task(mteb):
    """A retrieval task with a corpus of its own, which is fetched from nowhere."""
    from datasets import Dataset

    class LocalRetrieval(mteb.abstasks.AbsTaskRetrieval):
        metadata = mteb.TaskMetadata(
            name="LocalRetrieval", description="tides and bread", type="Retrieval", category="t2t", modalities=["text"],
            dataset={"path": "nowhere/local", "revision": "1"}, eval_splits=["test"], eval_langs=["eng-Latn"],
            main_score="ndcg_at_10", reference=None, date=None, domains=[], task_subtypes=[], license=None,
            annotations_creators=None, dialect=[], sample_creation=None, bibtex_citation="",
        )  # fmt: skip

        def load_data(self, **options):
            self.dataset = {
                "default": {
                    "test": {
                        "corpus": Dataset.from_list(ROWS),
                        "queries": Dataset.from_list(QUERY_ROWS),
                        "relevant_docs": QRELS,
                        "top_ranked": None,
                    }
                }
            }
            self.data_loaded = True

    return LocalRetrieval()


@pytest.mark.parametrize(("system", "kind"), [("bm25", "sparse"), ("bm25+winnow-mini", "hybrid")])
def test_mteb_measures_a_task_of_its_own_as_we_do(mteb, task, system, kind):
    model = MtebSearch(system, progress=False)
    assert isinstance(model, mteb.models.SearchProtocol)
    result = mteb.evaluate(model, task, cache=None, show_progress_bar=False)
    (scores,) = result.task_results[0].scores["test"]
    expected = measure_run(QRELS, ranked(Retriever.from_pretrained(system).index(RECORDS, progress=False)))
    assert (scores["ndcg_at_10"], scores["recall_at_100"], scores["mrr_at_10"]) == pytest.approx(
        (expected["nDCG@10"], expected["R@100"], expected["MRR@10"]), abs=1e-5
    )
    assert (result.model_name, model.mteb_model_meta.model_type) == (f"winnow/{system}", [kind])


def test_options_keep_results_of_one_name_apart(mteb):
    plain, other = MtebSearch("winnow-mini").mteb_model_meta, MtebSearch("winnow-mini", impacts="f32").mteb_model_meta
    assert plain.name == other.name
    assert plain.model_name_with_experiment != other.model_name_with_experiment
    assert MtebSearch("bm25", meta={"name": "me/mine", "revision": "2"}).mteb_model_meta.name == "me/mine"


SECTION = (ROOT / "docs" / "evaluation.md").read_text().partition("\n## In other harnesses\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize(
    ("code", "output"),
    re.findall(r"```python\n([^`]*)```\n\n```text\n([^`]*)```", SECTION),
    ids=["beir", "anserini"],
)
def test_the_examples_print_what_the_page_shows(code, output, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert capsys.readouterr().out == output
