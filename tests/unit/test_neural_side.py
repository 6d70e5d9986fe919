"""What holds of every model: batches, memory, length, errors. `mini` stands for them all; formats have tests of their own."""

import re
import sys
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from index.errors import ModelError, WinnowError
from index.vectors import concatenate
from retrieval.encoders.mini import mini
from retrieval.encoders.neural_model import entries, nonzero_entries
from retrieval.encoders.text_stream import MemoryWarning, TruncationWarning

WORDS = "moon water bread salt light red planet the of unbelievably".split()
texts_of_any_length = st.lists(st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def side():
    return mini().document


def as_lists(rows):
    return [array.tolist() for array in rows]


@settings(max_examples=6, deadline=None)
@given(texts=texts_of_any_length, tokens_a_batch=st.sampled_from([1, 20, 50, 100, 300]))
def test_what_is_encoded_together_changes_no_vector(side, texts, tokens_a_batch):
    side.tokens_a_batch = tokens_a_batch
    together = concatenate(list(side.encode(texts)))
    side.tokens_a_batch = None
    alone = concatenate([rows for text in texts for rows in side.encode([text])])
    assert as_lists(together) == as_lists(alone)  # bit for bit, where 1e-6 was asked for


def test_one_text_is_encoded_as_in_a_batch(side):
    (rows,) = side.encode(["the moon", "red planet " * 40])
    terms, weights = side.encode_one("the moon")
    assert as_lists((terms, weights)) == [rows.indices[: rows.indptr[1]].tolist(), rows.data[: rows.indptr[1]].tolist()]


@pytest.mark.parametrize("texts", [[], [""], ["", "  \n", "\u200b"]])
def test_texts_without_tokens_have_empty_vectors(side, texts):
    rows = concatenate(list(side.encode(texts)))
    assert rows.indptr.tolist() == [0] * (len(texts) + 1)


def test_a_long_text_is_cut_and_counted_once():
    side = mini(max_length=10).document
    texts = ["moon " * 8, "moon " * 9 + "bread", "moon " * 50, "moon " * 8 + "bread"]
    with pytest.warns(TruncationWarning) as told:
        rows = concatenate(list(side.encode(texts)))
    assert [str(one.message) for one in told] == [
        "3 of 4 texts have more than max_length = 10 tokens; what comes after was not read."
    ]
    first, *cut = (rows.data[a:b].tolist() for a, b in zip(rows.indptr, rows.indptr[1:], strict=False))
    assert cut == [first] * 3  # eight moons, with [CLS] and [SEP]


def test_special_tokens_that_leave_no_room_are_refused():
    with pytest.raises(ModelError, match="max_length is 2; special tokens alone take that much"):
        mini(max_length=2)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_length": 0}, "max_length is 0; it must be a whole number from 1 to"),
        ({"max_length": True}, "max_length is True"),
        ({"activation": "relu"}, "activation is 'relu'; it must be one of log1p, log1p_log1p"),
        ({"pooling": None}, "pooling is None; it must be one of max, sum, mean, last"),
        ({"prune_ratio": 1.0}, "prune_ratio is 1.0; it must be a number from 0 to below 1"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"top_k": 0}, "top_k is 0"),
        ({"echo": 1}, "echo is 1; it must be one of True, False"),
        ({"prefix": None}, "prefix is None; it must be a text"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
    ],
)
def test_an_option_of_the_wrong_kind_is_refused(options, told):
    with pytest.raises(WinnowError, match=re.escape(told)):
        mini(**options)


def test_the_heaviest_terms_are_kept():
    texts = ["the moon pulls the water of the sea"]
    (every,) = mini(threshold=1.5).document.encode(texts)
    (few,) = mini(threshold=1.5, top_k=5).document.encode(texts)
    (heavy,) = mini(threshold=1.5, prune_ratio=0.5).document.encode(texts)
    heaviest = np.sort(np.lexsort((every.indices, -every.data))[:5])
    assert as_lists(few[1:]) == [every.indices[heaviest].tolist(), every.data[heaviest].tolist()]
    kept = every.data > 0.5 * every.data.max()
    assert as_lists(heavy[1:]) == [every.indices[kept].tolist(), every.data[kept].tolist()]
    assert 0 < kept.sum() < len(kept)


def failing_above(side, most_tokens, error):
    """The side, with memory for so many tokens a batch; the sizes of the batches it was asked for."""
    asked, encode_batch = [], side.encode_batch

    def encode(batch):
        asked.append(sum(len(one.ids) for one in batch))
        if asked[-1] > most_tokens:
            raise error
        return encode_batch(batch)

    side.encode_batch = encode
    return asked


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("could not create a primitive"),  # oneDNN
    ],
)
def test_where_memory_runs_out_batches_are_halved_and_that_is_told_once(error):
    texts = ["red planet " * 20] * 40  # 42 tokens each
    expected = concatenate(list(mini().document.encode(texts)))
    side = mini().document
    asked = failing_above(side, 500, error)
    with pytest.warns(MemoryWarning) as told:
        found = concatenate(list(side.encode(texts)))
    assert as_lists(found) == as_lists(expected)
    assert [str(one.message) for one in told] == [
        "memory ran out with 1,680 tokens in a batch; batches are halved and tried again."
    ]
    assert asked[:3] == [1680, 840, 420]
    assert max(asked[3:]) <= 420


def test_one_text_for_which_there_is_no_memory_is_told():
    side = mini().document
    failing_above(side, 10, MemoryError())
    with pytest.raises(ModelError, match=r"one text of 42 tokens; lower max_length"):
        list(side.encode(["red planet " * 20]))


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    side = mini().document
    failing_above(side, 10, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        list(side.encode(["red planet " * 20]))


@pytest.mark.parametrize("num_texts", [1, 2, 5])
def test_a_gpu_finds_the_entries_that_a_processor_finds(num_texts):
    rng = np.random.default_rng(num_texts)
    table = rng.random((num_texts, 40), np.float32) * (rng.random((num_texts, 40)) < 0.2)
    table[num_texts // 2] = 0  # a text without terms, between others where there are enough
    table[-1, -1] = np.nan  # is kept, to be refused
    pooled = torch.from_numpy(table)
    for (terms, weights), (others, other_weights) in zip(entries(pooled), nonzero_entries(pooled), strict=True):
        np.testing.assert_array_equal(terms, others)
        np.testing.assert_array_equal(weights, other_weights)


def test_on_a_gpu_the_projection_goes_to_its_own_kernel(side, monkeypatch):
    """Here with the kernel's documented arguments and a plain product in its place; tests/gpu has the kernel itself."""
    asked = []

    def pooled_head_max(hidden, starts, weight, bias):
        asked.append((hidden.shape[1], starts.tolist(), bias))
        return torch.stack([(hidden[a:b] @ weight.T).amax(0) for a, b in pairwise(starts.tolist())])

    expected = concatenate(list(side.encode(["the moon", "red planet"])))
    monkeypatch.setitem(sys.modules, "kernels.gpu.pooled_head", SimpleNamespace(pooled_head_max=pooled_head_max))
    monkeypatch.setattr(side.model, "projection", (side.model.ragged.model.get_input_embeddings().weight, None))
    found = concatenate(list(side.encode(["the moon", "red planet"])))
    assert asked == [(384, [0, 2, 4], None)]
    assert found.indices.tolist() == expected.indices.tolist()
    np.testing.assert_allclose(found.data, expected.data, atol=1e-5)
