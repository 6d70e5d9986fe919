"""Shards as Ray actors: each opened where it runs, with replicas that answer for one another.

A call goes to the replicas of its shard in turn. One that has died is passed over for a while, as Ray starts it again somewhere; one
that is slow is given company: after some time another replica is asked the same, and who answers first counts.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from index.errors import WinnowError
from index.vectors import checked_count
from retrieval.ray_cluster import connected
from retrieval.sharded.shard import Shard, ShardSource
from retrieval.sharded.shards import Answers, Asked, late

COMPANY_SECONDS = 1.0  # after which another replica is asked too, or at half of the time that is left
ASIDE_SECONDS = 5.0  # in which a replica that died or was slow is not asked while another can be
BUNDLE = {"memory": 1}  # bytes: a place that takes nothing from others
CALLS_AT_ONCE = 4  # that one actor works on: compiled search runs beside others


class Replica(NamedTuple):
    """One of the actors of a shard."""

    shard: int
    number: int


class RayShards:
    """Every shard an actor, or several."""

    def __init__(self, sources: Sequence[ShardSource], *, address: str | None = None, replicas: int = 1):
        """Raises WinnowError for a cluster that cannot be reached; shards open behind it, and a call waits for them."""
        self._replicas = checked_count("replicas", replicas)
        self._ray = connected(address)
        # no CPU is held: actors wait for queries most of the time, and shards may be more than CPUs
        remote = self._ray.remote(num_cpus=0, max_restarts=-1, max_concurrency=CALLS_AT_ONCE)(Shard)
        self._groups = [self._ray.util.placement_group([BUNDLE] * replicas, strategy="SPREAD") for _ in sources]
        self._actors = [
            [remote.options(scheduling_strategy=place).remote(source) for place in self._places(group)]
            for source, group in zip(sources, self._groups, strict=True)
        ]
        self._turn = Counter[int]()
        self._aside: dict[Replica, float] = {}  # until when

    def __len__(self) -> int:
        return len(self._actors)

    def _places(self, group: Any) -> list[Any]:
        """One for each replica of a shard, on as many nodes as there are: Ray's SPREAD of actors looks at each by itself and would put two
        on one node now and then."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        return [PlacementGroupSchedulingStrategy(group, number) for number in range(self._replicas)]

    def ask(self, asked: Mapping[int, Asked], until: float | None) -> Answers:
        """Every shard that is named; see `Shards.ask`."""
        answers, calls, asks = Answers({}, {}), dict[Any, Replica](), Counter[int]()

        def submit(number: int) -> None:
            replica = self._next(number)
            method = getattr(self._actors[number][replica.number], asked[number].method)
            calls[method.remote(*asked[number].arguments)] = replica
            asks[number] += 1

        for number in asked:
            submit(number)
        company_at = self._company_at(until)
        while any(number not in answers.found and number not in answers.failed for number in asked):
            waited_until = min((moment for moment in (until, company_at) if moment is not None), default=None)
            left = None if waited_until is None else max(waited_until - time.monotonic(), 0.0)
            open_calls = [call for call, replica in calls.items() if replica.shard not in answers.found]
            unanswered = {calls[call].shard for call in open_calls}  # fewer than calls where some have company
            ready, _ = self._ray.wait(open_calls, num_returns=len(unanswered), timeout=left)
            for call in ready:
                replica = calls.pop(call)
                if replica.shard in answers.found:
                    continue
                if (lost := self._take(call, replica, answers)) is None:
                    continue
                self._aside[replica] = time.monotonic() + ASIDE_SECONDS
                if asks[replica.shard] <= self._replicas:
                    submit(replica.shard)
                elif all(other.shard != replica.shard for other in calls.values()):
                    answers.failed[replica.shard] = lost
            still = {replica.shard: replica for replica in calls.values() if replica.shard not in answers.found}
            now = time.monotonic()
            if until is not None and now >= until:
                answers.failed.update({number: late(number) for number in still})
            elif company_at is not None and now >= company_at:
                company_at = None
                for number, replica in still.items():
                    self._aside[replica] = now + ASIDE_SECONDS
                    submit(number)
        return answers

    def _take(self, call: Any, replica: Replica, answers: Answers) -> WinnowError | None:
        """Note what came of a call; the error where the replica was lost over it."""
        try:
            answers.found[replica.shard] = self._ray.get(call)
            self._aside.pop(replica, None)
        except self._ray.exceptions.RayActorError as error:
            started_with = getattr(error, "cause", None)
            return WinnowError(
                f"shard {replica.shard} was lost ({first_line(started_with or error)}); open it with more replicas."
            )
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            answers.failed[replica.shard] = (
                cause
                if isinstance(cause, WinnowError)
                else WinnowError(f"shard {replica.shard} has failed ({first_line(cause)}); open the retriever anew.")
            )
        return None

    def _next(self, number: int) -> Replica:
        """Whose turn it is, of the replicas of a shard that are not aside; of those where all are."""
        turn, now = self._turn[number], time.monotonic()
        self._turn[number] += 1
        each = [Replica(number, (turn + i) % self._replicas) for i in range(self._replicas)]
        return next((one for one in each if self._aside.get(one, 0.0) <= now), each[0])

    def _company_at(self, until: float | None) -> float | None:
        if self._replicas == 1:
            return None
        now = time.monotonic()
        return now + COMPANY_SECONDS if until is None else min(now + COMPANY_SECONDS, (now + until) / 2)

    def close(self) -> None:
        """End the actors; the connection to the cluster stays, as others may use it."""
        for actor in (one for replicas in self._actors for one in replicas):
            with suppress(Exception):  # whatever became of the cluster, nothing is left to do about it
                self._ray.kill(actor)
        for group in self._groups:
            with suppress(Exception):
                self._ray.util.remove_placement_group(group)
        self._actors, self._groups = [], []


def first_line(error: object) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
