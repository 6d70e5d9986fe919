"""A second reader of index folders, written from docs/format.md alone: it shares no code with ours, and reads every byte."""

import hashlib
import json
import math
import sqlite3
import zlib
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np

f32 = np.float32


def read_folder(folder):
    """(the manifest, {part: its contents}) after all checksums were compared."""
    data = (Path(folder) / "winnow.json").read_bytes()
    manifest = json.loads(data)
    assert (manifest["format"], manifest["version"]) == ("winnow", 2)
    lines = [line for line in data.splitlines(keepends=True) if not line.startswith(b' "sha256"')]
    assert sha256(b"".join(lines)) == manifest["sha256"]
    parts = {}
    for name, described in manifest["parts"].items():
        part = Path(folder) / name
        assert (part / "winnow-part").read_bytes() == b""
        description = (part / "part.json").read_bytes()
        assert sha256(description) == described["sha256"]
        fields = json.loads(description)
        for file, stored in fields["files"].items():
            content = (part / file).read_bytes()
            assert len(content) == stored["bytes"]
            assert (sha256(content), sha256(content[:128])) == (stored["sha256"], stored["head"])
        parts[name] = fields["contents"]
    return manifest, parts


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class Index:
    """An inverted index: `rows`, one {term: level} a document, and `scales`; its lists are read and compared with the rows."""

    def __init__(self, path, contents):
        self.path, self.num_docs, self.options = path, contents["documents"], contents["options"]
        self.num_terms, low_bits = self.options["num_terms"], contents["low_bits"]
        starts = self.array("forward.starts", "int64", self.num_docs + 1)
        low = self.array("forward.low", f"uint{low_bits}", contents["postings"])
        words = self.array("forward.high", "uint64", contents["high_words"])
        levels = self.array("forward.levels", contents["levels"], contents["postings"])
        self.scales = self.array("forward.scales", "float32", self.num_docs)
        num_windows = -(-self.num_docs // 65_536)
        high_starts = self.array("forward.high_starts", "int64", num_windows + 1)
        buckets = max(-(-self.num_terms // 2**low_bits), 1)
        bits = [int(word) >> bit & 1 for word in words for bit in range(64)]
        self.rows = []
        for doc in range(self.num_docs):
            if doc % 65_536 == 0:
                bit = 64 * int(high_starts[doc // 65_536])
            first, past_last = int(starts[doc]), int(starts[doc + 1])
            code = bits[bit : bit + past_last - first + buckets]
            ones = [place for place, value in enumerate(code) if value]
            bit += len(code)
            terms = [(place - j) * 2**low_bits + int(low[first + j]) for j, place in enumerate(ones)]
            self.rows.append(dict(zip(terms, levels[first:past_last], strict=True)))
        self.compare_lists(num_windows)

    def array(self, name, dtype, length):
        array = np.load(self.path / f"{name}.npy", allow_pickle=False)
        assert (array.dtype, array.shape) == (np.dtype(dtype), (length,))
        return array

    def compare_lists(self, num_windows):
        """Each list has the documents of its term, in windows and tiers (here for one group of windows)."""
        assert num_windows <= 16
        postings = sum(map(len, self.rows))
        starts = self.array("tiers.starts", "int64", 4 * self.num_terms * num_windows + 1)
        docs = self.array("tiers.docs", "uint16", postings)
        self.array("tiers.codes", "uint8", -(-postings // 2))
        self.array("tiers.edges", "float32", 5 * self.num_terms)
        counts = self.array("tiers.counts", "int64", 4 * self.num_terms)
        for term in range(self.num_terms):
            found = []
            for window in range(num_windows):
                cell = 4 * (term * num_windows + window)
                found += [65_536 * window + int(doc) for doc in docs[starts[cell] : starts[cell + 4]]]
            assert sorted(found) == [doc for doc, row in enumerate(self.rows) if term in row]
            assert counts[4 * term : 4 * term + 4].sum() == len(found)

    def impacts(self, doc, mean=None):
        """{term: float32}"""
        scale = self.scales[doc]
        if self.options["impacts"] != "counts":
            return {term: scale * f32(level) for term, level in self.rows[doc].items()}
        k1, b = self.options["k1"], self.options["b"]
        c0, c1 = f32(k1 * (1 - b)), f32(k1 * b / mean if mean else 0)
        return {term: f32(count) / (f32(count) + (c0 + c1 * scale)) for term, count in self.rows[doc].items()}


def search(scored, k):
    """The best k of (impacts, weights by term) for each document: [(score, position), ...]."""
    hits = []
    for position, (impacts, weights) in enumerate(scored):
        score = f32(0)
        for term in sorted(weights):
            if term in impacts:
                score = score + weights[term] * impacts[term]
        if score > 0:
            hits.append((float(score), position))
    return sorted(hits, key=lambda hit: (-hit[0], hit[1]))[:k]


def search_index(folder, query, k):
    """Hits (score, doc) of a query {term: weight} in a saved inverted index."""
    manifest, parts = read_folder(folder)
    name = manifest["contents"]["part"]
    index = Index(Path(folder) / name, parts[name])
    weights = {term: f32(weight) for term, weight in query.items()}
    return search([(index.impacts(doc), weights) for doc in range(index.num_docs)], k)


def search_dense(folder, query, k):
    """Hits (score, doc) of a vector in a saved dense index, whose scores are computed one operation after another."""
    manifest, parts = read_folder(folder)
    assert manifest["kind"] == "dense-index"
    name = manifest["contents"]["part"]
    contents, path = parts[name], Path(folder) / name
    dimension, num_docs = contents["options"]["dimension"], contents["documents"]
    stored = np.load(path / "vectors.npy", allow_pickle=False)
    without = np.load(path / "without.npy", allow_pickle=False)
    assert (stored.dtype, len(stored)) == (np.dtype("float32"), num_docs * dimension)
    assert (without.dtype, len(without)) == (np.dtype("int32"), contents["without"])
    assert contents["factory"] == "Flat"
    assert contents["codes"] is None
    vectors = stored.reshape(num_docs, dimension)
    query = np.array(query, np.float32)
    if contents["options"]["similarity"] == "cosine":
        length = math.sqrt(sum(float(value) ** 2 for value in query))
        query = query if abs(length - 1) <= 1e-6 else np.array([float(value) / length for value in query], np.float32)
    hits = [(dense_score(query, vectors[doc]), doc) for doc in range(num_docs) if doc not in without]
    return [(float(score), doc) for score, doc in sorted(hits, key=lambda hit: (-hit[0], hit[1]))[:k]]


def dense_score(query, vector):
    whole = len(query) // 64 * 64
    sums = [f32(0)] * 64
    for i in range(whole):
        sums[i % 64] = sums[i % 64] + query[i] * vector[i]
    half = 32
    while half:
        sums = [sums[i] + sums[i + half] for i in range(half)]
        half //= 2
    total = sums[0]
    for i in range(whole, len(query)):
        total = total + query[i] * vector[i]
    return total


class BM25Folder:
    """A retriever's folder whose model is bm25."""

    def __init__(self, folder):
        manifest, parts = read_folder(folder)
        assert manifest["kind"] == "retriever"
        contents = manifest["contents"]
        assert parts[contents["model"]]["encoder"]["family"] == "bm25"
        self.segments, self.documents, self.length = [], 0, 0
        for entry in contents["segments"]:
            path, segment = Path(folder) / entry["part"], parts[entry["part"]]
            arm = segment["arms"]["bm25"]
            index = Index(path / "bm25", arm["index"])
            stored, live, statistics_at = read_documents(path, segment["documents"]), [1] * segment["documents"], path
            statistics = arm["statistics"]
            if entry["deletes"]:
                statistics_at = Path(folder) / entry["deletes"]
                deletes = parts[entry["deletes"]]
                assert deletes["segment"] == entry["part"]
                mask = np.load(statistics_at / "live.npy", allow_pickle=False)
                live = [int(mask[doc // 8]) >> (doc % 8) & 1 for doc in range(len(stored))]
                assert sum(live) == deletes["documents"]
                statistics = deletes["statistics"]["bm25"]
            frequency = np.load(statistics_at / "bm25" / "document_frequency.npy", allow_pickle=False)
            assert (frequency.dtype, len(frequency)) == (np.dtype("int32"), statistics["terms"])
            self.documents += statistics["documents"]
            self.length += statistics["length"]
            terms = read_vocabulary(path / "bm25", arm["vocabulary"])
            assert len(terms) == index.num_terms == len(frequency)
            self.segments.append((index, stored, live, dict(zip(terms, frequency.tolist(), strict=True)), terms))

    def search(self, tokens, k):
        """Hits (score, id) of analysed tokens."""
        mean, weights = self.length / max(self.documents, 1), {}
        for token, count in Counter(tokens).items():
            df = sum(frequency.get(token, 0) for *_, frequency, _ in self.segments)
            if df:
                weights[token] = f32(count * math.log(1 + (self.documents - df + 0.5) / (df + 0.5)))
        scored, ids = [], []
        for index, stored, live, _, terms in self.segments:
            numbered = {terms.index(token): weight for token, weight in weights.items() if token in terms}
            for doc, (doc_id, *_) in enumerate(stored):
                if live[doc]:
                    scored.append((index.impacts(doc, mean), numbered))
                    ids.append(doc_id)
        return [(score, ids[position]) for score, position in search(scored, k)]

    def live_documents(self):
        """[(id, title, text, fields), ...]"""
        return [row for _, stored, live, *_ in self.segments for row, there in zip(stored, live, strict=True) if there]


def read_documents(path, num_docs):
    """[(id, title, text, fields), ...], each compared with its checksum."""
    connection = sqlite3.connect(f"file:{path / 'documents.sqlite'}?mode=ro&immutable=1", uri=True)
    rows = connection.execute(
        "SELECT doc, doc_id, title, text, fields, checksum FROM documents ORDER BY doc"
    ).fetchall()
    connection.close()
    assert [row[0] for row in rows] == list(range(num_docs))
    for _, *texts, checksum in rows:
        assert zlib.crc32(b"".join(text.encode() + b"\0" for text in texts)) == checksum
    return [(doc_id, title, text, json.loads(fields)) for _, doc_id, title, text, fields, _ in rows]


def read_vocabulary(path, contents):
    """The terms by number."""
    text = np.load(path / "vocabulary.text.npy", allow_pickle=False).tobytes()
    starts = np.load(path / "vocabulary.starts.npy", allow_pickle=False).tolist()
    assert (len(text), len(starts)) == (contents["bytes"], contents["terms"] + 1)
    terms = [text[start:end].decode() for start, end in pairwise(starts)]
    assert [term.encode() for term in terms] == sorted(term.encode() for term in terms)
    return terms
