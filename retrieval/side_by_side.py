"""Several pieces of work at once, on threads that wait for the next query; one deadline for all."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any, TypeVar

from index.effort import is_number
from index.errors import DeadlineError, WinnowError
from index.vectors import checked_count

Found = TypeVar("Found")


class Worker(threading.Thread):
    """A thread that does one piece of work after another. Neither the end of the process nor the next search waits for it, which
    is why there is no pool of the standard library here: work that missed its deadline goes on, and holds up nobody."""

    idle: deque[Worker] = deque()

    def __init__(self) -> None:
        super().__init__(name="winnow-arm", daemon=True)
        self._given: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self.start()

    def run(self) -> None:
        while True:
            future, work = self._given.get()
            try:
                found, failure = work(), None
            except BaseException as error:
                found, failure = None, error
            del work
            Worker.idle.append(self)  # before anybody learns that it is done
            if failure is None:
                future.set_result(found)
            else:
                future.set_exception(failure)
            del future, found, failure  # what was found is not to be kept until the next query

    @classmethod
    def submit(cls, work: Callable[[], Found]) -> Future[Found]:
        """Have an idle worker do it, or a new one."""
        try:
            worker = cls.idle.pop()
        except IndexError:
            worker = cls()
        future: Future[Found] = Future()
        worker._given.put((future, work))
        return future


os.register_at_fork(after_in_child=Worker.idle.clear)  # threads do not come along


def side_by_side(
    works: Mapping[str, Callable[[], Found]], deadline: float | None = None, partial: bool = False
) -> tuple[dict[str, Found], dict[str, str]]:
    """(what each work found, by name; the names of those that did not, each with the reason).

    deadline  seconds for all of it; None: as long as it takes
    partial   what is late or fails is left out, unless nothing is left; otherwise it is an error

    Raises what a work raises, with a note of its name, and DeadlineError where one is late.
    """
    started = time.perf_counter()
    *others, last = works.items()
    waiting = {name: Worker.submit(work) for name, work in (works.items() if deadline is not None else others)}
    found: dict[str, Found] = {}
    failed: dict[str, Exception] = {}
    if deadline is None:
        collect(last[0], last[1], found, failed)  # here: a thread less to wake
    else:
        left = deadline - (time.perf_counter() - started)
        wait(waiting.values(), min(max(left, 0), threading.TIMEOUT_MAX))
    for name, future in waiting.items():
        if deadline is not None and not future.done():
            failed[name] = DeadlineError(
                f"{name} has not answered within {deadline:g} s; give it more time, or allow partial results."
            )
        else:
            collect(name, future.result, found, failed)
    if failed and (not partial or not found):
        raise next(iter(failed.values()))
    in_order = {name: found[name] for name in works if name in found}
    return in_order, {name: " ".join(str(error).split()) or type(error).__name__ for name, error in failed.items()}


def collect(name: str, work: Callable[[], Found], found: dict[str, Found], failed: dict[str, Exception]) -> None:
    try:
        found[name] = work()
    except Exception as error:  # whatever an arm fails with: partial results must not depend on its kind
        error.add_note(f"while the arm {name} was searched")
        failed[name] = error


def checked_deadline(deadline: float | None) -> float | None:
    """`deadline`; WinnowError unless it is None or a number above 0."""
    if deadline is None or (is_number(deadline) and 0 < deadline < math.inf):
        return deadline
    raise WinnowError(f"deadline is {deadline!r:.60}; it must be a number of seconds above 0.")


def checked_threads(threads: int | None) -> int:
    """As many as there are cores unless told."""
    return (os.cpu_count() or 1) if threads is None else checked_count("threads", threads)
