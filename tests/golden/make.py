"""Makes the tiny indexes of this release that later ones must open: python tests/golden/make.py tests/golden/v2"""

import sys
from pathlib import Path

import numpy as np

from index import InvertedIndex, InvertedIndexOptions, SparseRows
from index.manifest import LOCK
from retrieval import Retriever

FIRST = [
    {"_id": "tea", "title": "Tea", "text": "green tea and black tea", "year": 1999},
    {"_id": "milk", "text": "milk of a cow"},
]
SECOND = [{"_id": "rain", "title": "", "text": "rain on green hills, and tea after the rain", "tags": ["wet", "☔"]}]
VECTORS = SparseRows(
    np.array([0, 2, 3, 3, 6]), np.array([0, 260, 3, 0, 259, 299]), np.array([1.0, 2.5, 0.75, 0.1, 3.0, 0.2])
)


def make(folder):
    """Three documents in two segments, one of them deleted; and an index of vectors."""
    retriever = Retriever.from_pretrained("bm25")
    retriever.save_pretrained(folder / "bm25")
    for records in (FIRST, SECOND):
        retriever.add(records, progress=False).commit(progress=False, merge=False)
    retriever.delete("milk")
    retriever.commit(progress=False, merge=False)
    InvertedIndex.build(VECTORS, InvertedIndexOptions(300, "u8")).save(folder / "u8")
    for name in ("bm25", "u8"):
        (folder / name / LOCK).unlink()


if __name__ == "__main__":
    make(Path(sys.argv[1]))
