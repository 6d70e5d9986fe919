"""CIFF files, packed and not: read_vectors against a protobuf reader in plain Python."""

import gzip

from ciff_writer import ciff, doc_record, field, header, message, postings_list
from fuzz.corpus_jsonl import compare
from fuzz.vectors_jsonl import as_dict
from fuzz.watch import file_of, outcome, watched

WHOLE = ciff({"a": {"tea": 3, "milk": 70_000}, "é": {"tea": 2**31 - 1}, "c": {}}, order=[2, 0, 1])
SEEDS = [
    b"\0" + WHOLE,
    b"\1" + WHOLE,
    b"\0" + header(0, 0),
    b"\0" + header(1, 1) + postings_list("tea", [(0, 0)]) + doc_record(0, "a"),
    b"\0" + header(1, 1) + postings_list("tea", [(2**31 - 1, 1)]) + doc_record(0, "a"),
    b"\0" + header(2**31 - 1, 2**31 - 1) + postings_list("tea", [(0, 1)]),
    b"\0" + header(-1, 2) + doc_record(0, "a"),
    b"\0" + header(1, 1) + message(field(1, b"\xff\xfe"), field(4, field(1, -1) + field(2, -1))) + doc_record(0, "\0"),
    b"\0" + b"\xff" * 9 + b"\x7f",
    b"\0" + message(b"\x08\x01", b"\xff" * 9 + b"\x01"),
    b"\1" + bytes(5 << 20),
]


class Reader:
    """Bytes from first to last; ValueError where they end too early."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        if count > len(self.data) - self.at:
            raise ValueError("cut")
        self.at += count
        return self.data[self.at - count : self.at]

    def varint(self):
        value = 0
        for place in range(10):
            byte = self.take(1)[0]
            value |= (byte & 127) << 7 * place
            if byte < 128:
                value &= 2**64 - 1
                return value - 2**64 if value >= 2**63 else value
        raise ValueError("too long")

    def message(self):
        length = self.varint()
        if length < 0:
            raise ValueError("negative length")
        return self.take(length)


def fields_of(data):
    """[(number, value or content), ...]; a number of eight or four bytes is None."""
    reader, found = Reader(data), []
    while reader.at < len(data):
        key = reader.varint()
        if key & 7 == 0:
            found.append((key >> 3, reader.varint()))
        elif key & 7 == 2:
            found.append((key >> 3, reader.message()))
        elif key & 7 in (1, 5):
            reader.take({1: 8, 5: 4}[key & 7])
        else:
            raise ValueError("wire type")
    return found


def last(fields, number, kind, default):
    return ([value for n, value in fields if n == number and isinstance(value, kind)] or [default])[-1]


def plain_vectors(data):
    reader, messages = Reader(data), []
    while reader.at < len(data):
        messages.append(reader.message())
    head = fields_of(messages[0]) if messages else []
    num_lists, num_docs = last(head, 2, int, 0), last(head, 3, int, 0)
    if last(head, 1, int, 0) != 1 or min(num_lists, num_docs) < 0 or num_lists + num_docs != len(messages) - 1:
        raise ValueError("header")
    vectors, seen = [{} for _ in range(num_docs)], set()
    for one in messages[1 : 1 + num_lists]:
        fields = fields_of(one)
        term, doc = last(fields, 1, bytes, b"").decode(), None
        if term in seen:
            raise ValueError("twice")
        seen.add(term)
        for posting in [fields_of(value) for number, value in fields if number == 4 and isinstance(value, bytes)]:
            gap, weight = last(posting, 1, int, 0), last(posting, 2, int, 0)
            if gap < 0 or (gap == 0 and doc is not None) or not 0 <= weight < 2**31:
                raise ValueError("posting")
            doc = gap if doc is None else doc + gap
            if doc >= num_docs:
                raise ValueError("document")
            if weight:
                import numpy as np

                vectors[doc][term] = float(np.float32(weight))
    names = {}
    for one in messages[1 + num_lists :]:
        fields = fields_of(one)
        doc, name = last(fields, 1, int, 0), last(fields, 2, bytes, b"").decode()
        if not 0 <= doc < num_docs or doc in names or not name or name in names.values():
            raise ValueError("record")
        names[doc] = name
    return {names[doc]: vectors[doc] for doc in range(num_docs)}


def attack(data):
    is_packed, held = data[:1] == b"\1", data[1:]
    path = file_of("v.ciff.gz" if is_packed else "v.ciff", gzip.compress(held, 1, mtime=0) if is_packed else held)
    size = path.stat().st_size
    with watched(size):
        vectors, error = outcome(as_dict, path)
    if is_packed and len(held) > max(4 << 20, 20 * size):
        assert error is not None
        return
    compare(vectors, error, plain_vectors, held, path)
