"""Every block of the README is run, and prints what the README shows."""

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import ROOT, SHARED_DATA

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = Path(sys.executable).parent


def run(command, folder, **options):
    environment = {**os.environ, "PATH": f"{COMMANDS}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "100"}
    finished = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, **options)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def python_examples():
    """(code, what it prints): each python block is followed by a text block."""
    for (kind, code), following in pairwise(BLOCKS):
        if kind == "python":
            assert following[0] == "text"
            yield code, following[1]


def shell_examples():
    """(command, what it prints) of the console blocks."""
    for kind, block in BLOCKS:
        if kind == "console":
            for part in block.split("\n$ ") if block.startswith("$ ") else []:
                command, _, output = part.removeprefix("$ ").partition("\n")
                yield command, output


@pytest.mark.parametrize(("code", "output"), list(python_examples()), ids=lambda text: text.splitlines()[-1][:40])
def test_python_block(code, output, tmp_path):
    assert run([sys.executable, "-c", code], tmp_path) == output


@pytest.fixture(scope="module")
def shell_folder(tmp_path_factory):
    """Where the shell examples run, one after another: with the README's notes.jsonl in it."""
    folder = tmp_path_factory.mktemp("shell")
    (notes,) = [block for kind, block in BLOCKS if kind == "json"]
    (folder / "notes.jsonl").write_text(notes)
    return folder


@pytest.mark.parametrize(("command", "output"), list(shell_examples()), ids=lambda text: text[:50])
def test_shell_command(command, output, shell_folder):
    if "--datasets scifact" in command:
        if not (SHARED_DATA / "scifact").is_dir():
            pytest.skip(f"NOT RUN: the data set scifact is not at {SHARED_DATA}")
        command = command.replace("--datasets scifact", f"--data {SHARED_DATA / 'scifact'}")
        printed, shown = run(["bash", "-c", command], shell_folder), output
        assert without_times(printed) == without_times(shown)
    else:
        assert run(["bash", "-c", command], shell_folder).strip() == output.strip()


def without_times(table):
    """The cells of an evaluation's tables, but for times and memory, which stand in the wide one."""
    rows = [line.split() for line in table.strip().splitlines()]
    rows = [row for row in rows if not set("".join(row)) <= {"-"}]
    return [[row[0], row[9], *row[11:]] if row[0] == "bm25" and len(row) == 14 else row for row in rows]


def test_every_block_is_of_a_kind_that_is_run():
    assert {kind for kind, _ in BLOCKS} == {"python", "text", "sh", "json", "console"}
    (install,) = [block for kind, block in BLOCKS if kind == "sh"]
    assert install == "pip install '.[all]'\n"  # tests/end_to_end/test_wheel.py and `make wheel-check` install it


def test_the_first_result_comes_early():
    first_block_ends = README.splitlines().index("```", README.splitlines().index("```python"))
    assert first_block_ends < 30
    assert len(BLOCKS[0][1].strip().splitlines()) <= 15


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
