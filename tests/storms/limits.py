"""A disk on which files may only grow so far, a random limit each time: errors of ours, the old commit stays, the next process goes on.

python -m storms.limits --rounds 300
"""

import argparse
import os
import random
import resource
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from index.errors import StorageError
from index.verification import find_damage
from retrieval import Retriever
from retrieval.encoders.bm25 import BM25Encoder
from storms.kill_storm import as_records, check_tidy
from storms.plain_bm25 import text
from storms.processes import ended, forked

LARGEST = 60_000  # bytes, about as large as the largest file gets


def texts_of(folder):
    return {one.doc_id: one.text for one in Retriever.from_folder(folder)._opened.snapshot.documents()}


def storm(rounds, seed=0, folder=None):
    """Returns a Counter of how the attempts ended."""
    root = Path(folder or tempfile.mkdtemp(prefix="winnow-limits-"))
    index, rng, counts = root / "i", random.Random(seed), Counter()
    retriever = Retriever(BM25Encoder())
    retriever.save_pretrained(index)
    for segment in range(3):
        retriever.index([{"_id": f"{segment}-{n}", "text": text(rng)} for n in range(60)], progress=False)
    del retriever
    for number in range(rounds):
        before, kind = texts_of(index), rng.choice(["add", "change", "merge"])
        new = {f"r{number}-{n}": text(rng) for n in range(rng.randrange(1, 60))}
        gone = rng.sample(list(before), min(len(before), rng.randrange(1, 40)))
        after = {doc_id: old for doc_id, old in before.items() if doc_id not in gone} | new
        if kind != "change":
            after = before | new if kind == "add" else before
        limit = rng.choice([rng.randrange(200), rng.randrange(5_000), rng.randrange(LARGEST)])
        told, tell = os.pipe()

        def attempt(kind=kind, new=new, gone=gone, limit=limit, tell=tell):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                change(index, kind, new, gone)
            except StorageError:
                os.write(tell, b"StorageError")

        how = ended(forked(attempt))
        os.close(tell)
        with open(told) as file:
            said = file.read() or "done"
        where = f"round {number}, {kind}, files up to {limit} bytes"
        assert how == "0", f"{where}: ended with {how}"
        assert find_damage(index, "full") == [], where
        found = texts_of(index)
        allowed = [before, after] if said != "done" else [after]
        assert any(list(found.items()) == list(state.items()) for state in allowed), where
        counts[kind, said, "new" if found != before else "old"] += 1
        check_tidy(index)
        if len(found) > 400:
            shrink(index, list(found)[:300])
    shutil.rmtree(root)
    return counts


def shrink(folder, gone):
    """Without these documents, in one segment; nothing of the folder stays open."""
    retriever = Retriever.from_folder(folder)
    retriever.delete(gone)
    retriever.commit(progress=False).merge()


def change(folder, kind, new, gone):
    retriever = Retriever.from_folder(folder)
    if kind == "merge":
        retriever.merge()
        return
    if kind == "change":
        retriever.delete(gone)
    retriever.add(as_records(new), progress=False)
    retriever.commit(progress=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where to work; a temporary folder unless given")
    arguments = parser.parse_args()
    for what, count in sorted(storm(arguments.rounds, arguments.seed, arguments.folder).items()):
        print(f"{', '.join(what)}: {count}")


if __name__ == "__main__":
    sys.exit(main())
