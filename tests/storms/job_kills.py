"""Jobs are killed at random moments and at every call that changes the disk; what they end in is compared byte by byte.

    python -m storms.job_kills --kills 400
    python -m storms.job_kills --every

A job that was killed is run again until it is done: its folder must be that of a job which nobody disturbed.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

from encoders_for_tests import HashedWords, WordEncoder
from jobs_for_tests import job, records, tree, write_jsonl

from index import files
from index.manifest import is_index
from index.verification import find_damage
from retrieval.encoders import loading
from storms.kill_storm import Deadly, deadly_sqlite
from storms.processes import ended, forked

SYSTEMS = ("bm25", "words", "bm25+words+hashed")
DOCUMENTS = 9  # in shards of 2: segments are merged
MOST_INSTRUCTIONS = 300  # hundreds of SQLite's


def known():
    """The encoders of the tests by name, as a job finds them."""
    loading.MODELS["words"] = lambda impacts, options: WordEncoder(impacts or "u8")
    loading.MODELS["hashed"] = lambda impacts, options: HashedWords()


@contextmanager
def without_flushing():
    """A process that is killed loses nothing that it has written: flushing would only take time."""
    real, os.fsync = os.fsync, lambda descriptor: None
    try:
        yield
    finally:
        os.fsync = real


class Setting:
    """A source that has grown and changed since a first job, and what the undisturbed jobs make of it."""

    def __init__(self, root, model):
        self.root, self.model = root, model
        some = records(DOCUMENTS)
        self.source = write_jsonl(root / "first.jsonl", some)
        changed = [{**one, "text": "other words"} if n % 5 == 0 else one for n, one in enumerate(some)]
        self.grown = write_jsonl(root / "grown.jsonl", [*changed, *records(3, seed=1, first=100)])
        self.begun = root / "begun"
        self.run(self.begun, self.source)
        self.expected = {self.source: tree(self.begun)}
        shutil.copytree(self.begun, root / "grown")
        self.run(root / "grown", self.grown)
        self.expected[self.grown] = tree(root / "grown")

    def run(self, folder, source):
        job(source, folder, self.model, shard_documents=2)

    def fresh(self, source):
        """A folder for a job over the source to begin with."""
        folder = self.root / "i"
        shutil.rmtree(folder, ignore_errors=True)
        if source == self.grown:
            shutil.copytree(self.begun, folder)
        return folder

    def killed(self, folder, source, kind, number, after):
        """How a child that does the job ended."""

        def child():
            if kind == "call":
                files.os = Deadly(number, after)
            elif kind == "sqlite":
                deadly_sqlite(number)
            self.run(folder, source)

        process = forked(child)
        if kind == "clock":
            time.sleep(number)
            os.kill(process, signal.SIGKILL)
        return ended(process)

    def check(self, folder, source):
        """AssertionError unless what is there is sound and ends in the expected bytes."""
        if is_index(folder):
            assert find_damage(folder, "full") == []
        self.run(folder, source)
        found, expected = tree(folder), self.expected[source]
        assert found.keys() == expected.keys(), sorted(found.keys() ^ expected.keys())
        differing = [name for name in found if found[name] != expected[name]]
        assert differing == []

    def count_calls(self, source):
        """Of an undisturbed job."""
        folder, counting = self.fresh(source), Deadly(-1, False)
        real, files.os = files.os, counting
        try:
            self.run(folder, source)
        finally:
            files.os = real
        return -1 - counting.left


@without_flushing()
def storm(kills, seed=0, most=3, systems=SYSTEMS):
    """So many kills, up to `most` of one job after another; returns a Counter of kinds."""
    known()
    rng, counts = random.Random(seed), Counter()
    with tempfile.TemporaryDirectory(prefix="winnow-jobs-") as folder:
        settings = []
        for number, model in enumerate(systems):
            root = Path(folder, str(number))
            root.mkdir()
            settings.append(Setting(root, model))
        calls = max(one.count_calls(one.source) for one in settings)
        while counts.total() < kills:
            setting = rng.choice(settings)
            source = rng.choice([setting.source, setting.grown])
            target = setting.fresh(source)
            for _ in range(rng.randrange(1, most + 1)):
                kind = rng.choice(["call", "call", "clock", "sqlite"])
                number = {
                    "call": rng.randrange(1, calls),
                    "clock": rng.uniform(0, 0.5),
                    "sqlite": rng.randrange(1, MOST_INSTRUCTIONS),
                }
                if setting.killed(target, source, kind, number[kind], rng.random() < 0.5) == "SIGKILL":
                    counts[kind] += 1
            setting.check(target, source)
    return counts


@without_flushing()
def every_call(model="bm25", step=1):
    """A kill before and after every `step`th call of a job; returns how many."""
    known()
    kills = 0
    with tempfile.TemporaryDirectory(prefix="winnow-jobs-") as folder:
        setting = Setting(Path(folder), model)
        for source in (setting.source, setting.grown):
            for number in range(1, setting.count_calls(source) + 1, step):
                for after in (False, True):
                    target = setting.fresh(source)
                    kills += setting.killed(target, source, "call", number, after) == "SIGKILL"
                    setting.check(target, source)
    return kills


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", action="store_true", help="kill at every call instead")
    arguments = parser.parse_args()
    started = time.monotonic()
    found = every_call() if arguments.every else storm(arguments.kills, arguments.seed)
    print(found, f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
