"""One measured number on real data: BM25 on SciFact against Anserini's published figure."""

import pytest

from eval.datasets import load_dataset
from eval.experiment import Settings
from eval.measures import DEFAULT_MEASURES
from eval.measuring import Work, cells_of, measure_all
from retrieval.written_system import WrittenSystem

ANSERINI = {"nDCG@10": 0.6789, "R@100": 0.9253}  # flat BM25, BEIR v1.0.0 SciFact, as published


def test_bm25_on_scifact_is_anserinis(data_folder):
    dataset = load_dataset(data_folder("scifact"))
    work = Work(dataset, cells_of([WrittenSystem.of("bm25")], None))
    (report,) = measure_all([work], Settings(1000, "nDCG@10", progress=False), DEFAULT_MEASURES)
    ((result,), (values,)) = report.results, report.measures
    assert (len(dataset.qrels), result.efficiency.documents) == (300, 5183)
    assert values["nDCG@10"] == pytest.approx(ANSERINI["nDCG@10"], abs=0.004)
    assert values["R@100"] == pytest.approx(ANSERINI["R@100"], abs=0.004)
    assert not result.problems
