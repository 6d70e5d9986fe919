"""The benchmark of weights without labels, on answers so small that every number can be told beforehand."""

import math

import fusion_without_labels as benchmark
import numpy as np
import pytest

from eval.datasets import load_dataset


def hits(*pairs):
    return np.array([score for _, score in pairs], np.float32), np.array([doc for doc, _ in pairs], np.int32)


@pytest.fixture
def dataset(tmp_path):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text("".join(f'{{"_id": "d{n}", "text": "words"}}\n' for n in range(9)))
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "words"}\n{"_id": "r", "text": "words"}\n')
    (tmp_path / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq\td1\t1\nr\td2\t1\n")
    return load_dataset(tmp_path, "train")


def test_a_list_that_stands_out_wins_over_equal_weights(dataset):
    clear = hits((1, 9.0), (3, 1.0), (4, 1.0), (5, 1.0), (6, 1.0), (7, 1.0))
    flat = hits((0, 9.0), (8, 2.0))
    second = hits((2, 2.0), (1, 1.0))
    rows = list(
        benchmark.results(dataset, [f"d{n}" for n in range(9)], [{"a": clear, "b": flat}, {"a": second, "b": second}])
    )
    found = {(row["system"], row.get("weights")): row for row in rows}
    assert found["a", None]["nDCG@10"] == 1
    assert found["b", None]["nDCG@10"] == 0.5
    # under equal weights document 0 is level with 1 and first by its number; with those of the query it is second
    assert found["min-max", "equal"]["nDCG@10"] == pytest.approx((1 / math.log2(3) + 1) / 2)
    assert found["min-max", "wig, as it is"]["nDCG@10"] == 1
    assert found["min-max", "wig, as it is"]["gain"] == pytest.approx(1 - (1 / math.log2(3) + 1) / 2)


def test_predictors_by_hand():
    scores = np.array([4.0, 2.0, 2.0, 2.0, 2.0, 1.0, 0.0], np.float32)
    assert benchmark.lead(scores) == (4 - 1) / (4 - 0)
    assert benchmark.nqc(scores) == 1  # fewer than 100: the whole list
    assert benchmark.lead(scores[:0]) == benchmark.nqc(scores[:0]) == 0
    assert benchmark.lead(scores[1:5]) == benchmark.nqc(scores[1:5]) == 0  # all equal


def test_the_answers_are_those_of_both_arms(dataset):
    ids, answers = benchmark.answers_of(dataset)
    assert ids == [f"d{n}" for n in range(9)]
    assert len(answers) == 2
    assert {arm: len(docs) for arm, (_, docs) in answers[0].items()} == {"bm25": 9, "minilm": 9}
