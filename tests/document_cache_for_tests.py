"""Document caches with a folder, and documents whose states anybody can make again."""

import numpy as np
import torch

from retrieval.rerankers.document_cache import DocumentCache
from retrieval.rerankers.document_states import DocumentStates

LAYERS, HEADS, SIZE = 2, 2, 4
TOKEN = (2 * LAYERS + 1) * HEADS * SIZE
BYTES = 3 * TOKEN * 4  # of a document of 3 tokens in float32
ENTRY = 112


def document(number):
    return np.arange(3) + 1000 * number


def states_of(number, dtype=torch.float32):
    numbers = torch.from_numpy(np.random.default_rng(number).standard_normal(3 * TOKEN)).to(dtype)
    shape = (-1, 3, HEADS, SIZE)
    split = 3 * (LAYERS + 1) * HEADS * SIZE
    return DocumentStates(numbers[:split].reshape(shape), numbers[split:].reshape(shape))


def opened(folder, fingerprint="model A", **options):
    cache = DocumentCache(folder=folder, **{"memory_bytes": 0, **options})
    cache.bound_to(fingerprint)
    return cache


def filled(folder, numbers, **options):
    cache = opened(folder, **options)
    for number in numbers:
        cache.put(document(number), states_of(number))
    cache.close()


def found_in(cache, numbers):
    """Which of the documents are there; what is there must be right."""
    there = []
    for number in numbers:
        found = cache.get(document(number))
        if found is not None:
            expected = states_of(number)
            assert torch.equal(found.keys, expected.keys)
            assert torch.equal(found.values, expected.values)
            there.append(number)
    return there
