"""Gzipped corpora: damaged ones, sound ones against the reading of what they hold, and ones that unpack to too much."""

import gzip
from functools import cache

from fuzz import corpus_jsonl, corpus_tsv
from fuzz.corpus_jsonl import compare
from fuzz.watch import Draw, demand, file_of, outcome, watched

from retrieval.corpus import read_corpus

KINDS = "raw", "whole", "cut", "flipped", "followed", "raw", "whole", "bomb"
UNPACKED = 48 << 20
SEEDS = [
    *(bytes([kind % 2, kind // 2, 9, 0, 0, 0]) + seed for kind in range(16) for seed in corpus_jsonl.SEEDS[:1]),
    *(bytes([1, kind, 9, 0, 0, 0]) + corpus_tsv.SEEDS[0] for kind in range(8)),
    bytes([0, 0]) + gzip.compress(corpus_jsonl.SEEDS[0], mtime=0),
]


def attack(data):
    draw = Draw(data)
    name, plain = draw.choice([("c.jsonl.gz", corpus_jsonl.plain_documents), ("c.tsv.gz", corpus_tsv.plain_documents)])
    kind = draw.choice(KINDS)
    if kind == "bomb":
        unpack_too_much(draw, name)
        return
    place = draw.number(1 << 32) if kind in ("cut", "flipped") else 0
    held = draw.rest()
    packed = bytearray(held if kind == "raw" else gzip.compress(held, 1, mtime=0))
    if kind == "cut":
        del packed[place % len(packed) :]
    elif kind == "flipped":
        packed[place // 8 % len(packed)] ^= 1 << place % 8
    elif kind == "followed":
        packed += held[-9:]
    path = file_of(name, bytes(packed))
    with watched(len(packed)):
        documents, error = outcome(lambda: list(read_corpus(path)))
    if kind == "whole" or (error is None and kind == "flipped"):  # a header has bits that say nothing
        compare(documents, error, plain, held, path)
    elif kind == "cut":
        demand(error is not None or not packed, f"{len(packed)} bytes of a longer file read as {documents!r}")


@cache
def filler(repeated):
    return gzip.compress(repeated * (UNPACKED // len(repeated)), 1, mtime=0)


def unpack_too_much(draw, name):
    """A line that is hundreds of times as long as the file."""
    end = filler(draw.choice([b"x", b"\0", b" ", "é".encode(), b"\t", b'{"a":']))
    packed = gzip.compress(draw.rest(), 1, mtime=0) + end
    path = file_of(name, packed)
    with watched(len(packed)):
        outcome(lambda: list(read_corpus(path)))
