"""The Common Index File Format: postings lists in the order of their terms' bytes, then the documents (Lin et al., arXiv:2003.08276).

Vectors come document by document and are turned round in temporary files, so neither memory nor the order of work depends on their
number. A document's length is the sum of its impacts.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from index.errors import WinnowError
from index.files import created, write_all
from index.scratch import GrowingArray, scratch_array
from kernels.cpu import ciff
from retrieval.ciff import VERSION
from retrieval.exports.collection import Batch, WeightedTerms
from retrieval.exports.protocol import Sizes
from retrieval.exports.whole_numbers import WholeNumbers, in_steps

MOST_DOCUMENTS = 2**31 - 1
ENTRIES_TOGETHER = 1 << 20
BYTES_TOGETHER = 1 << 20
FILE = "index.ciff"


class Ciff(WholeNumbers):
    name = "ciff"

    def check_sizes(self, sizes: Sizes, num_terms: int) -> None:
        if sizes.documents > MOST_DOCUMENTS:
            raise WinnowError(
                f"there are {sizes.documents:,} documents, and ciff numbers {MOST_DOCUMENTS:,}; export a part of them."
            )
        super().check_sizes(sizes, num_terms)

    def write(self, batches: Iterator[Batch], terms: Sequence[str], sizes: Sizes, folder: Path) -> None:
        spilled = Spilled.of(batches, len(terms))
        lists = Lists.of(spilled, len(terms))
        total = int(spilled.lengths.sum(dtype=np.int64))
        order = sorted(np.flatnonzero(np.diff(lists.starts)).tolist(), key=lambda number: terms[number].encode())
        path = folder / FILE
        with created(path) as file:
            messages = [header(len(order), sizes.documents, total, f"exported by winnow, weights times {self.scale:g}")]
            waiting = len(messages[0])
            for message in (*each_list(lists, order, terms), *each_document(spilled)):
                messages.append(message)
                waiting += len(message)
                if waiting >= BYTES_TOGETHER:
                    write_all(file, b"".join(messages), path)
                    messages, waiting = [], 0
            write_all(file, b"".join(messages), path)

    def query_request(self, query: WeightedTerms, terms: Sequence[str], k: int) -> str:
        impacts = in_steps(query.weights, self.scale).tolist()
        return json.dumps(
            {terms[n]: impact for n, impact in zip(query.numbers.tolist(), impacts, strict=True) if impact},
            ensure_ascii=False,
            indent=2,
        )


class Spilled(NamedTuple):
    """Entries in the order of the documents."""

    ids: list[str]
    terms: np.ndarray  # int32 [entries]
    docs: np.ndarray  # int32 [entries]
    impacts: np.ndarray  # int32 [entries]
    lengths: np.ndarray  # int32 [documents]

    @classmethod
    def of(cls, batches: Iterator[Batch], num_terms: int) -> Spilled:
        ids: list[str] = []
        terms, docs, impacts, lengths = (GrowingArray("int32") for _ in range(4))
        for batch in batches:
            indptr, numbers, weights = batch.rows
            rows = np.repeat(np.arange(len(batch.ids)), np.diff(indptr))
            kept = weights > 0
            lengths.append(np.bincount(rows, weights, len(batch.ids)))
            terms.append(numbers[kept])
            docs.append(rows[kept] + len(ids))
            impacts.append(weights[kept])
            ids += batch.ids
        return cls(ids, terms.mapped(), docs.mapped(), impacts.mapped(), lengths.mapped())


class Lists(NamedTuple):
    """The same in the order of the terms: the list of term t from `starts[t]` up to `starts[t + 1]`, its documents ascending."""

    starts: np.ndarray  # int64 [terms + 1]
    docs: np.ndarray
    impacts: np.ndarray

    @classmethod
    def of(cls, spilled: Spilled, num_terms: int) -> Lists:
        total = len(spilled.terms)
        chunks = [slice(start, start + ENTRIES_TOGETHER) for start in range(0, total, ENTRIES_TOGETHER)]
        counts = np.zeros(num_terms, np.int64)
        for chunk in chunks:
            counts += np.bincount(spilled.terms[chunk], minlength=num_terms)
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        docs, impacts, places = scratch_array("int32", total), scratch_array("int32", total), starts[:-1].copy()
        for chunk in chunks:
            terms = spilled.terms[chunk]
            order = np.argsort(terms, kind="stable")  # documents of a term stay in their order
            run_lengths = np.bincount(terms, minlength=num_terms)
            first = np.cumsum(run_lengths) - run_lengths
            ascending = terms[order]
            targets = places[ascending] + np.arange(len(order)) - first[ascending]
            docs[targets], impacts[targets] = spilled.docs[chunk][order], spilled.impacts[chunk][order]
            places += run_lengths
        return cls(starts, docs, impacts)


def each_list(lists: Lists, order: Sequence[int], terms: Sequence[str]) -> Iterator[bytes]:
    """The PostingsList of each term."""
    for number in order:
        own = slice(int(lists.starts[number]), int(lists.starts[number + 1]))
        docs, impacts = np.asarray(lists.docs[own]), np.asarray(lists.impacts[own])
        out = np.empty(len(docs) * ciff.BYTES_A_POSTING, np.uint8)
        size = ciff.put_postings(docs, impacts, out)
        fields = text(1, terms[number]) + number_of(2, len(docs)) + number_of(3, int(impacts.sum(dtype=np.int64)))
        yield behind_length(fields + out[:size].tobytes())


def each_document(spilled: Spilled) -> Iterator[bytes]:
    """The DocRecord of each."""
    for doc, (doc_id, length) in enumerate(zip(spilled.ids, spilled.lengths.tolist(), strict=True)):
        yield behind_length(number_of(1, doc) + text(2, doc_id) + number_of(3, length))


def header(num_lists: int, num_docs: int, total: int, description: str) -> bytes:
    mean = varint(7 << 3 | ciff.BYTES_8) + struct.pack("<d", total / max(num_docs, 1))
    counts = number_of(2, num_lists) + number_of(3, num_docs) + number_of(4, num_lists) + number_of(5, num_docs)
    return behind_length(number_of(1, VERSION) + counts + number_of(6, total) + mean + text(8, description))


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def number_of(field: int, value: int) -> bytes:
    """A field of a number; protobuf leaves zeros out."""
    return varint(field << 3 | ciff.VARINT) + varint(value) if value else b""


def text(field: int, value: str) -> bytes:
    return varint(field << 3 | ciff.BYTES) + behind_length(value.encode())


def behind_length(content: bytes) -> bytes:
    return varint(len(content)) + content
