"""One measured number on real data: BM25 on SciFact against Anserini's published figure."""

import pytest

from eval.datasets import load_dataset
from eval.measures import measure_run
from eval.systems import Built, measured

ANSERINI = {"nDCG@10": 0.6789, "R@100": 0.9253}  # flat BM25, BEIR v1.0.0 SciFact, as published


def test_bm25_on_scifact_is_anserinis(data_folder):
    dataset = load_dataset(data_folder("scifact"))
    outcome = measured("bm25", Built.of("bm25", dataset, None, {}, False), dataset, 1000)
    values = measure_run(dataset.qrels, outcome.run)
    assert (len(dataset.qrels), outcome.indexed.documents) == (300, 5183)
    assert values["nDCG@10"] == pytest.approx(ANSERINI["nDCG@10"], abs=0.004)
    assert values["R@100"] == pytest.approx(ANSERINI["R@100"], abs=0.004)
