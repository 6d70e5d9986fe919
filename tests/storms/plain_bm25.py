"""BM25 over words as docs/format.md defines it, in plain Python and float32 scalars, sharing no code with the engine."""

import hashlib
import json
import math
from collections import Counter

import numpy as np

K1, B = 0.9, 0.4
f32 = np.float32


class PlainBM25:
    """Answers over {id: text}; equal scores rank in the order of the dictionary. Words must be their own stems."""

    def __init__(self, texts):
        self.texts = texts
        self.counts = {doc_id: Counter(text.split()) for doc_id, text in texts.items()}
        self.lengths = {doc_id: sum(count.values()) for doc_id, count in self.counts.items()}
        self.num_docs = sum(length > 0 for length in self.lengths.values())
        self.mean = sum(self.lengths.values()) / max(self.num_docs, 1)
        self.lists = {}
        for doc_id, count in self.counts.items():
            for word in count:
                self.lists.setdefault(word, []).append(doc_id)

    def search(self, query, k):
        """[(id, score), ...] best first."""
        base, slope = f32(K1 * (1 - B)), f32(K1 * B / self.mean if self.mean else 0)
        scores = {}
        for word, times in sorted(Counter(query.split()).items()):
            found = self.lists.get(word, [])
            idf = math.log(1 + (self.num_docs - len(found) + 0.5) / (len(found) + 0.5))
            weight = f32(times * idf)
            for doc_id in found:
                count = f32(self.counts[doc_id][word])
                impact = count / (count + (base + slope * f32(self.lengths[doc_id])))
                scores[doc_id] = scores.get(doc_id, f32(0)) + weight * impact
        order = {doc_id: position for position, doc_id in enumerate(self.texts)}
        best = sorted(scores, key=lambda doc_id: (-scores[doc_id], order[doc_id]))[:k]
        return [(doc_id, float(scores[doc_id])) for doc_id in best if scores[doc_id] > 0]


def digest(texts):
    """Of documents and their order."""
    return hashlib.sha256(json.dumps(list(texts.items())).encode()).hexdigest()


def word(rng):
    """w0, w1, ...: the lower the number, the more often."""
    return f"w{int(rng.paretovariate(0.6)) % 400}"


def text(rng, most=30):
    """Some words; now and then none."""
    return " ".join(word(rng) for _ in range(rng.randrange(most)))


QUERIES = ["w1", "w2 w3 w7", "w1 w1 w9 w40", "w5 w11 w200 w301", "w399 w4", "nothing w8"]
