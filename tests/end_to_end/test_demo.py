"""`winnow demo` from its first line to its last: the whole path on the default model and real documents."""

import subprocess
import sys

from conftest import ROOT


def test_the_demo_answers_its_questions():
    finished = subprocess.run([sys.executable, "-m", "winnow", "demo"], cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "encoding: 100%" in finished.stderr
    answers = {part.splitlines()[0]: part for part in finished.stdout.split("? ")[1:]}
    for question, expected in {
        "read a csv file row by row": "csv.reader",
        "delete a directory and everything in it": "shutil.rmtree",
        "generate a random password": "secrets",
    }.items():
        first_hit = answers[question].splitlines()[2]
        assert first_hit.split()[0] == "1"
        assert first_hit.split()[2].startswith(expected)
    assert "+directory" in answers["delete a directory and everything in it"]
