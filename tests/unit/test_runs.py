"""TREC run files: read as trec_eval reads them, written so that every score comes back."""

import gzip
import math

import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from eval.runs import read_run, write_run
from index.errors import CorpusError, StorageError, WinnowError

LINES = "1 Q0 a 1 3.5 tag\n1 Q0 b 2 2.5 tag\n2 Q0 a 1 1e-3 tag\n"
IDS = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=3)
SCORES = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([1.0, 2.0, 16777216.0, 16777217.0, 1 + 1e-9])
)


def read(tmp_path, text):
    path = tmp_path / "a.run"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_run(path)


@given(run=st.dictionaries(IDS, st.dictionaries(IDS, SCORES, min_size=1, max_size=6), min_size=1, max_size=4))
def test_a_run_comes_back_as_it_was_written(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "a.run"
    write_run(path, run, "mine")
    found = read_run(path)
    assert found.run == run
    for query, documents in found.run.items():  # the first document is the one that trec_eval has first
        for rank, document in enumerate(documents, start=1):
            evaluator = pytrec_eval.RelevanceEvaluator({query: {document: 1}}, {"recip_rank"})
            assert evaluator.evaluate(run)[query]["recip_rank"] == 1 / rank


def test_a_run_file_keeps_every_score(tmp_path):
    scores = {"a": 1 / 3, "b": 16777217.0, "c": 1e-30}
    write_run(tmp_path / "runs" / "r.run", {"1": scores}, "mine")
    lines = [line.split() for line in (tmp_path / "runs" / "r.run").read_text().splitlines()]
    assert {line[2]: float(line[4]) for line in lines} == scores
    assert [line[3] for line in lines] == ["1", "2", "3"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["r.run"]


@pytest.mark.parametrize("doc_id", ["a b", "a\u2003b", "\ufeffa", "", "\ud800"])
def test_an_id_that_no_column_can_hold_cannot_be_written(tmp_path, doc_id):
    with pytest.raises(WinnowError, match=r"the document id '.*' is empty or holds white space or invalid Unicode"):
        write_run(tmp_path / "r.run", {"1": {doc_id: 1.0}}, "mine")
    with pytest.raises(WinnowError, match="the query id"):
        write_run(tmp_path / "r.run", {doc_id: {"1": 1.0}}, "mine")
    with pytest.raises(WinnowError, match="the tag"):
        write_run(tmp_path / "r.run", {}, doc_id)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_what_cannot_be_written_leaves_the_old_file(tmp_path, score):
    path = tmp_path / "r.run"
    write_run(path, {"1": {"a": 1.0}}, "old")
    before = path.read_bytes()
    with pytest.raises(WinnowError, match=f"document 'b' has the score {score} for query '2'"):
        write_run(path, {"1": {"a": 1.0}, "2": {"b": score}}, "new")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not be written"):
        write_run(tmp_path / "file" / "r.run", {"1": {"a": 1.0}}, "mine")


def test_a_run_is_read_packed_or_not_whatever_the_blanks(tmp_path):
    expected = {"1": {"a": 3.5, "b": 2.5}, "2": {"a": 0.001}}
    assert read(tmp_path, LINES).run == expected
    assert read(tmp_path, LINES.replace(" ", "\t").replace("\n", "\r\n")).run == expected
    assert read(tmp_path, "\n" + LINES.replace("\n", "  \n\n")).run == expected
    (tmp_path / "a.run.gz").write_bytes(gzip.compress(LINES.encode()))
    assert read_run(tmp_path / "a.run.gz").run == expected
    assert read(tmp_path, "1 Q0 a\u00a0b 1 1 t\n").run == {"1": {"a\u00a0b": 1}}  # C knows no such blank


def test_queries_need_not_stand_together(tmp_path):
    found = read(tmp_path, "1 Q0 a 2 1 t\n2 Q0 a 1 1 t\n1 Q0 b 1 2 t\n")
    assert {query: list(documents) for query, documents in found.run.items()} == {"1": ["b", "a"], "2": ["a"]}
    assert found.problems("a.run") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 Q0 a 1 2.0\n", r"a.run:1 is '1 Q0 a 1 2.0', 5 columns; a run has six"),
        (LINES + "1 Q0 c d 3 2.0 t\n", r"a.run:4 is '1 Q0 c d 3 2.0 t', 7 columns"),
        (LINES + "1 Q0 a 3 1 t\n", r"a.run:4 has document 'a' for query '1' again; keep one line"),
        ("1 Q0 a 1 nan t\n", r"a.run:1 has the score 'nan', which is not finite"),
        ("1 Q0 a 1 -Infinity t\n", r"a.run:1 has the score '-Infinity', which is not finite"),
        ("1 Q0 a 1 1e999 t\n", r"a.run:1 has the score '1e999', too large for a float"),
        ("1 Q0 a 1 high t\n", r"a.run:1 has the score 'high', which is no number"),
        ("1 Q0 a 1 1_0 t\n", r"a.run:1 has the score '1_0', which is no number"),
        ("1 Q0 a 1 1,5 t\n", r"a.run:1 has the score '1,5', which is no number"),
        ("1 Q0 a 1 \u0661 t\n", r"a.run:1 has the score '\u0661', which is no number"),
        ("", r"a.run is empty; a run has a line for each document"),
        ("\n \n", r"a.run is empty"),
        (b"1 Q0 a 1 1 t\n1 Q0 \xff 2 1 t\n", r"a.run:2 is not valid UTF-8 \(byte 5 of the line\)"),
    ],
)
def test_a_bad_run_is_named_with_its_line(tmp_path, text, message):
    with pytest.raises(CorpusError, match=message):
        read(tmp_path, text)


def test_a_run_that_is_not_there_is_named(tmp_path):
    for path in (tmp_path / "no.run", tmp_path):
        with pytest.raises(CorpusError, match=r"is not a file; give a TREC run"):
            read_run(path)


def lines(*documents):
    """Of one query, from (document, rank, score)."""
    return "".join(f"1 Q0 {document} {rank} {score} t\n" for document, rank, score in documents)


@pytest.mark.parametrize(
    ("documents", "counts", "order"),
    [
        ([("a", 1, 2), ("b", 2, 1)], (0, 0, 0, 0), "ab"),
        ([("b", 11, 1), ("a", 7, 2)], (0, 0, 0, 0), "ab"),  # ranks with gaps, lines in any order
        ([("a", 1, 1), ("b", 2, 2)], (1, 0, 0, 0), "ba"),
        ([("a", 1, 1), ("b", 2, 1)], (0, 1, 0, 0), "ba"),  # a tie, which trec_eval has the other way
        ([("b", 1, 1), ("a", 2, 1)], (0, 0, 0, 0), "ba"),
        ([("10", 1, 1), ("9", 2, 1)], (0, 1, 0, 0), ["9", "10"]),
        ([("a", 0, 2), ("b", 0, 1)], (0, 0, 1, 0), "ab"),  # as beir writes them
        ([("a", "x", 2), ("b", "2", 1)], (0, 0, 1, 0), "ab"),
        ([("a", 0, 2)], (0, 0, 0, 0), "a"),
        ([("a", 1, 16777217), ("b", 2, 16777216)], (0, 1, 0, 1), "ba"),
        ([("b", 1, 16777217), ("a", 2, 16777216)], (0, 0, 0, 1), "ba"),
        ([("a", 1, "1e300"), ("b", 2, "1e299")], (0, 1, 0, 1), "ba"),  # both beyond 32 bits
        ([("a", 1, "0.0"), ("b", 2, "-0.0")], (0, 1, 0, 0), "ba"),
    ],
)
def test_what_a_file_says_twice_is_counted(tmp_path, documents, counts, order):
    found = read(tmp_path, lines(*documents) + "2 Q0 a 1 1 t\n")
    assert found[2:] == counts
    assert list(found.run["1"]) == list(order)
    assert len(found.problems("a.run")) == sum(counts)
    for sentence in found.problems("a.run"):
        assert sentence.startswith("a.run: in 1 of 2 queries ")
