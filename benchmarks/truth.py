"""The exact float32 answers of a collection, found by scoring every document. Shares no code with the index.

    python benchmarks/truth.py --data DIR --queries splade if short

Writes gt_KIND_ids (int64) and gt_KIND_scores (float32) [queries, 100], -1 and -inf where fewer documents match. A score is the float32 sum, in ascending term order, of query weight times impact; equal scores rank by document number.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numba import njit
from protocol import KINDS, NUM_TERMS, Query, load_documents, queries_of

DEPTH = 100
DOCUMENTS_AT_ONCE = 250_000  # inverted and scored together; bounds the memory


def write_truth(folder: Path, kind: str) -> None:
    ids, scores = exact_answers(folder, queries_of(folder, kind))
    np.save(folder / f"gt_{kind}_ids.npy", ids)
    np.save(folder / f"gt_{kind}_scores.npy", scores)


def exact_answers(folder: Path, queries: list[Query]) -> tuple[np.ndarray, np.ndarray]:
    indptr, indices, data = load_documents(folder)
    num_docs = len(indptr) - 1
    ids = np.full((len(queries), DEPTH), -1, np.int64)
    scores = np.full((len(queries), DEPTH), -np.inf, np.float32)
    for first in range(0, num_docs, DOCUMENTS_AT_ONCE):
        starts = np.asarray(indptr[first : first + DOCUMENTS_AT_ONCE + 1])
        entries = slice(starts[0], starts[-1])
        lists = inverted(starts - starts[0], np.asarray(indices[entries]), np.asarray(data[entries]), NUM_TERMS)
        sums = np.empty(len(starts) - 1, np.float32)
        for query, (terms, weights) in enumerate(queries):
            order = np.argsort(terms)
            add_lists(*lists, terms[order], weights[order], sums)
            matching = np.flatnonzero(sums > max(scores[query, -1], 0))  # an equal score later in the collection loses
            if len(matching) > DEPTH:
                matching = matching[sums[matching] >= np.partition(sums[matching], -DEPTH)[-DEPTH]]
            all_ids = np.concatenate([ids[query], matching + first])
            all_scores = np.concatenate([scores[query], sums[matching]])
            best = np.lexsort((all_ids, -all_scores))[:DEPTH]
            ids[query], scores[query] = all_ids[best], all_scores[best]
    return ids, scores


@njit(cache=True)
def inverted(indptr, indices, data, num_terms):
    """(where each term's list starts, its documents ascending, their impacts)."""
    starts = np.zeros(num_terms + 1, np.int64)
    for term in indices:
        starts[term + 1] += 1
    starts = np.cumsum(starts)
    docs, impacts, free = np.empty(len(indices), np.int32), np.empty(len(indices), np.float32), starts[:-1].copy()
    for doc in range(len(indptr) - 1):
        for entry in range(indptr[doc], indptr[doc + 1]):
            slot = free[indices[entry]]
            docs[slot], impacts[slot] = doc, data[entry]
            free[indices[entry]] = slot + 1
    return starts, docs, impacts


@njit(cache=True)
def add_lists(starts, docs, impacts, terms, weights, sums):
    """Overwrite `sums` with every document's score."""
    sums[:] = 0
    for i in range(len(terms)):
        for posting in range(starts[terms[i]], starts[terms[i] + 1]):
            sums[docs[posting]] += weights[i] * impacts[posting]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--queries", choices=KINDS, nargs="+", default=KINDS)
    arguments = parser.parse_args()
    for kind in arguments.queries:
        write_truth(arguments.data, kind)


if __name__ == "__main__":
    main()
