"""The benchmark of conversations, on answers that can be told beforehand; its recipe and that of the documentation are read."""

import argparse
import json
import math
import re
from pathlib import Path

import conversational as benchmark
import numpy as np
import pytest
import tiny_checkpoints as tiny

from eval.datasets import load_dataset
from kernels.cpu.sparse import SparseRows
from retrieval import LearnedSparseEncoder
from retrieval.training.sparse.recipe import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def dataset(tmp_path):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "raw").mkdir()
    texts = {"d0": "moon", "d1": "bread", "d2": "rain"}
    lines = [{"_id": name, "text": text} for name, text in texts.items()]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "why"}\n{"_id": "r", "text": "rain"}\n')
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td1\t1\nr\td2\t1\n")
    talks = [{"_id": "r", "turns": ["rain"]}, {"_id": "x", "turns": ["x"]}, {"_id": "q", "turns": ["bread", "why"]}]
    (tmp_path / "raw" / "conversations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in talks))
    return load_dataset(tmp_path)


class KnownEncoder:
    """Document i has the term i alone."""

    num_terms = 3

    def encode_texts(self, texts):
        assert texts == ["moon", "bread", "rain"]
        return rows({0: 1.0}, {1: 1.0}, {2: 1.0})

    def encode_queries(self, texts):
        assert texts == ["why [SEP] bread", "rain"]
        return rows({1: 1.0}, {2: 1.0})


def rows(*each):
    return SparseRows(
        np.cumsum([0, *map(len, each)]),
        np.array([term for row in each for term in row], np.int32),
        np.array([weight for row in each for weight in row.values()], np.float32),
    )


def test_each_way_to_ask_is_measured_on_all_queries_and_on_later_turns(dataset):
    asked = []

    def own(documents):
        assert documents == ["moon", "bread", "rain"]
        return lambda texts: asked.append(texts) or rows({}, {2: 1.0})  # of "why" nothing is found

    untrained = rows({0: 2.0, 1: 1.0}, {0: 1.0})
    found = {row["asked"]: row for row in benchmark.results(dataset, KnownEncoder(), own, lambda texts: untrained)}
    assert asked == [["why", "rain"], ["why [SEP] bread", "rain"]]
    assert "rewrites, own query side" not in found, "there are none"
    last, trained = found["last turn, own query side"], found["all turns, query model trained"]
    assert (last["nDCG@10"], last["nDCG@10 of first turns"], last["nDCG@10 of later turns"]) == (0.5, 1.0, 0.0)
    assert (trained["nDCG@10"], trained["gain over last turn"], trained["queries"]) == (1.0, 0.5, 2)
    second = 1 / math.log2(3)
    assert found["all turns, query model untrained"]["nDCG@10"] == pytest.approx(second / 2)
    assert (found["last turn, BM25"]["nDCG@10"], found["all turns, BM25"]["nDCG@10"]) == (0.5, 1.0)


def arguments(**given):
    return argparse.Namespace(conversations=Path("c.json"), passages=Path("p"), start=None, set=[], **given)


def test_its_recipe_is_read_with_a_start_of_ones_own():
    tied = benchmark.recipe_of(arguments())
    assert (tied.model.head, tied.data.conversations, tied.data.folder) == ("tied", "c.json", "p")
    assert tied.loss.query_weight == 0
    told = arguments()
    told.start, told.set = "models/mine", ["training.steps=7"]
    own = benchmark.recipe_of(told)
    assert (own.model.start, own.model.head, own.training.steps) == ("models/mine", "own", 7)
    assert own.model.encoder == {"query_max_length": 128}


def test_the_own_query_side_of_a_start_is_its_table(tmp_path):
    folder = tiny.bert(tmp_path / "bert")
    (folder / "idf.json").write_text(json.dumps({"moon": 1.5, "sea": 0.5}))
    told = arguments()
    told.start, told.set = str(folder), ['model.encoder={"activation": "log1p"}']
    encoder = LearnedSparseEncoder.from_pretrained(folder, activation="log1p")
    encode = benchmark.own_query_side(benchmark.recipe_of(told), encoder, [])
    found = encode(["the moon", "sea"])
    assert found.data.tolist() == [1.5, 0.5]


def test_the_recipe_of_the_documentation_is_read(tmp_path):
    section = (ROOT / "docs" / "training.md").read_text(encoding="utf-8").partition("## Conversations\n")[2]
    (tmp_path / "recipe.toml").write_text(re.search(r"^```toml\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)[1])
    recipe = Recipe.read(tmp_path / "recipe.toml")
    assert (recipe.data.conversations, recipe.teachers[0].name) == ("canard/dev.json", "rewrites")
    assert (recipe.model.frozen_documents, recipe.loss.teachers_together) == (True, "mean")
