"""Fusions beside their arms: evaluated, tuned on another split, cross-validated, compared."""

import json

import numpy as np
import pytest

from eval.beir import main as eval_main
from eval.comparison import compare_with_parts
from eval.datasets import load_dataset
from eval.latency import Latency
from eval.measures import measure_queries, measure_run
from eval.systems import Built, Outcome, built_together, cross_validated, options_of
from retrieval import Fusion
from retrieval.opened import IndexStatistics
from retrieval.written_system import fusion_of

NUM_QUERIES = 20


@pytest.fixture
def folder(tmp_path):
    """Documents whose text and whose vector each tell half of what the queries ask."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "halves"
    (folder / "qrels").mkdir(parents=True)
    documents = [
        {
            "_id": f"d{i}",
            "text": f"word{i % 10} filler{rng.integers(5)}",
            "vector": {f"topic{i // 10}": 1.0 + rng.random()},
        }
        for i in range(100)
    ]
    queries = [{"_id": f"q{i}", "text": f"word{i % 10} topic{(i * 3) % 10}"} for i in range(NUM_QUERIES)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents))
    (folder / "queries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in queries))
    lines = [f"q{i}\td{(i * 3) % 10 * 10 + i % 10}\t1\n" for i in range(NUM_QUERIES)]
    for split in ("test", "train"):
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return folder


def evaluated(folder, tmp_path, *more):
    arguments = ["--data", str(folder), "--no-progress", "--json", str(tmp_path / "out.json"), "--depth", "50", *more]
    assert eval_main(arguments) == 0
    return json.loads((tmp_path / "out.json").read_text())


def test_a_fusion_is_compared_with_each_of_its_arms(folder, tmp_path, capsys):
    report = evaluated(folder, tmp_path, "--system", "bm25", "--system", "vectors", "--system", "bm25+vectors")
    values = {one["system"]: one["measures"]["nDCG@10"] for one in report["systems"]}
    assert values["bm25+vectors"] == 1.0 > max(values["bm25"], values["vectors"])
    pairs = [(one["system"], one["with"]) for one in report["comparisons"]]
    assert pairs == [("bm25+vectors", "bm25"), ("bm25+vectors", "vectors")]
    for one in report["comparisons"]:
        assert one["mean"] == pytest.approx(1 - values[one["with"]])
        assert one["low"] < one["mean"] < one["high"]
        assert one["p_value"] <= one["p_holm"] < 0.05
        assert sum(one["better_equal_worse"]) == NUM_QUERIES
    assert "paired t-test over queries" in capsys.readouterr().out


def test_fusions_are_named_and_tuned_on_another_split(folder, tmp_path, capsys):
    more = ["--system", "bm25+vectors", "--fusion", "rrf", "--fusion", "z-score/per-query", "--tune", "train"]
    report = evaluated(folder, tmp_path, *more, "--runs", str(tmp_path / "runs"))
    names = ["bm25+vectors, rrf", "bm25+vectors, z-score/per-query", "bm25+vectors, tuned on train"]
    assert [one["system"] for one in report["systems"]] == names
    assert report["systems"][2]["tuning"]["queries"] == NUM_QUERIES
    assert report["systems"][2]["tuning"]["is_adopted"]
    assert "nDCG@10 of 20 queries" in capsys.readouterr().out
    assert len(list((tmp_path / "runs").iterdir())) == 3


def test_cross_validation_tunes_no_query_on_itself(folder, tmp_path, monkeypatch):
    dataset = load_dataset(folder)
    built = {name: Built.of(name, dataset, None, {}, False) for name in ("bm25", "vectors")}
    seen = []

    def tuned(built, judged, depth, measure, progress):
        seen.append(set(judged.queries))
        return type("Tuned", (), {"fusion": Fusion(weights={"bm25": 1})})

    monkeypatch.setattr("eval.systems.tuned_on", tuned)
    run = cross_validated(built_together("bm25+vectors", built), dataset, 50, "nDCG@10", False)
    assert list(run) == list(dataset.queries)
    held_out = [set(dataset.queries) - queries for queries in seen]
    assert sorted(query for fold in held_out for query in fold) == sorted(dataset.queries)
    monkeypatch.undo()
    report = evaluated(folder, tmp_path, "--system", "bm25+vectors", "--tune", "cv")
    assert report["systems"][1]["system"] == "bm25+vectors, cross-validated"
    assert report["systems"][1]["measures"]["nDCG@10"] > 0.9


def outcome(system, run, arms=()):
    return Outcome(system, run, Latency(0, 0, 0), IndexStatistics(0, 0, 0, 0, 0, 0), 0.0, arms)


def test_comparisons_are_of_the_same_queries_missing_ones_counting_0():
    qrels = {"1": {"a": 1}, "2": {"a": 1}, "3": {"a": 1}}
    arm = outcome("arm", {"1": {"a": 1.0}})
    fused = outcome("arm+other", {"1": {"b": 2.0, "a": 1.0}, "2": {"a": 1.0}}, ("arm", "other"))
    (comparison,) = compare_with_parts(qrels, [arm, fused], "RR@10")
    assert comparison.gain.mean == pytest.approx((-0.5 + 1 + 0) / 3)
    assert comparison.queries == (1, 1, 1)
    assert measure_queries(qrels, arm.run, "RR@10") == {"1": 1.0, "2": 0.0, "3": 0.0}
    assert measure_run(qrels, arm.run, ["RR@10"]) == {"RR@10": pytest.approx(1 / 3)}


def test_options_are_of_all_models_that_have_some_or_of_one_by_name():
    options = {"max_length": 64, "minilm": {"factory": "SQ8"}}
    assert options_of("mini", options) == {"max_length": 64}
    assert options_of("minilm", options) == {"max_length": 64, "factory": "SQ8"}
    assert options_of("bm25", options) == {}


def test_a_fusion_as_a_command_line_has_it():
    assert fusion_of("min-max", 100) == Fusion(depth=100)
    assert fusion_of("rrf", 100) == Fusion("rrf", depth=100)
    assert fusion_of("z-score/per-query", 100) == Fusion(normalisation="z-score", per_query=True, depth=100)
