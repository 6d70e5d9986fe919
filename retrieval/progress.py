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
    yield from bar(items, total=total, doing=doing, unit=unit)


def bar(
    items: Iterable[Any] | None = None,
    *,
    total: int | None,
    doing: str,
    unit: str,
    first: int = 0,
    shown: bool = True,
) -> Any:
    """tqdm's bar, for work that is not taken from `items`: `update()` moves it, `set_postfix` writes beside it, `close` ends it.

    first  how much was done before
    """
    from tqdm import tqdm

    options: dict[str, Any] = {"mininterval": 0.1, "dynamic_ncols": True}
    if not sys.stderr.isatty():
        options = {"mininterval": SECONDS_BETWEEN_LOG_LINES, "maxinterval": 3 * SECONDS_BETWEEN_LOG_LINES}
        if total is not None:
            counts = "{percentage:3.0f}% ({n_fmt}/{total_fmt}{unit}, {elapsed}<{remaining}{postfix})"
            options["bar_format"] = f"{{desc}}: {counts}\n"
    options |= {"desc": doing, "unit": f" {unit}", "delay": SECONDS_UNTIL_SHOWN, "file": sys.stderr}
    return tqdm(items, total=total, initial=first, disable=not shown, **options)


def watched(writer: Writer, shown: bool) -> Watch:
    """Counts the documents that a commit encodes on a progress bar for each arm, if there is to be one."""
    return lambda documents: progress(
        documents, total=writer.num_staged, doing="encoding", unit="documents", shown=shown
    )
