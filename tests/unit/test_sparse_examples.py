"""Training examples as they are read, and what is refused of them."""

import json

import numpy as np
import pytest

from index.errors import CorpusError, WinnowError
from retrieval.training.sparse.examples import Examples

DOCUMENTS = [
    ("a", "Tea", "green tea"),
    ("b", "", "black tea"),
    ("c", "Milk", ""),
    ("d", "", "black tea"),
    ("e", "", ""),
]
QUERIES = [("1", "what is green"), ("2", "what is black"), ("3", "what is white"), ("4", " ")]
JUDGMENTS = [("2", "b", 1), ("1", "a", 2), ("1", "b", 0), ("2", "d", 1)]


def jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def qrels(path, judgments):
    path.write_text("query-id\tcorpus-id\tscore\n" + "".join(f"{q}\t{d}\t{r}\n" for q, d, r in judgments))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "qrels").mkdir()
    jsonl(tmp_path / "corpus.jsonl", [{"_id": i, "title": title, "text": text} for i, title, text in DOCUMENTS])
    jsonl(tmp_path / "queries.jsonl", [{"_id": i, "text": text} for i, text in QUERIES])
    qrels(tmp_path / "qrels" / "train.tsv", JUDGMENTS)
    qrels(tmp_path / "qrels" / "dev.tsv", [("3", "c", 1)])
    return tmp_path


def negatives(folder, *lines):
    return jsonl(folder / "negatives.jsonl", [{"query_id": query, "negatives": ids} for query, ids in lines])


def test_queries_and_documents_are_numbered_in_the_order_of_their_files(folder):
    examples = Examples.read(folder)
    assert examples.query_ids == ["2", "1"]
    assert examples.queries == ["what is black", "what is green"]
    assert examples.document_ids == ["a", "b", "c", "d", "e"]
    assert examples.documents == ["Tea green tea", "black tea", "Milk", "black tea", ""]
    assert [numbers.tolist() for numbers in examples.positives] == [[1, 3], [0]]
    assert [numbers.tolist() for numbers in examples.negatives] == [[], []]
    assert {numbers.dtype for numbers in (*examples.positives, *examples.negatives)} == {np.dtype(np.int32)}
    assert len(examples) == 2


def test_another_split_has_its_own_queries(folder):
    examples = Examples.read(folder, "dev")
    assert (examples.queries, [numbers.tolist() for numbers in examples.positives]) == (["what is white"], [[2]])


def test_negatives_are_those_of_the_split_in_their_order(folder):
    path = negatives(folder, ("3", ["a"]), ("1", ["d", "c"]))
    examples = Examples.read(folder, negatives=path)
    assert [numbers.tolist() for numbers in examples.negatives] == [[], [3, 2]]
    assert [numbers.dtype for numbers in examples.negatives] == [np.int32, np.int32]


def test_gzipped_files_are_read_too(folder):
    import gzip

    for name in ("corpus.jsonl", "queries.jsonl"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()
    assert Examples.read(folder).query_ids == ["2", "1"]


@pytest.mark.parametrize(
    ("judgments", "message"),
    [
        ([("9", "a", 1)], "train.tsv:2 judges the query '9', which queries.jsonl lacks"),
        ([("1", "a", 1), ("1", "z", 1)], "train.tsv:3 judges document 'z', which corpus.jsonl lacks"),
        ([("1", "a", 1), ("2", "b", 0)], "train.tsv:3 judges the query '2', of which no document is relevant"),
        ([("4", "a", 1)], "train.tsv:2 judges the query '4', whose text is empty"),
        ([("1", "e", 1)], "train.tsv:2 judges document 'e', whose title and text are empty"),
        ([("1", "a", 1), ("1", "a", 1)], "train.tsv:3 judges document 'a' for query '1' again"),
        ([], "train.tsv holds no judgments"),
    ],
)
def test_pairs_that_teach_nothing_are_told(folder, judgments, message):
    qrels(folder / "qrels" / "train.tsv", judgments)
    with pytest.raises(CorpusError, match=message):
        Examples.read(folder)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([("1", ["c", "a"])], "jsonl:1 has document 'a' as a negative of the query '1', which is relevant to it"),
        ([("1", ["c", "z"])], "jsonl:1 has as a negative document 'z', which corpus.jsonl lacks"),
        ([("1", ["e"])], "jsonl:1 has as a negative document 'e', whose title and text are empty"),
        ([("1", ["c"]), ("1", ["b"])], "jsonl:2 has negatives of the query '1' again"),
        ([("1", ["c", "b", "c"])], "jsonl:1 has the negative 'c' twice"),
        ([("9", ["c"])], "jsonl:1 has negatives of the query '9', which queries.jsonl lacks"),
        ([("1", "c")], "jsonl:1 has the negatives 'c'; they must be a list of document ids"),
        ([("1", [3])], r"jsonl:1 has the negatives \[3\]; they must be a list of document ids"),
        ([(1, ["c"])], "jsonl:1 holds .*; a line of negatives must be"),
        ([("3", ["a"])], "has no negatives of any of the 2 queries"),
    ],
)
def test_negatives_that_cannot_be_are_told(folder, lines, message):
    with pytest.raises(CorpusError, match=message):
        Examples.read(folder, negatives=negatives(folder, *lines))


def test_a_negative_with_the_text_of_a_positive_is_told(folder):
    qrels(folder / "qrels" / "train.tsv", [("2", "b", 1)])
    with pytest.raises(
        CorpusError, match="has document 'd' as a negative of the query '2', which has the text of document 2 of"
    ):
        Examples.read(folder, negatives=negatives(folder, ("2", ["d"])))


@pytest.mark.parametrize("name", ["corpus", "queries"])
def test_an_id_that_occurs_twice_is_told(folder, name):
    path = folder / f"{name}.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[0]]))
    with pytest.raises(CorpusError, match=rf"{name}.jsonl:{len(lines) + 1} has the id '[a1]' of an earlier line"):
        Examples.read(folder)


def test_files_that_are_not_there_are_told(folder):
    with pytest.raises(WinnowError, match=r"has no split 'test'; its splits are dev, train"):
        Examples.read(folder, "test")
    with pytest.raises(CorpusError, match=r"none.jsonl does not exist; give the file of negatives"):
        Examples.read(folder, negatives=folder / "none.jsonl")
    with pytest.raises(WinnowError, match=r"is not a BEIR folder \(it does not exist"):
        Examples.read(folder / "nothing")
