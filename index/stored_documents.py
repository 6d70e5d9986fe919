"""What an index says about its documents beside their scores: their rows, lengths and impacts, and who has a term."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from index.building import count_windows
from index.sources import row_lengths
from index.storage import read_only
from kernels.cpu import forward_rows
from kernels.cpu.forward_rows import WINDOW, ForwardRows
from kernels.cpu.impact_tiers import TIERS, ImpactTiers, first_cell
from kernels.cpu.sparse import SparseRows


def stored_rows(forward: ForwardRows, num_terms: int, docs: np.ndarray) -> SparseRows:
    """The rows of some documents, each named once, as levels."""
    docs = read_only(np.ascontiguousarray(docs, np.int32))
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(row_lengths(forward, docs))])
    terms, levels = np.zeros(indptr[-1], np.int32), np.zeros(indptr[-1], np.float32)
    forward_rows.decode(forward, docs, num_terms, read_only(indptr), terms, levels)
    return SparseRows(read_only(indptr), terms, read_only(levels))


def impacts_of(forward: ForwardRows, rows: SparseRows, docs: np.ndarray) -> np.ndarray:
    """float32: the impacts that the levels in `rows` stand for, rows of these documents."""
    impacts = np.empty(len(rows.data), np.float32)
    forward_rows.weigh(rows.indptr, rows.data, read_only(forward.scales[docs]), forward.saturation, impacts)
    return impacts


def impacts_in(forward: ForwardRows, num_terms: int, doc: int, terms: np.ndarray) -> np.ndarray:
    """float32 [len(terms)]: the impact of each term in one document, 0 where it has no posting."""
    docs, wanted = np.array([doc]), np.asarray(terms, np.int64)
    rows = stored_rows(forward, num_terms, docs)
    if len(rows.indices) == 0:
        return np.zeros(len(wanted), np.float32)
    slots = np.minimum(np.searchsorted(rows.indices, wanted), len(rows.indices) - 1)
    return np.where(rows.indices[slots] == wanted, impacts_of(forward, rows, docs)[slots], np.float32(0))


def documents_with(tiers: ImpactTiers, num_docs: int, terms: Iterable[int]) -> np.ndarray:
    """bool [documents]: those that have all the terms."""
    num_windows, num_terms = count_windows(num_docs), len(tiers.counts) // TIERS
    having = np.ones(num_docs, np.bool_)
    for term in terms:
        with_term = np.zeros(num_windows * WINDOW, np.bool_)
        for window in range(num_windows):
            cell = first_cell(int(term), window, num_terms, num_windows)
            docs = tiers.docs[slice(*tiers.starts[[cell, cell + TIERS]])]
            with_term[window * WINDOW + docs.astype(np.int64)] = True
        having &= with_term[:num_docs]
    return having
