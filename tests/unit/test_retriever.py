import numpy as np
import pytest
from forgery import edit_description, edit_manifest

from index.errors import CorpusError, IndexFormatError, ModelError, WinnowError
from retrieval import Document, Retriever
from retrieval.encoders.bm25 import BM25Encoder, BM25Options

CORPUS = [
    Document("tides", "Tides", "The moon pulls the water of the sea.", {"year": 1999}),
    Document("bread", "Bread", "Mix flour, water, salt and yeast."),
    Document("blank"),
    Document("stone", "", "Granite."),
]


@pytest.fixture
def retriever():
    return Retriever.from_pretrained("bm25").index(CORPUS, progress=False)


def test_hits_carry_rank_score_and_what_was_stored(retriever):
    hits = retriever.search("sea water")
    assert [(hit.rank, hit.doc_id) for hit in hits] == [(1, "tides"), (2, "bread")]
    assert hits[0].score > hits[1].score > 0
    assert Document(hits[0].doc_id, hits[0].title, hits[0].text, hits[0].fields) == CORPUS[0]


def test_title_and_text_are_searched_together(retriever):
    assert retriever.search("tides")[0].doc_id == retriever.search("moon")[0].doc_id == "tides"


def test_stored_fields_can_be_left_out(retriever):
    (hit,) = retriever.search("granite", stored=False)
    assert (hit.doc_id, hit.title, hit.text, hit.fields) == ("stone", "", "", {})
    hit.fields["mine"] = 1  # belongs to this hit alone
    assert retriever.search("granite", stored=False)[0].fields == {}


def test_a_batch_answers_like_single_searches(retriever):
    queries = ["water", "nothing known", "moon"]
    assert retriever.search_batch(queries, k=2) == [retriever.search(query, k=2) for query in queries]
    assert retriever.search_batch([]) == []


@pytest.mark.parametrize("query", ["", "   ", "unheard", "the of and", "🙃"])
def test_a_query_without_a_known_term_has_no_hits(retriever, query):
    assert retriever.search(query) == []


def test_a_document_without_text_is_kept_and_counted_and_never_matched(retriever):
    statistics = retriever.statistics()
    assert (len(retriever), statistics.documents, statistics.documents_without_terms) == (4, 4, 1)
    assert retriever.explain("water", "blank").terms == []


def test_k_beyond_the_collection_returns_what_matches(retriever):
    assert len(retriever.search("water", k=1_000)) == 2


def test_the_explanation_adds_up_to_the_score(retriever):
    for query in ("sea water", "water water moon salt", "granite"):
        for hit in retriever.search(query):
            explanation = retriever.explain(query, hit.doc_id)
            assert explanation.score == hit.score
            assert sum(match.contribution for match in explanation.terms) == pytest.approx(hit.score, rel=1e-6)
            assert sum(match.share for match in explanation.terms) == pytest.approx(1)
            for match in explanation.terms:
                assert match.contribution == pytest.approx(match.weight * match.impact, rel=1e-6)
                assert not match.is_expansion  # BM25 adds no terms


def test_an_encoder_that_expands_marks_its_own_terms():
    retriever = Retriever.from_pretrained("mini").index(CORPUS[:2], progress=False)
    (hit,) = retriever.search("lunar sea")
    explanation = retriever.explain("lunar sea", hit.doc_id)
    assert explanation.score == hit.score
    assert {match.term: match.is_expansion for match in explanation.terms} == {"lunar": True, "sea": False}


def test_a_saved_retriever_answers_like_the_one_it_was(retriever, tmp_path):
    retriever.save_pretrained(tmp_path / "i")
    opened = Retriever.from_pretrained(tmp_path / "i", verify="full")
    for query in ("sea water", "granite", ""):
        assert opened.search(query) == retriever.search(query)
    assert opened.explain("water", "bread") == retriever.explain("water", "bread")
    assert (opened.model, opened.statistics()) == ("bm25", retriever.statistics())


@pytest.mark.parametrize("name", ["bm25", "mini"])
@pytest.mark.parametrize("reopen", [False, True])
def test_documents_added_in_two_steps_are_as_if_added_in_one(name, reopen, tmp_path):
    whole = Retriever.from_pretrained(name).index(CORPUS, progress=False)
    grown = Retriever.from_pretrained(name).index(CORPUS[:1], progress=False)
    if reopen:
        grown.save_pretrained(tmp_path / "i")
        grown = Retriever.from_pretrained(tmp_path / "i")
    grown.index(CORPUS[1:], progress=False)
    assert grown.statistics().segments == 2
    assert grown.merge().statistics() == whole.statistics()
    for query in ("sea water", "granite", "salt of the moon"):
        expected = [(hit.doc_id, hit.score) for hit in whole.search(query)]
        found = [(hit.doc_id, hit.score) for hit in grown.search(query)]
        assert [doc_id for doc_id, _ in found] == [doc_id for doc_id, _ in expected]
        # the neural model's own sums depend on which texts it encodes together
        tolerance = 0 if name == "bm25" else 1e-5
        np.testing.assert_allclose([score for _, score in found], [score for _, score in expected], rtol=tolerance)


def test_a_model_without_documents_can_be_saved_and_filled_later(tmp_path):
    Retriever.from_pretrained("mini").save_pretrained(tmp_path / "i")
    opened = Retriever.from_pretrained(tmp_path / "i")
    with pytest.raises(WinnowError, match=r"there are no documents to search; add some first with retriever\.index"):
        opened.search("x")
    assert opened.index(CORPUS, progress=False).search("moon")[0].doc_id == "tides"


def test_saving_over_an_open_index_keeps_both_usable(retriever, tmp_path):
    retriever.save_pretrained(tmp_path / "i")
    opened = Retriever.from_pretrained(tmp_path / "i")
    before = opened.search("water")
    opened.index([Document("rain", "", "Water from clouds.")], progress=False).save_pretrained(tmp_path / "i")
    assert len(opened.search("water")) == 3
    assert len(Retriever.from_pretrained(tmp_path / "i")) == 5
    assert retriever.search("water") == before


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ([], "the corpus holds no documents"),
        (
            [{"_id": "new", "text": "x"}, {"_id": "tides", "text": "y"}],
            "the id 'tides' is in the index already; give each document its own id, or upsert it",
        ),
        ([{"_id": "new", "text": "x"}, {"text": "y"}], "document 2 has no _id"),
        ([{"_id": "new", "text": "x"}, {"_id": 3, "text": "y"}], "document 2 has the id 3"),
        ([{"_id": "new", "text": "\ud800"}], "not valid Unicode"),
        (["just text"], "document 1 holds str 'just text'"),
        ({"_id": "a", "text": "tea"}, "the mapping has str 'a' under '_id'; a mapping must be"),
        (None, "the corpus is NoneType None; give a path"),
        ("a text given for a path " * 100, "is not a path"),
        ([Document("new", fields=None)], "document 'new' has fields None; they must be a dictionary"),
    ],
)
def test_a_corpus_that_cannot_be_taken_changes_nothing(retriever, corpus, message):
    with pytest.raises(CorpusError, match=message):
        retriever.index(corpus, progress=False)
    assert len(retriever) == 4
    assert retriever.search("water") == Retriever.from_pretrained("bm25").index(CORPUS, progress=False).search("water")


def test_without_documents_a_sentence_says_to_index_first():
    with pytest.raises(WinnowError, match=r"add some first with retriever\.index"):
        Retriever.from_pretrained("bm25").search("x")


@pytest.mark.parametrize("query", [None, 3, ["x"], b"x"])
def test_a_query_that_is_not_a_string_is_named(retriever, query):
    with pytest.raises(WinnowError, match=r"the query is .*; it must be a string"):
        retriever.search(query)
    with pytest.raises(WinnowError, match=r"doc_id is .*; it must be a string"):
        retriever.explain("water", query)


@pytest.mark.parametrize("name", ["bm25", "mini"])
def test_a_query_that_is_not_unicode_is_named(name):
    retriever = Retriever.from_pretrained(name).index(CORPUS, progress=False)
    with pytest.raises(WinnowError, match=r"the query 'sea \\udcff' is not valid Unicode"):
        retriever.search("sea \udcff")


@pytest.mark.parametrize("queries", ["water", None, 7])
def test_a_batch_that_is_not_a_list_is_named(retriever, queries):
    with pytest.raises(WinnowError, match=r"queries is .*; it must be a list of strings"):
        retriever.search_batch(queries)


@pytest.mark.parametrize("threads", [0, 2.5, "2"])
def test_a_number_of_threads_that_is_none_is_named(retriever, threads):
    with pytest.raises(WinnowError, match=r"threads is .*; it must be a whole number of at least 1"):
        retriever.search_batch(["water"], threads=threads)


@pytest.mark.parametrize("name", [None, b"bm25", 3])
def test_a_model_that_is_not_a_name_is_named(name):
    with pytest.raises(WinnowError, match=r"the model is .*; give a name or a folder"):
        Retriever.from_pretrained(name)


@pytest.mark.parametrize("k", [0, -3, 2.0])
def test_k_below_one_is_named(retriever, k):
    with pytest.raises(WinnowError, match=f"k is {k}; it must be"):
        retriever.search("water", k)
    with pytest.raises(WinnowError, match=f"k is {k}; it must be"):
        retriever.search_batch(["water"], k)


def test_an_unknown_document_cannot_be_explained(retriever):
    with pytest.raises(WinnowError, match="no document has the id 'nobody'"):
        retriever.explain("water", "nobody")


def test_an_unknown_model_is_named_with_the_known_ones():
    with pytest.raises(ModelError, match=r"'naver-x' is neither a folder .* nor a known model; known are bm25, mini"):
        Retriever.from_pretrained("naver-x")


def test_a_folder_called_like_a_model_hides_it_only_if_it_is_an_index(retriever, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bm25").mkdir()
    assert len(Retriever.from_pretrained("bm25")) == 0
    retriever.save_pretrained("bm25")
    assert len(Retriever.from_pretrained("bm25")) == 4


def test_a_folder_that_is_no_retriever_is_named(tmp_path):
    with pytest.raises(IndexFormatError, match="is not an index"):
        Retriever.from_pretrained(tmp_path)


def test_a_saved_retriever_keeps_its_own_impacts(tmp_path):
    Retriever.from_pretrained("mini", impacts="f32").index(CORPUS, progress=False).save_pretrained(tmp_path / "i")
    with pytest.raises(WinnowError, match="was saved with its own options; leave impacts='u8' out"):
        Retriever.from_pretrained(tmp_path / "i", impacts="u8")
    opened = Retriever.from_pretrained(tmp_path / "i")
    assert opened.index([{"_id": "x", "text": "tea"}], progress=False).merge()._opened.encoders[0].impacts == "f32"


def test_a_retriever_takes_an_encoder_with_other_options():
    retriever = Retriever(BM25Encoder(BM25Options(k1=0.0))).index(CORPUS, progress=False)
    assert {hit.score for hit in retriever.search("water")} == {retriever.search("water")[0].score}


@pytest.mark.parametrize("field", ["documents", "arms", "segments", "model"])
@pytest.mark.parametrize("nonsense", [{}, {"x": 1}, [1], "text", 7, None])
def test_nonsense_in_a_manifest_or_description_is_refused_in_a_sentence(retriever, tmp_path, field, nonsense):
    retriever.save_pretrained(tmp_path / "i")
    if field in ("documents", "arms"):
        edit_description(tmp_path / "i", lambda fields: fields["contents"].update({field: nonsense}), "part-000002")
    else:
        edit_manifest(tmp_path / "i", lambda fields: fields["contents"].update({field: nonsense}))
    with pytest.raises(IndexFormatError):
        Retriever.from_pretrained(tmp_path / "i").search("water")


def test_every_file_of_a_saved_retriever_is_checked(retriever, tmp_path):
    retriever.delete("bread")
    retriever.commit()
    retriever.save_pretrained(tmp_path / "i")
    files = [file for file in sorted((tmp_path / "i").glob("part-*/**/*")) if file.is_file()]
    checked = [
        file for file in files if file.name not in ("winnow-part", "part.json")
    ]  # the manifest vouches for the latter
    assert len(checked) >= 17
    for file in checked:
        whole = file.read_bytes()
        file.write_bytes(whole[:-1])
        with pytest.raises(IndexFormatError, match=f"{file.name} has {len(whole) - 1} bytes"):
            Retriever.from_pretrained(tmp_path / "i")
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(IndexFormatError, match=f"{file.name} does not match its checksum"):
            Retriever.from_pretrained(tmp_path / "i", verify="full")
        file.write_bytes(whole)
    assert Retriever.from_pretrained(tmp_path / "i", verify="full").search("water") == retriever.search("water")


def test_effort_reaches_the_index():
    from index.effort import Budget

    texts = ["tea"] * 100 + ["tea tea tea"] * 30
    retriever = Retriever.from_pretrained("bm25").index(
        [{"_id": str(i), "text": text} for i, text in enumerate(texts)], progress=False
    )
    best = [str(i) for i in range(100, 130)]
    rushed = Budget(postings=40, candidates=200)  # only the heaviest tier of the one list
    assert [hit.doc_id for hit in retriever.search("tea", k=200, effort=rushed)] == best
    assert [hit.doc_id for hit in retriever.search_batch(["tea"], k=200, effort=rushed)[0]] == best
    assert len(retriever.search("tea", k=200)) == 130
