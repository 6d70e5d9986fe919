"""BEIR data sets: folders with corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv, local or downloaded by `beir`."""

from __future__ import annotations

from eval.datasets.corpus_check import CorpusCheck, judged_missing, missing_documents
from eval.datasets.dataset import Dataset, load_dataset, multi_gold, parts_of, warned
from eval.datasets.downloading import cache_folder, download, download_dataset
from eval.datasets.specs import DatasetSpec, catalogue, named, spec_named

__all__ = [
    "CorpusCheck",
    "Dataset",
    "DatasetSpec",
    "cache_folder",
    "catalogue",
    "download",
    "download_dataset",
    "judged_missing",
    "load_dataset",
    "missing_documents",
    "multi_gold",
    "named",
    "parts_of",
    "spec_named",
    "warned",
]
