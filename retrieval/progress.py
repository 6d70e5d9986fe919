"""The one progress bar: on a terminal it moves, in a log it prints a line now and then."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
SECONDS_BETWEEN_LOG_LINES = 10.0
SECONDS_UNTIL_SHOWN = 1.0  # work that ends sooner needs no bar


def progress(items: Iterable[Item], *, total: int | None, doing: str, unit: str, shown: bool) -> Iterator[Item]:
    """`items`, counted on standard error while they are taken."""
    if not shown:
        yield from items
        return
    from tqdm import tqdm

    on_terminal = sys.stderr.isatty()
    yield from tqdm(
        items,
        total=total,
        desc=doing,
        unit=f" {unit}",
        delay=SECONDS_UNTIL_SHOWN,
        mininterval=0.1 if on_terminal else SECONDS_BETWEEN_LOG_LINES,
        maxinterval=SECONDS_BETWEEN_LOG_LINES,
        dynamic_ncols=on_terminal,
    )
