"""Documents that bring their vectors: the model `vectors`, queries as weights by term, and what other models make of them."""

import numpy as np
import pytest

from index.documents import Document, StagedDocuments
from index.errors import CorpusError, InvalidVectorsError, WinnowError
from index.verification import find_damage
from retrieval import Retriever
from retrieval.encoders.mini import mini

TEA = {"tea": 3.0, "green": 1.5}
MILK = {"milk": 2.0, "tea": 0.5}
RECORDS = [
    {"_id": "a", "text": "Green tea.", "vector": TEA, "year": 1999},
    {"_id": "b", "text": "Milk.", "vector": MILK},
    {"_id": "c", "text": "Nothing.", "vector": {}},
]


def vectors(records=RECORDS, impacts="f32"):
    return Retriever.from_pretrained("vectors", impacts=impacts).index(records, progress=False)


def hits(retriever, query, k=10):
    return [(hit.doc_id, hit.score) for hit in retriever.search(query, k)]


def test_a_score_is_the_sum_of_products_of_weights():
    retriever = vectors()
    assert hits(retriever, "tea") == [("a", 3.0), ("b", 0.5)]
    assert hits(retriever, "tea milk tea") == [("a", 2 * 3.0), ("b", 2 * 0.5 + 1 * 2.0)]  # a term given twice weighs 2
    assert hits(retriever, {"tea": 0.25, "green": 4, "unheard": 9}) == [("a", 0.25 * 3.0 + 4 * 1.5), ("b", 0.25 * 0.5)]


def test_weights_in_eight_bits_are_whole_steps_of_the_largest():
    records = [{"_id": "a", "vector": {"tea": 510.0, "green": 201.2}}]  # a step is 510 / 255 = 2
    assert hits(vectors(records, "u8"), "green") == [("a", 101 * 2.0)]
    assert hits(vectors(records, "u16"), "green")[0][1] == pytest.approx(201.2, abs=510 / 65_535 / 2)


def test_the_vector_is_indexed_and_not_stored_as_a_field():
    (hit,) = vectors().search("green")
    assert hit.fields == {"year": 1999}
    assert "vector" in Retriever.from_pretrained("bm25").index(RECORDS, progress=False).search("green")[0].fields


def test_a_query_in_words_is_split_at_white_space_and_not_changed():
    assert hits(vectors(), "Tea") == []
    assert hits(vectors(), "tea\n tea\t") == [("a", 6.0), ("b", 1.0)]


@pytest.mark.parametrize("name", ["bm25", "mini", "vectors"])
@pytest.mark.parametrize("query", [{}, {"unheard of": 1.0}, {"tea": 0}, {"tea": 1e-60}])
def test_a_query_of_weights_without_a_known_term_has_no_hits(name, query):
    retriever = Retriever.from_pretrained(name).index(RECORDS, progress=False)
    assert retriever.search(query) == []
    assert retriever.search_batch([query, "x"]) == [[], []]
    assert retriever.explain(query, "a").terms == []


def test_weights_for_bm25_are_looked_up_among_analysed_terms_and_take_the_place_of_idf():
    retriever = Retriever.from_pretrained("bm25").index(
        [{"_id": "a", "text": "The countries"}, {"_id": "b", "text": "tea"}], progress=False
    )
    half = np.float32(0.9 * (1 - 0.4)) + np.float32(0.9 * 0.4 / 1.0) * np.float32(
        1
    )  # both have one term: the mean is 1
    assert hits(retriever, {"countri": 2.0}) == [("a", float(np.float32(2) * (np.float32(1) / (np.float32(1) + half))))]
    assert hits(retriever, {"countries": 2.0}) == []
    assert [match.weight for match in retriever.explain({"countri": 2.0}, "a").terms] == [2.0]


def test_terms_of_mini_are_its_tokens_as_spelled_and_as_shown():
    retriever = Retriever.from_pretrained("mini", impacts="f32")
    retriever.add([Document("a", text="x", vector={"##ing": 2.0, "walk": 1.0}), Document("b", vector={"-ing": 4.0})])
    retriever.commit()
    assert hits(retriever, {"##ing": 1.0}) == hits(retriever, {"-ing": 1.0}) == [("b", 4.0), ("a", 2.0)]
    assert hits(retriever, {"##ing": 1.0, "-ing": 0.5, "walk": 3.0}) == [("a", 1.5 * 2 + 3 * 1), ("b", 1.5 * 4)]


def test_documents_with_and_without_vectors_go_into_one_index_of_mini():
    texts = [Document("a", text="the moon"), Document("b", text="the sea"), Document("c", text="bread")]
    expected = Retriever.from_pretrained("mini", impacts="f32").index(texts, progress=False)
    mixed = [texts[0], Document("b", text="the sea", vector={"tea": 5.0}), texts[2]]
    retriever = Retriever.from_pretrained("mini", impacts="f32").index(mixed, progress=False)
    assert hits(retriever, {"tea": 2.0})[0] == ("b", 10.0)
    for doc_id in ("a", "c"):
        own = dict(hits(expected, {"moon": 1.0, "bread": 1.0, "lunar": 1.0}))[doc_id]
        assert dict(hits(retriever, {"moon": 1.0, "bread": 1.0, "lunar": 1.0}))[doc_id] == pytest.approx(own, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "document", "message"),
    [
        ("vectors", Document("x", text="tea"), "document 'x' brings no vector, and the model vectors has no other"),
        ("bm25", Document("x", vector={"tea": 1}), "document 'x' brings a vector, and bm25 counts the terms of its text"),
        ("mini", Document("x", vector={"tea": 1, "teapotty": 1}), "document 'x' has the term 'teapotty' in its vector, which"),
        ("vectors", Document("x", vector={"tea": -1}), "document 2 has the weight -1 of the term 'tea'; a weight must be"),
        ("vectors", Document("x", vector={"tea": float("nan")}), "document 2 has the weight nan of the term 'tea'"),
        ("vectors", Document("x", vector={"tea": 1e39}), r"document 2 has the weight 1e\+39 of the term 'tea'"),
        ("vectors", Document("x", vector={"tea": True}), "document 2 has the weight True of the term 'tea'"),
        ("vectors", Document("x", vector={7: 1.0}), "document 2 has the term 7 in its vector; a term must be a string"),
        ("vectors", Document("x", vector={"\ud800": 1.0}), "document 2 has a term that is not valid Unicode"),
        ("vectors", Document("x", vector=[1.0, 2.0]), "document 2 has list .* as its vector; it must map terms to weights"),
        ("vectors", {"_id": "x", "vector": "tea tea"}, "document 2 has str 'tea tea' as its vector"),
        ("vectors", {"_id": "x", "vector": None}, "document 'x' brings no vector"),
    ],
)  # fmt: skip
def test_a_vector_that_cannot_be_taken_is_named_and_nothing_is_staged(name, document, message):
    retriever = Retriever.from_pretrained(name)
    good = Document("good", text="tea", vector=None if name != "vectors" else TEA)
    with pytest.raises(CorpusError, match=message):
        retriever.add([good, document], progress=False)
    assert retriever._writer is None


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"tea": float("inf")}, "the query has the weight inf of the term 'tea'"),
        ({"tea": "1"}, "the query has the weight '1' of the term 'tea'"),
        ({b"tea": 1}, "the query has the term b'tea' in its vector"),
        ({"\udcff": 1}, "the query has a term that is not valid Unicode"),
    ],
)
def test_weights_that_cannot_be_scored_are_named(query, message):
    with pytest.raises(InvalidVectorsError, match=message):
        vectors().search(query)
    with pytest.raises(WinnowError, match=r"queries is dict .*; it must be a list of strings or of mappings"):
        vectors().search_batch(query)


def test_weights_may_be_numbers_of_numpy_and_zeros_are_no_terms():
    vector = {"tea": np.float32(2.5), "milk": np.int64(3), "gone": 0, "tiny": 1e-300, "minus": -0.0}
    retriever = vectors([Document("a", vector=vector)])
    assert retriever.statistics().postings == 2
    assert hits(retriever, {"tea": np.float64(2), "milk": 1}) == [("a", 2 * 2.5 + 3)]


def test_vectors_go_through_upsert_delete_rollback_merge_and_the_folder(tmp_path):
    retriever = vectors()
    retriever.save_pretrained(tmp_path / "i")
    retriever.upsert([{"_id": "a", "vector": {"oolong": 1.0}}, {"_id": "d", "vector": {"tea": 1.0}}], progress=False)
    retriever.rollback()
    assert hits(retriever, "tea oolong") == [("a", 3.0), ("b", 0.5)]
    retriever.upsert([{"_id": "a", "vector": {"oolong": 1.0}}, {"_id": "d", "vector": {"tea": 1.0}}], progress=False)
    retriever.upsert([{"_id": "d", "vector": {"tea": 8.0}}], progress=False)  # staged twice: the last counts
    retriever.delete("b")
    retriever.commit(progress=False, merge=False)
    expected = [("d", 8.0), ("a", 1.0)]
    assert hits(retriever, "tea oolong") == expected
    assert hits(retriever.merge(), "tea oolong") == expected
    assert find_damage(tmp_path / "i") == []
    opened = Retriever.from_pretrained(tmp_path / "i", verify="full")
    assert (opened.model, hits(opened, "tea oolong"), opened.search("green milk")) == ("vectors", expected, [])
    fresh = vectors([RECORDS[2], {"_id": "a", "vector": {"oolong": 1.0}}, {"_id": "d", "vector": {"tea": 8.0}}])
    assert opened.statistics() == fresh.statistics()


def test_a_document_is_shown_compared_and_read_back_without_its_vector():
    document = Document("a", vector=TEA)
    assert document == Document("a")
    assert "tea" not in repr(document)
    staged = StagedDocuments()
    staged.add([document, Document("b")])
    assert [one.vector for one in staged] == [TEA, None]
    assert [one.vector for one in staged.sealed(None)] == [None, None]


def test_explain_marks_terms_that_the_text_does_not_say():
    retriever = vectors([{"_id": "a", "text": "green leaves", "vector": TEA}])
    matches = {match.term: match for match in retriever.explain({"tea": 2.0, "green": 1.0}, "a").terms}
    assert (matches["tea"].contribution, matches["tea"].is_expansion) == (6.0, True)
    assert (matches["green"].contribution, matches["green"].is_expansion) == (1.5, False)


def test_a_vector_of_tokens_that_mini_shows_alike_is_added_up():
    encoder = mini()
    rows = encoder.encode_documents([Document("a", vector={"##ing": 1.0, "-ing": 2.0})]).vectors
    assert (len(rows.indices), rows.data.tolist()) == (1, [3.0])


def test_impacts_that_are_none_are_refused():
    with pytest.raises(WinnowError, match="impacts is 'u9'; it must be one of u8, u16, f32"):
        Retriever.from_pretrained("vectors", impacts="u9")
