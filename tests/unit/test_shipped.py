"""Models that come with the package: by name from anywhere, whatever the package's folder is; a small one stands for them here."""

import shutil

import numpy as np
import pytest
import tiny_checkpoints as tiny
from sentence_transformers import SparseEncoder
from tiny_checkpoints import TEXTS, dense

from index.errors import ModelError, WinnowError
from retrieval import LearnedSparseEncoder, Retriever
from retrieval.encoders import shipped
from retrieval.encoders.quantising import quantise

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::retrieval.encoders.text_stream.TruncationWarning"),
]
NAME = "winnow-mini"
QUERIES = ["moon", "What's the weather in NEW York now?", "bread and salt; flour, and caf\u00e9"]
load = LearnedSparseEncoder.from_pretrained


@pytest.fixture(scope="module")
def router(tmp_path_factory):
    """Documents by a model, queries by a table, as the trained one is."""
    folder = tmp_path_factory.mktemp("trained")
    tiny.bert(folder / "plain")
    tiny.write_json(folder / "plain" / "idf.json", tiny.some_idf())
    load(folder / "plain", activation="log1p_log1p", special_terms=True).save_pretrained(folder / "router")
    return folder / "router"


@pytest.fixture(autouse=True)
def package(router, tmp_path, monkeypatch):
    """A package with a small model of that name; the test runs in an empty folder."""
    quantise(router, tmp_path / "package" / NAME)
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "package")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "package"


def vectors(encoder):
    rows = encoder.encode_queries(QUERIES), encoder.encode_texts(TEXTS)
    return [dense(each, encoder.num_terms) for each in rows]


def test_it_is_found_by_name_and_told_by_name(package):
    encoder = load(NAME)
    assert (encoder.name, encoder.arm, encoder.document.files.name) == (NAME, NAME, NAME)
    for found, expected in zip(vectors(encoder), vectors(load(package / NAME)), strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.any(axis=1).all()


def test_options_are_those_of_any_checkpoint():
    encoder = load(NAME, impacts="f32", document_top_k=5, query_max_length=2, device="cpu")
    assert (encoder.impacts, encoder.document.options.top_k, encoder.query.max_length) == ("f32", 5, 2)
    assert encoder.document.options.activation == "log1p_log1p"
    with pytest.raises(WinnowError, match="there is no model option 'treshold'"):
        load(NAME, treshold=1)
    with pytest.raises(WinnowError, match="winnow-mini comes with the package; leave revision='main' out"):
        load(NAME, revision="main")


def test_a_folder_of_its_name_does_not_hide_it_unless_it_is_an_index(package, tmp_path):
    plain = tiny.bert(tmp_path / "other", seed=3)
    shutil.copytree(plain, NAME)
    assert load(NAME).document.files.folder == package / NAME / "document_0_Transformer"
    assert load(f"./{NAME}", activation="log1p").document.files.folder == tmp_path / "here" / NAME
    assert Retriever.from_pretrained(NAME)._opened.encoders[0].document.files.name == NAME
    shutil.rmtree(NAME)
    Retriever.from_pretrained("bm25").index([{"_id": "a", "text": "moon"}], progress=False).save_pretrained(NAME)
    assert Retriever.from_pretrained(NAME).model == "bm25"


def test_an_index_goes_where_the_package_lies_elsewhere(package, tmp_path, monkeypatch):
    retriever = Retriever.from_pretrained(NAME).index([{"_id": "a", "text": TEXTS[0]}], progress=False)
    retriever.save_pretrained(tmp_path / "i", progress=False)
    (file,) = [path for path in (tmp_path / "i").rglob("*.json") if '"learned"' in path.read_text()]
    assert str(tmp_path) not in file.read_text()
    package.rename(tmp_path / "elsewhere")
    opened = Retriever.from_pretrained(tmp_path / "i")
    assert [hit.doc_id for hit in opened.search("moon")] == ["a"]
    with pytest.raises(ModelError, match=r"built with the model winnow-mini, which cannot be had any more"):
        Retriever.from_pretrained(tmp_path / "i").index([{"_id": "b", "text": "rain"}], progress=False)
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "elsewhere")
    opened = Retriever.from_pretrained(tmp_path / "i").index([{"_id": "b", "text": TEXTS[1]}], progress=False)
    both = Retriever.from_pretrained(NAME).index(
        [{"_id": name, "text": text} for name, text in zip("ab", TEXTS, strict=False)], progress=False
    )
    for query in QUERIES:
        assert [(hit.doc_id, hit.score) for hit in opened.search(query)] == [
            (hit.doc_id, hit.score) for hit in both.search(query)
        ]


def test_an_index_of_another_releases_weights_does_not_grow(package, tmp_path):
    Retriever.from_pretrained(NAME).index([{"_id": "a", "text": "moon"}], progress=False).save_pretrained("i")
    tiny.bert(tmp_path / "next", seed=5)
    load(tmp_path / "next", activation="log1p", queries="binary").save_pretrained(tmp_path / "next-router")
    shutil.rmtree(package / NAME)
    quantise(tmp_path / "next-router", package / NAME)
    with pytest.raises(ModelError, match=r"built with weights and config \w{12}\.\.\., winnow-mini has \w{12}"):
        Retriever.from_pretrained("i").index([{"_id": "b", "text": "rain"}], progress=False)


def test_saved_again_it_is_what_was_trained_but_for_its_8_bits(router, tmp_path):
    load(NAME).save_pretrained(tmp_path / "m")
    names = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) for folder in (tmp_path / "m", router)]
    assert names[0] == names[1]
    model = SparseEncoder(str(tmp_path / "m"), device="cpu", local_files_only=True)
    expected = vectors(load(NAME))
    for encode, texts, rows in zip(
        (model.encode_query, model.encode_document), (QUERIES, TEXTS), expected, strict=True
    ):
        np.testing.assert_allclose(encode(texts, convert_to_sparse_tensor=False).numpy(), rows, atol=1e-5)
    for found, rows in zip(vectors(load(tmp_path / "m")), expected, strict=True):
        np.testing.assert_array_equal(found, rows)


def test_it_serves_as_the_model_of_queries_too(tmp_path):
    plain = tiny.bert(tmp_path / "plain")
    encoder = load(plain, activation="log1p", query_model=NAME)
    np.testing.assert_array_equal(encoder.query.weights, load(NAME).query.weights)


def test_a_package_without_it_is_told(package):
    shutil.rmtree(package / NAME)
    with pytest.raises(
        ModelError, match=r"winnow-mini is missing, which comes with the package; install winnow-ir again"
    ):
        load(NAME)
