"""A disk that fails or forgets (tests/faults.py) under a whole retriever: add, upsert, delete, commit and merge.

python -m storms.failing_disk
"""

import argparse
import errno
import os
import shutil
import sys
import tempfile
from pathlib import Path

import faults
from encoders_for_tests import HashedWords

from index.verification import find_damage
from retrieval import Retriever
from retrieval.encoders.bm25 import BM25Encoder
from storms.kill_storm import as_records, check_tidy

OLD = {"a": "w1 w2 w2", "b": "w2 w3", "c": "w1 w4 w4", "d": "w5"}
NEW = {"a": "w1 w2 w2", "d": "w5", "c": "w9 w4", "e": "w2 w9", "f": "w1"}
OLD_TEXTS, NEW_TEXTS = list(OLD.items()), list(NEW.items())


def build(folder):
    """Two segments, so that a merge has something to do."""
    retriever = Retriever(BM25Encoder(), HashedWords())
    retriever.save_pretrained(folder)
    for ids in ("ab", "cd"):
        retriever.add(as_records({doc_id: OLD[doc_id] for doc_id in ids}), progress=False)
        retriever.commit(progress=False, merge=False)


def change(folder):
    """From OLD to NEW, in one commit."""
    retriever = Retriever.from_folder(folder)
    if "e" in texts_of(folder):  # this is a retry after the commit was made
        return
    retriever.upsert(as_records({"c": NEW["c"]}), progress=False)
    retriever.add(as_records({doc_id: NEW[doc_id] for doc_id in "ef"}), progress=False)
    retriever.delete("b")
    retriever.commit(progress=False, merge=False)


def merge(folder):
    Retriever.from_folder(folder).merge()


def texts_of(folder):
    return {one.doc_id: one.text for one in Retriever.from_folder(folder)._opened.snapshot.documents()}


def is_old_or_new(folder):
    assert find_damage(folder, "full") == []
    found = list(texts_of(folder).items())
    assert found in (OLD_TEXTS, NEW_TEXTS), found
    answers_as_fresh(folder, dict(found))


def is_new_and_tidy(folder):
    assert find_damage(folder, "full") == []
    assert list(texts_of(folder).items()) == NEW_TEXTS
    check_tidy(folder)


def is_old(folder):
    assert find_damage(folder, "full") == []
    assert list(texts_of(folder).items()) == OLD_TEXTS
    answers_as_fresh(folder, OLD)


def is_merged_and_tidy(folder):
    is_old(folder)
    assert Retriever.from_folder(folder).statistics().segments == 1
    check_tidy(folder)


def answers_as_fresh(folder, texts):
    fresh = Retriever(BM25Encoder(), HashedWords()).index(as_records(texts), progress=False)
    retriever = Retriever.from_folder(folder)
    for query in ("w1 w2", "w4", "w9"):
        assert retriever.search(query, 9) == fresh.search(query, 9)


def storm(most_calls=None, errors=(errno.ENOSPC, errno.EIO), random_ones=4, folder=None):
    """Returns (failures tried, disks after a loss of power looked at)."""
    root = Path(
        folder or tempfile.mkdtemp(prefix="winnow-disk-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    )
    build(root / "i")
    is_old(root / "i")
    failed = lost = 0
    for operate, check, finished in ((change, is_old_or_new, is_new_and_tidy), (merge, is_old, is_merged_and_tidy)):
        failed += faults.after_every_error(
            root / "i", root / "s", operate, check, finished, errors, most_calls=most_calls
        )
        lost += faults.after_every_power_loss(
            root / "i", root / "s", operate, check, finished, random_ones, most_calls=most_calls
        )
    shutil.rmtree(root)
    return failed, lost


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most-calls", type=int, help="of each operation; all unless given")
    arguments = parser.parse_args()
    print("{:,} failures, {:,} disks after a loss of power".format(*storm(arguments.most_calls)))


if __name__ == "__main__":
    sys.exit(main())
