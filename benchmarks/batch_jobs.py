"""How fast is a batch job, how much memory does it take, what does an interruption cost? One JSON line each.

    python benchmarks/batch_jobs.py --documents 10000 100000 --model bm25 --json OUT
    python benchmarks/batch_jobs.py --documents 100000 --model bm25 --interrupt --json OUT
    python benchmarks/batch_jobs.py --documents 100000 --model bm25 --engine ray local --json OUT

Texts are made up: words drawn by Zipf's law, which lie beside OUT. Each job is `winnow index` in a process of its own, timed from its
start to its end, imports and merging included; peak memory is of the largest of its processes. With --interrupt the job is killed
(SIGKILL) when half of its shards are committed, and goes on; the index must be the same in every byte.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from protocol import record
from sparse_search import environment

from index.manifest import read_manifest

VOCABULARY, EXPONENT, SEED = 200_000, 1.1, 7
TOGETHER = 10_000  # documents written at a time
POLL_SECONDS = 0.02


class Run(NamedTuple):
    """A process that has ended."""

    seconds: float
    peak_mb: float


def made_texts(path: Path, documents: int, words: int) -> Path:
    """JSON lines with so many documents of about `words` words; made once."""
    if path.exists():
        return path
    rng = np.random.default_rng(SEED)
    partial = path.with_suffix(".partial")
    with partial.open("w") as file:
        for first in range(0, documents, TOGETHER):
            for number in range(first, min(first + TOGETHER, documents)):
                length = max(1, int(rng.normal(words, words / 4)))
                drawn = np.minimum(rng.zipf(EXPONENT, length), VOCABULARY)
                text = " ".join(f"w{word:x}" for word in drawn.tolist())
                file.write(json.dumps({"_id": f"d{number}", "text": text}) + "\n")
    partial.rename(path)
    return path


def command_of(source: Path, out: Path, model: str, more: Sequence[str]) -> list[str]:
    return [
        sys.executable, "-m", "winnow", "index", str(source), "--out", str(out), "--model", model, "--no-progress", *more,
    ]  # fmt: skip


def run(command: Sequence[str]) -> Run:
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return Run(time.perf_counter() - started, usage.ru_maxrss / 1024)


def shards_in(folder: Path) -> int:
    try:
        return int(read_manifest(folder).contents["job"]["shards"])
    except Exception:  # before the first commit there is none
        return 0


def killed(command: Sequence[str], folder: Path, shards: int) -> float:
    """Seconds until the job was killed, when so many shards were in."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None and shards_in(folder) < shards:
        time.sleep(POLL_SECONDS)
    process.send_signal(signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        raise SystemExit("the job ended before it was killed; give more documents")
    return time.perf_counter() - started


def check_equal(one: Path, other: Path) -> None:
    files = [
        sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file()) for folder in (one, other)
    ]
    if files[0] != files[1] or not all(filecmp.cmp(one / name, other / name, shallow=False) for name in files[0]):
        raise SystemExit(f"{one} and {other} differ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, nargs="+", required=True)
    parser.add_argument("--words", type=int, default=60, help="of a document, about (default: 60)")
    parser.add_argument("--model", default="bm25")
    parser.add_argument("--engine", nargs="+", choices=("local", "ray"), default=["local"])
    parser.add_argument("--threads", type=int, nargs="+", default=[0], help="0: all cores")
    parser.add_argument("--shard-documents", type=int)
    parser.add_argument("--interrupt", action="store_true")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    work = arguments.json.parent
    shards = [] if arguments.shard_documents is None else ["--shard-documents", str(arguments.shard_documents)]
    for documents in arguments.documents:
        source = made_texts(work / f"texts-{documents}-{arguments.words}.jsonl", documents, arguments.words)
        for engine in arguments.engine:
            for threads in arguments.threads:
                out = work / f"index-{engine}-{threads}"
                shutil.rmtree(out, ignore_errors=True)
                more = [*shards, "--engine", engine, *(["--threads", str(threads)] if threads else [])]
                found = run(command_of(source, out, arguments.model, more))
                entry = {
                    "job": arguments.model, "documents": documents, "words": arguments.words, "engine": engine,
                    "threads": threads or os.cpu_count(), **found._asdict(),
                    "documents_per_second": documents / found.seconds, **environment(),
                }  # fmt: skip
                if arguments.interrupt:
                    entry |= interrupted(source, out, arguments.model, more, found)
                record(arguments.json, entry)


def interrupted(source: Path, whole: Path, model: str, more: Sequence[str], found: Run) -> dict[str, float]:
    """What it costs to be killed half way."""
    out = whole.with_name(f"{whole.name}-killed")
    shutil.rmtree(out, ignore_errors=True)
    command = command_of(source, out, model, more)
    before = killed(command, out, max(1, shards_in(whole) // 2))
    after = run(command)
    check_equal(whole, out)
    return {
        "seconds_until_killed": before,
        "seconds_after": after.seconds,
        "overhead": (before + after.seconds) / found.seconds - 1,
    }


if __name__ == "__main__":
    main()
