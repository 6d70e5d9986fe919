import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from forgery import edit_manifest

from eval.beir import main as eval_main
from index.errors import StorageError
from index.inverted import InvertedIndex
from index.options import InvertedIndexOptions
from kernels.cpu.sparse import SparseRows
from retrieval import Retriever
from winnow.cli import main
from winnow.delete import condition

NOTES = [
    {"_id": "tides", "title": "Tides", "text": "The moon pulls the water of the sea.", "year": 1999},
    {"_id": "bread", "title": "Bread", "text": "Mix flour, water, salt and yeast."},
    {"_id": "blank"},
]


@pytest.fixture
def notes(tmp_path):
    file = tmp_path / "notes.jsonl"
    file.write_text("\n".join(map(json.dumps, NOTES)))
    return file


@pytest.fixture
def folder(notes, tmp_path, capsys):
    assert main(["index", str(notes), "--out", str(tmp_path / "i"), "--model", "bm25"]) == 0
    capsys.readouterr()
    return str(tmp_path / "i")


@pytest.fixture
def beir_folder(notes, tmp_path):
    folder = tmp_path / "tiny"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(notes.read_text())
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "moon"}\n{"_id": "q2", "text": "unheard"}\n')
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\ttides\t1\nq2\tbread\t1\n")
    return folder


def failure(capsys, arguments, run=main):
    """The one sentence that a failing command prints."""
    status = run(arguments)
    out, err = capsys.readouterr()
    assert status == 1
    assert out == ""
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    return err


def test_index_counts_what_it_took(notes, tmp_path, capsys):
    assert main(["index", str(notes), "--out", str(tmp_path / "i"), "--model", "bm25"]) == 0
    out = capsys.readouterr().out
    assert "indexed 3 documents with bm25" in out
    assert "1 of them have no text to match: they are kept and never found" in out


def test_search_prints_ranked_documents(folder, capsys):
    assert main(["search", folder, "sea water", "-k", "1"]) == 0
    out = capsys.readouterr().out
    assert "tides  Tides" in out
    assert "The moon pulls" in out
    assert "bread" not in out


def test_search_says_when_nothing_matches(folder, capsys):
    assert main(["search", folder, "unheard"]) == 0
    assert capsys.readouterr().out == "no document matches the query\n"


def test_json_holds_hits_with_fields_and_terms(folder, capsys):
    assert main(["search", folder, "sea water", "--json", "--explain"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["query"] == "sea water"
    assert [(hit["rank"], hit["doc_id"]) for hit in answer["hits"]] == [(1, "tides"), (2, "bread")]
    assert answer["hits"][0]["fields"] == {"year": 1999}
    contributions = [match["contribution"] for match in answer["hits"][0]["terms"]]
    assert sum(contributions) == pytest.approx(answer["hits"][0]["score"], rel=1e-6)


def test_fields_and_impacts_are_options(tmp_path, capsys):
    (tmp_path / "c.jsonl").write_text('{"key": "a", "body": "green tea"}')
    arguments = ["--id-field", "key", "--text-field", "body", "--impacts", "f32", "--model", "mini"]
    assert main(["index", str(tmp_path / "c.jsonl"), "--out", str(tmp_path / "i"), *arguments]) == 0
    assert main(["search", str(tmp_path / "i"), "tea", "--json"]) == 0


def test_a_corpus_whose_text_has_another_name_is_pointed_out(tmp_path, capsys):
    (tmp_path / "c.jsonl").write_text('{"_id": "a", "body": "green tea"}')
    assert main(["index", str(tmp_path / "c.jsonl"), "--out", str(tmp_path / "i"), "--model", "bm25"]) == 0
    assert "never found; name the field with --text-field" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "the corpus holds no documents"),
        ('{"_id": "a"', "notes.jsonl:4 is not valid JSON"),
        ('{"_id": "tides"}', "notes.jsonl:4 has the id 'tides' of one before it"),
        ('{"_id": 7}', "notes.jsonl:4 has the id 7"),
    ],
)
def test_a_bad_corpus_is_one_sentence_and_the_old_index_stays(notes, folder, capsys, line, message):
    notes.write_text(notes.read_text() + "\n" + line if line else "")
    assert message in failure(capsys, ["index", str(notes), "--out", folder, "--model", "bm25"])
    assert main(["search", folder, "moon"]) == 0


def test_other_failures_are_one_sentence(notes, folder, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.doc").write_text("x")
    for arguments, message in [
        (["index", str(notes), "--out", str(tmp_path / "mine")], "holds 'thesis.doc', which is not part of an index"),
        (["index", str(notes), "--out", str(tmp_path / "n"), "--model", "splade-9"], "'splade-9' is neither a folder"),
        (["index", str(tmp_path / "no.jsonl"), "--out", str(tmp_path / "n"), "--model", "bm25"], "does not exist"),
        (["search", folder, "x", "-k", "0"], "k is 0; it must be"),
        (["search", str(tmp_path / "mine"), "x"], "is not an index (it has no winnow.json)"),
        (["search", str(tmp_path / "nowhere"), "x"], "is not an index (it has no winnow.json)"),
        (["search", "bm25", "x"], "is not an index (it has no winnow.json)"),
        (["eval", "--data", str(tmp_path), "--system", "bm25"], "is not a BEIR folder"),
        (["demo", "-k", "0"], "k is 0; it must be"),
    ]:
        assert message in failure(capsys, arguments)
    assert not (tmp_path / "n").exists()


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"winnow {version('winnow-ir')}\n"


def test_debug_shows_the_traceback(folder, capsys):
    assert main(["search", folder, "x", "-k", "0", "--debug"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_defect_of_ours_is_named_as_one(folder, capsys, monkeypatch):
    monkeypatch.setattr("winnow.display.hit_lines", lambda hit: 1 / 0)
    assert "unexpected ZeroDivisionError: division by zero (run again with --debug" in failure(
        capsys, ["search", folder, "water"]
    )


def test_interrupting_leaves_the_old_index(notes, folder, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("index.folder_writer.seal", interrupt)
    assert main(["index", str(notes), "--out", folder, "--model", "bm25", "--restart"]) == 130
    said = "winnow index: interrupted; the same command goes on after the last whole shard.\n"
    assert capsys.readouterr().err == said
    assert main(["search", folder, "moon"]) == 0


def test_a_reader_that_stops_early_is_no_error(folder):
    command = f'"{sys.executable}" -m winnow search "{folder}" water | true; echo ${{PIPESTATUS[0]}}'
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    finished = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment)
    assert (finished.stdout, finished.stderr) == ("141\n", "")


def test_output_that_cannot_be_written_is_one_sentence(folder):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = f'"{sys.executable}" -m winnow search "{folder}" water > /dev/full'
    finished = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment)
    assert (finished.returncode, finished.stderr) == (1, "winnow search: No space left on device.\n")


def test_eval_prints_a_table_and_writes_report_and_run(beir_folder, tmp_path, capsys):
    arguments = ["--data", str(beir_folder), "--system", "bm25", "--no-progress"]
    arguments += ["--json", str(tmp_path / "out.json"), "--out", str(tmp_path / "results")]
    assert eval_main(arguments) == 0
    table = capsys.readouterr().out
    assert table.startswith("tiny, test split: 2 judged queries\n")
    assert "1 judged queries without results count 0" in table
    report = json.loads((tmp_path / "out.json").read_text())
    (cell,) = report["cells"]
    assert (cell["dataset"], cell["split"], cell["system"], cell["queries"]) == ("tiny", "test", "bm25", 2)
    # q1 finds its document first, q2 finds nothing and counts as 0
    assert cell["measures"] == {"nDCG@10": 0.5, "R@100": 0.5, "R@1000": 0.5, "MRR@10": 0.5, "MAP": 0.5, "P@10": 0.05}
    costs = cell["efficiency"]
    for name in ("query_ms", "encode_ms", "search_ms"):
        assert 0 < costs[name]["p50"] <= costs[name]["p99"]
    assert (costs["documents"], costs["vectors"]) == (3, 0)
    assert min(costs[name] for name in ("postings", "index_bytes", "build_seconds", "peak_bytes")) > 0
    assert cell["command"] == "python -m eval.beir --data tiny --split test --system bm25"
    assert report["comparisons"] == []
    (run,) = (tmp_path / "results" / "tiny.test").glob("bm25-*.run")
    query, q0, document, rank, score, tag = run.read_text().split()
    assert (query, q0, document, rank, tag) == ("q1", "Q0", "tides", "1", run.stem)
    assert float(score) > 0


def test_eval_finds_a_bad_request_before_the_long_work(beir_folder, capsys):
    data = ["--data", str(beir_folder)]
    for arguments, message in [
        (data, "there is no system to measure"),
        (["--system", "bm25"], "there is no data set; give --data FOLDER"),
        (["--datasets", "scifcat", "--system", "bm25"], "did you mean scifact"),
        ([*data, "--system", "bm52"], "'bm52' is neither a folder with an index or a checkpoint nor a known model"),
        ([*data, "--system", "bm25", "--system", "mini,top_k=0"], "top_k is 0; it must be a whole number"),
        ([*data, "--system", "bm25", "--split", "dev"], "has no split 'dev'; its splits are test"),
        ([*data, "--system", "bm25+vectors", "--tune", "dev"], "has no split 'dev'; its splits are test"),
        ([*data, "--system", "bm25+vectors,fusion=sum"], "fusion is 'sum'; it must be one of min-max"),
        ([*data, "--system", "bm25,impacts=u16"], "bm25 stores term counts as they are"),
        ([*data, "--system", "bm25", "--measure", "nDGC@10"], "'nDGC@10' is not a measure"),
        ([*data, "--system", "bm25", "--measure", "nDCG@0"], "'nDCG@0' is not a measure"),
        ([*data, "--system", "bm25", "--measure", "P"], "'P' is not a measure"),
        ([*data, "--system", "bm25", "--depth", "0"], "depth is 0; it must be"),
        (["--reproduce", "--system", "bm25"], "--reproduce takes systems and settings from what is expected"),
        (["--reproduce", *data], "nothing is expected of the data sets that were given"),
    ]:
        assert message in failure(capsys, arguments, eval_main)


def test_a_download_without_a_network_is_one_sentence(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("eval.datasets.downloading.ADDRESS", "http://127.0.0.1:9/{name}.zip")
    err = failure(capsys, ["--dataset", "scifact", "--system", "bm25"], eval_main)
    assert "data set 'scifact' could not be downloaded" in err
    assert "give a local folder with --data" in err


@pytest.mark.parametrize("command", ["verify", "repair"])
def test_an_index_of_another_version_is_refused_and_not_called_damaged(folder, capsys, command):
    for name in ("winnow.json", "winnow.json.copy"):
        file = Path(folder) / name
        file.write_text(re.sub(r'"version": \d+', '"version": 99', file.read_text()))
    message = failure(capsys, [command, folder])
    assert "has format version 99, this release reads version" in message
    assert "damaged" not in message


def test_a_version_that_the_copy_contradicts_is_damage(folder, capsys):
    file = Path(folder) / "winnow.json"
    file.write_text(re.sub(r'"version": \d+', '"version": 99', file.read_text()))
    assert main(["verify", folder]) == 1
    assert f"`winnow repair {folder}` saves what is sound" in capsys.readouterr().out
    assert main(["repair", folder]) == 0


@pytest.mark.parametrize("command", ["verify", "repair"])
def test_an_index_of_another_kind_is_refused(folder, capsys, command):
    edit_manifest(folder, lambda fields: fields.update(kind="cellar"))
    (Path(folder) / "winnow.json.copy").unlink()
    assert "holds a cellar, not a retriever; open it with what wrote it" in failure(capsys, [command, folder])


def test_an_inverted_index_is_verified_and_cannot_be_repaired(tmp_path, capsys):
    rows = SparseRows(np.array([0, 2, 3]), np.array([0, 2, 2]), np.array([5.0, 1.0, 9.0]))
    InvertedIndex.build(rows, InvertedIndexOptions(3, "f32"), folder=tmp_path / "i")
    assert main(["verify", str(tmp_path / "i"), "--full"]) == 0
    capsys.readouterr()
    message = failure(capsys, ["repair", str(tmp_path / "i")])
    assert "holds an index without documents, of which nothing can be built again" in message
    (tmp_path / "i" / "part-000001" / "forward.scales.npy").write_bytes(b"")
    assert main(["verify", str(tmp_path / "i")]) == 1
    assert "it is an index without documents: restore it" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(("first", "second"), [("1", "2"), ("1", "true"), ("1", '"1"')])
def test_conditions_that_no_document_can_satisfy_are_refused(folder, capsys, first, second):
    message = failure(capsys, ["delete", folder, "--where", f"year={first}", "--where", f"year={second}"])
    assert f"--where wants 'year' to be {first} and {second}, which no document can satisfy" in message


def test_several_conditions_must_all_hold(folder, capsys):
    assert main(["delete", folder, "--where", "year=1999", "--where", "month=NaN"]) == 0
    assert "documents deleted: 0; left in" in capsys.readouterr().out
    assert main(["delete", folder, "--where", "year=1999", "--where", "year=1999"]) == 0
    assert "documents deleted: 1; left in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "value"),
    [("a=1", 1), ("a=x", "x"), ("a=NaN", "NaN"), ("a=b=c", "b=c"), ("a=" + "[" * 99_999, "[" * 99_999)],
)
def test_a_value_that_is_no_json_is_text(text, value):
    assert condition(text) == ("a", value)


def test_merging_says_what_it_did(folder, capsys):
    assert main(["merge", folder]) == 0
    assert capsys.readouterr().out == f"nothing to merge: {folder} has 1 segment and no deleted documents\n"
    retriever = Retriever.from_folder(folder)
    retriever.delete("bread")
    retriever.commit(merge=False)
    del retriever
    assert main(["merge", folder]) == 0
    assert capsys.readouterr().out == "merged 1 segment into 1, 1 deleted document gone; 0.0 MB before, 0.0 MB now\n"


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "was interrupted; the next commit goes on."),
        (StorageError("the disk is full."), 1, "failed: the disk is full."),
    ],
)
@pytest.mark.parametrize("command", ["add", "delete"])
def test_a_merge_that_fails_does_not_deny_the_commit(
    folder, tmp_path, capsys, monkeypatch, command, error, status, message
):
    def fail(*_):
        raise error

    monkeypatch.setattr("index.writer.due", fail)
    new = tmp_path / "new.jsonl"
    new.write_text('{"_id": "new", "text": "tide"}')
    assert main([command, folder, {"add": str(new), "delete": "bread"}[command]]) == status
    out, err = capsys.readouterr()
    assert f"winnow {command}: the changes are committed; the work after that {message}\n" in err
    assert {"add": "4, 1 more", "delete": "deleted: 1; left"}[command] in out
    assert len(Retriever.from_folder(folder)) == {"add": 4, "delete": 2}[command]


@pytest.mark.parametrize("command", ["add", "delete"])
def test_interrupting_a_change_leaves_the_old_index(folder, tmp_path, capsys, monkeypatch, command):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("index.folder_writer.seal", interrupt)
    new = tmp_path / "new.jsonl"
    new.write_text('{"_id": "new", "text": "tide"}')
    assert (
        main([command, folder, {"add": str(new), "delete": "bread"}[command], *["--no-progress"][: command == "add"]])
        == 130
    )
    assert capsys.readouterr().err == f"winnow {command}: interrupted; no index was changed.\n"
    assert len(Retriever.from_folder(folder)) == 3


def test_info_and_explain_of_a_dense_model(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("c.jsonl").write_text('{"_id": "a", "text": "green tea"}\n{"_id": "b", "text": "the moon"}\n')
    for model in ("minilm", "bm25+minilm"):
        assert main(["index", "c.jsonl", "--model", model, "--out", model, "--no-progress"]) == 0
        assert "2 dense vectors" in capsys.readouterr().out
        assert main(["info", model]) == 0
        out = capsys.readouterr().out
        assert "model minilm (pooling mean" in out
        assert "minilm: 2 vectors of 384 numbers, Flat: every vector is compared, exactly." in out
        assert main(["search", model, "tea", "-k", "1", "--explain"]) == 0
        out = capsys.readouterr().out
        assert "a" in out
        assert "minilm" in out
    assert main(["search", "minilm", "--vector", f"[1{', 0' * 383}]", "-k", "2"]) == 0
    assert main(["search", "minilm", "--vector", "[1, 2]"]) == 1
    assert "it must be 384 finite numbers" in capsys.readouterr().err
    for written in ('[1], "a": [2]', "[1", "3", "NaN"):
        assert main(["search", "minilm", "--vector", written]) == 1
        assert f"--vector {written!r} cannot be used" in capsys.readouterr().err
