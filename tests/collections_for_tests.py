"""Readable collections, and the answers that docs/format.md defines, in plain Python that shares no code with kernels."""

import math

import numpy as np

from kernels.cpu.sparse import SparseRows

LEVELS = {"u8": 255, "u16": 65535}


def sparse_rows(documents):
    """SparseRows of [{term: weight}, ...]."""
    pairs = [sorted(document.items()) for document in documents]
    entries = [entry for row in pairs for entry in row]
    return SparseRows(
        np.cumsum([0] + [len(row) for row in pairs]).astype(np.int64),
        np.array([term for term, _ in entries], np.int32),
        np.array([weight for _, weight in entries], np.float32),
    )


def stored_impacts(documents, impacts, mean_length=None, k1=0.9, b=0.4):
    """[{term: impact}, ...] as an index stores them: float32 numbers, quantised by document for "u8" and "u16".

    mean_length, k1, b  for "counts"; the mean is that of the documents unless given
    """
    weights = [{term: np.float32(weight) for term, weight in document.items() if weight > 0} for document in documents]
    if impacts == "f32":
        return weights
    if impacts == "counts":
        return saturated_counts(weights, mean_length, k1, b)
    quantised = []
    for document in weights:
        step = max(max(document.values(), default=0) / np.float32(LEVELS[impacts]), np.finfo(np.float32).tiny)
        levels = {
            term: min(max(math.floor(float(weight) / float(step) + 0.5), 1), LEVELS[impacts])
            for term, weight in document.items()
        }
        quantised.append({term: step * np.float32(level) for term, level in levels.items()})
    return quantised


def mean_of_lengths(documents):
    """Mean sum of counts of the documents that have a term; 0 where there is none."""
    lengths = [
        float(np.float32(sum(map(float, document.values())))) for document in documents if any(document.values())
    ]
    return sum(lengths) / len(lengths) if lengths else 0.0


def saturated_counts(documents, mean_length, k1, b):
    """BM25's part of a count and a length, step by step in float32."""
    mean = mean_length or mean_of_lengths(documents)
    base, slope = np.float32(k1 * (1 - b)), np.float32(k1 * b / mean if mean else 0)
    saturated = []
    for document in documents:
        half = base + slope * np.float32(sum(map(float, document.values())))
        saturated.append({term: count / (count + half) for term, count in document.items()})
    return saturated


def brute_force(documents, query, k):
    """[(score, doc), ...] best first: float32 sums in ascending term order over stored impacts."""
    scored = []
    for doc, document in enumerate(documents):
        score = np.float32(0)
        for term in sorted(query):
            if term in document:
                score = score + np.float32(query[term]) * document[term]
        if score > 0:
            scored.append((float(score), doc))
    return sorted(scored, key=lambda entry: (-entry[0], entry[1]))[:k]


def as_pairs(answer):
    """(scores, docs) of an index as [(score, doc), ...]."""
    scores, docs = answer
    return list(zip(scores.tolist(), docs.tolist(), strict=True))
