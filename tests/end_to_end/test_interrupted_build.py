"""`winnow index` killed while it works: what was there before still opens, and the next run succeeds."""

import json
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from index.errors import IndexFormatError
from retrieval import Retriever

CORPUS = "\n".join(json.dumps({"_id": str(n), "text": f"word{n % 97} word{n % 89} common"}) for n in range(20_000))


def build(tmp_path, wait_for=None, *options):
    """Run the command; kill it once the path `wait_for` has appeared."""
    command = [sys.executable, "-m", "winnow", "index", str(tmp_path / "c.jsonl"), "--out", str(tmp_path / "i")]
    process = subprocess.Popen(
        [*command, "--model", "bm25", "--no-progress", *options], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    while wait_for is not None and not wait_for.exists() and process.poll() is None:
        time.sleep(0.001)
    if wait_for is not None:
        process.kill()
    return process.wait()


def test_a_killed_build_cannot_be_opened_and_can_be_run_again(tmp_path):
    (tmp_path / "c.jsonl").write_text(CORPUS)
    assert build(tmp_path, tmp_path / "i" / "part-000001") == -signal.SIGKILL
    with pytest.raises(IndexFormatError, match="did not finish"):
        Retriever.from_pretrained(tmp_path / "i")
    assert build(tmp_path) == 0
    assert len(Retriever.from_pretrained(tmp_path / "i", verify="full")) == 20_000
    # killed while replacing it, the finished index stays: one part of the model, one of each shard
    assert build(tmp_path, tmp_path / "i" / "part-000004", "--restart") == -signal.SIGKILL
    assert len(Retriever.from_pretrained(tmp_path / "i", verify="full")) == 20_000
