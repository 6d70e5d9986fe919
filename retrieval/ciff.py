"""The Common Index File Format: an inverted index as Anserini, Terrier, PISA and others exchange it, here turned into vectors.

A file is a Header, as many PostingsLists as it says, then as many DocRecords, each a protobuf message behind its length. A
posting's document is the distance to the one before, its `tf` the weight (Lin et al., arXiv:2003.08276).
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from index.errors import CorpusError
from index.scratch import GrowingArray, scratch_array
from index.storage import read_only
from kernels.cpu import ciff
from kernels.cpu.sparse import SparseRows
from retrieval.corpus import LONGEST_UNPACKED, TIMES_PACKED
from retrieval.vectors_by_id import RowIds, VectorsById

VERSION = 1
WRONG = {
    ciff.MALFORMED: "is no postings list",
    ciff.UNORDERED: "names documents that do not ascend within those of the header",
    ciff.UNWEIGHABLE: "has a weight below 0 or beyond 32 bits",
}
CHUNK = 1 << 20  # bytes unpacked at a time


def read_ciff(path: Path) -> VectorsById:
    """The vectors of a `.ciff` or `.ciff.gz` file, by the names that its documents have outside. Raises CorpusError."""
    data = bytes_of(path)
    num_lists, num_docs, at = read_header(data, path)
    docs, weights = np.empty(num_docs, np.int32), np.empty(num_docs, np.float32)
    lengths, first_list = np.zeros(num_docs + 1, np.int64), at
    number_of: dict[str, int] = {}
    for _ in range(num_lists):  # once to count, once more to place
        count, at, term = read_list(data, at, docs, weights, path)
        if term in number_of:
            raise CorpusError(f"{path} has two lists of the term {term!r:.60}; each term needs one.")
        number_of[term] = len(number_of)
        lengths[docs[:count] + 1] += 1
    ids = read_ids(data, at, num_docs, path)
    indptr = np.cumsum(lengths)
    indices, values = scratch_array("int32", int(indptr[-1])), scratch_array("float32", int(indptr[-1]))
    places, at = indptr[:-1].copy(), first_list
    for number in range(num_lists):
        count, at, _ = read_list(data, at, docs, weights, path)
        entries = places[docs[:count]]
        indices[entries], values[entries] = number, weights[:count]
        places[docs[:count]] += 1
    return VectorsById(str(path), ids, list(number_of), SparseRows(indptr, read_only(indices), read_only(values)))


def bytes_of(path: Path) -> np.ndarray:
    """uint8, mapped from the file or from what it unpacks to. Raises CorpusError for what is not gzip, or unpacks to too much."""
    size = path.stat().st_size
    if path.suffix != ".gz":
        return read_only(np.memmap(path, np.uint8, "r") if size else np.empty(0, np.uint8))
    unpacked, most = GrowingArray("uint8"), max(LONGEST_UNPACKED, TIMES_PACKED * size)
    try:
        with gzip.open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                unpacked.append(np.frombuffer(chunk, np.uint8))
                if len(unpacked) > most:
                    raise CorpusError(
                        f"{path} unpacks to more than {most:,} bytes, from {size:,}; unpack it yourself if that is right."
                    )
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CorpusError(f"{path} is not a whole gzip file ({error}); fetch it again.") from error
    return unpacked.mapped()


def read_header(data: np.ndarray, path: Path) -> tuple[int, int, int]:
    """(postings lists, documents, where the first list begins), as the header says and the number of messages confirms."""
    num_messages = ciff.count_messages(data)
    if num_messages < 0:
        raise CorpusError(f"{path} ends within its message at byte {-1 - num_messages}; fetch it again.")
    first, end = ciff.message(data, 0) if num_messages else (0, -1)
    values = np.zeros(4, np.int64)  # version, postings lists and documents are its first three fields
    if end < 0 or not ciff.header(data, first, end, values):
        raise CorpusError(f"{path} begins with no header of the Common Index File Format; export it again.")
    _, version, num_lists, num_docs = values.tolist()
    if version != VERSION:
        raise CorpusError(f"{path} is CIFF of version {version}; this release reads version {VERSION}, so export that.")
    if min(num_lists, num_docs) < 0 or num_lists + num_docs != num_messages - 1:
        raise CorpusError(
            f"{path} says that it holds {num_lists} postings lists and {num_docs} documents, but {num_messages - 1} messages "
            "follow; export it again."
        )
    return num_lists, num_docs, end


def read_list(data: np.ndarray, at: int, docs: np.ndarray, weights: np.ndarray, path: Path) -> tuple[int, int, str]:
    """(postings written into `docs` and `weights`, where the next message begins, the term) of the list at a byte."""
    first, end = ciff.message(data, at)
    count, term_first, term_end = ciff.postings(data, first, end, docs, weights)
    if count < 0:
        raise CorpusError(f"{path}: the message at byte {at} {WRONG[count]}; export it again.")
    return count, end, text_of(data, term_first, term_end, at, path)


def read_ids(data: np.ndarray, at: int, num_docs: int, path: Path) -> RowIds:
    """The names of the documents by number, from the records that begin at a byte."""
    ids, is_named = RowIds(), np.zeros(num_docs, np.bool_)
    for _ in range(num_docs):
        first, end = ciff.message(data, at)
        doc, name_first, name_end = ciff.document(data, first, end)
        if not 0 <= doc < num_docs or is_named[doc]:
            raise CorpusError(
                f"{path}: the message at byte {at} is no record of a document, 0 to {num_docs - 1}, that none before is of; "
                "export it again."
            )
        is_named[doc] = True
        ids.add(text_of(data, name_first, name_end, at, path), doc, f"{path}: the message at byte {at}")
        at = end
    return ids


def text_of(data: np.ndarray, first: int, end: int, at: int, path: Path) -> str:
    try:
        return data[first:end].tobytes().decode()
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path}: the message at byte {at} has a text that is not UTF-8 ({error.reason}); export it again."
        ) from error
