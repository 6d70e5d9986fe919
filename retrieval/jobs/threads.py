"""How many threads models and FAISS use, while a job runs; PyTorch has one number for the whole process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from retrieval.jobs.description import sides_with_a_model
from retrieval.opened import Opened


@contextmanager
def threads_of(opened: Opened, threads: int | None) -> Iterator[None]:
    """`threads` for the block, where there is a model at all; None: as they are."""
    if threads is None or not sides_with_a_model(opened):
        yield
        return
    import faiss
    import torch

    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        faiss.omp_set_num_threads(before[1])
