"""Which rows of which indexes go into one, checked: what `InvertedIndex.merge` builds from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from index.errors import InvalidVectorsError, WinnowError
from index.filters import Filter
from index.options import InvertedIndexOptions
from index.sources import Piece, Stored

if TYPE_CHECKING:
    from index.inverted import InvertedIndex


def stored_together(
    indexes: Iterable[InvertedIndex],
    live: Sequence[np.ndarray | None] | None,
    terms: Sequence[np.ndarray | None] | None,
    num_terms: int | None,
    kept_bytes: int,
) -> tuple[Stored, InvertedIndexOptions]:
    """The rows, and the options of the index that they make; arguments as for `InvertedIndex.merge` and `Stored`."""
    indexes = list(indexes)
    if not indexes:
        raise WinnowError("there is no index to merge; give at least one.")
    live, terms = live or [None] * len(indexes), terms or [None] * len(indexes)
    for name, given in (("live", live), ("terms", terms)):
        if len(given) != len(indexes):
            raise WinnowError(f"{name} has {len(given)} entries for {len(indexes)} indexes; give one for each.")
    options = replace(indexes[0].options, num_terms=indexes[0].options.num_terms if num_terms is None else num_terms)
    for index, new_terms in zip(indexes, terms, strict=True):
        own = index.options.num_terms if new_terms is None else options.num_terms
        if replace(index.options, num_terms=own) != options:
            raise WinnowError(
                f"the indexes have different options ({', '.join(sorted({str(index.options) for index in indexes}))}); "
                "merge indexes built with the same, or give terms= and num_terms= where vocabularies differ."
            )
    pieces = [
        Piece(
            index.forward, index.options.num_terms, docs_of(index, mask), checked_terms(index, new, options.num_terms)
        )
        for index, mask, new in zip(indexes, live, terms, strict=True)
    ]
    return Stored(pieces, kept_bytes), options


def docs_of(index: InvertedIndex, live: np.ndarray | None) -> np.ndarray:
    """int32, ascending: the documents of an index that are kept; without a mask, those that live as it was seen."""
    mask = index.live if live is None else Filter.of("mask of live documents", live, index.num_docs).mask
    if mask is None or len(mask) == 0:
        return np.arange(index.num_docs, dtype=np.int32)
    return np.flatnonzero(mask).astype(np.int32)


def checked_terms(index: InvertedIndex, new_terms: np.ndarray | None, num_terms: int) -> np.ndarray | None:
    """What each term is called in the merged index. Raises InvalidVectorsError for numbers that do not ascend within it.

    -1 stands for a term that no kept document has; one that has it all the same is found when its row is read.
    """
    if new_terms is None:
        return None
    new_terms, own = np.asarray(new_terms), index.options.num_terms
    if new_terms.dtype.kind not in "iu" or new_terms.shape != (own,):
        raise InvalidVectorsError(
            f"the new numbers of terms have dtype {new_terms.dtype} and shape {new_terms.shape}; an index of {own} terms "
            "needs one whole number for each."
        )
    kept = new_terms[new_terms != -1].astype(np.int64)
    if len(kept) and (np.any(np.diff(kept) <= 0) or kept[0] < 0 or kept[-1] >= num_terms):
        raise InvalidVectorsError(
            f"the new numbers of {own} terms go from {kept[0]} to {kept[-1]}; they must ascend, each once, from 0 to "
            f"{num_terms - 1} (-1: no longer needed), or give a larger num_terms."
        )
    return np.ascontiguousarray(new_terms, np.int32)
