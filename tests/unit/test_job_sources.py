import gzip
import io
import json
import sys

import numpy as np
import pytest
from jobs_for_tests import records, write_jsonl

from index.errors import CorpusError
from retrieval.corpus import FieldNames, Reading
from retrieval.jobs.sources import read_sources, sources_of

arrow = pytest.importorskip("pyarrow", reason="pyarrow comes with winnow-ir[eval]")
SOME = [{"_id": "a", "title": "Tea", "text": "green", "year": 1999}, {"_id": "b", "text": "milk", "year": None}]


def read(*given, names=None, reading=None):
    options = {} if reading is None else {"reading": reading}
    return list(read_sources(sources_of(list(map(str, given))), names, **options))


def found(*given, **how):
    return [(document.doc_id, document.title, document.text, document.fields) for _, document in read(*given, **how)]


EXPECTED = [("a", "Tea", "green", {"year": 1999}), ("b", "", "milk", {"year": None})]


class Noting(Reading):
    def __init__(self):
        self.refused, self.positions = [], []

    def refuse(self, where, error, record=None):
        self.refused.append((where, str(error), record))

    def at(self, position):
        self.positions.append(position)


def lines():
    return "".join(json.dumps(one) + "\n" for one in SOME).encode()


def written(tmp_path, kind):
    """The two documents in a file or folder of each kind."""
    path = tmp_path / f"c{kind}"
    table = arrow.Table.from_pylist(SOME)
    if kind == ".jsonl":
        path.write_bytes(lines())
    elif kind == ".jsonl.gz":
        path.write_bytes(gzip.compress(lines()))
    elif kind == ".jsonl.zst":
        path.write_bytes(arrow.compress(lines(), codec="zstd", asbytes=True))
    elif kind == ".parquet":
        import pyarrow.parquet

        pyarrow.parquet.write_table(table, path, row_group_size=1)
    elif kind == ".arrow":
        with arrow.OSFile(str(path), "wb") as file, arrow.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    elif kind == "-dataset":
        import datasets

        datasets.Dataset.from_list(SOME).save_to_disk(path, num_shards=2)
    elif kind == "-beir":
        path.mkdir()
        (path / "corpus.jsonl.zst").write_bytes(arrow.compress(lines(), codec="zstd", asbytes=True))
    elif kind == "-folder":
        path.mkdir()
        (path / "1.jsonl").write_bytes(lines().splitlines()[0])
        (path / "2.jsonl.gz").write_bytes(gzip.compress(lines().splitlines()[1]))
    return path


KINDS = [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".arrow", "-dataset", "-beir", "-folder"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_source_says_the_same(tmp_path, kind):
    assert found(written(tmp_path, kind)) == EXPECTED


@pytest.mark.parametrize("kind", [*KINDS, "-texts"])
def test_all_bytes_are_told_as_read_at_the_end(tmp_path, kind):
    path = written(tmp_path, kind)
    if kind == "-texts":
        path.mkdir()
        (path / "a.txt").write_text("green tea")
    reading = Noting()
    read(path, reading=reading)
    total = sum(source.bytes for source in sources_of([path]))
    assert reading.positions[-1] == total
    assert reading.positions == sorted(reading.positions)


def test_tsv_and_text_folders_are_read_as_they_always_were(tmp_path):
    (tmp_path / "c.tsv").write_text("a\tgreen tea\nb\tmilk\n")
    assert found(tmp_path / "c.tsv") == [("a", "", "green tea", {}), ("b", "", "milk", {})]
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "note.txt").write_text("salt")
    assert found(tmp_path / "t") == [("note.txt", "note", "salt", {})]


def test_standard_input_is_json_lines(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbf" + lines() + b"\n{}")))
    reading = Noting()
    assert found("-", reading=reading) == EXPECTED
    assert [(where, told[:30]) for where, told, _ in reading.refused] == [
        ("standard input:4", "standard input:4 has no _id or")
    ]


def test_patterns_and_lists_give_files_in_order(tmp_path):
    for name in ("b", "a", "c"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"_id": name}])
    assert [one.doc_id for _, one in read(tmp_path / "[ab].jsonl", tmp_path / "c.jsonl")] == ["a", "b", "c"]
    assert [where for where, _ in read(tmp_path / "*.jsonl")] == [str(tmp_path / f"{n}.jsonl:1") for n in "abc"]


def test_each_document_has_its_place(tmp_path):
    places = [where for where, _ in read(written(tmp_path, ".jsonl"), written(tmp_path, ".parquet"))]
    assert places == [
        f"{tmp_path}/c.jsonl:1",
        f"{tmp_path}/c.jsonl:2",
        f"{tmp_path}/c.parquet, row 1",
        f"{tmp_path}/c.parquet, row 2",
    ]


def test_columns_become_what_json_holds_and_numbers_become_ids(tmp_path):
    import datetime

    import pyarrow.parquet

    rows = {"id": [7, 8], "contents": ["x", "y"], "day": [datetime.date(2026, 1, 2), None], "tags": [["p"], []]}
    pyarrow.parquet.write_table(arrow.table(rows), tmp_path / "c.parquet")
    assert found(tmp_path / "c.parquet") == [
        ("7", "", "x", {"day": "2026-01-02", "tags": ["p"]}),
        ("8", "", "y", {"day": None, "tags": []}),
    ]
    names = FieldNames.of(id="contents", text="day")
    assert found(tmp_path / "c.parquet", names=names)[0] == ("x", "", "2026-01-02", {"id": 7, "tags": ["p"]})


def test_many_rows_are_read_a_few_at_a_time(tmp_path):
    import pyarrow.parquet

    numbers = np.arange(1000)
    pyarrow.parquet.write_table(arrow.table({"id": numbers, "text": numbers.astype(str)}), tmp_path / "c.parquet")
    places = [where for where, _ in read(tmp_path / "c.parquet")]
    assert (len(places), places[-1]) == (1000, f"{tmp_path}/c.parquet, row 1000")


@pytest.mark.parametrize("kind", [".jsonl.gz", ".jsonl.zst", ".parquet", ".arrow"])
def test_a_file_that_is_cut_off_or_something_else_is_told(tmp_path, kind):
    path = tmp_path / f"c{kind}"
    many = write_jsonl(tmp_path / "many.jsonl", records(2000)).read_bytes()
    if kind == ".jsonl.gz":
        path.write_bytes(gzip.compress(many)[:-200])
    elif kind == ".jsonl.zst":
        path.write_bytes(arrow.compress(many, codec="zstd", asbytes=True)[:-200])
    else:
        path.write_bytes(written(tmp_path, kind).read_bytes()[:-20])
    for _ in range(2):
        with pytest.raises(CorpusError, match=r"c\S+ is not a whole (gzip|zstd|Parquet|Arrow) file"):
            read(path)
        path.write_bytes(b"no such thing")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "there is no source; give files of .jsonl"),
        (["nowhere.jsonl"], "nowhere.jsonl does not exist; give files"),
        (["*.nothing"], r"no file matches '.*\*.nothing'; check the pattern"),
        (["c.doc"], "c.doc is of no known kind"),
        (["c.jsonl", "c.jsonl"], "c.jsonl is given twice"),
        (["*.jsonl", "c.jsonl"], "c.jsonl is given twice"),
        (["-", "-"], "the source - is given twice"),
        (["index"], "index holds neither corpus.jsonl nor text files"),
        (["empty"], "empty holds neither corpus.jsonl nor text files"),
        (["splits"], r"has the splits \['train', 'test'\]; give one of them, as in .*splits/train"),
        (["chosen"], "holds a selection of rows over its files; save it with flatten_indices"),
        (["lost"], "names the file 'data-0.arrow', which is not there"),
        (["outside"], r"names the file '\.\./c.jsonl', which is not there"),
        (["broken"], "state.json is not valid JSON"),
    ],
)
def test_a_source_that_cannot_be_one_says_why(tmp_path, given, message):
    write_jsonl(tmp_path / "c.jsonl", SOME)
    (tmp_path / "c.doc").write_text("x")
    states = {
        "chosen": '{"_indices_data_files": [{"filename": "i.arrow"}]}',
        "lost": '{"_data_files": [{"filename": "data-0.arrow"}]}',
        "outside": '{"_data_files": [{"filename": "../c.jsonl"}]}',
        "broken": "{",
    }
    for name in ("empty", "splits", *states):
        (tmp_path / name).mkdir()
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "winnow.json").write_text("{}")
    (tmp_path / "splits" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for name, state in states.items():
        (tmp_path / name / "state.json").write_text(state)
        (tmp_path / name / "dataset_info.json").write_text("{}")
    with pytest.raises(CorpusError, match=message):
        sources_of([one if one == "-" else tmp_path / one for one in given])


def test_a_missing_package_is_told_with_the_extra_that_brings_it(tmp_path, monkeypatch):
    path = written(tmp_path, ".parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(CorpusError, match=r"is read with the package pyarrow, .* pip install 'winnow-ir\[eval\]'"):
        read(path)


def test_refused_records_do_not_end_the_reading(tmp_path):
    (tmp_path / "c.tsv").write_bytes(b"a\tx\nb\nc\t\xff\nd\ty\n")
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "1.txt").write_bytes(b"\xff")
    (tmp_path / "t" / "2.txt").write_text("fine")
    reading = Noting()
    assert [one.doc_id for _, one in read(tmp_path / "c.tsv", tmp_path / "t", reading=reading)] == ["a", "d", "2.txt"]
    assert [where.rpartition("/")[2] for where, _, _ in reading.refused] == ["c.tsv:2", "c.tsv:3", "1.txt"]
