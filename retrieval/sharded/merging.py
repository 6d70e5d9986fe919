"""From what each shard found to one ranking of all: the same documents, scores and order as without shards.

A document's number counts those of the shards before its own, so equal scores rank as they do in one index. Every arm gives its best
`depth` documents from every shard, of which the best `depth` of all are then those that one index would give; only these are fused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from index.arms import best_of
from index.impact_search import NOTHING, Answer
from retrieval.fusion import Fusion


def merged(answers: Mapping[int, Answer], first_docs: Sequence[int], depth: int) -> Answer:
    """The best `depth` of one arm: (scores float32, numbers of documents int64), best first.

    answers     by shard, with numbers of its own
    first_docs  of each shard the number of its first document
    """
    moved = [(scores, docs.astype(np.int64) + first_docs[shard]) for shard, (scores, docs) in sorted(answers.items())]
    scores, docs = best_of(moved, depth)
    return scores[:depth], docs[:depth].astype(np.int64)


def fused(arms: Mapping[str, Answer], fusion: Fusion, k: int, least: Mapping[str, float]) -> Answer:
    """The best k of what all arms found: (scores, numbers of documents int64); of one arm alone nothing is fused.

    arms   by name, each as `merged` gives it
    least  what no score of an arm is below, where that is known
    """
    if len(arms) == 1:
        ((scores, docs),) = arms.values()
        return scores[:k], docs[:k]
    # a fusion counts documents in 32 bits: those found are numbered anew, in their order, which decides between equal scores
    every = np.unique(np.concatenate([docs for _, docs in arms.values()]))
    numbered = {name: (scores, np.searchsorted(every, docs).astype(np.int32)) for name, (scores, docs) in arms.items()}
    found = fusion.fuse(numbered, k, least)
    return found.scores, every[found.docs] if len(every) else NOTHING[1].astype(np.int64)
