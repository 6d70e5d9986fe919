"""When segments are merged: sizes stay within few classes, each four times the one below, so a collection of N documents
has about log4(N) segments and each document is copied about as often (O'Neil et al., The log-structured merge-tree, 1996).

Only neighbours are merged, so documents keep their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

FACTOR = 4  # segments of a class that become one of the next, and how much larger that is
SMALLEST = 1_000  # documents, up to which all segments are of the lowest class
MOST_DELETED = 0.25  # of a segment's documents; with more it is written anew


class Size(NamedTuple):
    """Documents of a segment."""

    live: int
    stored: int  # deleted ones included


def due(sizes: Sequence[Size]) -> slice | None:
    """Which neighbours to merge into one now; None where all is well. Ask again once it is done."""
    for position, (live, stored) in enumerate(sizes):
        if live < stored * (1 - MOST_DELETED):
            return slice(position, position + 1)
    for largest in range(size_class(max((size.live for size in sizes), default=0)) + 1):
        first = len(sizes)
        while first > 0 and size_class(sizes[first - 1].live) <= largest:
            first -= 1
        if len(sizes) - first >= FACTOR:
            return slice(first, len(sizes))
    return None


def size_class(documents: int) -> int:
    """0 up to SMALLEST documents, and one more each time that they are FACTOR times as many."""
    found = 0
    while documents > SMALLEST * FACTOR**found:
        found += 1
    return found
