"""Who is asked: all shards at once, wherever they are, and at most until a moment. Here those of this process."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from functools import partial as bound
from typing import Any, NamedTuple, Protocol

from index.errors import DeadlineError
from retrieval.sharded.shard import Shard, ShardSource
from retrieval.side_by_side import Worker


class Asked(NamedTuple):
    """One call of a shard: the name of a method of `Shard`, and what it is given."""

    method: str
    arguments: tuple[Any, ...] = ()


class Answers(NamedTuple):
    """What shards said, by number, and what kept the others from it."""

    found: dict[int, Any]
    failed: dict[int, Exception]


class Shards(Protocol):
    """The shards of a collection, numbered in the order of their documents."""

    def __len__(self) -> int: ...

    def ask(self, asked: Mapping[int, Asked], until: float | None) -> Answers:
        """Every shard that is named, side by side.

        until  of `time.monotonic`: who has not answered then has failed with DeadlineError; None: as long as it takes
        """
        ...

    def close(self) -> None:
        """Let go of them."""
        ...


class LocalShards:
    """Shards opened in this process, each asked on a thread of its own."""

    def __init__(self, sources: Sequence[ShardSource]):
        self._shards = [Shard(source) for source in sources]

    def __len__(self) -> int:
        return len(self._shards)

    def ask(self, asked: Mapping[int, Asked], until: float | None) -> Answers:
        waiting: dict[int, Future[Any]] = {
            number: Worker.submit(bound(getattr(self._shards[number], one.method), *one.arguments))
            for number, one in asked.items()
        }
        wait(waiting.values(), left_until(until))
        answers = Answers({}, {})
        for number, future in waiting.items():
            if not future.done():
                answers.failed[number] = late(number)
            elif isinstance(error := future.exception(), Exception):
                answers.failed[number] = error
            else:
                answers.found[number] = future.result()
        return answers

    def close(self) -> None:
        self._shards = []


def left_until(until: float | None) -> float | None:
    """Seconds, not below 0; None: any number."""
    return None if until is None else max(until - time.monotonic(), 0.0)


def late(number: int) -> DeadlineError:
    return DeadlineError(
        f"shard {number} has not answered in time; give a longer deadline, more replicas, or allow partial results."
    )
