"""One process changes a folder while four search it; every answer is compared with a model in plain Python.

    python -m storms.mixed_load --seconds 600

Before each commit the writer records under its number, and under the next ones, which merges may take, a digest of the documents
and the best hits of some queries. A reader looks up what it sees by its commit number.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from retrieval import Retriever
from retrieval.encoders.bm25 import BM25Encoder
from storms.plain_bm25 import QUERIES, PlainBM25, digest, text
from storms.processes import bytes_below, ended, forked, open_files, own_memory, slope

READERS, K = 4, 10
FEWEST, MOST = 200, 900  # documents
MERGES_AHEAD = 8  # commits that may follow one with the same documents
HELD_FOR = 20.0  # seconds (at most a third of the time), the longest that a reader goes on searching an old commit
WARM_UP = 0.6  # of the time, after which memory should be flat


def record(folder, number, texts):
    """What commit `number` and the merges after it hold."""
    model = PlainBM25(texts)
    hits = [[(doc_id, score, texts[doc_id]) for doc_id, score in model.search(query, K)] for query in QUERIES]
    data = json.dumps({"digest": digest(texts), "documents": len(texts), "hits": hits})
    for ahead in range(MERGES_AHEAD):
        path = folder / f"{number + ahead}.json"
        path.with_suffix(f".{os.getpid()}").write_text(data)
        path.with_suffix(f".{os.getpid()}").rename(path)


def compare(retriever, records, whole, number=None):
    """Fail unless the retriever answers as recorded for its commit, or for `number`; `whole`: compare all documents too."""
    snapshot = retriever._opened.snapshot
    number = snapshot.number if number is None else number
    expected = json.loads((records / f"{number}.json").read_text())
    assert len(retriever) == expected["documents"], number
    if whole:
        assert digest({one.doc_id: one.text for one in snapshot.documents()}) == expected["digest"], number
    for query, hits in zip(QUERIES, expected["hits"], strict=True):
        found = [[hit.doc_id, hit.score, hit.text] for hit in retriever.search(query, K)]
        assert found == hits, (number, query, found, hits)
    return len(QUERIES) + whole


def compare_copy(retriever, records):
    """The same for a copy of the folder as the retriever has it open, which reads all its files once more."""
    folder = Path(tempfile.mkdtemp(prefix="winnow-copy-"))
    number = retriever._opened.snapshot.number
    retriever.save_pretrained(folder / "i")
    compare(Retriever.from_folder(folder / "i"), records, True, number)
    shutil.rmtree(folder)


class Log:
    """Samples of this process, once a second, and counts, in a file for the parent."""

    def __init__(self, folder, name, started):
        self.path, self.started, self.samples, self.counts, self.last = folder / name, started, [], {}, 0.0

    def count(self, name, by=1):
        self.counts[name] = self.counts.get(name, 0) + by

    def sample(self):
        now = time.monotonic()
        if now - self.last >= 1:
            self.last = now
            self.samples.append((now - self.started, own_memory(), open_files()))

    def close(self):
        self.path.write_text(json.dumps({"samples": self.samples, "counts": self.counts}))


class Changes:
    """One writer's changes: to the index and to the model, {id: text}."""

    def __init__(self, retriever, records, rng, log):
        self.retriever, self.records, self.rng, self.log = retriever, records, rng, log
        self.staged, self.next_id = {one.doc_id: one.text for one in retriever._opened.snapshot.documents()}, 0

    def step(self):
        """Some changes, then a commit or a rollback; now and then a merge of all."""
        rng, before = self.rng, dict(self.staged)
        for _ in range(rng.randrange(1, 4)):
            self.change(rng.choice(["add", "upsert", "delete"] if len(self.staged) < MOST else ["delete"]))
        if rng.random() < 0.1:
            self.retriever.rollback()
            self.staged = before
            self.log.count("rollbacks")
        else:
            number = self.retriever._opened.snapshot.number
            record(self.records, number + 1, self.staged)
            self.retriever.commit(progress=False)
            now = self.retriever._opened.snapshot.number
            self.log.count("commits", now > number)
            self.log.count("merges", max(now - number - 1, 0))
        if rng.random() < 0.03:
            number = self.retriever._opened.snapshot.number
            record(self.records, number + 1, self.staged)
            self.retriever.merge()
            self.log.count("merges of all", self.retriever._opened.snapshot.number > number)

    def change(self, what):
        rng, ids = self.rng, list(self.staged)
        if what == "add":
            new = {}
            for _ in range(rng.randrange(1, 40)):
                self.next_id += 1
                new[f"d{self.next_id}"] = text(rng)
            self.retriever.add(as_records(new), progress=False)
            self.staged |= new
        elif what == "upsert" and ids:
            new = {doc_id: text(rng) for doc_id in rng.sample(ids, min(len(ids), rng.randrange(1, 20)))}
            self.retriever.upsert(as_records(new), progress=False)
            self.staged = {doc_id: old for doc_id, old in self.staged.items() if doc_id not in new} | new
        elif what == "delete" and len(ids) > FEWEST:
            if rng.random() < 0.2:
                group = rng.randrange(30)
                gone = {doc_id for doc_id in ids if group_of(doc_id) == group}
                assert set(self.retriever.delete(where={"group": group})) == gone
            else:
                gone = set(rng.sample(ids, rng.randrange(1, 40)))
                assert set(self.retriever.delete(sorted(gone))) == gone
            self.staged = {doc_id: old for doc_id, old in self.staged.items() if doc_id not in gone}


def as_records(texts):
    return [{"_id": doc_id, "text": text, "group": group_of(doc_id)} for doc_id, text in texts.items()]


def group_of(doc_id):
    return int(doc_id[1:]) % 30


def write(folder, records, log, until, seed):
    """The writer process."""
    changes = Changes(Retriever.from_folder(folder), records, random.Random(seed), log)
    changes.next_id = 10**6 * (seed + 1)
    while time.monotonic() < until:
        changes.step()
        log.sample()
    log.close()


def read(folder, records, log, until, seed, seconds):
    """A reader process: it refreshes, opens anew, and searches old commits that it holds on to."""
    rng, retriever, held = random.Random(seed), Retriever.from_folder(folder), []
    while time.monotonic() < until:
        if rng.random() < 0.1:
            retriever = Retriever.from_folder(folder, verify="full" if rng.random() < 0.2 else "quick")
            log.count("opened")
        elif rng.random() < 0.7:
            log.count("refreshed", retriever.refresh())
        log.count("compared", compare(retriever, records, rng.random() < 0.05))
        if rng.random() < 0.02 and len(held) < 3:
            held.append(
                (time.monotonic() + rng.uniform(0.5, min(HELD_FOR, seconds / 3)), Retriever.from_folder(folder))
            )
        for _, old in held:
            log.count("compared in old commits", compare(old, records, rng.random() < 0.05))
        for end, old in held:
            if end <= time.monotonic():
                compare_copy(old, records)
                log.count("old commits copied")
        held = [(end, old) for end, old in held if end > time.monotonic()]
        log.sample()
    log.close()


def storm(seconds, seed=0, folder=None):
    """Run it; returns the report as a dictionary. Raises AssertionError if any process found a difference."""
    root = Path(folder or tempfile.mkdtemp(prefix="winnow-load-"))
    index, records, logs = root / "index", root / "records", root / "logs"
    for path in (records, logs):
        path.mkdir(parents=True)
    rng = random.Random(seed)
    texts = {f"d{number}": text(rng) for number in range(FEWEST * 2)}
    warm_up()
    record(records, 1, texts)
    retriever = Retriever(BM25Encoder()).index(as_records(texts), progress=False)
    retriever.save_pretrained(index)
    del retriever
    started = time.monotonic()
    until = started + seconds
    children = {"writer": forked(lambda: write(index, records, Log(logs, "writer", started), until, seed))}
    for number in range(READERS):
        name = f"reader {number + 1}"
        children[name] = forked(
            lambda name=name, number=number: read(
                index, records, Log(logs, name, started), until, seed + number, seconds
            )
        )
    disk = []
    while time.monotonic() < until:
        time.sleep(min(1, seconds / 20))
        disk.append((time.monotonic() - started, bytes_below(index)))
    ends = {name: ended(child) for name, child in children.items()}
    assert set(ends.values()) == {"0"}, ends
    report = {name: json.loads((logs / name).read_text()) for name in children}
    report = {name: summary(one, seconds) for name, one in report.items()}
    report["disk"] = {"most": max(size for _, size in disk), "slope a minute": per_minute(disk, seconds)}
    assert Retriever.from_folder(index, verify="full")
    shutil.rmtree(root)
    return report


def per_minute(points, seconds):
    return round(60 * slope([point for point in points if point[0] > WARM_UP * seconds]))


def summary(log, seconds):
    samples = log["samples"]
    memory, files = ([(at, sample[kind]) for at, *sample in samples] for kind in (0, 1))
    return {
        **log["counts"],
        "memory by tenths": [
            max((size for at, size in memory if tenth <= 10 * at / seconds < tenth + 1), default=0)
            for tenth in range(10)
        ],
        "memory slope a minute": per_minute(memory, seconds),
        "files": max((count for _, count in files), default=0),
        "files slope a minute": per_minute(files, seconds),
    }


def warm_up():
    """Compile and import all that the children use."""
    folder = Path(tempfile.mkdtemp(prefix="winnow-warm-"))
    rng, log = random.Random(1), Log(folder, "log", 0)
    retriever = Retriever(BM25Encoder())
    retriever.save_pretrained(folder / "i")
    changes = Changes(retriever, folder, rng, log)
    for _ in range(25):
        changes.step()
        if len(retriever):
            opened = Retriever.from_folder(folder / "i", verify="full")
            compare(opened, folder, True)
            compare_copy(opened, folder)
            opened.search_batch(QUERIES, K, threads=2)
    retriever.rollback()
    retriever.merge()
    shutil.rmtree(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where to work; a temporary folder unless given")
    arguments = parser.parse_args()
    report = storm(arguments.seconds, arguments.seed, arguments.folder)
    json.dump(report, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
