"""One thread changes a retriever while others search and refresh the same one; every answer is that of some commit.

python -m storms.two_threads --seconds 60
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from index.errors import WinnowError
from retrieval import Retriever
from retrieval.encoders.bm25 import BM25Encoder
from storms.mixed_load import Changes, K, Log, as_records, record, warm_up
from storms.plain_bm25 import QUERIES, text

SEARCHERS = 2


def search(retriever, records, until, seed, counts, failures):
    """A searching thread. Between looking up the commit's number before and after, any commit of these may have answered."""
    rng = random.Random(seed)
    while time.monotonic() < until and not failures:
        query = rng.randrange(len(QUERIES))
        before = retriever._opened.snapshot.number
        if rng.random() < 0.5:
            hits = retriever.search(QUERIES[query], K)
        else:
            hits = retriever.search_batch(QUERIES, K, threads=2)[query]
        after = retriever._opened.snapshot.number
        found = [[hit.doc_id, hit.score, hit.text] for hit in hits]
        allowed = [
            json.loads((records / f"{number}.json").read_text())["hits"][query] for number in range(before, after + 1)
        ]
        if found not in allowed:
            failures.append((before, after, QUERIES[query], found, allowed))
        counts["searches"] += 1
        counts["searches during a commit"] += before != after
        if rng.random() < 0.05:
            try:
                retriever.refresh()
            except WinnowError:  # changes are staged
                counts["refreshes refused"] += 1


def storm(seconds, seed=0, in_folder=True):
    """Returns a Counter."""
    root = Path(tempfile.mkdtemp(prefix="winnow-threads-"))
    warm_up()
    rng, counts, failures = random.Random(seed), Counter(), []
    texts = {f"d{number}": text(rng) for number in range(300)}
    retriever = Retriever(BM25Encoder()).index(as_records(texts), progress=False)
    if in_folder:
        retriever.save_pretrained(root / "i")
    record(root, 1, texts)
    changes = Changes(retriever, root, rng, Log(root, "log", 0))
    changes.next_id = 10**6
    until = time.monotonic() + seconds
    threads = [
        threading.Thread(target=search, args=(retriever, root, until, seed + number, counts, failures))
        for number in range(SEARCHERS)
    ]
    for thread in threads:
        thread.start()
    while time.monotonic() < until and not failures:
        changes.step()
    for thread in threads:
        thread.join()
    shutil.rmtree(root)
    assert not failures, failures[0]
    counts.update(changes.log.counts)
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for in_folder in (True, False):
        counts = storm(arguments.seconds / 2, arguments.seed, in_folder)
        print("in a folder:" if in_folder else "in memory:", dict(sorted(counts.items())))


if __name__ == "__main__":
    sys.exit(main())
