import pytest

from eval.datasets import load_dataset, read_qrels
from index.errors import CorpusError, WinnowError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a", "text": "x"}')
    (tmp_path / "queries.jsonl").write_text('{"_id": "1", "text": "one"}\n{"_id": "2", "text": "two"}\n')
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\ta\t2\n1\tb\t0\n")
    return tmp_path


def test_only_judged_queries_are_asked(folder):
    dataset = load_dataset(folder)
    assert dataset.queries == {"1": "one"}
    assert dataset.qrels == {"1": {"a": 2, "b": 0}}


def test_trec_judgments_are_read_too(tmp_path):
    (tmp_path / "q.txt").write_text("1 0 a 2\n1 0 b 0\n")
    assert read_qrels(tmp_path / "q.txt") == {"1": {"a": 2, "b": 0}}


def test_an_id_between_tabs_may_hold_any_space(tmp_path):
    (tmp_path / "q.tsv").write_text("q 1\ta\u00a0b\t1\nq 1\t0\tc d\t-1 \n")
    assert read_qrels(tmp_path / "q.tsv") == {"q 1": {"a\u00a0b": 1, "c d": -1}}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("1\ta\n", r"test.tsv:2 is '1\\ta'; a judgment is"),
        ("1\ta\thigh\n", r"test.tsv:2 is '1\\ta\\thigh'; a judgment is"),
        ("1\ta\t1_0\n", r"test.tsv:2 is '1\\ta\\t1_0'; a judgment is .* a whole number of at most 9 digits"),
        ("1\t\t1\n", r"test.tsv:2 is '1\\t\\t1'; a judgment is"),
        ("1\ta\t1\n1\ta\t0\n", r"test.tsv:3 judges document 'a' for query '1' again"),
        ("", "holds no judgments"),
    ],
)
def test_bad_judgments_are_named(folder, lines, message):
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + lines)
    with pytest.raises(CorpusError, match=message):
        load_dataset(folder)


def test_judgments_of_unknown_queries_are_named(folder):
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n9\ta\t1\n")
    with pytest.raises(WinnowError, match=r"judges 1 queries that queries.jsonl lacks, '9' first"):
        load_dataset(folder)


@pytest.mark.parametrize("name", ["queries.jsonl", "corpus.jsonl"])
def test_a_folder_without_one_of_its_files_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(WinnowError, match=f"it has no {name}"):
        load_dataset(folder)


def test_a_query_id_used_twice_is_named(folder):
    (folder / "queries.jsonl").write_text('{"_id": "1", "text": "one"}\n{"_id": "1", "text": "two"}\n')
    with pytest.raises(CorpusError, match="has the query id '1' twice"):
        load_dataset(folder)
