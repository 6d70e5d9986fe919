"""Which way of finding candidates fits a budget of bytes: chosen from what was measured (docs/results.md)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from index.dense.factory import Factory
from index.errors import WinnowError

if TYPE_CHECKING:
    from index.dense.options import DenseIndexOptions

FEW = 4_096  # vectors that are scored one by one faster than codes are looked up
LISTS_WORTH_IT = 1_000_000  # vectors, from which on a search should not look at all codes
LIST_BYTES = 8  # the number of a vector, which its list keeps
AS_GOOD = 0.001  # in recall: below, the faster method is taken


class Measured(NamedTuple):
    """What a method reached: 384 dimensions, 10 hits, held-out documents as queries."""

    words: str  # {n}: d / n
    recall: float  # share of the 10 nearest found, by the candidates that are scored exactly by default
    cost: float  # time of a search, as a share of an exact one's


class Choice(NamedTuple):
    """A method and why it was taken."""

    factory: Factory
    why: str


# `benchmarks/dense_index.py` on the TREC-DL pool; those that another beats in bytes, recall and time at once are left out, but for
# the ones that fit any dimension. OPQ gained .003 over PQ for five times the training, and 4-bit codes of twice as many parts
# gained more, as FAISS looks them up in registers.
MEASURED = (
    Measured("PQ{48}", 0.790, 0.15),
    Measured("PQ{32}", 0.839, 0.19),
    Measured("PQ{12}x4fs", 0.937, 0.045),
    Measured("PQ{8}x4fs", 0.975, 0.046),
    Measured("PQ{6}x4fs", 0.990, 0.048),
    Measured("PQ{4}x4fs", 0.998, 0.052),
    Measured("PQ{3}x4fs", 1.0, 0.061),
    Measured("PQ{2}x4fs", 1.0, 0.070),
    Measured("RR,RaBitQfs", 0.999, 0.15),
    Measured("SQ4", 1.0, 0.69),
    Measured("SQ8", 1.0, 0.44),
    Measured("Flat", 1.0, 1.0),
)


def choose(options: DenseIndexOptions, num_vectors: int, *, refuse_few: bool) -> Choice:
    """How an index of so many vectors finds candidates.

    refuse_few  what to do where there are fewer vectors than training needs: raise WinnowError, or else search exactly
    """
    if options.bytes_per_vector is None:
        factory = Factory.parse(options.factory or "Flat", options.dimension)
        if factory.is_exact:
            return Choice(factory, "Flat: every vector is compared, exactly.")
        why = f"{factory.words}, as asked for: {factory.code_bytes:,} bytes a vector, {factory.shared_bytes:,} that all share."
    else:
        factory, why = within_budget(options.bytes_per_vector, options.dimension, num_vectors)
        if factory.is_exact:
            return Choice(factory, why)
    if refuse_few and num_vectors < factory.least_vectors:
        raise WinnowError(
            f"{factory.words} needs at least {factory.least_vectors:,} vectors to be trained ({factory.enough_vectors:,} to be good) "
            f'and there are {num_vectors:,}; give more, or use factory="Flat".'
        )
    least = max(FEW, factory.enough_vectors)
    if not refuse_few and num_vectors < least:
        exactly = Factory.parse("Flat", options.dimension)
        return Choice(
            exactly,
            f"Flat, as {num_vectors:,} vectors are fewer than the {least:,} that {factory.words} is worth it from.",
        )
    return Choice(factory, why)


def within_budget(budget: int, dimension: int, num_vectors: int = 0) -> Choice:
    """The method of the best recall that fits; of those about as good, the fastest; of many vectors, in lists where these fit.

    Raises WinnowError where none fits.
    """
    known = list(methods(dimension))
    least = min(factory.code_bytes for _, factory in known)
    if budget < least:
        raise WinnowError(
            f"bytes_per_vector is {budget}, too little for vectors of {dimension} dimensions; the least possible is {least}."
        )
    in_lists = num_vectors >= LISTS_WORTH_IT and budget >= least + LIST_BYTES
    room = budget - LIST_BYTES * in_lists
    fitting = [(method, factory) for method, factory in known if factory.code_bytes <= room]
    best = max(method.recall for method, _ in fitting)
    method, factory = min(
        ((method, factory) for method, factory in fitting if method.recall >= best - AS_GOOD),
        key=lambda pair: (pair[0].cost, pair[1].code_bytes),
    )
    measured = (
        f"where it was measured (MiniLM, 384 dimensions) it found {method.recall:.1%} of the 10 nearest in {method.cost:.2g} times "
        "the time of an exact search"
    )
    if in_lists and not factory.is_exact:
        lists = 1 << round(math.log2(4 * math.sqrt(num_vectors)))
        *transform, codec = factory.words.split(",")
        factory = Factory.parse(",".join([*transform, f"IVF{lists}", codec]), dimension)
        measured += ", without the lists in which so many vectors are kept"
    return Choice(
        factory,
        f"{factory.words}: {factory.code_bytes:,} of at most {budget:,} bytes a vector, {factory.shared_bytes:,} that all share; "
        f"{measured}.",
    )


def methods(dimension: int) -> Iterator[tuple[Measured, Factory]]:
    """Those measured that can be had in a dimension."""
    for method in MEASURED:
        words = fitted(method.words, dimension)
        if words is not None:
            yield method, Factory.parse(words, dimension)


def fitted(words: str, dimension: int) -> str | None:
    """The words for a dimension; None where it cannot be cut so."""
    for divisor in range(1, 65):
        if f"{{{divisor}}}" in words:
            if dimension % divisor:
                return None
            words = words.replace(f"{{{divisor}}}", str(dimension // divisor))
    return words
