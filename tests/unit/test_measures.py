import math

import pytest
import pytrec_eval

from eval.measures import measure_run
from eval.runs import write_run
from index.errors import WinnowError

QRELS = {"1": {"a": 1, "b": 2}, "2": {"a": 1}, "3": {"c": 1}}
RUN = {"1": {"b": 3.0, "x": 2.0, "a": 1.0}, "2": {"x": 2.0, "a": 1.5}}  # query 3 has no results


def test_a_query_without_results_counts_as_zero():
    first = (2 / math.log2(2) + 1 / math.log2(4)) / (2 / math.log2(2) + 1 / math.log2(3))  # linear gain
    second = (1 / math.log2(3)) / (1 / math.log2(2))
    assert measure_run(QRELS, RUN) == pytest.approx(
        {"nDCG@10": (first + second + 0) / 3, "R@100": (1 + 1 + 0) / 3, "MRR@10": (1 + 1 / 2 + 0) / 3}
    )


def test_measures_are_trec_evals_ties_included():
    tied = {"1": {"a": 1.0, "x": 1.0, "b": 1.0, "y": 1.0}, "2": {"x": 1.0, "a": 1.0}, "3": {}}
    per_query = pytrec_eval.RelevanceEvaluator(QRELS, {"ndcg_cut.10", "map"}).evaluate(tied)
    measured = measure_run(QRELS, tied, ["nDCG@10", "AP"])
    assert measured["nDCG@10"] == pytest.approx(sum(q["ndcg_cut_10"] for q in per_query.values()) / 3)
    assert measured["AP"] == pytest.approx(sum(q["map"] for q in per_query.values()) / 3)


def test_an_unknown_measure_is_named():
    with pytest.raises(WinnowError, match="'quality' is not a measure"):
        measure_run(QRELS, RUN, ["quality"])


def test_a_run_file_keeps_every_score(tmp_path):
    scores = {"a": 1 / 3, "b": 16777217.0, "c": 1e-30}
    write_run(tmp_path / "runs" / "r.run", {"1": scores}, "mine")
    lines = [line.split() for line in (tmp_path / "runs" / "r.run").read_text().splitlines()]
    assert {line[2]: float(line[4]) for line in lines} == scores
    assert [line[3] for line in lines] == ["1", "2", "3"]


@pytest.mark.parametrize("doc_id", ["a b", "a\u2003b", "", "\ud800"])
def test_an_id_that_no_column_can_hold_cannot_be_written(tmp_path, doc_id):
    with pytest.raises(WinnowError, match=r"the ids '1', '.*' are empty or hold white space or invalid Unicode"):
        write_run(tmp_path / "r.run", {"1": {doc_id: 1.0}}, "mine")
