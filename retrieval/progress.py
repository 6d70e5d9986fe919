"""The one progress bar: on a terminal it moves, in a log it prints a line now and then."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from index.writer import Watch, Writer

Item = TypeVar("Item")
SECONDS_BETWEEN_LOG_LINES = 10.0
SECONDS_UNTIL_SHOWN = 1.0  # work that ends sooner needs no bar


def progress(items: Iterable[Item], *, total: int | None, doing: str, unit: str, shown: bool) -> Iterator[Item]:
    """`items`, counted on standard error while they are taken."""
    if not shown:
        yield from items
        return
    from tqdm import tqdm

    options: dict[str, Any] = {"mininterval": 0.1, "dynamic_ncols": True}
    if not sys.stderr.isatty():
        options = {"mininterval": SECONDS_BETWEEN_LOG_LINES, "maxinterval": 3 * SECONDS_BETWEEN_LOG_LINES}
        if total is not None:
            options["bar_format"] = "{desc}: {percentage:3.0f}% ({n_fmt}/{total_fmt}{unit}, {elapsed}<{remaining})\n"
    yield from tqdm(
        items, total=total, desc=doing, unit=f" {unit}", delay=SECONDS_UNTIL_SHOWN, file=sys.stderr, **options
    )


def watched(writer: Writer, shown: bool) -> Watch:
    """Counts the documents that a commit encodes on a progress bar for each arm, if there is to be one."""
    return lambda documents: progress(
        documents, total=writer.num_staged, doing="encoding", unit="documents", shown=shown
    )
