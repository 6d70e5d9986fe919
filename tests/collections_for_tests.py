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


def stored_impacts(documents, impacts):
    """[{term: impact}, ...] as an index stores them: float32 numbers, quantised unless impacts is "f32"."""
    weights = [{term: np.float32(weight) for term, weight in document.items() if weight > 0} for document in documents]
    if impacts == "f32":
        return weights
    steps = {}
    for term in {term for document in weights for term in document}:
        largest = max(document[term] for document in weights if term in document)
        steps[term] = max(largest / np.float32(LEVELS[impacts]), np.finfo(np.float32).tiny)
    quantised = []
    for document in weights:
        levels = {
            term: min(max(math.floor(float(weight) / float(steps[term]) + 0.5), 1), LEVELS[impacts])
            for term, weight in document.items()
        }
        quantised.append({term: steps[term] * np.float32(level) for term, level in levels.items()})
    return quantised


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
