"""Every invariant of a dense index, checked against its own vectors (`winnow verify --full`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from index.dense.codes import Codes, Wish, one_thread
from index.dense.training import coded_pieces
from index.dense.vectors import ALMOST_ONE, LONGEST, pieces_of
from kernels.cpu.dense_scores import lengths_of

if TYPE_CHECKING:
    from index.dense.index import DenseIndex

SAMPLED = 64  # vectors that are looked for in a graph
FOUND = 0.1  # share of them that must be found again: a graph finds most, a foreign one none


def damage_of(index: DenseIndex) -> str | None:
    """What is wrong with an index as it was built (not a view of it); None if nothing is."""
    without = index.without
    if len(without) and (without[0] < 0 or without[-1] >= index.num_docs or np.any(without[1:] <= without[:-1])):
        return "documents without a vector are not in order or not in the index"
    return damage_of_vectors(index) or (None if index.codes is None else damage_of_codes(index, index.codes))


def damage_of_vectors(index: DenseIndex) -> str | None:
    dimension, longest = index.options.dimension, 0.0
    has_none = np.zeros(index.num_docs, np.bool_)
    has_none[index.without] = True
    for piece in pieces_of(index.num_docs, dimension):
        lengths = np.empty(piece.stop - piece.start)
        lengths_of(index.vectors[piece.start * dimension : piece.stop * dimension], dimension, lengths)
        is_wrong = ~(lengths <= LONGEST)
        is_wrong |= (lengths != 0) & has_none[piece]
        if index.options.similarity == "cosine":
            is_wrong |= ~has_none[piece] & ~(np.abs(lengths - 1) <= 2 * ALMOST_ONE)
            lengths[lengths > 0] = 1
        for row in np.flatnonzero(is_wrong)[:1]:
            return f"the vector of document {piece.start + row} is not finite, has another length than it should, or is not expected"
        longest = max(longest, float(lengths.max(initial=0.0)))
    return (
        None
        if longest <= index.longest
        else f"a vector has a length of {longest:g}, its description says {index.longest:g}"
    )


def damage_of_codes(index: DenseIndex, codes: Codes) -> str | None:
    """Codes are made of the stored vectors once more and compared; a graph, which takes long to make, is searched."""
    import faiss

    if len(codes) != index.num_docs - len(index.without):
        return f"{len(codes)} vectors have codes, {index.num_docs - len(index.without)} vectors are there"
    if codes.factory.links:
        return damage_of_graph(index, codes)
    # a copy of its own: what is mapped from a file cannot be emptied, and FAISS ends the process where it is tried
    again = faiss.deserialize_index(faiss.serialize_index(codes.index))
    again.reset()
    with one_thread():
        for vectors in coded_pieces(index.vectors, index.without, index.options.dimension):
            again.add(vectors)
    if Codes(again, codes.factory).stored() != Codes(codes.index, codes.factory).stored():
        return "its codes are not those of its vectors"
    return None


def damage_of_graph(index: DenseIndex, codes: Codes) -> str | None:
    rows = np.linspace(0, len(codes) - 1, min(SAMPLED, len(codes))).astype(np.int64)
    docs = docs_of_rows(index)[rows]
    found = codes.candidates(index.stored_rows(docs), min(16, len(codes)), Wish(1, 128), None)
    vectors = index.vectors.reshape(index.num_docs, -1)
    best = docs_of_rows(index)[found]
    own = np.einsum("nd,nd->n", vectors[docs], vectors[docs])
    nearest = np.max([np.einsum("nd,nd->n", vectors[docs], vectors[best[:, i]]) for i in range(best.shape[1])], axis=0)
    is_found = nearest >= own * (
        1 - 1e-5
    )  # itself, one equal to it, or, of vectors of other lengths, one that is nearer
    return None if np.mean(is_found) >= FOUND else "its graph does not lead to its vectors"


def docs_of_rows(index: DenseIndex) -> np.ndarray:
    """int64: the document of each vector that has a code."""
    docs = np.arange(index.num_docs)
    return docs[~np.isin(docs, index.without)]
