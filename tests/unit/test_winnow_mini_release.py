"""From a training run to the folder that comes with the package."""

import json
import shutil

import numpy as np
import pytest
import tiny_checkpoints as tiny
from safetensors.numpy import load_file, save_file
from tiny_checkpoints import TEXTS, WORDPIECES
from winnow_mini.release import CARD, differences, release, write_card

from index.errors import ModelError, WinnowError
from kernels.cpu.sparse import SparseRows
from retrieval import LearnedSparseEncoder

load = LearnedSparseEncoder.from_pretrained
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::retrieval.encoders.text_stream.TruncationWarning"),
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A masked language model that never gives special tokens weight."""
    folder = tiny.bert(tmp_path_factory.mktemp("plain") / "plain")
    weights = load_file(folder / "model.safetensors")
    weights["cls.predictions.bias"][[number for number, token in enumerate(WORDPIECES) if token[0] == "["]] = -100
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture
def run(plain, tmp_path):
    """As `winnow train sparse` leaves it."""
    load(plain, activation="log1p_log1p", queries="binary").save_pretrained(tmp_path / "run" / "model")
    tiny.write_json(tmp_path / "run" / "run" / "run.json", {"steps": 1500, "teachers": ["bm25", "minilm"], "seed": 0})
    return tmp_path / "run"


def test_the_released_model_is_the_trained_one_in_8_bits(run, tmp_path):
    measured = release(run, tmp_path / "out", TEXTS)
    found, trained = load(tmp_path / "out"), load(run / "model")
    assert found.document.options == trained.document.options
    np.testing.assert_array_equal(found.query.weights, trained.query.weights)
    assert found.document.files.weight_files()[0].name == "model-8bit.safetensors"
    assert measured["terms_a_text"] == round(len(found.encode_texts(TEXTS).indices) / len(TEXTS), 1)
    assert measured["num_query_weights"] == len(WORDPIECES) - 5  # but an unknown word has one
    assert 0.9 < measured["terms_shared"] < 1
    assert 0.98 < measured["least_cosine"] < 1
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert release(run / "model", tmp_path / "out", TEXTS) == measured
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_differences_are_those_of_the_vectors():
    one = SparseRows(np.array([0, 2, 2]), np.array([0, 2], np.int32), np.array([3, 4], np.float32))
    other = SparseRows(np.array([0, 2, 2]), np.array([0, 3], np.int32), np.array([3, 4], np.float32))
    assert differences(one, other, 5) == {
        "texts": 2,
        "terms_a_text_as_trained": 1.0,
        "terms_a_text": 1.0,
        "terms_shared": round(1 / 3, 4),
        "least_cosine": 9 / 25,
        "largest_difference": 4.0,
    }


def test_the_card_holds_every_figure_and_what_is_missing_is_listed(run, tmp_path):
    measured = release(run, tmp_path / "out", TEXTS)
    figures = tmp_path / "figures.toml"
    figures.write_text('hardware = "a slow machine"\n')
    with pytest.raises(WinnowError, match=r"the card needs .*results.*; tell them in .*figures.toml"):
        write_card(run, tmp_path / "out", measured, figures)
    assert not (tmp_path / "out" / "README.md").exists()
    known = {"steps", "teachers", "seed", *measured}
    names = {name for name in set(CARD.read_text().replace("$", " $").split()) if name.startswith("$")}
    asked = {name.strip("$.,;:)") for name in names} - known
    figures.write_text("".join(f"{name} = 'told-{name}'\n" for name in asked))
    write_card(run, tmp_path / "out", measured, figures)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "$" not in card
    for part in ("1,500 steps, seed 0, teachers bm25, minilm,", measured["sha256"], "told-results", "told-hardware"):
        assert part in card
    load(tmp_path / "out").save_pretrained(tmp_path / "out")  # a card does not keep a model from being replaced


def test_what_the_package_cannot_carry_is_refused(plain, run, tmp_path):
    def saved(name, folder=plain, **options):
        load(folder, **{"activation": "log1p_log1p", **options}).save_pretrained(tmp_path / name)
        return tmp_path / name

    for folder, told in (
        (saved("siamese"), "has queries by a model; the model of the package has a table"),
        (saved("sum", queries="binary", pooling="sum"), "is a BertForMaskedLM with sum pooling and threshold 0"),
        (
            saved("special", tiny.bert(tmp_path / "other"), queries="binary"),
            r"gives weight to '\[\w+\]' and \d+ more special",
        ),
    ):
        with pytest.raises(ModelError, match=told):
            release(folder, tmp_path / "out", TEXTS)
    assert not (tmp_path / "out").exists()
    shutil.rmtree(run / "model")
    with pytest.raises(WinnowError):
        release(run, tmp_path / "out", TEXTS)
    assert json.loads((run / "run" / "run.json").read_text())["steps"] == 1500
