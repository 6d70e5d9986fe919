"""Stages that work at the same time, each in a thread of its own: what one has finished the next one takes up.

Order is kept and little waits between stages, so memory does not grow with the number of items. Compiled code, PyTorch, SQLite and the disk let go
of Python's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")
SECONDS_BETWEEN_LOOKS = 0.1  # at whether all is to end


class Stopped(Exception):
    """Nobody wants what is being made any more."""


class Stopping:
    """Whether all is to end."""

    def __init__(self) -> None:
        self._event = Event()

    def stop(self) -> None:
        self._event.set()

    def check(self) -> None:
        """Raises Stopped."""
        if self._event.is_set():
            raise Stopped

    def watched(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, until all is to end."""
        for item in items:
            self.check()
            yield item


class Stage(Generic[Item]):
    """An iterator whose items are made in a thread, ahead of whoever takes them; an error of theirs is raised where they are taken."""

    def __init__(self, items: Iterator[Item], stopping: Stopping, name: str, ahead: int = 1):
        self._queue: Queue[tuple[str, Any]] = Queue(ahead)
        self._items, self._stopping = items, stopping
        self._thread = Thread(target=self._work, name=name, daemon=True)  # no thread keeps an interrupted program alive
        self._thread.start()

    def _work(self) -> None:
        try:
            for item in self._items:
                self._put("item", item)
            self._put("end", None)
        except Stopped:
            return
        except BaseException as error:
            try:
                self._put("error", error)
            except Stopped:
                return

    def _put(self, what: str, item: Any) -> None:
        while True:
            self._stopping.check()
            try:
                self._queue.put((what, item), timeout=SECONDS_BETWEEN_LOOKS)
                return
            except Full:
                continue

    def __iter__(self) -> Iterator[Item]:
        while True:
            self._stopping.check()
            try:
                what, item = self._queue.get(timeout=SECONDS_BETWEEN_LOOKS)
            except Empty:
                continue
            if what == "end":
                return
            if what == "error":
                raise item
            yield item

    def groups(self, least: int) -> Iterator[list[Item]]:
        """Whenever it is asked, all items that are ready, and at least so many while there are more to come; those before an error first."""
        group: list[Item] = []
        while True:
            self._stopping.check()
            if len(group) >= least and self._queue.empty():
                yield group
                group = []
            try:
                what, item = self._queue.get(timeout=SECONDS_BETWEEN_LOOKS)
            except Empty:
                continue
            if what == "item":
                group.append(item)
                continue
            if group:
                yield group
            if what == "error":
                raise item
            return

    def join(self, seconds: float) -> None:
        """Wait for the thread, which has been told to stop."""
        self._thread.join(seconds)


def mapped(function: Callable[[Item], Found], items: Iterable[Item]) -> Iterator[Found]:
    """`map`, which keeps no item that it has done with."""
    for item in items:
        yield function(item)
        del item
