"""Every file of an index is cut short and has bits flipped: what must be found is found, and a search in what is not found is safe.

    python -m storms.flips --flips 2000 --searched 200

A quick open refuses every truncation; `find_damage(folder, "full")` finds every flip. Where a quick open notices nothing, a forked
child searches the damaged index with little memory and a clock: wrong scores and errors of ours may come of it, nothing else.
winnow.lock is no part of the index.
"""

import argparse
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from encoders_for_tests import NUM_TERMS, HashedWords, WordEncoder

from index.documents import Document
from index.effort import Budget, Recall
from index.errors import IndexFormatError, WinnowError
from index.inverted import InvertedIndex
from index.manifest import COPY, LOCK
from index.options import InvertedIndexOptions
from index.settings import ClusterSetting
from index.vectors import SparseQuery
from index.verification import find_damage
from retrieval import Retriever
from retrieval.encoders.bm25 import BM25Encoder
from storms.plain_bm25 import text
from storms.processes import ended, forked

ENCODERS = {
    "bm25": lambda: [BM25Encoder()],
    "u8": lambda: [WordEncoder("u8")],
    "u16": lambda: [WordEncoder("u16")],
    "f32": lambda: [WordEncoder("f32")],
    "hybrid": lambda: [BM25Encoder(), HashedWords(factory="HNSW8,SQ8")],
}
SECOND_TIER = "second-tier"
SEGMENT = 40  # documents
ROOM = 2 << 30  # bytes that a child may take beyond what it starts with
LONGEST = 10  # seconds that one damaged index may take
QUERIES = ["w1 w2 w9", "w3", "w1 w1 w5 w40"]
COMMITTED = 25  # one in so many flips is also committed to, in a copy


def build(folder, name):
    """An index of three segments, two of them with deleted documents; or one InvertedIndex with a second tier."""
    rng = random.Random(name)
    if name == SECOND_TIER:
        options = InvertedIndexOptions(NUM_TERMS, "u8", second_tier=True)
        vectors = WordEncoder().encode_documents(Document(str(n), text=text(rng)) for n in range(200)).vectors
        index = InvertedIndex.build(vectors, options, calibrate_with=queries_of(vectors))
        index.save(folder)
        return
    retriever = Retriever(*ENCODERS[name]())
    retriever.save_pretrained(folder)
    for segment in range(3):
        records = [{"_id": f"{segment}-{n}", "text": text(rng), "n": n} for n in range(SEGMENT)]
        retriever.add(records, progress=False).commit(progress=False, merge=False)
    retriever.delete(["0-3", "0-7", "1-1"])
    retriever.commit(progress=False, merge=False)
    assert retriever.statistics().segments == 3


def queries_of(vectors):
    rows = [slice(*vectors.indptr[row : row + 2]) for row in range(0, 40, 2)]
    return [SparseQuery(vectors.indices[row], vectors.data[row]) for row in rows if row.stop > row.start]


def use(folder, name, number):
    """Open and search in every way; only errors of ours get caught."""
    if name == SECOND_TIER:
        use_inverted(folder)
        return
    with suppressed():
        retriever = Retriever.from_folder(folder)
    if not suppressed.last_failed:
        efforts = [None, Recall(0.9), Budget(postings=50)]
        if number % COMMITTED == 1:  # the speed must be measured first, which takes long
            efforts.append(Budget(microseconds=50))
        for effort in efforts:
            for query in QUERIES:
                with suppressed():
                    for hit in retriever.search(query, 5, **({"effort": effort} if effort else {})):
                        retriever.explain(query, hit.doc_id)
        with suppressed():
            retriever.search_batch(QUERIES * 22, 3, threads=2)
        with suppressed():
            retriever.statistics()
    if number % COMMITTED == 0:
        change(folder)


def change(folder):
    """Change a copy of the folder in every way: the damage may be found out or copied, no more."""
    copy = folder.with_name(f"{folder.name}-changed-{os.getpid()}")
    shutil.copytree(folder, copy)
    with suppressed():
        retriever = Retriever.from_folder(copy)
        with suppressed():
            retriever.delete(["2-1", "0-5"])
            retriever.rollback()
        with suppressed():
            retriever.delete(where={"n": 4})
            retriever.commit(progress=False)
        with suppressed():
            retriever.rollback()
            retriever.upsert([{"_id": "0-9", "text": "w1 w2"}, {"_id": "new", "text": "w3"}], progress=False)
            retriever.commit(progress=False)
        with suppressed():
            retriever.rollback()
            retriever.merge()
            retriever.search("w1 w2", 5)
    shutil.rmtree(copy)


def use_inverted(folder):
    with suppressed():
        index = InvertedIndex.open(folder)
    if suppressed.last_failed:
        return
    query = SparseQuery(np.array([3, 17, 40, 99], np.int32), np.array([1, 2, 0.5, 1], np.float32))
    wide = SparseQuery(np.arange(NUM_TERMS, dtype=np.int32), np.ones(NUM_TERMS, np.float32))
    for one in (query, wide):
        for effort in (Recall(0.9), Budget(postings=50), ClusterSetting(100, 30, 10, 3, 10)):
            with suppressed():
                if isinstance(effort, ClusterSetting):
                    index.second_tier.search(index.forward, index.checked(*one), 5, effort)
                else:
                    index.search(*one, 5, effort)
        with suppressed():
            index.search(*one, 500)
        with suppressed():
            index.search_batch([one] * 70, 5, 2)
    with suppressed():
        for rows in index.vectors():
            assert len(rows.indptr) == index.num_docs + 1
    with suppressed():
        InvertedIndex.merge([index, index])


class Suppressed:
    """A block in which an error of ours may end what is done."""

    last_failed = False

    def __call__(self):
        return self

    def __enter__(self):
        self.last_failed = False

    def __exit__(self, kind, error, traceback):
        self.last_failed = kind is not None and issubclass(kind, WinnowError)
        return self.last_failed


suppressed = Suppressed()


def files_of(folder):
    """All files of the index but the lock and empty ones."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != LOCK)
    return [path for path in found if path.stat().st_size]


def is_refused(folder, name):
    """By a quick open."""
    try:
        InvertedIndex.open(folder) if name == SECOND_TIER else Retriever.from_folder(folder)
    except IndexFormatError:
        return True
    return False


def cut_all(folder, name, cuts):
    """Cut each file at `cuts` places from its start to its end; a quick open must refuse. Returns how many cuts were tried.

    The copy of the manifest is looked at by repair only: that is found by `find_damage`.
    """
    tried = 0
    for path in files_of(folder):
        content = path.read_bytes()
        for length in sorted({len(content) * part // cuts for part in range(cuts)}):
            path.write_bytes(content[:length])
            found = find_damage(folder, "quick") if path.name == COPY else is_refused(folder, name)
            assert found, f"{path} cut to {length} of {len(content)} bytes"
            tried += 1
        path.write_bytes(content)
    return tried


def bits_to_flip(content, count, rng):
    """All bits of a small file, `count` of a larger one."""
    bits = 8 * len(content)
    return range(bits) if bits <= count else sorted(rng.sample(range(bits), count))


def flip(path, bit):
    """Flip one bit of a file in place."""
    with open(path, "r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ (1 << bit % 8)]))


def flip_all(folder, name, count, searched, rng):
    """Flip bits of each file in turn. Returns a Counter of what became of them.

    count     flips a file that `find_damage` must find
    searched  of these, how many are also opened quickly and searched
    """
    counts, survived = Counter(), []
    for path in files_of(folder):
        bits = bits_to_flip(path.read_bytes(), count, rng)
        chosen = set(rng.sample(list(bits), min(searched, len(bits))))
        for bit in bits:
            flip(path, bit)
            assert find_damage(folder, "full"), f"bit {bit} of {path} is flipped and nobody notices"
            counts["flipped, found"] += 1
            if bit in chosen and path.name != COPY:
                if is_refused(folder, name):
                    counts["opened quickly, refused"] += 1
                else:
                    survived.append((path, bit))
            flip(path, bit)
    counts["opened quickly, used"] = len(survived)
    search_all(folder, name, survived)
    return counts


def search_all(folder, name, flips):
    """Use the index with each flip, in a child for as many as it survives; AssertionError names those that it does not."""
    failures, first = [], 0
    while first < len(flips):
        last, how = search_some(folder, name, flips, first)
        if how != "0":
            path, bit = flips[last]
            failures.append(f"bit {bit} of {path} flipped: {how}")
            flip(path, bit)  # the child did not come to flipping it back
        first = last + 1
    assert not failures, "\n".join(failures)


def search_some(folder, name, flips, first):
    """(the last flip that a child tried, how the child ended)"""
    reader, writer = os.pipe()

    def child():
        resource.setrlimit(resource.RLIMIT_AS, (virtual_bytes() + ROOM,) * 2)
        for number in range(first, len(flips)):
            os.write(writer, number.to_bytes(4, "little"))
            signal.alarm(LONGEST)
            flip(*flips[number])
            use(folder, name, number)
            flip(*flips[number])
        signal.alarm(0)

    pid = forked(child)
    os.close(writer)
    last = b""
    while data := os.read(reader, 4096):
        last = (last + data)[-4:]
    os.close(reader)
    return int.from_bytes(last, "little"), ended(pid)


def virtual_bytes():
    """Address space of this process."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def storm(flips, searched, cuts, seed=0, names=(*ENCODERS, SECOND_TIER), folder=None):
    """All of it for the named indexes; returns a Counter."""
    root = Path(folder or tempfile.mkdtemp(prefix="winnow-flips-"))
    counts, rng = Counter(), random.Random(seed)
    for name in names:
        shutil.rmtree(root / name, ignore_errors=True)
        build(root / name, name)
        use(root / name, name, 0)
        assert find_damage(root / name, "full") == []
        counts["files"] += len(files_of(root / name))
        counts["cut, refused"] += cut_all(root / name, name, cuts)
        assert find_damage(root / name, "full") == []
        counts += flip_all(root / name, name, flips, searched, rng)
        assert find_damage(root / name, "full") == []
    shutil.rmtree(root)
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flips", type=int, default=2000, help="of each file, to be found")
    parser.add_argument("--searched", type=int, default=200, help="of these, to be searched")
    parser.add_argument("--cuts", type=int, default=64, help="of each file, which a quick open must refuse")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--names", nargs="*", default=[*ENCODERS, SECOND_TIER])
    parser.add_argument("--folder", help="where to work; a temporary folder unless given")
    arguments = parser.parse_args()
    started = time.monotonic()
    counts = storm(
        arguments.flips, arguments.searched, arguments.cuts, arguments.seed, arguments.names, arguments.folder
    )
    for what, count in sorted(counts.items()):
        print(f"{what}: {count:,}")
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
