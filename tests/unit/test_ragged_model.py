"""Attention over texts packed end to end, against attention over each text alone."""

import sys
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from index.errors import ModelError
from kernels.cpu.pooled_head import Head
from retrieval.encoders import ragged_model
from retrieval.encoders.ragged_model import RaggedModel, flash_attention, packed, ragged_attention

STARTS = [0, 1, 8, 15, 40]  # two of the same length


def tensors(kv_heads=4):
    torch.manual_seed(0)
    return [torch.randn(1, heads, STARTS[-1], 8) for heads in (4, kv_heads, kv_heads)]


def one_text_at_a_time(query, key, value, sees):
    """By the definition of attention, in float64; `sees(i, j)` says whether token i looks at token j of its text."""
    groups = query.shape[1] // key.shape[1]
    key, value = (side.repeat_interleave(groups, 1) for side in (key, value))
    out = torch.empty_like(query, dtype=torch.float64)
    for a, b in pairwise(STARTS):
        q, k, v = (side[:, :, a:b].double() for side in (query, key, value))
        scores = q @ k.transpose(-1, -2) * 8**-0.5
        hidden = torch.tensor([[not sees(i, j) for j in range(b - a)] for i in range(b - a)])
        out[:, :, a:b] = scores.masked_fill(hidden, float("-inf")).softmax(-1) @ v
    return out.transpose(1, 2)


KINDS = {
    "every token": (dict(is_causal=False), lambda i, j: True),
    "those before": (dict(is_causal=True), lambda i, j: j <= i),
    "neighbours": (dict(is_causal=False, sliding_window=5), lambda i, j: abs(i - j) < 5),
    "a few before": (dict(is_causal=True, sliding_window=5), lambda i, j: 0 <= i - j < 5),
}


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_see_their_own_text_alone(kind, kv_heads):
    arguments, sees = KINDS[kind]
    packed.starts, packed.bidirectional = STARTS, False
    query, key, value = tensors(kv_heads)
    found, _ = ragged_attention(SimpleNamespace(), query, key, value, None, scaling=8**-0.5, **arguments)
    expected = one_text_at_a_time(query, key, value, sees)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_decoder_may_be_made_to_look_ahead():
    packed.starts, packed.bidirectional = STARTS, True
    query, key, value = tensors()
    found, _ = ragged_attention(SimpleNamespace(is_causal=True), query, key, value, None, scaling=8**-0.5)
    expected = one_text_at_a_time(query, key, value, lambda i, j: True)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def of_pytorch_2_13(q, k, v, starts_q, starts_k, longest_q, longest_k, *, scale, window_size, enable_gqa, num_splits):
    """What torch.nn.attention.varlen documents of its arguments."""
    assert enable_gqa == (q.shape[1] != k.shape[1])
    assert num_splits == 1
    return of_pytorch_2_11(q, k, v, starts_q, starts_k, longest_q, longest_k, scale=scale, window_size=window_size)


def of_pytorch_2_11(q, k, v, starts_q, starts_k, longest_q, longest_k, *, scale, window_size):
    """[tokens, heads, size], windows (left, right), -1 for all; FlashAttention takes fewer heads of keys unasked."""
    assert starts_q.dtype == starts_k.dtype == torch.int32
    assert longest_q == longest_k == 25
    left, right = window_size
    out = torch.empty_like(q)
    for a, b in pairwise(starts_q.tolist()):
        behind = torch.arange(b - a)[:, None] - torch.arange(b - a)
        sees = ((behind <= left) | (left < 0)) & ((-behind <= right) | (right < 0))
        one = (side[a:b].transpose(0, 1)[None] for side in (q, k, v))
        found = scaled_dot_product_attention(*one, attn_mask=sees, scale=scale, enable_gqa=True)
        out[a:b] = found[0].transpose(0, 1)
    return out


@pytest.mark.parametrize("varlen_attn", [of_pytorch_2_11, of_pytorch_2_13])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_is_asked_for_the_same(kind, kv_heads, varlen_attn):
    arguments, sees = KINDS[kind]
    packed.starts = STARTS
    query, key, value = tensors(kv_heads)
    window = arguments.get("sliding_window")
    found = flash_attention(varlen_attn, query, key, value, 8**-0.5, arguments["is_causal"], window)
    expected = one_text_at_a_time(query, key, value, sees)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.fixture
def varlen_anew():
    """What was found of an attention is forgotten, before and after."""
    ragged_model.find_varlen.cache_clear()
    yield
    ragged_model.find_varlen.cache_clear()


def of_pytorch_2_10(q, k, v, starts_q, starts_k, longest_q, longest_k, is_causal=False, return_aux=None):
    """Knows neither a scale nor a window."""


@pytest.mark.parametrize(("varlen_attn", "is_found"), [(of_pytorch_2_10, False), (of_pytorch_2_11, True)])
def test_an_attention_without_scale_and_window_is_not_asked(varlen_attn, is_found, varlen_anew, monkeypatch):
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    assert (ragged_model.find_varlen() is varlen_attn) == is_found


def test_pytorch_without_such_an_attention_does_without(varlen_anew, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", None)
    assert ragged_model.find_varlen() is None


@pytest.mark.parametrize(
    ("dtype", "size", "capability", "takes"),
    [
        (torch.bfloat16, 64, (8, 0), True),
        (torch.float16, 256, (9, 0), True),
        (torch.float32, 64, (9, 0), False),
        (torch.bfloat16, 60, (9, 0), False),
        (torch.bfloat16, 264, (9, 0), False),
        (torch.float16, 64, (7, 5), False),
    ],
)
def test_flash_attention_is_asked_for_what_it_takes(dtype, size, capability, takes, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert ragged_model.flash_takes(torch.empty(1, 2, 3, size, dtype=dtype)) == takes


def tiny_bert():
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    model = BertForMaskedLM(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def head_of(model):
    return Head.of(model.get_output_embeddings().weight, model.get_output_embeddings().bias)


def logits_of(ragged, head, ids, starts):
    with torch.inference_mode():
        return ragged_model.every_logit(ragged.hidden(ids, starts), head)


def test_a_packed_model_equals_the_library_text_by_text():
    model, ids = tiny_bert(), torch.arange(40) % 50
    with torch.inference_mode():
        expected = torch.cat([model(input_ids=ids[None, a:b]).logits[0] for a, b in pairwise(STARTS)])
    head = head_of(model)
    ragged = RaggedModel.checked(model, head, "tiny")
    torch.testing.assert_close(logits_of(ragged, head, ids, STARTS), expected, rtol=1e-5, atol=1e-5)


def test_a_model_that_cannot_be_packed_runs_in_padded_batches(monkeypatch):
    model, ids = tiny_bert(), torch.arange(40) % 50
    with torch.inference_mode():
        expected = torch.cat([model(input_ids=ids[None, a:b]).logits[0] for a, b in pairwise(STARTS)])
    head = head_of(model)
    monkeypatch.setattr(ragged_model, "first_position", lambda model: 1)  # as if its positions were numbered otherwise
    ragged = RaggedModel.checked(model, head, "tiny")
    assert ragged.layout == "padded"
    torch.testing.assert_close(logits_of(ragged, head, ids, STARTS), expected, rtol=1e-5, atol=1e-5)


def test_texts_of_like_length_are_padded_together():
    starts = [0, 4, 8, 13, 20, 28, 29]  # lengths 4, 4, 5, 7, 8, 1
    found = [list(texts) for texts in ragged_model.of_like_length(starts, 1.25)]
    assert found == [[0, 4, 8, 13], [13, 20, 28, 29]]
    assert [list(texts) for texts in ragged_model.of_like_length([0, 4], 1.25)] == [[0, 4]]


def test_a_model_that_cannot_be_padded_either_runs_text_by_text_and_says_so(monkeypatch):
    model, ids = tiny_bert(), torch.arange(40) % 50
    with torch.inference_mode():
        expected = torch.cat([model(input_ids=ids[None, a:b]).logits[0] for a, b in pairwise(STARTS)])
    head = head_of(model)
    monkeypatch.setattr(ragged_model, "first_position", lambda model: 1)
    padded = RaggedModel.padded
    monkeypatch.setattr(RaggedModel, "padded", lambda self, *arguments: padded(self, *arguments) + 1)
    with pytest.warns(ragged_model.SlowModelWarning, match="tiny cannot be run on packed texts"):
        ragged = RaggedModel.checked(model, head, "tiny")
    torch.testing.assert_close(logits_of(ragged, head, ids, STARTS), expected, rtol=1e-5, atol=1e-5)


def test_a_model_that_changes_its_logits_is_refused():
    model = tiny_bert()
    head, forward = head_of(model), model.forward

    def capped(**inputs):
        found = forward(**inputs)
        return (30 * torch.tanh(found[0] / 3), *found[1:])

    model.forward = capped
    with pytest.raises(ModelError, match="does more to its logits than a projection and a bias"):
        RaggedModel.checked(model, head, "tiny")


@pytest.mark.parametrize(
    ("settings", "does"),
    [
        ({}, True),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, True),
        ({"rope_parameters": {"full_attention": {"rope_type": "longrope"}}}, False),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, False),
        ({"attention_chunk_size": 8192}, False),
        ({"layer_types": ["full_attention", "chunked_attention"]}, False),
        ({"layer_types": ["full_attention", "sliding_attention"]}, True),
    ],
)
def test_what_changes_with_length_is_not_packed(settings, does):
    assert ragged_model.packs(SimpleNamespace(**settings)) is does


def test_positions_that_change_with_length_run_text_by_text():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "factor": 4.0,
        "long_factor": [4.0] * 4,
        "short_factor": [1.0] * 4,
    }
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    rope["original_max_position_embeddings"] = 8
    model = LlamaForCausalLM(LlamaConfig(vocab_size=50, max_position_embeddings=64, rope_parameters=rope, **sizes))
    head = head_of(model)
    with pytest.warns(ragged_model.SlowModelWarning):
        ragged = RaggedModel.checked(model, head, "long")
    short, long = torch.arange(5), torch.arange(30) + 10
    beside = logits_of(ragged, head, torch.cat([short, long]), [0, 5, 35])[:5]
    assert torch.equal(beside, logits_of(ragged, head, short, [0, 5]))


def test_logits_that_are_no_numbers_are_told():
    model = tiny_bert()
    torch.nn.init.constant_(model.bert.embeddings.word_embeddings.weight, float("nan"))
    with pytest.raises(ModelError, match="gives logits that are no finite numbers"):
        RaggedModel.checked(model, head_of(model), "tiny")


def test_what_fills_a_large_batch_up_changes_nothing():
    model = tiny_bert()
    head = head_of(model)
    ragged, starts = RaggedModel.checked(model, head, "tiny"), [0, 500, 1000, 1001, 1100]
    assert starts[-1] >= ragged_model.STEPS_FROM
    assert starts[-1] % ragged_model.STEP
    ids = torch.arange(1100) % 50
    together = logits_of(ragged, head, ids, starts)
    alone = [logits_of(ragged, head, ids[a:b], [0, b - a]) for a, b in pairwise(starts)]
    assert torch.equal(together, torch.cat(alone))
