"""A job's progress: documents encoded, how many a second, and the time left, from the share of the sources' bytes that is read."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from index.documents import Document
from retrieval.jobs.intake import Counts
from retrieval.jobs.rejects import Rejects
from retrieval.jobs.sources import Source
from retrieval.progress import bar

DOCUMENTS_BETWEEN_LOOKS = 16


class Meter:
    """A progress bar; a context manager."""

    def __init__(self, sources: Sequence[Source], reading: Rejects, counts: Counts, arms: int, *, shown: bool):
        """
        reading, counts  say how much is read, and what of it is new
        arms             that each document is encoded for
        """
        sizes = [source.bytes for source in sources]
        self._bytes = None if None in sizes else sum(size for size in sizes if size is not None)
        self._reading, self._counts, self._arms, self._shown = reading, counts, arms, shown
        self._seen = 0  # documents, once for each arm
        self._bar: Any = None
        self._is_terminal = sys.stderr.isatty()

    def __enter__(self) -> Meter:
        self._started = time.monotonic()
        total = None if self._bytes is None else 0
        self._bar = bar(total=total, doing="indexing", unit="documents", shown=self._shown)
        return self

    def __exit__(self, *ended: object) -> None:
        self._show()
        self._bar.close()

    @property
    def expected(self) -> int | None:
        """How many documents there will be to encode, as far as the part of the sources that is read tells; None: nobody knows."""
        read, new = self._reading.position, self._counts.added + self._counts.changed
        if self._bytes is None or read == 0:
            return None
        return max(new, round(new * max(self._bytes / read, 1)))

    def watch(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Counts the documents of one arm that go by."""
        for document in documents:
            yield document
            self._seen += 1
            if self._seen % DOCUMENTS_BETWEEN_LOOKS == 0:
                self._show()

    def _show(self) -> None:
        done = self._seen // self._arms
        if (expected := self.expected) is not None:
            self._bar.total = expected
        if not self._is_terminal:  # there tqdm's own line has the rate
            rate = done / max(time.monotonic() - self._started, 1e-9)
            self._bar.set_postfix_str(f"{rate:,.1f} documents/s", refresh=False)
        self._bar.update(done - self._bar.n)
