"""`winnow eval score` and `winnow eval compare`: what they print, write and refuse."""

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from eval.compare import CORRECTION_NAMES, shown
from eval.compare import main as compare_main
from eval.score import main as score_main
from eval.significance import CORRECTIONS
from winnow.cli import main

NUM_QUERIES = 8
BLOCKS = re.findall(
    r"^```(console|python)\n(.*?)^```$", (ROOT / "docs" / "evaluation.md").read_text(), re.MULTILINE | re.DOTALL
)
MEASURES = ["--measure", "RR", "--measure", "AllGold@1"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Qrels, texts and three runs: in `base` every query finds its document second, in `better` half of them first, in `other`
    the last one loses its results and one is nobody's."""
    monkeypatch.chdir(tmp_path)
    queries = [f"q{i}" for i in range(NUM_QUERIES)]
    judged = [f"{query}\td\t1\n" for query in queries] + ["q0\te\t1\n"]
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged))
    texts = [json.dumps({"_id": query, "text": f"text of\n{query}\x1b[2J"}) for query in queries]
    (tmp_path / "queries.jsonl").write_text("\n".join(texts))
    for name, firsts in (("base", ()), ("better", queries[:4]), ("other", ())):
        lines = []
        for query in queries if name != "other" else [*queries[:-1], "x"]:
            lines += [f"{query} Q0 x 1 {0 if query in firsts else 2} {name}\n", f"{query} Q0 d 2 1 {name}\n"]
        (tmp_path / f"{name}.run").write_text("".join(lines))
    return tmp_path


def failure(capsys, arguments, command=main):
    assert command(arguments) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


def test_score_prints_a_row_and_what_is_odd(folder, capsys):
    assert main(["eval", "score", "other.run", "qrels.tsv", *MEASURES]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "other.run beside qrels.tsv: 8 judged queries",
        "",
        "run            RR  AllGold@1",
        "----------------------------",
        f"other.run  {7 / 2 / 8:.4f}     0.0000",
        "",
        "AllGold@1 is over the 8 of 8 queries with a relevant document; with two or more: 1.",
        "1 of 8 judged queries has no results in other.run ('q7' first); it counts 0.",
        "1 query of other.run has no judgments ('x' first); it does not count.",
    ]


def test_score_writes_full_precision_and_a_row_a_query(folder):
    arguments = ["other.run", "qrels.tsv", "--measure", "nDCG@10", "--measure", "AllGold@2"]
    assert score_main([*arguments, "--json", "new/out.json", "--per-query", "new/out.tsv"]) == 0
    report = json.loads((folder / "new" / "out.json").read_text())
    rows = [line.split("\t") for line in (folder / "new" / "out.tsv").read_text().splitlines()]
    assert rows[0] == ["query", "nDCG@10", "AllGold@2"]
    assert [row[0] for row in rows[1:]] == [f"q{i}" for i in range(NUM_QUERIES)]
    assert sum(float(row[1]) for row in rows[1:]) / NUM_QUERIES == pytest.approx(
        report["measures"]["nDCG@10"], abs=1e-15
    )
    assert [row[2] for row in rows[1:]] == ["0.0", *["1.0"] * 6, "0.0"]
    assert (report["queries"], report["run"], report["qrels"]) == (8, "other.run", "qrels.tsv")
    assert report["counts"] == {
        "queries_without_results": 1,
        "queries_without_judgments": 1,
        "self_retrieved_removed": 0,
    }


def test_a_query_that_a_measure_leaves_out_has_no_value(folder):
    (folder / "qrels.tsv").write_text("q0 0 d 1\nq1 0 d 0\n")
    assert score_main(["base.run", "qrels.tsv", *MEASURES, "--per-query", "out.tsv"]) == 0
    assert (folder / "out.tsv").read_text() == "query\tRR\tAllGold@1\nq0\t0.5\t0.0\nq1\t0.0\t\n"


def test_self_retrieval_is_removed_where_it_is_asked_for(folder, capsys):
    (folder / "self.run").write_text("q0 Q0 q0 1 2 t\nq0 Q0 d 2 1 t\n")
    for more, value in ([], 1 / 2), (["--remove-self"], 1):
        assert score_main(["self.run", "qrels.tsv", "--measure", "RR", "--json", "out.json", *more]) == 0
        report = json.loads((folder / "out.json").read_text())
        assert report["measures"]["RR"] == value / NUM_QUERIES
        assert report["counts"]["self_retrieved_removed"] == len(more)
    assert "documents of self.run that have the id of their query and were removed: 1." in capsys.readouterr().out


def test_compare_tells_differences_tests_and_queries(folder, capsys):
    arguments = ["eval", "compare", "--qrels", "qrels.tsv", "base.run", "better.run", "other.run", "--measure", "RR"]
    assert main([*arguments, "--queries", "queries.jsonl", "--worst", "2", "--json", "out.json"]) == 0
    out = capsys.readouterr().out
    assert f"better.run  {(4 + 4 / 2) / 8:.4f}\n" in out
    assert "better.run: in 4 of 8 queries the rank column disagrees with the scores" in out
    assert (
        "better.run beside base.run, RR: largest gains\n"
        "  +0.5000  0.5000 to 1.0000  q0  text of q0 [2J\n"
        "  +0.5000  0.5000 to 1.0000  q1  text of q1 [2J\n"
        "better.run beside base.run, RR: largest losses: none\n"
    ) in out
    assert "other.run beside base.run, RR: largest losses\n  -0.5000  0.5000 to 0.0000  q7  text of q7 [2J\n" in out
    report = json.loads((folder / "out.json").read_text())
    assert (report["baseline"], report["correction"], report["queries"]) == ("base.run", "holm", 8)
    better, other = report["comparisons"]
    assert better["mean"] == 4 * 0.5 / 8
    assert better["better_equal_worse"] == [4, 4, 0]
    assert better["p_randomisation"] == 2 / 2**4  # four differences, all of one sign
    assert better["p_randomisation_corrected"] == 2 * 2 / 2**4
    assert other["p_randomisation"] == other["p_randomisation_corrected"] == 1
    assert better["differences"] == {f"q{i}": 0.5 if i < 4 else 0.0 for i in range(8)}
    assert [one["measures"]["RR"] for one in report["runs"]] == [1 / 2, 6 / 8, 7 / 16]


def test_the_largest_gains_and_losses_come_first(folder, capsys):
    (folder / "qrels.tsv").write_text("".join(f"q{i} 0 d 1\n" for i in range(6)))
    ranked = {  # query -> rank of the relevant document, before and after
        "q0": (2, 1), "q1": (4, 1), "q2": (3, 1), "q3": (1, 3), "q4": (1, 4), "q5": (1, 2),
    }  # fmt: skip
    for number, name in enumerate(("before.run", "after.run")):
        lines = [f"{query} Q0 {'d' if rank == ranks[number] else f'x{rank}'} {rank} {-rank} t\n"
                 for query, ranks in ranked.items() for rank in range(1, 5)]  # fmt: skip
        (folder / name).write_text("".join(lines))
    arguments = ["--qrels", "qrels.tsv", "before.run", "after.run", "--measure", "RR", "--worst", "2"]
    assert compare_main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[-6:] == [
        "after.run beside before.run, RR: largest gains",
        "  +0.7500  0.2500 to 1.0000  q1",
        "  +0.6667  0.3333 to 1.0000  q2",
        "after.run beside before.run, RR: largest losses",
        "  -0.7500  1.0000 to 0.2500  q4",
        "  -0.6667  1.0000 to 0.3333  q3",
    ]


def test_the_baseline_may_be_any_run(folder, capsys):
    common = ["--qrels", "qrels.tsv", "--measure", "RR", "--worst", "0", "base.run", "better.run"]
    for baseline, difference in (
        ("better.run", "base.run  RR          -0.2500"),
        ("other.run", "better.run  RR          +0.3125"),
    ):
        assert compare_main([*common, "--baseline", baseline]) == 0
        out = capsys.readouterr().out
        assert f"beside {baseline}, paired over 8 queries" in out
        assert difference in out
        assert "largest" not in out


def test_only_the_first_measure_is_tested_unless_more_are_named(folder, capsys):
    common = ["--qrels", "qrels.tsv", "base.run", "better.run", "--json", "out.json"]
    for more, tested in ([], ["nDCG@10"]), (["--measure", "P@1", "--measure", "RR"], ["P@1", "RR"]):
        assert compare_main([*common, *more]) == 0
        report = json.loads((folder / "out.json").read_text())
        assert [one["measure"] for one in report["comparisons"]] == tested
        assert len(report["runs"][0]["measures"]) == (len(tested) if more else 6)


def test_runs_of_one_name_are_told_apart(folder, capsys):
    (folder / "mine").mkdir()
    (folder / "mine" / "base.run").write_text((folder / "better.run").read_text())
    assert compare_main(["--qrels", "qrels.tsv", "base.run", "mine/base.run", "--measure", "RR"]) == 0
    assert "mine/base.run beside base.run, RR: largest gains" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["out.png", "out.svg"])
def test_a_picture_is_drawn(folder, name):
    assert compare_main(["--qrels", "qrels.tsv", "base.run", "better.run", "other.run", "--plot", name]) == 0
    content = (folder / name).read_bytes()
    assert content.startswith(b"\x89PNG" if name.endswith("png") else b"<?xml")
    assert len(content) > 5_000


def test_one_judged_query_has_no_interval(folder, capsys):
    (folder / "qrels.tsv").write_text("q0 0 d 1\n")
    more = ["--measure", "RR", "--json", "out.json", "--plot", "out.svg"]
    assert compare_main(["--qrels", "qrels.tsv", "base.run", "better.run", *more]) == 0
    (one,) = json.loads((folder / "out.json").read_text())["comparisons"]
    assert (one["interval"], one["bootstrap_interval"], one["p_t"], one["p_randomisation"]) == (
        [None] * 2,
        [None] * 2,
        1,
        1,
    )


def test_a_bad_request_is_one_sentence_and_nothing_is_written(folder, capsys):
    (folder / "nan.run").write_text("q0 Q0 d 1 nan t\n")
    (folder / "empty.tsv").write_text("")
    score, compare = ["eval", "score"], ["eval", "compare", "--qrels", "qrels.tsv"]
    for arguments, message in [
        ([*score, "nan.run", "qrels.tsv", "--json", "o.json"], "nan.run:1 has the score 'nan', which is not finite"),
        ([*score, "no.run", "qrels.tsv"], "no.run is not a file"),
        ([*score, "base.run", "empty.tsv"], "empty.tsv holds no judgments"),
        ([*score, "base.run", "no.tsv"], "no.tsv: No such file or directory"),
        ([*score, "base.run", "qrels.tsv", "--measure", "best"], "'best' is not a measure"),
        ([*compare, "base.run"], "base.run is the only run; give two or more to compare"),
        ([*compare, "base.run", "base.run"], "the run base.run is given twice"),
        ([*compare, "base.run", "./base.run"], "the run base.run is given twice"),
        ([*compare, "base.run", "nan.run", "--json", "o.json"], "nan.run:1 has the score"),
        ([*compare, "base.run", "better.run", "--worst", "-1"], "worst is -1; it must be"),
        (
            [*compare, "base.run", "better.run", "--plot", "o.gif"],
            "--plot is 'o.gif'; name a file that ends in .png or",
        ),
        ([*compare, "base.run", "better.run", "--queries", "no.jsonl"], "no.jsonl: No such file"),
    ]:
        assert message in failure(capsys, arguments)
    assert not list(folder.glob("o.*"))


def test_eval_itself_asks_for_data_and_a_system(capsys):
    for arguments, message in [
        (["eval", "--system", "bm25"], "there is no data set; give --data FOLDER"),
        (["eval", "--data", "."], "there is no system to measure"),
    ]:
        assert message in failure(capsys, arguments)


def test_without_matplotlib_a_sentence_says_what_to_install(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    arguments = ["--qrels", "qrels.tsv", "base.run", "better.run", "--plot", "o.png"]
    assert "--plot needs the package matplotlib; run `pip install" in failure(capsys, arguments, compare_main)


def test_a_text_is_one_line():
    assert shown("a\tb\n c\x07d") == "a b c d"
    assert shown("w " * 80) == ("w " * 48).rstrip() + " ..."
    assert len(shown("x" * 500)) == 100


def test_the_names_of_corrections_are_those_there_are():
    assert tuple(CORRECTIONS) == CORRECTION_NAMES


@pytest.mark.parametrize(
    "command", ["winnow eval", "winnow eval score", "winnow eval compare", "eval.score", "eval.compare"]
)
def test_help_imports_nothing_heavy(command):
    module, *more = command.split()
    heavy = "{'torch', 'beir', 'ir_measures', 'scipy', 'numpy', 'matplotlib', 'numba'}"
    code = (
        "import sys, importlib\n"
        f"module = importlib.import_module('winnow.cli' if {module!r} == 'winnow' else {module!r})\n"
        f"try:\n    module.main({[*more, '--help']!r})\n"
        "except SystemExit:\n"
        f"    found = {heavy} & set(sys.modules)\n"
        "    sys.exit(repr(found) if found else 0)\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "usage:" in finished.stdout


def test_the_examples_of_the_documentation_print_what_it_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = [block.removeprefix("$ ").partition("\n") for kind, block in BLOCKS if kind == "console"]
    for command, _, content in blocks:
        if command.startswith("cat "):
            (tmp_path / command.removeprefix("cat ")).write_text(content)
    shown_here = [
        (command, output) for command, _, output in blocks if re.match("winnow eval (score|compare) ", command)
    ]
    assert len(shown_here) == 2
    for command, output in shown_here:
        assert main(command.split()[1:]) == 0
        assert capsys.readouterr().out == output
    (code,) = [block for kind, block in BLOCKS if kind == "python" and "read_run" in block]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    ).stdout
    assert printed.startswith("['bm25.run: in 1 of 3 queries equal scores")
    assert printed.endswith("{'RR': 0.5}\n")
