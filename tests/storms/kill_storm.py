"""Processes that build, commit, merge and resume are killed at random moments; what is on disk is one whole commit each time.

    python -m storms.kill_storm --kills 400

Half of them are killed by a clock, half kill themselves at the n-th call into the operating system (index/files.py) or within SQLite.
A child tells over a pipe what it is about to commit and what it has committed; the next child goes on in the same folder.
"""

import argparse
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from encoders_for_tests import HashedWords, WordEncoder

from index import documents, files
from index.folder_writer import FolderWriter
from index.manifest import COPY, LOCK, MANIFEST, is_index
from index.verification import find_damage
from index.writer import Writer
from retrieval import Retriever
from retrieval.encoders.bm25 import BM25Encoder
from retrieval.opened import KIND
from storms.plain_bm25 import QUERIES, text
from storms.processes import ended, forked

ENCODERS = {
    "bm25": lambda: [BM25Encoder()],
    "u8": lambda: [WordEncoder()],
    "hybrid": lambda: [BM25Encoder(), WordEncoder(), HashedWords()],
}
STEPS = 5  # changes and commits of a child that lives
LONGEST = 0.5  # seconds before the clock kills
MOST_CALLS = 900  # about as many as a child that lives makes
MOST_INSTRUCTIONS = 300  # hundreds of SQLite's, the same
CALLS = (
    "open",
    "write",
    "close",
    "fsync",
    "replace",
    "mkdir",
    "unlink",
    "rmdir",
    "posix_fallocate",
    "ftruncate",
    "listdir",
)


class Deadly:
    """Stands for the module `os` in index/files.py: kills its process before or after the n-th call."""

    def __init__(self, number, after):
        self.left, self.after = number, after

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*arguments, **options):
            self.left -= 1
            if self.left == 0 and not self.after:
                die()
            result = real(*arguments, **options)
            if self.left == 0:
                die()
            return result

        return call


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def deadly_sqlite(number):
    """Databases that kill the process once all together have done about so many hundred instructions."""
    real, left = documents.open_unsynced, [number]

    def count():
        left[0] -= 1
        if left[0] <= 0:
            die()
        return 0

    def connect(name):
        connection = real(name)
        connection.set_progress_handler(count, 100)
        return connection

    documents.open_unsynced = connect


def work(folder, encoders, rng, tell):
    """Open or build the index and change it for a while; `tell` each state before and after it is committed."""
    tell("resume" if is_index(folder) else "build", None)
    wrap_merges(tell)
    if is_index(folder):
        retriever = Retriever.from_folder(folder)
        held = {one.doc_id: one.text for one in retriever._opened.snapshot.documents()}
    else:
        held = {f"d{rng.randrange(10**9)}": text(rng) for _ in range(rng.randrange(1, 30))}
        retriever = Retriever(*encoders())
        if rng.random() < 0.5:
            retriever.index(as_records(held), progress=False)
            tell("build", held)
            retriever.save_pretrained(folder)
        else:
            tell("build", {})
            retriever.save_pretrained(folder)
            tell("done", {})
            tell("build", held)
            retriever.index(as_records(held), progress=False)
        tell("done", held)
    for _ in range(STEPS):
        held = change(retriever, held, rng)
        tell("commit", held)
        retriever.commit(progress=False)
        tell("done", held)
        if rng.random() < 0.2:
            tell("merge", held)
            retriever.merge()
            tell("done", held)


def wrap_merges(tell):
    real = Writer._merge

    def merge(writer, which, progress):
        tell("merge", None)
        real(writer, which, progress)

    Writer._merge = merge


def change(retriever, held, rng):
    """Stage something; returns the documents as they will be."""
    held = dict(held)
    for what in rng.sample(["add", "upsert", "delete"], rng.randrange(1, 4)):
        if what == "add":
            new = {f"d{rng.randrange(10**9)}": text(rng) for _ in range(rng.randrange(1, 20))}
            retriever.add(as_records(new), progress=False)
            held |= new
        else:
            some = rng.sample(list(held), min(len(held), rng.randrange(1, 15 if len(held) < 300 else 200)))
            if not some:
                continue
            held = {doc_id: old for doc_id, old in held.items() if doc_id not in some}
            if what == "delete":
                retriever.delete(some)
            else:
                new = {doc_id: text(rng) for doc_id in some}
                retriever.upsert(as_records(new), progress=False)
                held |= new
    return held


def as_records(texts):
    return [{"_id": doc_id, "text": text} for doc_id, text in texts.items()]


class Round:
    """One child: what it said, and how it ended."""

    def __init__(self, folder, encoders, seed, kind):
        rng = random.Random(seed)
        self.kind, self.phase, self.pending, self.done, self.killed = kind, "start", None, None, False
        reader, writer = os.pipe()

        def tell(phase, texts):
            os.write(writer, json.dumps([phase, None if texts is None else list(texts.items())]).encode() + b"\n")

        def child():
            os.close(reader)
            if kind == "call":
                files.os = Deadly(rng.randrange(1, MOST_CALLS), rng.random() < 0.5)
            elif kind == "sqlite":
                deadly_sqlite(rng.randrange(1, MOST_INSTRUCTIONS))
            work(folder, encoders, rng, tell)

        self.child = forked(child)
        os.close(writer)
        self.listen(reader, time.monotonic() + (rng.uniform(0, LONGEST) if kind == "clock" else 60))
        os.close(reader)
        self.killed = ended(self.child) == "SIGKILL"

    def listen(self, reader, until):
        """Take in what the child says; kill it when its time is over."""
        buffer = b""
        while True:
            if not select.select([reader], [], [], max(until - time.monotonic(), 0))[0]:
                os.kill(self.child, signal.SIGKILL)
                until = time.monotonic() + 60
            data = os.read(reader, 1 << 16)
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                phase, texts = json.loads(line)
                if phase == "done":
                    self.done, self.pending = dict(texts), None
                else:
                    self.phase = phase
                    if texts is not None:
                        self.pending = dict(texts)
            if not data:
                return


def check(folder, before, one):
    """(documents now or None, what became of it); AssertionError unless the folder holds one of the states it may."""
    last = before if one.done is None else one.done
    if not is_index(folder):
        assert last is None, "a committed index is gone"
        return None, "nothing yet"
    damage = find_damage(folder, "full")
    assert damage == [], damage
    retriever = Retriever.from_folder(folder, verify="full")
    found = {one.doc_id: one.text for one in retriever._opened.snapshot.documents()}
    states = [state for state in (last, one.pending) if state is not None]
    assert any(list(found.items()) == list(state.items()) for state in states), "neither the old commit nor the new"
    if one.pending is None or one.pending == last:
        return found, "the last commit"
    return found, "the new commit" if list(found.items()) == list(one.pending.items()) else "the old commit"


def check_search(folder, encoders, texts):
    """It answers as an index built fresh."""
    retriever, fresh = Retriever.from_folder(folder), Retriever(*encoders()).index(as_records(texts), progress=False)
    for query in QUERIES:
        for k in (1, 10, 1000):
            assert retriever.search(query, k) == fresh.search(query, k)


def check_tidy(folder):
    """The next writer leaves what the manifest names and nothing else."""
    with FolderWriter(folder, KIND) as writer:
        parts = set(writer.current.parts) if writer.current else set()
    there = set(os.listdir(folder)) if folder.exists() else set()
    expected = {*parts, MANIFEST, COPY, LOCK} if parts else set()
    assert there == expected, (there, expected)


def storm(kills, seed=0, search_every=3, folder=None):
    """Kill until there were so many; returns Counters of phases, kinds of kill and outcomes."""
    root = Path(folder or tempfile.mkdtemp(prefix="winnow-kills-"))
    for encoders in ENCODERS.values():  # compile and import all that the children use
        warm_up(root / "warm", encoders)
    rng, counts, total, number, before = random.Random(seed), Counter(), 0, 0, None
    index, encoders = root / "i", ENCODERS["hybrid"]
    while total < kills:
        number += 1
        if before is None or rng.random() < 0.15:
            shutil.rmtree(index, ignore_errors=True)
            before, encoders = None, rng.choice(list(ENCODERS.values()))
        kind = rng.choice(["clock", "clock", "clock", "call", "call", "sqlite"])
        one = Round(index, encoders, seed * 10**6 + number, kind)
        try:
            before, outcome = check(index, before, one)
            if before and number % search_every == 0:
                check_search(index, encoders, before)
            check_tidy(index)
        except Exception as error:
            raise AssertionError(f"round {number}, {kind}, in {one.phase}: {error!r}, in {index}") from error
        if one.killed:
            total += 1
            counts.update({("killed by", kind): 1, ("killed in", one.phase): 1, ("found", outcome): 1})
        else:
            counts["lived", ""] += 1
    shutil.rmtree(root)
    return counts


def warm_up(folder, encoders):
    rng, said = random.Random(0), []
    for _ in range(4):
        child_work = Writer._merge
        work(folder, encoders, rng, lambda *what: said.append(what))
        Writer._merge = child_work
        texts = dict(said[-1][1])
        check_search(folder, encoders, texts)
    find_damage(folder, "full")
    shutil.rmtree(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where to work; a temporary folder unless given")
    arguments = parser.parse_args()
    started = time.monotonic()
    counts = storm(arguments.kills, arguments.seed, folder=arguments.folder)
    for (what, how), count in sorted(counts.items()):
        print(f"{what} {how}: {count}")
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
