"""Each storm of tests/storms for a short while, in a process of its own: a fork needs one without threads.

The long runs and what came of them: docs/reliability.md.
"""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

STORMS = {
    "kills": ["kill_storm", "--kills", "25"],
    "flips": ["flips", "--flips", "4", "--searched", "2", "--cuts", "6", "--names", "bm25"],
    "flips of a second tier": ["flips", "--flips", "25", "--searched", "4", "--cuts", "64", "--names", "second-tier"],
    "mixed load": ["mixed_load", "--seconds", "6"],
    "two threads": ["two_threads", "--seconds", "4"],
    "file size limits": ["limits", "--rounds", "20"],
    "failing disk": ["failing_disk", "--most-calls", "5"],
}


@pytest.mark.parametrize("arguments", STORMS.values(), ids=STORMS)
def test_a_short_storm_finds_nothing(arguments, tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "TMPDIR": str(tmp_path)}
    finished = subprocess.run(
        [sys.executable, "-m", f"storms.{arguments[0]}", *arguments[1:]],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
