"""An evaluation as a whole: fusions tuned and cross-validated, results kept and found again, killed runs, several data sets."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from eval import provenance
from eval.beir import main as eval_main
from eval.cells import Cell
from eval.datasets import load_dataset, spec_named
from eval.experiment import Models, Settings, slug
from eval.kept import KeptResults
from eval.measures import measure_run
from eval.measuring import Work, cells_of, measure_all
from eval.memory import peak_bytes, reset_peak
from eval.systems import build, cross_validated, together, tuned_on
from index.errors import WinnowError
from index.locks import WriterLock
from retrieval import Fusion, Retriever
from retrieval.written_system import WrittenSystem

NUM_QUERIES = 20
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path):
    """Documents whose text and whose vector each tell half of what the queries ask."""
    return halves(tmp_path / "halves")


def halves(folder, seed=0):
    rng = np.random.default_rng(seed)
    (folder / "qrels").mkdir(parents=True)
    documents = [
        {
            "_id": f"d{i}",
            "text": f"word{i % 10} filler{rng.integers(5)}",
            "vector": {f"topic{i // 10}": 1.0 + rng.random()},
        }
        for i in range(100)
    ]
    queries = [{"_id": f"q{i}", "text": f"word{i % 10} topic{(i * 3) % 10}"} for i in range(NUM_QUERIES)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents))
    (folder / "queries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in queries))
    lines = [f"q{i}\td{(i * 3) % 10 * 10 + i % 10}\t1\n" for i in range(NUM_QUERIES)]
    for split in ("test", "train"):
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return folder


def evaluated(folder, tmp_path, *more):
    arguments = ["--data", str(folder), "--no-progress", "--json", str(tmp_path / "out.json"), "--depth", "50", *more]
    assert eval_main(arguments) == 0
    return json.loads((tmp_path / "out.json").read_text())


def test_a_fusion_is_compared_with_each_of_its_arms(folder, tmp_path, capsys):
    report = evaluated(folder, tmp_path, "--system", "bm25", "--system", "vectors", "--system", "bm25+vectors")
    values = {one["system"]: one["measures"]["nDCG@10"] for one in report["cells"]}
    assert values["bm25+vectors"] == 1.0 > max(values["bm25"], values["vectors"])
    pairs = [(one["system"], one["with"]) for one in report["comparisons"]]
    assert pairs == [("bm25+vectors", "bm25"), ("bm25+vectors", "vectors")]
    for one in report["comparisons"]:
        assert one["mean"] == pytest.approx(1 - values[one["with"]])
        assert one["low"] < one["mean"] < one["high"]
        assert one["p_value"] <= one["p_holm"] < 0.05
        assert sum(one["better_equal_worse"]) == NUM_QUERIES
    assert "paired t-test over queries" in capsys.readouterr().out


def test_fusions_are_named_and_tuned_on_another_split(folder, tmp_path, capsys):
    names = ["bm25+vectors,fusion=rrf", "bm25+vectors,fusion=z-score/per-query", "bm25+vectors"]
    more = [part for name in names for part in ("--system", name)]
    report = evaluated(folder, tmp_path, *more, "--tune", "train")
    assert [one["system"] for one in report["cells"]] == [*names, "bm25+vectors, tuned on train"]
    tuning = report["cells"][3]["tuning"]
    assert (tuning["queries"], tuning["is_adopted"]) == (NUM_QUERIES, True)
    assert "nDCG@10 of 20 queries" in capsys.readouterr().out


def test_cross_validation_tunes_no_query_on_itself(folder, tmp_path, monkeypatch):
    dataset = load_dataset(folder)
    models, arms = Models(), [WrittenSystem.of(name) for name in ("bm25", "vectors")]
    for arm in arms:
        models.load(arm)
    built = together([build(models.encoders[str(arm)], folder, None, False) for arm in arms])
    seen = []

    def tuned(retriever, judged, depth, measure, progress):
        seen.append(set(judged.queries))
        return type("Tuned", (), {"fusion": Fusion(weights={"bm25": 1})})

    monkeypatch.setattr("eval.systems.tuned_on", tuned)
    run, _ = cross_validated(built.retriever, dataset, 50, "nDCG@10", False)
    assert list(run) == list(dataset.queries)
    held_out = [set(dataset.queries) - queries for queries in seen]
    assert sorted(query for fold in held_out for query in fold) == sorted(dataset.queries)
    monkeypatch.undo()
    report = evaluated(folder, tmp_path, "--system", "bm25+vectors", "--tune", "cv")
    assert report["cells"][1]["system"] == "bm25+vectors, cross-validated"
    assert report["cells"][1]["measures"]["nDCG@10"] > 0.9


def test_a_finished_cell_is_found_again_and_other_measures_need_no_other_run(folder, tmp_path, monkeypatch):
    more = ["--system", "bm25", "--system", "bm25+vectors", "--tune", "train", "--out", str(tmp_path / "results")]
    first = evaluated(folder, tmp_path, *more)
    monkeypatch.setattr("eval.experiment.build", lambda *_: pytest.fail("built again"))
    again = evaluated(folder, tmp_path, *more)
    assert again == first
    other = evaluated(folder, tmp_path, *more, "--measure", "nDCG@10", "--measure", "P@1")
    assert set(other["cells"][0]["measures"]) == {"nDCG@10", "P@1"}
    assert not list((tmp_path / "results" / "indexes").iterdir())


@pytest.mark.parametrize(
    "change", ["depth", "corpus", "qrels", "code", "run lost", "run cut", "json cut", "not a cell"]
)
def test_a_cell_is_measured_again_when_what_it_depends_on_has_changed(folder, tmp_path, monkeypatch, change):
    results = tmp_path / "results"
    more = ["--system", "bm25", "--out", str(results)]
    evaluated(folder, tmp_path, *more)
    (kept,), (run,) = results.rglob("*.json"), results.rglob("*.run")
    if change == "depth":
        more += ["--depth", "7"]
    elif change in ("corpus", "qrels"):
        path = folder / ("corpus.jsonl" if change == "corpus" else "qrels/test.tsv")
        path.write_text(path.read_text().replace("word1 ", "word2 ").replace("\t1\n", "\t2\n"))
    elif change == "code":
        monkeypatch.setattr("eval.kept.code_fingerprint", lambda: "other")
    elif change == "run lost":
        run.unlink()
    elif change == "run changed":  # as by another run that was killed before it described its own
        run.write_text(run.read_text().replace("d1 ", "d2 "))
    elif change == "not a cell":
        kept.write_text("[]")
    else:
        path = run if change == "run cut" else kept
        path.write_text(path.read_text()[: len(path.read_text()) // 2])
    built = []
    monkeypatch.setattr("eval.experiment.build", lambda *given: built.append(1) or build(*given))
    report = evaluated(folder, tmp_path, *more)
    assert built == [1]
    fresh = evaluated(folder, tmp_path, *[part for part in more if part not in ("--out", str(results))])
    assert report["cells"][0]["measures"] == fresh["cells"][0]["measures"]


KILLED = """
import os, signal, sys
from eval import kept
from eval.beir import main
keep = kept.KeptResults.keep
def kept_then_killed(self, result, measures):
    keep(self, result, measures)
    os.kill(os.getpid(), signal.SIGKILL)
kept.KeptResults.keep = kept_then_killed
main(sys.argv[1:])
"""


def test_a_run_that_is_killed_goes_on_with_the_arms_and_cells_that_it_has(folder, tmp_path, monkeypatch):
    out = tmp_path / "results"
    systems = [part for name in ("bm25", "vectors", "bm25+vectors") for part in ("--system", name)]
    arguments = ["--data", str(folder), "--depth", "50", "--no-progress", "--out", str(out), *systems]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], env=environment, cwd=ROOT, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.name for path in out.glob("*/*.json")] == [f"{slug('bm25')}.json"]
    built = []
    monkeypatch.setattr(
        "eval.experiment.build", lambda *given: built.append(given[2] and given[2].name) or build(*given)
    )
    resumed = evaluated(folder, tmp_path, *systems, "--out", str(out))
    whole = evaluated(folder, tmp_path, *systems)
    assert [one["measures"] for one in resumed["cells"]] == [one["measures"] for one in whole["cells"]]
    assert resumed["comparisons"] == whole["comparisons"]
    assert [name.partition("-")[0] for name in built[:2]] == [
        "vectors",
        "bm25",
    ]  # `vectors` was next; bm25 is opened again for the fusion


def test_an_arm_that_was_built_before_is_opened_and_half_of_one_is_built_anew(folder, tmp_path):
    models = Models()
    models.load(WrittenSystem.of("bm25"))
    encoder, place = models.encoders["bm25"], tmp_path / "indexes" / "bm25"
    half = Retriever(encoder)
    half.save_pretrained(place, progress=False)
    first = build(encoder, folder, place, False)
    assert len(first.retriever) == 100
    second = build(encoder, folder, place, False)
    assert second.costs == first.costs
    assert second.retriever.search("word3") == first.retriever.search("word3")


def test_splits_of_one_corpus_share_its_arms(folder, tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr("eval.experiment.build", lambda *given: built.append(1) or build(*given))
    report = evaluated(folder, tmp_path, "--system", "bm25", "--split", "train", "--split", "test")
    assert [one["split"] for one in report["cells"]] == ["train", "test"]
    assert built == [1]


def test_a_tuned_cell_depends_on_the_judgments_that_tune_it(folder, tmp_path, monkeypatch):
    more = ["--system", "bm25+vectors", "--tune", "train", "--out", str(tmp_path / "results")]
    evaluated(folder, tmp_path, *more)
    with (folder / "qrels" / "train.tsv").open("a") as file:
        file.write("q0\td5\t1\n")
    tuned = []
    monkeypatch.setattr("eval.experiment.tuned_on", lambda *given: tuned.append(1) or tuned_on(*given))
    evaluated(folder, tmp_path, *more)
    assert tuned == [1]


def test_one_process_at_a_time_writes_to_a_folder_of_results(folder, tmp_path, capsys):
    out = tmp_path / "results"
    lock = WriterLock(out)
    assert eval_main(["--data", str(folder), "--system", "bm25", "--no-progress", "--out", str(out)]) == 1
    assert f"is already writing to {out}" in capsys.readouterr().err
    lock.release()
    evaluated(folder, tmp_path, "--system", "bm25", "--out", str(out))


def test_several_data_sets_have_a_table_each_and_one_of_their_means(folder, tmp_path, capsys):
    halves(tmp_path / "others", seed=1)
    more = ["--data", str(tmp_path / "others"), "--system", "bm25", "--system", "vectors"]
    report = evaluated(folder, tmp_path, *more)
    assert [(one["dataset"], one["system"]) for one in report["cells"]] == [
        ("halves", "bm25"), ("halves", "vectors"), ("others", "bm25"), ("others", "vectors"),
    ]  # fmt: skip
    summary = capsys.readouterr().out.rpartition("\n\n\nnDCG@10\n")[2].splitlines()
    assert summary[1].split() == ["system", "halves", "others", "mean"]
    values = [one["measures"]["nDCG@10"] for one in report["cells"][::2]]
    assert summary[3].split() == ["bm25", *(f"{value:.4f}" for value in [*values, sum(values) / 2])]


def test_a_data_set_of_parts_enters_the_mean_once(tmp_path, capsys):
    for name in ("first", "second"):
        halves(tmp_path / "whole" / name, seed=len(name))
    halves(tmp_path / "other")
    report = evaluated(tmp_path / "whole", tmp_path, "--data", str(tmp_path / "other"), "--system", "vectors")
    assert [one["dataset"] for one in report["cells"]] == ["whole-first", "whole-second", "other"]
    assert [one["part_of"] for one in report["cells"]] == ["whole", "whole", None]
    summary = capsys.readouterr().out.rpartition("\n\n\nnDCG@10\n")[2].splitlines()
    first, second, other = (one["measures"]["nDCG@10"] for one in report["cells"])
    whole = (first + second) / 2
    assert summary[1].split() == ["system", "whole", "other", "mean"]
    assert summary[3].split()[1:] == [f"{value:.4f}" for value in (whole, other, (whole + other) / 2)]


def asking_itself(folder):
    """Queries that are documents: each finds itself first."""
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"{i}", "text": f"word{i % 3} own{i}"} for i in range(6)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents))
    (folder / "queries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents[:3]))
    (folder / "qrels" / "test.tsv").write_text("".join(f"{i}\t{i + 3}\t1\n" for i in range(3)))
    return folder


def test_equal_ids_are_kept_unless_the_data_set_or_the_user_says_otherwise(tmp_path, capsys):
    folder = asking_itself(tmp_path / "own")
    kept = evaluated(folder, tmp_path, "--system", "bm25")["cells"][0]
    assert kept["measures"]["MRR@10"] == 0.5
    assert kept["counts"]["self_retrieved_removed"] == 0
    arguments = "--system", "bm25", "--self-retrieval", "remove", "--depth", "1"
    removed = evaluated(folder, tmp_path, *arguments)["cells"][0]
    assert removed["measures"]["MRR@10"] == 1.0  # the second best is there even at depth 1
    assert removed["counts"]["self_retrieved_removed"] == 3
    assert "3 documents that are the query itself were taken out of the rankings" in capsys.readouterr().out


def test_what_is_odd_about_a_data_set_stands_under_its_numbers(folder, tmp_path, capsys):
    with (folder / "qrels" / "test.tsv").open("a") as file:
        file.write("q0\tnowhere\t1\nnobody\td1\t1\n")
    report = evaluated(folder, tmp_path, "--system", "bm25")
    (cell,) = report["cells"]
    assert cell["queries"] == NUM_QUERIES + 1
    assert cell["counts"]["judged_documents_missing"] == 1
    assert cell["counts"]["judged_queries_missing"] == 1
    said = capsys.readouterr().out
    assert "test.tsv:22 judges the document 'nowhere' that the corpus lacks" in said
    assert "test.tsv:23 judges the query 'nobody' that queries.jsonl lacks" in said


def test_measures_of_a_cell_are_those_of_its_run(folder, tmp_path):
    out = tmp_path / "results"
    report = evaluated(folder, tmp_path, "--system", "bm25", "--out", str(out))
    dataset = load_dataset(folder)
    work = Work(dataset, cells_of([WrittenSystem.of("bm25")], None))
    store = KeptResults(dataset, Settings(50, "nDCG@10", False), out)
    found = store.find(work.cells[0])
    assert measure_run(dataset.qrels, found.run, ["nDCG@10", "MAP"]) == {
        name: report["cells"][0]["measures"][name] for name in ("nDCG@10", "MAP")
    }


def test_the_code_is_all_files_that_a_number_depends_on(tmp_path, monkeypatch):
    for name in (
        "kernels/a.py",
        "retrieval/models/m/model.safetensors",
        "eval/reproduction/expected.json",
        "eval/b.toml",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    prints = [provenance.code_fingerprint.__wrapped__()]
    for name in ("kernels/a.py", "retrieval/models/m/model.safetensors", "eval/b.toml"):
        (tmp_path / name).write_text("2")
        prints.append(provenance.code_fingerprint.__wrapped__())
    assert len(set(prints)) == 4
    (tmp_path / "eval/reproduction/expected.json").write_text("2")
    assert provenance.code_fingerprint.__wrapped__() == prints[-1]


def test_a_local_model_is_known_by_its_files_also_as_the_reranker_of_a_saved_folder(folder, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_text("1")
    Retriever.from_pretrained(f"bm25,rerank=icr:{model}").index(folder, progress=False).save_pretrained(tmp_path / "s")
    systems = [WrittenSystem.of(f"bm25,rerank=icr:{model}"), WrittenSystem.of(str(tmp_path / "s"))]
    before = [provenance.models_fingerprint(system) for system in systems]
    assert before == [provenance.models_fingerprint(system) for system in systems]
    (model / "weights").write_text("22")
    assert not set(before) & {provenance.models_fingerprint(system) for system in systems}


def test_the_command_of_a_cell_measures_it_again(folder, tmp_path, monkeypatch):
    halves(tmp_path / "whole" / "part one", seed=3)
    monkeypatch.chdir(tmp_path)
    more = ["--self-retrieval", "remove", "--tune", "train", "--measure", "R@5", "--system", "bm25+vectors"]
    for data in ("halves", "whole"):
        report = evaluated(Path(data), tmp_path, *more)
        for cell in report["cells"]:
            command = shlex.split(cell["command"])
            assert command[:3] == ["python", "-m", "eval.beir"]
            again = tmp_path / "again.json"
            assert eval_main([*command[3:], "--measure", "R@5", "--no-progress", "--json", str(again)]) == 0
            (same,) = [one for one in json.loads(again.read_text())["cells"] if one["system"] == cell["system"]]
            assert same["measures"]["R@5"] == cell["measures"]["R@5"]
            assert same["command"] == cell["command"]


def test_two_data_sets_of_one_name_are_told_apart_by_nobody(folder, tmp_path, capsys):
    other = halves(tmp_path / "elsewhere" / "halves")
    arguments = ["--data", str(folder), "--data", str(other), "--system", "bm25", "--no-progress"]
    assert eval_main(arguments) == 1
    assert "are both called halves; rename one of the folders" in capsys.readouterr().err
    report = evaluated(folder, tmp_path, "--data", str(folder), "--system", "bm25")
    assert len(report["cells"]) == 1


def test_an_id_that_no_run_can_hold_is_told_before_anything_is_measured(folder, tmp_path, monkeypatch, capsys):
    with (folder / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "d 100", "text": "blank"}\n')
    assert len(evaluated(folder, tmp_path, "--system", "bm25")["cells"]) == 1
    monkeypatch.setattr("eval.experiment.build", lambda *_: pytest.fail("built"))
    arguments = ["--data", str(folder), "--system", "bm25", "--no-progress", "--out", str(tmp_path / "results")]
    assert eval_main(arguments) == 1
    assert "corpus.jsonl:101 has an id with white space" in capsys.readouterr().err


def test_a_saved_index_of_other_documents_is_told(folder, tmp_path, capsys):
    others = [{"_id": f"other{i}", "text": f"word{i % 10}"} for i in range(100)]
    Retriever.from_pretrained("bm25").index(others, progress=False).save_pretrained(tmp_path / "saved")
    evaluated(folder, tmp_path, "--system", str(tmp_path / "saved"))
    assert "the saved index lacks 10 judged documents that the corpus has." in capsys.readouterr().out


def test_a_measure_of_some_queries_alone_says_of_which(folder, tmp_path, capsys):
    with (folder / "qrels" / "test.tsv").open("a") as file:
        file.write("q0\td5\t1\n")
    evaluated(folder, tmp_path, "--system", "bm25", "--measure", "AllGold@10")
    assert (
        "AllGold@10 is over the 20 of 20 queries with a relevant document; with two or more: 1."
        in capsys.readouterr().out
    )


def test_a_group_leaves_out_what_needs_a_licence_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("eval.datasets.specs.GROUPS", ("all",))
    monkeypatch.setattr("eval.datasets.named", lambda written: [spec_named("bioasq")])
    for written, told in (("all", "there is no data set"), ("bioasq", "bioasq cannot be downloaded")):
        assert eval_main(["--datasets", written, "--system", "bm25"]) == 1
        err = capsys.readouterr().err
        assert told in err
        assert ("bioasq is left out: it needs a licence" in err) == (written == "all")


@pytest.mark.parametrize("more", [["--depth", "5"], ["--self-retrieval", "keep"], ["--measure", "MAP"]])
def test_what_is_expected_is_measured_in_one_way(folder, tmp_path, capsys, more):
    assert eval_main(["--data", str(folder), "--system", "bm25", "--accept", *more]) == 1
    assert "--accept keeps values of the usual measures" in capsys.readouterr().err
    assert eval_main(["--reproduce", "--data", str(folder), *more]) == 1
    assert "--reproduce takes systems and settings from what is expected" in capsys.readouterr().err


def test_names_of_cells_are_read_back():
    for name in ("bm25", "bm25+minilm, tuned on train", "bm25+vectors, cross-validated", "bm25,rerank=icr:m,depth=5"):
        assert Cell.of_name(name).name == name
    assert slug("a b") != slug("a-b")


def test_nothing_is_measured_where_a_later_system_cannot_be_had(folder, monkeypatch):
    systems = [WrittenSystem.of("bm25"), WrittenSystem.of("no/such/model")]
    monkeypatch.setattr("eval.experiment.build", lambda *_: pytest.fail("built"))
    with pytest.raises(WinnowError, match="no/such/model"):
        next(measure_all([Work(load_dataset(folder), cells_of(systems, None))], Settings(10, "MAP", False), ["MAP"]))


def test_the_peak_of_memory_is_of_what_happens_now():
    held = bytearray(200 << 20)
    reset_peak()
    high = peak_bytes()
    del held
    reset_peak()
    assert peak_bytes() < high - (100 << 20)


def test_expected_values_are_measured_again_and_one_that_moved_fails(folder, tmp_path, monkeypatch, capsys):
    expected = tmp_path / "expected.json"
    expected.write_text("[]")
    monkeypatch.setattr("eval.reproduction.cells.EXPECTED", expected)
    monkeypatch.setattr("eval.reproduction.cells.read_expected.__defaults__", (expected,))
    monkeypatch.setattr("eval.reproduction.rerun.accept.__defaults__", (expected,))
    systems = ["--system", "bm25", "--system", "bm25+vectors", "--tune", "train"]
    assert eval_main(["--data", str(folder), "--no-progress", *systems, "--accept"]) == 0
    assert len(json.loads(expected.read_text())) == 3
    again = ["--reproduce", "--data-root", str(tmp_path), "--no-progress", "--html", str(tmp_path / "page.html")]
    assert eval_main(again) == 0
    assert "3 of 3 expected cells were measured again; values that moved: 0" in capsys.readouterr().out
    cells = json.loads(expected.read_text())
    cells[0]["measures"]["MAP"] += 0.01
    cells.append({**cells[0], "dataset": "elsewhere"})
    expected.write_text(json.dumps(cells))
    assert eval_main(again) == 1
    said = capsys.readouterr().out
    assert "values that moved: 1\n  MAP of bm25 on halves is " in said
    assert "not run, as it is not at hand or was not asked for: elsewhere" in said
    assert "bm25" in (tmp_path / "page.html").read_text()
