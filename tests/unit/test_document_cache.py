"""A document cache gives back what was put in, never anything else."""

import re
import threading

import numpy as np
import pytest
import torch

from index.errors import ModelError, WinnowError
from retrieval.rerankers.document_cache import DocumentCache
from retrieval.rerankers.document_states import DocumentStates

LAYERS, HEADS, SIZE = 2, 2, 8
TOKEN = (2 * LAYERS + 1) * HEADS * SIZE  # numbers of one token
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def document(number, tokens=5):
    return np.arange(tokens) + 1000 * number


def states_of(ids, dtype=torch.float32):
    """Other states for other ids."""
    generator = torch.Generator().manual_seed(int(ids[0]))
    keys = torch.randn(LAYERS + 1, len(ids), HEADS, SIZE, generator=generator, dtype=torch.float64)
    values = torch.randn(LAYERS, len(ids), HEADS, SIZE, generator=generator, dtype=torch.float64)
    return DocumentStates(keys.to(dtype), values.to(dtype))


def a_cache(**options):
    cache = DocumentCache(**options)
    cache.bound_to("model A")
    return cache


def assert_equal(found, expected):
    for side, of_expected in zip(found, expected, strict=True):
        assert side.dtype == of_expected.dtype
        assert torch.equal(side, of_expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_same_precision_gives_back_every_bit(dtype):
    cache = a_cache()
    for number in range(3):
        cache.put(document(number), states_of(document(number), dtype))
    for number in range(3):
        assert_equal(cache.get(document(number)), states_of(document(number), dtype))
    assert cache.get(document(3)) is None
    assert cache.get(document(0)[:-1]) is None


def test_what_was_put_may_be_changed_afterwards():
    cache, given = a_cache(), states_of(document(1))
    packed = DocumentStates(*(torch.cat([side, side], 1) for side in given))
    views = DocumentStates(*(side[:, :5] for side in packed))
    cache.put(document(1), views)
    for side in packed:
        side.zero_()
    found = cache.get(document(1))
    assert_equal(found, given)
    assert found.keys.untyped_storage().nbytes() == found.keys.nbytes  # not the whole pack


def test_gradients_are_not_kept():
    cache = a_cache()
    given = DocumentStates(*(side.requires_grad_() for side in states_of(document(1))))
    cache.put(document(1), given)
    assert not cache.get(document(1)).keys.requires_grad


def test_the_least_recently_used_documents_leave_first():
    size = 5 * TOKEN * 4
    cache = a_cache(memory_bytes=3 * size)
    for number in (1, 2, 3):
        cache.put(document(number), states_of(document(number)))
    cache.get(document(1))
    cache.put(document(2), states_of(document(2)))  # known: used again
    cache.put(document(4), states_of(document(4)))  # 3 leaves
    assert [cache.get(document(number)) is not None for number in (1, 2, 3, 4)] == [True, True, False, True]
    found = cache.statistics
    assert (found.documents_in_memory, found.bytes_in_memory, found.evictions) == (3, 3 * size, 1)
    assert (found.hits, found.misses) == (4, 1)


def test_a_document_larger_than_the_budget_is_not_kept_and_pushes_none_out():
    size = 5 * TOKEN * 4
    cache = a_cache(memory_bytes=2 * size)
    cache.put(document(1), states_of(document(1)))
    cache.put(document(2, 11), states_of(document(2, 11)))
    assert cache.get(document(2, 11)) is None
    assert cache.get(document(1)) is not None
    assert cache.statistics.evictions == 0


def test_bf16_is_the_nearest_bf16_and_comes_back_in_the_dtype_of_the_model():
    cache, given = a_cache(precision="bf16"), states_of(document(1))
    cache.put(document(1), given)
    assert_equal(cache.get(document(1)), [side.bfloat16().float() for side in given])
    assert cache.statistics.bytes_in_memory == 5 * TOKEN * 2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_int8_is_off_by_at_most_half_a_step_of_its_vector(dtype):
    cache, given = a_cache(precision="int8"), states_of(document(1), dtype)
    given.keys[:, :, 1] *= 1000  # a head of large numbers does not cost the others their precision
    cache.put(document(1), given)
    found = cache.get(document(1))
    for side, exact in zip(found, given, strict=True):
        assert side.dtype == dtype
        exact = exact.double()
        half_a_step = exact.abs().amax(-1, keepdim=True) / 127 / 2
        rounded = torch.finfo(dtype).eps * exact.abs()  # of the dtype itself
        assert ((side.double() - exact).abs() <= half_a_step * (1 + 1e-5) + rounded).all()
        at_most = (side.double() - exact).abs().amax(-1, keepdim=True) / half_a_step
        assert at_most.median() > 0.5  # not better than 8 bits can be: the bound means something
    vectors = 5 * (2 * LAYERS + 1) * HEADS
    assert cache.statistics.bytes_in_memory == vectors * (SIZE + 4)


def test_int8_rounds_to_the_nearest_step_and_keeps_zeros_and_the_largest_numbers():
    cache = a_cache(precision="int8")
    keys = torch.zeros(LAYERS + 1, 5, HEADS, SIZE)
    keys[0, 0, 0] = torch.tensor([127.0, -127, 1.4, 1.6, -1.6, 0.4, -0.4, 0])
    keys[0, 1, 0] = 1e-45  # the smallest float32 there is: no division by zero
    cache.put(document(1), DocumentStates(keys, torch.zeros(LAYERS, 5, HEADS, SIZE)))
    found = cache.get(document(1))
    assert found.keys[0, 0, 0].tolist() == [127, -127, 1, 2, -2, 0, 0, 0]
    assert found.keys[0, 1].abs().max() <= 1e-45
    assert not found.keys[1:].any()
    assert not found.values.any()


@pytest.mark.parametrize("precision", ["same", "bf16", "int8"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_states_that_are_not_finite_are_refused(precision, bad, side):
    cache, given = a_cache(precision=precision), states_of(document(1))
    given[side][0, 3, 1, 2] = bad
    with pytest.raises(ModelError, match="5 tokens hold NaN or infinity; compute in float32"):
        cache.put(document(1), given)
    assert cache.get(document(1)) is None


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_numbers_too_large_for_the_precision_are_refused(precision):
    cache, given = a_cache(precision=precision), states_of(document(1), torch.float64)
    given.values[1, 2, 1, 3] = 1e60
    with pytest.raises(
        ModelError, match=re.escape(f"reach 1e+60, which {precision} cannot hold; use the precision 'same'.")
    ):
        cache.put(document(1), given)


def wrong_states():
    keys, values = states_of(document(1))
    yield "tokens", DocumentStates(keys[:, :4], values[:, :4])
    yield "layers", DocumentStates(keys[:-1], values)
    yield "head", DocumentStates(keys, values[:, :, :1])
    yield "dimensions", DocumentStates(keys[0], values[0])
    yield "dtypes", DocumentStates(keys, values.double())
    yield "integers", DocumentStates(keys.int(), values.int())


@pytest.mark.parametrize("states", [pytest.param(states, id=name) for name, states in wrong_states()])
def test_states_of_another_shape_are_refused(states):
    with pytest.raises(ModelError, match="are no states of a document of 5 tokens"):
        a_cache().put(document(1), states)


def test_states_come_in_the_dtype_that_is_asked_for():
    cache, given = a_cache(precision="int8"), states_of(document(1))
    cache.put(document(1), given)
    assert cache.get(document(1), dtype=torch.bfloat16, device="cpu").values.dtype == torch.bfloat16


def test_a_cache_serves_one_fingerprint():
    cache = DocumentCache()
    with pytest.raises(WinnowError, match="bound to no model yet"):
        cache.get(document(1))
    cache.bound_to("model A")
    cache.bound_to("model A")
    with pytest.raises(WinnowError, match="holds states of 'model A', not of 'model B'; give each model"):
        cache.bound_to("model B")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "'int4'; it must be one of same, bf16, int8"),
        ({"memory_bytes": -1}, "memory_bytes is -1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(WinnowError, match=message):
        DocumentCache(**options)


def test_ids_of_any_integer_dtype_are_the_same_document():
    cache = a_cache()
    cache.put(document(1).astype(np.int32), states_of(document(1)))
    assert cache.get(np.repeat(document(1), 2)[::2]) is not None


def test_threads_may_share_a_cache():
    cache, failures = a_cache(memory_bytes=4 * 5 * TOKEN * 4), []

    def work(seed):
        for number in np.random.default_rng(seed).integers(0, 8, 200):
            found = cache.get(document(number))
            if found is None:
                cache.put(document(number), states_of(document(number)))
            elif not torch.equal(found.keys, states_of(document(number)).keys):
                failures.append(number)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = cache.statistics
    assert not failures
    assert (found.documents_in_memory, found.bytes_in_memory) == (4, 4 * 5 * TOKEN * 4)
    assert found.hits + found.misses == 800
