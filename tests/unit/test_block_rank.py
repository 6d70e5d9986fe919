"""BlockRank and ICR from a checkpoint's folder to ranked documents."""

import shutil
import warnings

import numpy as np
import pytest
import torch
from decoders_for_tests import save_decoder
from tiny_checkpoints import bert
from transformers import AutoModelForCausalLM

from index.errors import ModelError, WinnowError, WinnowWarning
from retrieval.rerankers import list_model
from retrieval.rerankers.block_rank import BlockRankReranker
from retrieval.rerankers.calibration import PlattScaling
from retrieval.rerankers.document_cache import DocumentCache
from retrieval.rerankers.in_context import InContextReranker, calibrated
from retrieval.rerankers.prompt import PromptCutWarning, rows_of_query

DOCUMENTS = ["the tide follows the moon", "flour and water make bread", "", "the sea", "salt and yeast " * 9, "the sea"]
OPTIONS = {"chat": "none", "document_tokens": 96}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_decoder(tmp_path_factory.mktemp("decoder"), num_hidden_layers=4, max_position_embeddings=2000)


@pytest.fixture(scope="module")
def reranker(folder):
    return BlockRankReranker.from_pretrained(folder, score_layer=2, query_free=True, **OPTIONS)


def scores_of(ranked):
    return [one.score for one in sorted(ranked, key=lambda one: one.index)]


def test_scores_are_logarithms_of_masses_over_that_of_the_average_document(reranker):
    ranked = reranker.rank("tides of the sea", DOCUMENTS)
    assert sum(one.mass for one in ranked) == pytest.approx(1, abs=1e-5)
    assert scores_of(ranked) == pytest.approx(
        [np.log(one.mass * 6) for one in sorted(ranked, key=lambda one: one.index)], abs=1e-5
    )
    assert [one.score for one in ranked] == sorted((one.score for one in ranked), reverse=True)
    assert [one.index for one in reranker.rank("tides of the sea", DOCUMENTS, top_k=2)] == [
        one.index for one in ranked[:2]
    ]


def test_equal_documents_have_equal_scores_and_keep_their_order(reranker):
    ranked = reranker.rank("tides of the sea", DOCUMENTS)
    third, last = (next(one for one in ranked if one.index == i) for i in (3, 5))
    assert third.score == pytest.approx(last.score, abs=1e-6)
    again = reranker.rank("tides", ["the sea"] * 4)
    assert [one.index for one in again] == [0, 1, 2, 3]


def test_permuting_documents_without_ids_permutes_scores(reranker):
    order = [4, 1, 0, 5, 3, 2]
    found = scores_of(reranker.rank("bread", [DOCUMENTS[i] for i in order]))
    assert found == pytest.approx([scores_of(reranker.rank("bread", DOCUMENTS))[i] for i in order], abs=1e-5)


def test_a_list_scores_the_same_whatever_is_ranked_beside_it(reranker):
    queries, lists = ["bread", "tides", "bread"], [DOCUMENTS, DOCUMENTS[:1], DOCUMENTS[2:]]
    together = reranker.rank_batch(queries, lists)
    assert together == [reranker.rank(query, own) for query, own in zip(queries, lists, strict=True)]


def test_a_long_list_in_bounded_parts_scores_as_at_once(folder, reranker):
    documents = [f"the sea has {number} fish" for number in range(300)]
    expected = reranker.rank("fish", documents)
    bounded = BlockRankReranker.from_pretrained(folder, score_layer=2, query_free=True, **OPTIONS)
    bounded.lists.model.tokens_together = 200
    found = bounded.rank("fish", documents)
    assert scores_of(found) == pytest.approx(scores_of(expected), abs=1e-5)


@pytest.mark.parametrize(("precision", "margin"), [("same", 1e-5), ("bf16", 0.1), ("int8", 0.1)])
def test_a_cache_gives_the_scores_of_a_fresh_computation(folder, reranker, precision, margin):
    cache = DocumentCache(precision=precision)
    cached = BlockRankReranker.from_pretrained(folder, score_layer=2, query_free=True, cache=cache, **OPTIONS)
    for query in ("tides of the sea", "bread", "bread"):
        found, expected = cached.rank(query, DOCUMENTS), reranker.rank(query, DOCUMENTS)
        assert scores_of(found) == pytest.approx(scores_of(expected), abs=margin)
    assert cache.statistics[:2] == (12, 6)
    computed = []
    cached.lists.model.model.get_input_embeddings().register_forward_hook(
        lambda _, ids, __: computed.append(ids[0].numel())
    )
    cached.rank("bread", DOCUMENTS)
    assert computed == [len(cached.lists.reader.last("bread"))]  # neither documents nor instruction


def test_a_cache_in_a_folder_serves_the_next_process(folder, reranker, tmp_path):
    options = {"score_layer": 2, "query_free": True, **OPTIONS}
    first = BlockRankReranker.from_pretrained(folder, cache=tmp_path / "states", **options)
    expected = first.rank("bread", DOCUMENTS)
    first.lists.cache.close()
    again = BlockRankReranker.from_pretrained(folder, cache=str(tmp_path / "states"), **options)
    assert again.rank("bread", DOCUMENTS) == expected
    assert again.lists.cache.statistics.hits_on_disk == len(set(DOCUMENTS))
    with pytest.raises(WinnowError, match="cache is 3; give a DocumentCache, or the folder"):
        BlockRankReranker.from_pretrained(folder, cache=3, **options)


def test_documents_beyond_what_a_list_may_have_in_memory_are_computed_with_the_query(folder, reranker, monkeypatch):
    monkeypatch.setattr(list_model, "LIST_BYTES", 15_000)
    cache = DocumentCache()
    cached = BlockRankReranker.from_pretrained(folder, score_layer=2, query_free=True, cache=cache, **OPTIONS)
    for _ in range(2):
        found = cached.rank("bread", DOCUMENTS)
        assert 0 < cache.statistics.documents_in_memory < len(set(DOCUMENTS))
        assert scores_of(found) == pytest.approx(scores_of(reranker.rank("bread", DOCUMENTS)), abs=1e-5)


def test_a_cache_is_refused_where_documents_depend_on_the_query_and_by_another_model(folder):
    with pytest.raises(ModelError, match="has the query in it"):
        BlockRankReranker.from_pretrained(folder, cache=DocumentCache(), instruction="Query: {query}", **OPTIONS)
    cache = DocumentCache()
    BlockRankReranker.from_pretrained(folder, query_free=True, cache=cache, **OPTIONS)
    with pytest.raises(WinnowError, match="holds states of"):
        BlockRankReranker.from_pretrained(folder, query_free=True, cache=cache, **{**OPTIONS, "document_tokens": 50})


def test_a_query_without_content_takes_out_what_a_document_gets_for_any_query(folder, reranker):
    adjusted = BlockRankReranker.from_pretrained(folder, score_layer=2, query_free=True, content_free="N/A", **OPTIONS)
    found, plain, of_any = (
        scores_of(one)
        for one in (
            adjusted.rank("bread", DOCUMENTS),
            reranker.rank("bread", DOCUMENTS),
            reranker.rank("N/A", DOCUMENTS),
        )
    )
    assert found == pytest.approx(np.subtract(plain, of_any), abs=1e-5)
    assert scores_of(adjusted.rank("N/A", DOCUMENTS)) == pytest.approx([0] * 6, abs=1e-5)


def test_probabilities_are_fitted_to_judged_lists_kept_and_read_again(folder, tmp_path):
    reranker = BlockRankReranker.from_pretrained(folder, score_layer=2, **OPTIONS)
    lists = {
        "1": [(text, text.startswith("the")) for text in DOCUMENTS],
        "2": [(text, "salt" in text) for text in DOCUMENTS],
    }
    scaling = reranker.calibrate({"1": "moon", "2": "salt"}, lists)
    ranked = reranker.rank("moon", DOCUMENTS)
    assert [one.probability for one in ranked] == pytest.approx(
        [1 / (1 + np.exp(-(scaling.slope * one.score + scaling.intercept))) for one in ranked]
    )
    scaling.save(tmp_path)
    assert PlattScaling.open(tmp_path) == scaling
    (tmp_path / "calibration.json").write_text('{"slope": 1, "intercept": "x"}')
    with pytest.raises(ModelError, match="needs slope and intercept"):
        PlattScaling.open(tmp_path)
    with pytest.raises(WinnowError, match="0 of 6 judged documents are relevant"):
        reranker.calibrate({"1": "moon"}, {"1": [(text, False) for text in DOCUMENTS]})


def test_platts_fit_is_the_best_of_its_likelihood():
    rng = np.random.default_rng(5)
    relevant = rng.random(400) < 0.3
    scores = rng.normal(size=400) * 3 + 4 * relevant + 100
    scaling = PlattScaling.fit(scores, relevant)
    positives = relevant.sum()
    target = np.where(relevant, (positives + 1) / (positives + 2), 1 / (400 - positives + 2))

    def loss(slope, intercept):
        logits = slope * scores + intercept
        return (np.logaddexp(0, logits) - target * logits).sum()

    best = loss(scaling.slope, scaling.intercept)
    for slope, intercept in ((1e-3, 0), (-1e-3, 0), (0, 1e-2), (0, -1e-2), (1e-4, -1e-2)):
        assert loss(scaling.slope + slope, scaling.intercept + intercept) >= best
    assert (scaling(1e9), scaling(-1e9)) == (1, 0)


def test_no_documents_and_documents_too_long(folder):
    reranker = BlockRankReranker.from_pretrained(folder, score_layer=2, **OPTIONS)
    assert reranker.rank("bread", []) == []
    with pytest.raises(WinnowError, match="top_k"):
        reranker.rank("bread", [], 0)
    with pytest.warns(PromptCutWarning, match="1 of 2 documents have more than document_tokens = 96 tokens"):
        assert len(reranker.rank("bread", ["yeast " * 500, "salt"])) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # told once, counted always
        reranker.rank_batch(["bread", "salt"], [["yeast " * 500], ["salt " * 500]])
    assert (reranker.lists.num_cut, reranker.lists.num_read) == (3, 4)


def test_what_is_no_decoder_or_has_no_such_layer_or_chat_is_refused(folder, tmp_path):
    with pytest.raises(ModelError, match=r"score_layer is 4, and .* has 4 layers; give one from 0 to 3"):
        BlockRankReranker.from_pretrained(folder, score_layer=4, **OPTIONS)
    with pytest.raises(ModelError, match="chat"):
        BlockRankReranker.from_pretrained(folder)
    with pytest.raises(ModelError, match="is no decoder"):
        BlockRankReranker.from_pretrained(bert(tmp_path / "encoder"), chat="none")
    with pytest.raises(ModelError, match=r"neither a folder|the hub did not give it"):
        BlockRankReranker.from_pretrained("nobody/nothing")
    with pytest.raises(WinnowError, match="query_free is 'no'; it must be True or False"):
        BlockRankReranker.from_pretrained(folder, query_free="no", **OPTIONS)
    with pytest.raises(WinnowError, match="dtype is 'int8'"):
        BlockRankReranker.from_pretrained(folder, dtype="int8", **OPTIONS)
    with pytest.raises(WinnowError, match="'layer' is no setting"):
        BlockRankReranker.from_pretrained(folder, layer=3)


def test_a_prompt_that_ends_past_the_models_positions_is_refused(folder):
    late = BlockRankReranker.from_pretrained(folder, last_position=1990, **OPTIONS)
    with pytest.raises(ModelError, match="has 2,000; give fewer or shorter documents, or a lower last_position"):
        late.rank("bread", DOCUMENTS)


# ICR


def icr_by_the_library(folder, lists, query, texts):
    """a(t) by eager attention weights of the whole causal prompt."""
    reader = lists.reader
    documents = [document.ids for document in reader.documents(texts)]
    first, last = reader.instruction(None), reader.last(query)
    ids = np.concatenate([first, *documents, last])
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        layers = model(input_ids=torch.from_numpy(ids)[None], output_attentions=True).attentions
    rows = len(ids) - len(last) + rows_of_query(last, reader.last(""))
    total = sum(layer[0].double().sum(0) for layer in layers)[list(rows)].mean(0)
    return total[len(first) : len(ids) - len(last)], [len(one) for one in documents]


def test_causal_icr_is_its_formula_on_the_librarys_attention_weights(folder):
    icr = InContextReranker.from_pretrained(folder, attention="causal", **OPTIONS)
    found = scores_of(icr.rank("tides of the sea", DOCUMENTS))
    (own, lengths), (of_any, _) = (
        icr_by_the_library(folder, icr.lists, query, DOCUMENTS) for query in ("tides of the sea", "N/A")
    )
    expected = []
    for tokens in (own - of_any).split(lengths):
        values = tokens.numpy()
        expected.append(values[values >= values.mean() - 2 * values.std()].sum() if len(values) else 0.0)
    assert found == pytest.approx(expected, abs=1e-5)


def test_icr_with_blocks_does_not_depend_on_the_order_of_documents_and_a_cache_changes_nothing(folder):
    icr = InContextReranker.from_pretrained(folder, **OPTIONS)
    order = [4, 1, 0, 5, 3, 2]
    expected = scores_of(icr.rank("bread", DOCUMENTS))
    assert scores_of(icr.rank("bread", [DOCUMENTS[i] for i in order])) == pytest.approx(
        [expected[i] for i in order], abs=1e-5
    )
    cached = InContextReranker.from_pretrained(folder, cache=DocumentCache(), **OPTIONS)
    for _ in range(2):
        assert scores_of(cached.rank("bread", DOCUMENTS)) == pytest.approx(expected, abs=1e-5)


def test_calibration_drops_outliers_below_and_the_queries_own_tokens_are_found():
    found = torch.tensor([1.0] * 10 + [-50.0, 3.0])
    scores = calibrated(found, torch.zeros(12), torch.tensor([0, 11, 11, 12]))
    assert scores.tolist() == [10.0, 0.0, 3.0]
    assert rows_of_query(np.array([1, 2, 8, 9, 3]), np.array([1, 2, 3])).tolist() == [2, 3]
    assert rows_of_query(np.array([1, 2, 3]), np.array([1, 2, 3])).tolist() == [0, 1, 2]


def test_an_attention_that_is_not_known_is_refused(folder):
    with pytest.raises(WinnowError, match="attention"):
        InContextReranker.from_pretrained(folder, attention="sparse", **OPTIONS)


@pytest.fixture(autouse=True)
def documents_may_be_cut():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptCutWarning)
        yield


def test_a_calibration_of_other_settings_is_left_out(folder, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    reranker = BlockRankReranker.from_pretrained(copy, score_layer=2, **OPTIONS)
    lists = {"1": [(text, text.startswith("the")) for text in DOCUMENTS]}
    reranker.calibrate({"1": "moon"}, lists).save(copy)
    again = BlockRankReranker.from_pretrained(copy, score_layer=2, **OPTIONS)
    assert again.rank("moon", DOCUMENTS) == reranker.rank("moon", DOCUMENTS)
    assert again.rank("moon", DOCUMENTS)[0].probability is not None
    for other in ({"score_layer": 1}, {"score_layer": 2, "content_free": "N/A"}):
        with pytest.warns(WinnowWarning, match="was fitted to scores of other settings"):
            found = BlockRankReranker.from_pretrained(copy, **other, **OPTIONS)
        assert found.rank("moon", DOCUMENTS)[0].probability is None
    with pytest.raises(WinnowError, match="give pairs of a document"):
        reranker.calibrate({"1": "moon"}, {"1": DOCUMENTS})


def test_documents_past_the_positions_are_refused_before_states_are_kept(tmp_path):
    late = save_decoder(tmp_path / "late", num_hidden_layers=3, max_position_embeddings=500)
    cache = DocumentCache()
    reranker = BlockRankReranker.from_pretrained(late, cache=cache, chat="none", document_tokens=490)
    with pytest.raises(ModelError, match="give fewer or shorter documents"):
        reranker.rank("sea", ["sea " * 1900])
    assert cache.statistics.documents_in_memory == 0


def test_equal_documents_are_computed_once_for_the_cache(folder):
    cached = BlockRankReranker.from_pretrained(folder, score_layer=2, cache=DocumentCache(), **OPTIONS)
    computed = []
    right = cached.lists.computed
    cached.lists.computed = lambda instruction, documents: computed.extend(documents) or right(instruction, documents)
    cached.rank("bread", ["the sea", "salt", "the sea", "the sea"])
    assert len(computed) == 1 + 2  # what the instruction was computed with, then each text


def test_causal_attention_has_no_cache(folder):
    with pytest.raises(WinnowError, match="leave cache out"):
        InContextReranker.from_pretrained(folder, attention="causal", cache=DocumentCache(), **OPTIONS)
