import re
from dataclasses import fields

import pytest
import tiny_checkpoints as tiny
from conftest import ROOT

from retrieval import LearnedSparseEncoder
from retrieval.encoders import checkpoints, registry
from retrieval.encoders.dense import registry as dense_registry
from retrieval.encoders.dense.options import DenseOptions
from retrieval.encoders.options import NeuralOptions
from retrieval.encoders.registry import NON_COMMERCIAL, NOT_STATED, SHORT_NAMES, Known, LicenceWarning
from retrieval.encoders.term_weights import TermWeights
from retrieval.encoders.wishes import Wishes

pytestmark = pytest.mark.usefixtures("one_thread")

DOCS = (ROOT / "docs" / "models.md").read_text()


def test_the_documentation_lists_the_registrys_models_and_no_others():
    rows = [line for line in DOCS.splitlines() if re.match(r"\| `[^`]+` \| `[^`]+/", line)]
    assert rows == registry.table() + dense_registry.table()


def test_the_documentation_names_every_option():
    options = {option.name for option in (*fields(NeuralOptions), *fields(Wishes), *fields(DenseOptions))} - {
        "document",
        "query",
        "of_queries",
    }
    assert options <= set(re.findall(r"^\| `(\w+)` \|", DOCS, re.MULTILINE))


def test_every_model_says_one_logarithm_or_two_in_options_that_there_are():
    for known in SHORT_NAMES.values():
        wishes = Wishes.of(known.options)
        assert wishes.document["activation"] == (
            "log1p_log1p" if "-v3-" in known.hub_name and "opensearch" in known.hub_name else "log1p"
        )
        assert known.hub_name.count("/") == 1
    assert SHORT_NAMES["splade-v3-doc"].queries == "their tokens, each once"
    assert SHORT_NAMES["opensearch-doc-v2-mini"].queries == "a table of token weights"


@pytest.mark.parametrize(("licence", "told"), [
    (NON_COMMERCIAL, "is licensed under CC BY-NC-SA 4.0, not for commercial use"), (NOT_STATED, "states no licence on its page"),
])  # fmt: skip
def test_a_licence_that_forbids_something_is_told(licence, told):
    with pytest.warns(LicenceWarning, match=told):
        Known("somebody/model", licence, {}).tell_licence()


def known_as(monkeypatch, folder, **options):
    monkeypatch.setitem(checkpoints.KNOWN, "short-name", Known(str(folder), registry.APACHE, options))
    return lambda **given: LearnedSparseEncoder.from_pretrained("short-name", **given)


def test_the_user_counts_more_than_the_files_and_these_more_than_the_registry(tmp_path, monkeypatch):
    plain = tiny.bert(tmp_path / "plain")
    load = known_as(monkeypatch, plain, activation="log1p_log1p", queries="binary")
    assert load().document.options.activation == "log1p_log1p"
    assert load().name == "short-name"
    assert isinstance(load().query, TermWeights)
    assert load(queries="model", activation="log1p").query.options.activation == "log1p"
    LearnedSparseEncoder.from_pretrained(plain, activation="log1p").save_pretrained(tmp_path / "modules")
    load = known_as(monkeypatch, tmp_path / "modules", activation="log1p_log1p", queries="binary", query_own_terms=True)
    assert load().document.options.activation == load().query.options.activation == "log1p"
    assert not load().query.options.own_terms
    assert load(activation="log1p_log1p").document.options.activation == "log1p_log1p"


def test_a_second_model_is_looked_for_only_where_the_checkpoint_has_none(tmp_path, monkeypatch):
    plain, other = tiny.bert(tmp_path / "plain"), tiny.bert(tmp_path / "other", seed=3)
    load = known_as(monkeypatch, plain, activation="log1p", query_model=str(other))
    assert load().query.files.folder == other
    assert load(queries="model").query.files.folder == plain
    LearnedSparseEncoder.from_pretrained(plain, activation="log1p").save_pretrained(tmp_path / "modules")
    load = known_as(monkeypatch, tmp_path / "modules", query_model=str(other))
    assert load().query.files.folder == tmp_path / "modules"
    assert load(query_model=str(other)).query.files.folder == other
    # the other one may be such a folder too: naver's are
    tower = LearnedSparseEncoder.from_pretrained(other, activation="log1p_log1p", query_prefix="rain ")
    tower.save_pretrained(tmp_path / "tower")
    assert load(query_model=str(tmp_path / "tower")).query.options == tower.query.options
