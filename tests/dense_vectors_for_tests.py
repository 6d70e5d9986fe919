"""Vectors in clumps, as embeddings lie, and the exact answer by numpy alone."""

import numpy as np

FORMS = (
    "SQ8", "SQ4", "SQfp16", "SQbf16", "SQ6", "PQ8x4", "PQ16x4fs", "PQ8x6", "RaBitQ", "RaBitQ4", "RaBitQfs", "RaBitQfs4", "RR,RaBitQ",
    "RR,SQ4", "PCA16,SQ8", "PCAR16,Flat", "OPQ8,PQ8x4", "IVF16,Flat", "IVF16,SQ8", "IVF16,PQ8x4", "IVF16,PQ16x4fs", "IVF16,RaBitQ",
    "IVF16,RaBitQfs4", "RR,IVF16,RaBitQ4", "HNSW16", "HNSW16,SQ8", "PCA16,HNSW16,Flat",
)  # fmt: skip


def clumped(count, dimension=32, seed=0, clumps=40):
    """float32 [count, dimension]"""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((clumps, dimension))
    drawn = centres[rng.integers(0, clumps, count)] + 0.6 * rng.standard_normal((count, dimension))
    return drawn.astype(np.float32)


def clumped_without(count, docs):
    """The same, where some documents have no vector."""
    drawn = clumped(count)
    drawn[docs] = 0
    return drawn


def ranked(scores, allowed=None):
    """Documents by score descending, then by number."""
    order = np.lexsort((np.arange(len(scores)), -scores))
    return order if allowed is None else order[allowed[order]]


def recall(answers, exact):
    return np.mean([np.isin(docs, found).mean() for (_, found), (_, docs) in zip(answers, exact, strict=True)])


def same(answers, others):
    """True where both are the same bit for bit."""
    return len(answers) == len(others) and all(
        np.array_equal(scores, other_scores) and np.array_equal(docs, other_docs)
        for (scores, docs), (other_scores, other_docs) in zip(answers, others, strict=True)
    )
