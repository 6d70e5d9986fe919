"""Measures are trec_eval's, as pytrec_eval has them; ours by hand."""

import math

import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from eval.measures import DEFAULT_MEASURES, Coverage, means, measure_queries, measure_run, population, without_self
from index.errors import WinnowError

QRELS = {"1": {"a": 1, "b": 2}, "2": {"a": 1}, "3": {"c": 1}}
RUN = {"1": {"b": 3.0, "x": 2.0, "a": 1.0}, "2": {"x": 2.0, "a": 1.5}}  # query 3 has no results
OF_TREC_EVAL = {
    "nDCG@10": "ndcg_cut_10",
    "R@100": "recall_100",
    "R@1000": "recall_1000",
    "MAP": "map",
    "P@10": "P_10",
    "P@2": "P_2",
    "nDCG": "ndcg",
    "RR": "recip_rank",
    "Success@1": "success_1",
}
# 16777216 and 16777217 are one 32-bit float; few other values, so that most queries have ties
SCORES = st.sampled_from([-1.0, 0.0, -0.0, 0.5, 1.0, 1.0 + 1e-9, 16777216.0, 16777217.0, 1e39, 1e300, math.inf])
DOCUMENTS = st.sampled_from([*"abcdefgh", "1", "2", "9", "10", "Z", "ä", "\uffff", "\U00010000"])
QUERIES = st.sampled_from("1234")
RUNS = st.dictionaries(QUERIES, st.dictionaries(DOCUMENTS, SCORES, max_size=12), max_size=4)
JUDGMENTS = st.dictionaries(
    QUERIES, st.dictionaries(DOCUMENTS, st.sampled_from([0, 0, 1, 1, 2, 3]), min_size=1), min_size=1
)


def trec_eval(qrels, run, names):
    """name -> query -> value, straight from pytrec_eval; 0 for a query that it says nothing about."""
    asked = {name.replace("_cut_", "_cut.") if "_cut_" in name else name.replace("_1", ".1", 1) for name in names}
    asked = {name.replace("P_2", "P.2") for name in asked}
    found = pytrec_eval.RelevanceEvaluator(qrels, asked).evaluate(run)
    return {name: {query: found.get(query, {}).get(name, 0.0) for query in qrels} for name in names}


@given(JUDGMENTS, RUNS)
def test_every_value_is_pytrec_evals(qrels, run):
    expected = trec_eval(qrels, run, list(OF_TREC_EVAL.values()))
    measured = measure_queries(qrels, run, list(OF_TREC_EVAL))
    for ours, theirs in OF_TREC_EVAL.items():
        assert measured[ours] == expected[theirs]
        assert list(measured[ours]) == list(qrels)
        assert means(measured)[ours] == pytest.approx(sum(expected[theirs].values()) / len(qrels))


@given(JUDGMENTS, RUNS, st.integers(1, 12))
def test_a_cut_reciprocal_rank_is_that_of_the_same_order_and_all_gold_a_full_recall(qrels, run, cutoff):
    whole = trec_eval(qrels, run, ["recip_rank"])["recip_rank"]
    found = measure_queries(qrels, run, [f"MRR@{cutoff}", f"AllGold@{cutoff}", f"R@{cutoff}"])
    assert found[f"MRR@{cutoff}"] == {query: rr if rr and round(1 / rr) <= cutoff else 0 for query, rr in whole.items()}
    with_relevant = [query for query in qrels if any(relevance > 0 for relevance in qrels[query].values())]
    full = {query: float(found[f"R@{cutoff}"][query] == 1) for query in with_relevant}
    assert found[f"AllGold@{cutoff}"] == full


def test_a_query_without_results_counts_as_zero():
    first = (2 / math.log2(2) + 1 / math.log2(4)) / (2 / math.log2(2) + 1 / math.log2(3))  # linear gain
    second = (1 / math.log2(3)) / (1 / math.log2(2))
    assert measure_run(QRELS, RUN) == pytest.approx(
        {
            "nDCG@10": (first + second + 0) / 3,
            "R@100": (1 + 1 + 0) / 3,
            "R@1000": (1 + 1 + 0) / 3,
            "MRR@10": (1 + 1 / 2 + 0) / 3,
            "MAP": ((1 + 2 / 3) / 2 + 1 / 2 + 0) / 3,
            "P@10": (2 / 10 + 1 / 10 + 0) / 3,
        }
    )
    assert DEFAULT_MEASURES[0] == "nDCG@10"


def test_ties_are_by_document_id_descending_in_every_measure():
    tied = {"1": {"a": 1.0, "b": 1.0, "c": 1.0}}  # ranked c, b, a
    for measure, of_a, of_c in [
        ("RR", 1 / 3, 1),
        ("MRR@10", 1 / 3, 1),
        ("MRR@2", 0, 1),
        ("AllGold@2", 0, 1),
        ("P@1", 0, 1),
    ]:
        assert measure_run({"1": {"a": 1}}, tied, [measure]) == {measure: pytest.approx(of_a)}
        assert measure_run({"1": {"c": 1}}, tied, [measure]) == {measure: of_c}


def test_all_gold_wants_every_relevant_document_of_queries_that_have_some():
    qrels = {
        "both": {"a": 1, "b": 2, "x": 0},
        "half": {"a": 1, "b": 1},
        "one": {"a": 1},
        "none": {"a": 0},
        "absent": {"a": 1},
    }
    run = {
        "both": {"a": 3.0, "b": 2.0, "x": 1.0},
        "half": {"a": 3.0, "x": 2.0, "b": 1.0},
        "one": {"x": 3.0, "a": 2.0},
        "none": {"a": 1.0},
    }
    assert measure_queries(qrels, run, ["AllGold@2"])["AllGold@2"] == {"both": 1, "half": 0, "one": 1, "absent": 0}
    assert measure_run(qrels, run, ["AllGold@2", "AllGold@3", "AllGold(rel=2)@1", "AllGold(rel=2)@2"]) == {
        "AllGold@2": (1 + 0 + 1 + 0) / 4,
        "AllGold@3": (1 + 1 + 1 + 0) / 4,
        "AllGold(rel=2)@1": 0 / 1,  # only "both" has a document of relevance 2, second
        "AllGold(rel=2)@2": 1 / 1,
    }
    assert measure_run({"none": {"a": 0}}, run, ["AllGold@2"]) == {"AllGold@2": 0}
    assert population(qrels, "AllGold@2") == (
        "AllGold@2 is over the 4 of 5 queries with a relevant document; with two or more: 2."
    )
    assert population(qrels, "R@2") is None


def test_a_relevance_level_is_kept_beside_a_cutoff():
    qrels, run = {"1": {"a": 1, "b": 2}}, {"1": {"a": 2.0, "b": 1.0}}
    assert measure_run(qrels, run, ["RR@5", "RR(rel=2)@5", "RR(rel=2)@1"]) == {
        "RR@5": 1,
        "RR(rel=2)@5": 0.5,
        "RR(rel=2)@1": 0,
    }


def test_what_counts_is_added_up():
    assert measure_run(QRELS, RUN, ["NumQ", "NumRet"]) == {"NumQ": 2, "NumRet": 5}


def test_queries_of_one_side_alone_are_told():
    run = {"1": {"a": 1.0}, "2": {}, "x": {"a": 1.0}, "y": {"a": 1.0}}
    coverage = Coverage.of(QRELS, run)
    assert coverage == (3, ["2", "3"], ["x", "y"])
    assert coverage.problems("a.run") == [
        "2 of 3 judged queries have no results in a.run ('2' first); they count 0.",
        "2 queries of a.run have no judgments ('x' first); they do not count.",
    ]
    assert Coverage.of({"1": {"a": 1}, "9": {"a": 1}}, {"1": {"a": 1.0}, "x": {}}).problems("a.run") == [
        "1 of 2 judged queries has no results in a.run ('9' first); it counts 0.",
        "1 query of a.run has no judgments ('x' first); it does not count.",
    ]
    assert Coverage.of(QRELS, {"1": {"a": 1.0}, "2": {"a": 1.0}, "3": {"a": 1.0}}).problems("a.run") == []


def test_a_document_with_the_id_of_its_query_is_removed_only_by_request():
    run = {"a": {"a": 2.0, "b": 1.0}, "b": {"a": 1.0}}
    assert measure_run({"a": {"b": 1}}, run, ["RR"]) == {"RR": 1 / 2}
    left, removed = without_self(run)
    assert (left, removed) == ({"a": {"b": 1.0}, "b": {"a": 1.0}}, 1)
    assert measure_run({"a": {"b": 1}}, left, ["RR"]) == {"RR": 1}
    assert run["a"] == {"a": 2.0, "b": 1.0}


def test_a_score_that_is_nan_is_refused():
    with pytest.raises(WinnowError, match="document 'x' has the score NaN for query '2'"):
        measure_run(QRELS, {"1": {"a": 1.0}, "2": {"a": 1.0, "x": math.nan}})


@pytest.mark.parametrize(
    "name", ["quality", "nDCG@0", "AllGold", "AllGold@0", "AllGold(rel=2)", "AllGold@x", "P", "xAllGold@2"]
)
def test_an_unknown_measure_is_named(name):
    with pytest.raises(WinnowError, match="is not a measure that can be computed here") as error:
        measure_run(QRELS, RUN, [name])
    assert str(error.value).startswith(repr(name))


def test_measures_of_ir_measures_that_want_numbers_as_ids_are_taken():
    qrels, run = {"1": {"2": 1, "3": 0}}, {"1": {"2": 1.0, "3": 0.5}}
    assert 0 < measure_run(qrels, run, ["ERR@20"])["ERR@20"] <= 1
    with pytest.raises(WinnowError, match="cannot compute ERR@20 of this run"):
        measure_run({"q": {"d": 1}}, {"q": {"d": 1.0}}, ["ERR@20"])
