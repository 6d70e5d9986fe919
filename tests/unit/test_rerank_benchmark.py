"""The benchmark of reranking on a decoder of a few kilobytes: its counts against counting, its contestants against each other."""

import json

import numpy as np
import pytest
import rerank
import rerank_contestants
import torch
from decoders_for_tests import SIZES, save_decoder
from rerank_costs import Decoder, Stopwatch, encoder_work, pairs

from kernels.block_attention import seen
from kernels.block_layout import PromptBlocks, causal_layout, prompt_layout
from kernels.cpu.linear import InferenceLinear
from retrieval.rerankers import block_pass

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = {name: size for name, size in SIZES.items() if not name.endswith(("_id", "_embeddings"))}
QUERY = "tides of the sea"
DOCUMENTS = ["the tide follows the moon", "flour and water make bread " * 5, "the sea"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_decoder(tmp_path_factory.mktemp("decoder"), num_hidden_layers=4, max_position_embeddings=2_000)


@pytest.fixture(scope="module")
def model(folder):
    return rerank_contestants.load_model(str(folder), "float32", "cpu", 384)


@pytest.mark.parametrize("blocks", [PromptBlocks(5, [3, 7, 1], 4), PromptBlocks(0, [2], 1), PromptBlocks(6, [], 3)])
def test_pairs_are_those_of_the_mask(blocks):
    mask = seen(prompt_layout([blocks]), blocks.instruction + sum(blocks.documents) + blocks.last)
    assert pairs(blocks) == mask.sum()
    assert pairs(blocks, cached=True) == mask[-blocks.last :].sum()
    assert pairs(blocks, causal=True) == seen(causal_layout([len(mask)]), len(mask)).sum()


@pytest.mark.parametrize("kind", ["blocks", "causal", "cached"])
def test_operations_of_linear_layers_are_those_of_their_inputs_and_outputs(model, kind):
    done = []

    def count(_, inputs, output):
        done.append(2 * inputs[0].numel() * output.shape[-1])

    one = contestant(model, kind)
    one.starts_anew()
    one.rank(QUERY, DOCUMENTS)  # which fills the cache
    layers = [layer for layer in model.blocks.model.modules() if isinstance(layer, InferenceLinear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    one.rank(QUERY, DOCUMENTS)
    for handle in handles:
        handle.remove()
    work = one.work(QUERY, DOCUMENTS)
    assert work.linear == sum(done)
    assert (work.computed < work.tokens) == (kind == "cached")


def contestant(model, kind):
    if kind == "causal":
        return rerank_contestants.causal_contestants(model)["kernel"]
    return {"blocks": rerank_contestants.blocks_contestant, "cached": rerank_contestants.cached_contestant}[kind](model)


def test_attention_of_each_layer_but_the_last_counts():
    blocks = PromptBlocks(2, [1], 1)  # 3 + (2 + 1) + 4 pairs
    work = Decoder(3, 8, 16, 4, 2, 2).work(blocks, 1)
    assert work.attention == 2 * (4 * 4 * 2) * 10
    assert work.scoring == 2 * 4 * 2 * 1 * 1


def test_pairs_of_texts_see_each_other():
    config = type("Config", (), {"num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 32})
    work = encoder_work(config, [3, 5])
    assert work.attention == 2 * 4 * 8 * (9 + 25)
    assert work.linear == 2 * 2 * 8 * (4 * 64 + 2 * 8 * 32)


def test_all_ways_to_causal_attention_rank_the_same(model, monkeypatch):
    monkeypatch.setattr(rerank_contestants, "PART_TOKENS", 150)  # of more than 400
    scores = {
        way: {one.index: one.score for one in own.rank(QUERY, DOCUMENTS)}
        for way, own in rerank_contestants.causal_contestants(model).items()
    }
    assert set(scores) == {"kernel", "kernel in parts", "sdpa"}
    for found in scores.values():
        assert found == pytest.approx(scores["sdpa"], abs=1e-5)
    blocks = {one.index: one.score for one in contestant(model, "blocks").rank(QUERY, DOCUMENTS)}
    assert blocks != pytest.approx(scores["sdpa"], abs=1e-3)
    assert model.blocks.model.config._attn_implementation == block_pass.BLOCKS


def test_what_no_clock_was_around_is_of_the_layers():
    ticks = iter([0.0, 1.0, 4.0, 10.0])
    watch, own = Stopwatch(torch.device("cpu"), lambda: next(ticks)), type("Own", (), {"f": staticmethod(abs)})
    with watch.around([(own, "f", "scoring")]):
        found = watch.run(lambda: own.f(-3))
    assert found == {"total": 10_000, "tokenization": 0, "states": 0, "attention": 0, "scoring": 3_000, "layers": 7_000}
    assert own.f is abs


def test_ratios_and_growth_by_hand():
    times = {("blocks", 100): 2.0, ("causal", 100): 8.0, ("blocks", 500): 12.0, ("cached", 500): 1.0, ("blocks", 10): 1}
    records = [
        {"contestant": name, "documents": count, "best_ms": ms, "median_ms": 2 * ms}
        for (name, count), ms in times.items()
    ]
    found = rerank.ratios(records)
    assert found["best"] == {
        "causal / blocks": {"100": 4},
        "cross-encoder / blocks": {},
        "blocks / cached": {"500": 12},
    }
    assert found["median"] == found["best"]
    assert rerank.growth(records) == {"blocks": {"from": 100, "to": 500, "time_a_document": 1.2}}


def test_documents_have_about_as_many_tokens_as_asked_for(model):
    reader = model.lists(model.settings).reader
    texts = rerank_contestants.make_texts(rerank_contestants.some_words(None), reader, 60, 120)
    lengths = [len(document.ids) for document in reader.documents(texts)]
    assert np.mean(lengths) == pytest.approx(120, rel=0.1)
    assert min(lengths) > 70
    assert max(lengths) > 130


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setitem(rerank_contestants.SHAPES, "tiny", {**TINY, "max_position_embeddings": 2_000})
    monkeypatch.setattr(rerank_contestants, "VOCABULARY", 300)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")

    def ran(*options):
        files = ["--json", str(tmp_path / "out"), "--plot", str(tmp_path / "out.svg")]
        rerank.main(["--document-tokens", "80", "--repeats", "2", "--documents", "2", "30", *options, *files])
        assert "blocks" in (tmp_path / "out.svg").read_text()
        return [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]

    return ran


def test_every_contestant_is_measured_at_every_size_that_it_fits(run, folder, capsys):
    baseline, *latencies, ratios = run("--model", str(folder), "--clock", "cpu")
    measured = {(r["contestant"], r["documents"]) for r in latencies}
    names = ["blocks", "cross-encoder", "cached"]
    assert measured == {(name, count) for name in names for count in (2, 30)} | {("causal", 2)}
    told = capsys.readouterr()
    assert "30 documents are" in told.err  # more tokens than the model has positions
    assert told.out.count("cross-encoder") > 2
    assert baseline["taken"] in baseline["ms"]
    for r in latencies:
        assert len(r["all_ms"]) == 2
        assert r["best_ms"] == pytest.approx(sum(r["parts_ms"].values()))
        assert all(ms >= 0 for ms in r["parts_ms"].values())
        assert r["parts_ms"]["tokenization"] > 0
        assert r["parts_ms"]["attention"] > 0
        assert (r["parts_ms"]["scoring"] > 0) == (r["contestant"] != "cross-encoder")
        assert r["peak_mb"] > 0
    assert set(ratios["best"]["blocks / cached"]) == {"2", "30"}


def test_a_made_model_goes_past_its_positions_where_it_may(run):
    options = ["--past-positions", "--contestants", "blocks", "causal", "--tokens-together", "500"]
    _, *latencies, _ = run("--shape", "tiny", *options)
    copied = {(r["contestant"], r["documents"]): r["parts_ms"]["states"] for r in latencies}
    assert copied["blocks", 30] > copied["blocks", 2]  # keys and values of one part after another
    assert {r["tokens_together"] for r in latencies} == {500}
    assert [r["past_positions"] for r in latencies if r["contestant"] == "causal"] == [False, True]


def test_a_clock_that_does_not_see_a_gpu_is_refused(capsys):
    with pytest.raises(SystemExit):
        rerank.parsed(["--shape", "mistral-7b", "--device", "cuda", "--clock", "cpu", "--json", "out"])
    assert "does not see" in capsys.readouterr().err
