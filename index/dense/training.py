"""Training what finds candidates, within a time budget that a short trial shows how to keep.

FAISS cannot be stopped while it trains (its one hook is of the whole process and would end other threads' searches too), so
how many vectors and rounds there is time for is decided before.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from index.dense.codes import Codes, last_line, make, one_thread, parts_of
from index.dense.factory import Factory
from index.dense.vectors import mask_without, pieces_of
from index.errors import WinnowError

SEED = 20_260
VECTORS_PER_CENTROID = 256  # more teach FAISS's k-means nothing: it leaves the others out
VECTORS_PER_LIST = 64  # as long lists are clustered in many dimensions: what FAISS's guide holds for enough
LEAST_ROUNDS = 4  # of k-means
ROUNDS_OF_ROTATION = (20, 8, 2)  # of OPQ; of its codes in the first of these, and in each other
MOST_SAMPLED = 65_536  # vectors that teach what is no clustering
NEEDS_TRIAL = 1 << 24  # numbers; less is learned at once


@dataclass(frozen=True, slots=True)
class Plan:
    """How many vectors are learned from, in how large a share of the usual rounds, in how many seconds at most."""

    vectors: int
    share: float
    seconds: float | None = None  # None: nobody measured


def wanted_vectors(factory: Factory, num_vectors: int) -> int:
    """From how many vectors it is trained if there is time."""
    of_codes = VECTORS_PER_CENTROID * (1 << int(factory.bits) if factory.codec == "PQ" else 0)
    of_rotation = MOST_SAMPLED // 4 if factory.transform == "OPQ" else 0
    wanted = max(of_codes, of_rotation, VECTORS_PER_LIST * factory.lists)
    return min(num_vectors, wanted or MOST_SAMPLED)


def plan(
    factory: Factory, num_vectors: int, sample: Callable[[int], np.ndarray], seconds: float | None, shown: bool
) -> Plan:
    """What there is time for. Raises WinnowError where the budget is too short for the least."""
    wanted = wanted_vectors(factory, num_vectors)
    rounds = most_rounds(factory)
    if rounds == 0 or (seconds is None and (not shown or wanted * factory.given_dimension < NEEDS_TRIAL)):
        return Plan(wanted, 1.0)
    least = min(wanted, max(factory.enough_vectors, fewest_in_matrices(factory)))
    started = time.perf_counter()
    train(make(factory), factory, sample(least), 1 / rounds)
    trial = time.perf_counter() - started  # of the least vectors in one round
    if seconds is None:
        return Plan(wanted, 1.0, trial * rounds * wanted / least)
    rounds_in_time = (seconds - trial) / trial  # with the least vectors
    if rounds_in_time < min(LEAST_ROUNDS, rounds):
        raise WinnowError(
            f"training {factory.words} takes at least about {(1 + LEAST_ROUNDS) * trial:.3g} seconds here ({least:,} vectors, "
            f"{LEAST_ROUNDS} rounds), training_seconds is {seconds:g}; allow that much, or use a method that needs no clusters, "
            'as "SQ8" or "RR,RaBitQ4".'
        )
    if rounds_in_time < rounds:
        return Plan(least, rounds_in_time / rounds, seconds - trial)
    vectors = min(wanted, int(least * rounds_in_time / rounds))
    return Plan(vectors, 1.0, trial * rounds * vectors / least)


def fewest_in_matrices(factory: Factory) -> int:
    """From how many vectors on FAISS clusters by matrix products: with fewer, a round takes several times as long."""
    import faiss

    parts = max(factory.sub_vectors, factory.blocks, 1)
    return -(-int(faiss.cvar.distance_compute_blas_threshold) * parts // factory.dimension)


def most_rounds(factory: Factory) -> int:
    """The rounds that the longest clustering of its training takes; 0 where nothing is clustered.

    A trial of one holds what is done once as well, so what it says of many is on the safe side: up to twice what they take.
    """
    if factory.codec == "PQ" or factory.transform == "OPQ":
        return 25
    return 10 if factory.lists else 0


def train(index: Any, factory: Factory, vectors: np.ndarray, share: float) -> None:
    """Train an empty FAISS index on vectors (float32 [n, dimension]), with a share of the usual rounds, at least one each."""
    import faiss

    def some(rounds: int) -> int:
        return max(1, int(rounds * share))

    for part in parts_of(index):
        for clustering in (getattr(part, "cp", None), getattr(getattr(part, "pq", None), "cp", None)):
            if clustering is not None:
                clustering.niter = some(clustering.niter)
                clustering.min_points_per_centroid = 1  # whether there are enough is ours to say
        if factory.transform == "OPQ" and hasattr(part, "chain"):
            rotation = faiss.downcast_VectorTransform(part.chain.at(0))
            rotation.niter, rotation.niter_pq_0, rotation.niter_pq = map(some, ROUNDS_OF_ROTATION)
            blocks = faiss.ProductQuantizer(factory.dimension, factory.blocks, 8)
            blocks.cp.min_points_per_centroid = 1
            rotation.pq = blocks
    with one_thread():
        index.train(vectors)
    if factory.transform == "OPQ":
        rotation.pq = None


class Learned(NamedTuple):
    """What came of it."""

    codes: Codes | None
    training: dict[str, Any] | None  # {"vectors", "share"}: as in the plan
    seconds: float | None  # that training took


NO_CODES = Learned(None, None, None)


def learn(vectors: np.ndarray, without: np.ndarray, factory: Factory, seconds: float | None, bar: Progress) -> Learned:
    """Codes learned from stored vectors (float32, row after row), of all but those `without`.

    Raises WinnowError where `seconds` are too few, or FAISS can do no more.
    """
    rows = vectors.reshape(-1, factory.given_dimension)
    mask = mask_without(without, len(rows))
    coded = np.arange(len(rows)) if mask is None else np.flatnonzero(mask)

    def sample(count: int) -> np.ndarray:
        found: np.ndarray = rows[coded if count == len(coded) else coded[sampled(len(coded), count)]]
        return found

    try:
        planned = plan(factory, len(coded), sample, seconds, bar.shown)
        started = time.perf_counter()
        index = make(factory)
        with bar.training(factory.words, planned):
            train(index, factory, sample(planned.vectors), planned.share)
        took = time.perf_counter() - started
        with one_thread():  # on several, a graph would be another each time
            for piece in coded_pieces(vectors, without, factory.given_dimension):
                index.add(piece)
                bar(len(piece))
    except RuntimeError as error:  # FAISS notices Ctrl-C and tells it so
        if "interrupt" in str(error):
            raise KeyboardInterrupt from error
        raise WinnowError(f"FAISS cannot build {factory.words} ({last_line(error)}); use another method.") from error
    return Learned(Codes(index, factory), {"vectors": planned.vectors, "share": planned.share}, took)


def coded_pieces(vectors: np.ndarray, without: np.ndarray, dimension: int) -> Iterator[np.ndarray]:
    """float32 [some, dimension]: the stored vectors that have codes, in order."""
    rows = vectors.reshape(-1, dimension)
    mask = mask_without(without, len(rows))
    for piece in pieces_of(len(rows), dimension):
        yield rows[piece] if mask is None else rows[piece][mask[piece]]


def sampled(total: int, count: int) -> np.ndarray:
    """`count` of the numbers below `total`, ascending; always the same."""
    return np.sort(np.random.default_rng(SEED).choice(total, count, replace=False, shuffle=False))


class Progress:
    """One bar on standard error: vectors that were taken in; while FAISS trains, the seconds that it should take."""

    def __init__(self, total: int, shown: bool):
        from tqdm import tqdm

        is_terminal = sys.stderr.isatty()
        self.shown = shown
        self.bar = tqdm(
            total=total,
            desc="dense index",
            unit=" vectors",
            delay=1.0,
            file=sys.stderr,
            disable=not shown,
            mininterval=0.1 if is_terminal else 10.0,
            dynamic_ncols=is_terminal,
        )

    def __call__(self, count: int) -> None:
        self.bar.update(count)

    @contextmanager
    def training(self, words: str, plan: Plan) -> Iterator[None]:
        """Say what is trained and, every now and then, for how long it has been."""
        ended, started = threading.Event(), time.perf_counter()
        expected = "" if plan.seconds is None else f" of about {plan.seconds:.0f}"
        wait = 1.0 if sys.stderr.isatty() else 10.0

        def tick() -> None:
            while not ended.wait(wait):
                passed = time.perf_counter() - started
                self.bar.set_postfix_str(f"training {words} on {plan.vectors:,}: {passed:.0f}{expected} s")

        ticking = threading.Thread(target=tick, daemon=True)
        if self.shown:
            ticking.start()
        try:
            yield
        finally:
            ended.set()
            if self.shown:
                ticking.join()
                self.bar.set_postfix_str("", refresh=False)

    def close(self) -> None:
        self.bar.close()
