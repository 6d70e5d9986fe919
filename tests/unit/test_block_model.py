"""Decoders on prompts of blocks, compared with the library's own attention under a dense mask; what cannot be exact is refused."""

from copy import deepcopy
from itertools import accumulate

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
)

from index.errors import ModelError
from kernels.document_mass import log_document_mass
from retrieval.rerankers.block_model import BlockModel
from retrieval.rerankers.block_pass import Finished, Pass, Prompt
from retrieval.rerankers.document_states import DocumentStates

SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 211, "max_position_embeddings": 512, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
SMALLEST = {"hidden_size": 32, "num_attention_heads": 4, "vocab_size": 211, "eos_token_id": 2, "bos_token_id": 1}
EXACT = {
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "llama": LlamaConfig(**SHAPE),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16),
    "gemma": GemmaConfig(**SHAPE, head_dim=16),
    "gemma3": Gemma3TextConfig(**SHAPE, head_dim=16, sliding_window=128),
    "phi": PhiConfig(**SHAPE),
    "phi3": Phi3Config(**SHAPE, sliding_window=None),
    "olmo2": Olmo2Config(**SHAPE),
    "gpt2": GPT2Config(n_embd=32, n_layer=4, n_head=4, vocab_size=211, n_positions=512, eos_token_id=2, bos_token_id=1),
    "gpt_neox": GPTNeoXConfig(**SMALLEST, intermediate_size=48, num_hidden_layers=4),
}
REFUSED = {
    "gemma2": (Gemma2Config(**SHAPE, head_dim=16), "caps its attention logits"),
    "gpt_oss": (GptOssConfig(**SHAPE, head_dim=16, num_local_experts=4), "attention sinks"),
    "bert": (BertConfig(**SMALLEST, intermediate_size=48, num_hidden_layers=4), "is no decoder"),
    "bloom": (BloomConfig(hidden_size=32, n_layer=4, n_head=4, vocab_size=211), "cannot be replaced"),
    "falcon": (FalconConfig(**SMALLEST, num_hidden_layers=4), "cannot be replaced"),
    "dynamic": (LlamaConfig(**SHAPE, rope_scaling={"rope_type": "dynamic", "factor": 2.0}), "change with the length"),
}
LENGTHS = (7, [12, 1, 30, 5, 30, 17], 9)


def model_of(config):
    torch.manual_seed(1)
    return AutoModel.from_config(deepcopy(config)).eval()


def prompt_of(instruction, documents, last, last_position=60):
    rng = np.random.default_rng(3)
    draw = lambda length: rng.integers(3, 200, length)  # noqa: E731
    return Prompt(draw(instruction), [draw(length) for length in documents], draw(last), last_position)


class Scores:
    """Log masses of all documents at one layer, by its last two tokens."""

    needs_sums = False

    def __init__(self, prompt, layer):
        self.last_layer = layer
        lengths = [one.keys.shape[1] if isinstance(one, DocumentStates) else len(one) for one in prompt.documents]
        self.starts = torch.tensor([0, *accumulate(lengths)])

    def see(self, layer, queries, keys, lse, scale):
        self.layers_seen = layer + 1
        if layer == self.last_layer:
            self.found = log_document_mass(queries[[-2, -1]], keys, self.starts, scale)


def scores(model, prompt, layer=2, **options):
    watch = Scores(prompt, layer)
    model.infer(prompt, watch, **options)
    assert watch.layers_seen == layer + 1
    return watch.found


def expected_scores(model, prompt, layer=2):
    """By the library's eager attention under a mask written out here, and the published formula on its queries and keys."""
    sees, segment, position = [], [], []
    first = len(prompt.instruction)
    for block, ids in enumerate([prompt.instruction, *prompt.documents, prompt.last]):
        segment += [block] * len(ids)
        begin = 0 if block == 0 else prompt.last_position if block == len(prompt.documents) + 1 else first
        position += range(begin, begin + len(ids))
    for row, own in enumerate(segment):
        is_last = own == len(prompt.documents) + 1
        sees.append([key <= row and (is_last or other in (0, own)) for key, other in enumerate(segment)])
    mask = torch.where(torch.tensor(sees), 0.0, torch.finfo(torch.float32).min)[None, None]
    ids = torch.from_numpy(np.concatenate([prompt.instruction, *prompt.documents, prompt.last]))[None]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        found = model(
            input_ids=ids, position_ids=torch.tensor(position)[None], attention_mask=mask, output_attentions=True
        )
    weights = found.attentions[layer][0][:, -2:]  # [heads, rows, keys]: softmax over all that is seen
    documents = weights[:, :, first : -len(prompt.last)]
    documents = (documents / documents.sum(2, keepdim=True)).mean((0, 1))
    return torch.stack([part.sum() for part in documents.split([len(one) for one in prompt.documents])]).log()


@pytest.mark.parametrize("name", EXACT)
def test_scores_are_those_of_the_librarys_attention_under_a_dense_mask(name):
    prompt = prompt_of(*LENGTHS)
    expected = expected_scores(model_of(EXACT[name]), prompt)
    found = scores(BlockModel.checked(model_of(EXACT[name]), name), prompt)
    assert found.numpy() == pytest.approx(expected.numpy(), abs=2e-5)
    assert found.exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert len({round(score, 4) for score in found.tolist()}) == len(found)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exact_is_refused(name):
    config, reason = REFUSED[name]
    with pytest.raises(ModelError, match=reason):
        BlockModel.checked(model_of(config), name)


def test_a_comparison_at_loading_finds_an_attention_that_comes_out_otherwise(monkeypatch):
    from retrieval.rerankers import block_pass

    right = block_pass.block_attention
    monkeypatch.setattr(
        block_pass, "block_attention", lambda q, k, v, layout, scale: right(q, k, v, layout, scale * 1.5)
    )
    with pytest.raises(ModelError, match="comes out otherwise"):
        BlockModel.checked(model_of(EXACT["llama"]), "llama")


def test_a_sliding_window_is_refused_where_a_prompt_ends_beyond_it():
    model = BlockModel.checked(model_of(MistralConfig(**SHAPE, sliding_window=64)), "windowed")
    assert model.window == 64
    assert len(scores(model, prompt_of(7, [5, 9], 9, 55))) == 2
    with pytest.raises(ModelError, match="a sliding window of 64 positions and the prompt ends at 65"):
        scores(model, prompt_of(7, [5, 9], 9, 56))


def test_a_prompt_past_the_models_positions_is_refused():
    model = BlockModel.checked(model_of(EXACT["llama"]), "llama")
    with pytest.raises(ModelError, match=r"ends at position 513, llama has 512"):
        scores(model, prompt_of(7, [5], 9, 504))


def kept_states(model, prompt, layer=2):
    kept = {}
    keep = lambda layer, block, k, v: kept.setdefault(block, []).append((k.clone(), v.clone()))  # noqa: E731
    model.infer(prompt, Scores(prompt, layer), keep=keep)
    return {
        block: DocumentStates(torch.stack([k for k, _ in both]), torch.stack([v for _, v in both[:-1]]))
        for block, both in kept.items()
    }


@pytest.mark.parametrize("together", [1, 20, 50, 10_000])
def test_layers_that_work_in_parts_give_the_same_scores_and_states(together):
    model, prompt = BlockModel.checked(model_of(EXACT["qwen3"]), "qwen3"), prompt_of(*LENGTHS)
    whole, states = scores(model, prompt), kept_states(model, prompt)
    model.tokens_together = together
    assert scores(model, prompt).numpy() == pytest.approx(whole.numpy(), abs=1e-6)
    in_parts = kept_states(model, prompt)
    assert sorted(in_parts) == sorted(states) == list(range(7))
    for block, (keys, values) in states.items():
        torch.testing.assert_close(in_parts[block], (keys, values), atol=1e-5, rtol=1e-5)


def test_known_documents_in_any_subset_and_order_score_as_computed_ones():
    model, prompt = BlockModel.checked(model_of(EXACT["mistral"]), "mistral"), prompt_of(*LENGTHS)
    states = kept_states(model, prompt)
    for order in ([0, 1, 2, 3, 4, 5], [4, 2], [5, 0, 3]):
        expected = scores(model, prompt._replace(documents=[prompt.documents[d] for d in order]))
        known = prompt._replace(documents=[states[d + 1] for d in order])
        assert scores(model, known).numpy() == pytest.approx(expected.numpy(), abs=1e-6)
        every = known._replace(instruction=states[0])
        assert scores(model, every).numpy() == pytest.approx(expected.numpy(), abs=1e-6)
        mixed = [states[d + 1] if d % 2 else prompt.documents[d] for d in order]
        assert scores(model, prompt._replace(documents=mixed)).numpy() == pytest.approx(expected.numpy(), abs=1e-6)


def test_permuting_documents_permutes_scores():
    model, prompt = BlockModel.checked(model_of(EXACT["gemma"]), "gemma"), prompt_of(*LENGTHS)
    order = [3, 0, 5, 1, 4, 2]
    permuted = scores(model, prompt._replace(documents=[prompt.documents[d] for d in order]))
    assert permuted.numpy() == pytest.approx(scores(model, prompt)[order].numpy(), abs=1e-6)


def test_causal_attention_is_the_librarys_own():
    prompt, model = prompt_of(*LENGTHS), model_of(EXACT["llama"])
    ids = torch.from_numpy(np.concatenate([prompt.instruction, *prompt.documents, prompt.last]))[None]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        weights = model(input_ids=ids, output_attentions=True).attentions[2][0][:, -2:, 7:-9]
    masses = (weights / weights.sum(2, keepdim=True)).mean((0, 1)).split(LENGTHS[1])
    expected = [mass.sum().log().item() for mass in masses]
    found = scores(BlockModel.checked(model_of(EXACT["llama"]), "llama"), prompt, causal=True)
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_layers_after_the_score_layer_do_not_run_and_that_one_only_as_far_as_its_queries_and_keys():
    model, prompt = BlockModel.checked(model_of(EXACT["llama"]), "llama"), prompt_of(*LENGTHS)
    ran = []
    for name, part in model.model.named_modules():
        part.register_forward_hook(lambda *_, name=name: ran.append(name))
    scores(model, prompt, layer=2)
    layers = {name.split(".layers.")[-1] if ".layers." in name else name for name in ran}
    assert any(name.startswith("layers.2.") and name.endswith("k_proj") for name in layers)
    assert not any(name.startswith("layers.2.") and name.endswith(("o_proj", "mlp")) for name in layers)
    assert any(name.startswith("layers.1.") and name.endswith("mlp") for name in layers)
    assert not any(name.startswith("layers.3") for name in layers)


def test_nan_in_a_document_stays_in_it():
    model, prompt = BlockModel.checked(model_of(EXACT["llama"]), "llama"), prompt_of(*LENGTHS)
    clean = kept_states(model, prompt)
    with torch.no_grad():
        model.model.get_input_embeddings().weight[205] = torch.nan
    documents = [np.full_like(ids, 205) if d == 2 else ids for d, ids in enumerate(prompt.documents)]
    found = kept_states(model, prompt._replace(documents=documents))
    assert found[3].keys.isnan().any()
    for block in set(clean) - {3}:
        torch.testing.assert_close(found[block], clean[block])


def test_no_pass_makes_a_tensor_of_tokens_by_tokens():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            found = function(*arguments, **(keywords or {}))
            for one in found if isinstance(found, tuple | list) else [found]:
                if isinstance(one, torch.Tensor):
                    self.size = max(self.size, one.numel())
            return found

    model = BlockModel.checked(model_of(LlamaConfig(**{**SHAPE, "vocab_size": 211})), "llama")
    prompt = prompt_of(10, [40] * 100, 20)
    watch = Scores(prompt, 2)
    with torch.no_grad(), Largest() as largest:
        model.forward(prompt, watch)
    assert 4_000 * 32 <= largest.size < 4_000 * 4_000 / 8


def test_gradients_reach_the_layers_below_and_do_not_depend_on_checkpointing():
    def gradients(*, checkpointing):
        torch.manual_seed(1)
        model = AutoModel.from_config(deepcopy(EXACT["llama"]))
        blocks = BlockModel.checked(model, "llama")
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            for layer in blocks.layers[2:]:
                layer.layer.gradient_checkpointing = False
        prompt = prompt_of(*LENGTHS)
        watch = Scores(prompt, 2)
        blocks.forward(prompt, watch)
        watch.found[1].backward()
        return {name: part.grad for name, part in model.named_parameters() if part.grad is not None}

    found, again = gradients(checkpointing=False), gradients(checkpointing=True)
    touched = {name.replace(".layer.", ".") for name in found}
    assert {
        "layers.2.self_attn.q_proj.weight",
        "layers.2.self_attn.k_proj.weight",
        "layers.0.mlp.up_proj.weight",
    } <= touched
    assert not any(name.startswith(("layers.3", "norm", "layers.2.mlp")) for name in touched)
    assert all(grad.abs().max() > 0 for name, grad in found.items() if "k_proj" in name)
    for name, grad in found.items():
        torch.testing.assert_close(again[name], grad)


def test_a_pass_without_documents_has_no_scores():
    model = BlockModel.checked(model_of(EXACT["llama"]), "llama")
    assert scores(model, prompt_of(7, [], 9)).shape == (0,)


def test_a_finished_pass_is_told_by_an_exception_of_its_own():
    prompt = prompt_of(*LENGTHS)
    passing = Pass(prompt, Scores(prompt, 0), torch.device("cpu"), 10_000)
    q = torch.randn(passing.num_keys, 4, 8)
    with pytest.raises(Finished):
        passing.attend(0, q, q[:, :2], q[:, :2], 1.0)


def test_an_architecture_that_attends_twice_in_a_layer_is_refused():
    from transformers import DiffLlamaConfig

    with pytest.raises(ModelError, match="cannot be replaced"):
        BlockModel.checked(model_of(DiffLlamaConfig(**SHAPE)), "twice")


def test_a_window_that_an_architecture_keeps_in_its_mask_alone_is_found():
    from transformers import PhimoeConfig

    config = PhimoeConfig(**SHAPE, sliding_window=64, num_local_experts=2, head_dim=16)
    model = BlockModel.checked(model_of(config), "phimoe")
    assert model.window == 64
    with pytest.raises(ModelError, match="a sliding window of 64 positions"):
        scores(model, prompt_of(7, [5], 9, 100))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_that_are_no_numbers_are_told(dtype):
    model = model_of(EXACT["llama"]).to(dtype)
    with torch.no_grad():
        model.layers[1].self_attn.q_proj.weight.fill_(torch.nan)
    remedy = "get the checkpoint again" if dtype == torch.float32 else "give dtype='float32'"
    with pytest.raises(ModelError, match=f"no finite numbers.*{remedy}"):
        BlockModel.checked(model, "damaged")


def test_heads_whose_values_are_of_another_size_are_refused():
    from transformers import DeepseekV3Config

    sizes = {"q_lora_rank": None, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12}
    config = DeepseekV3Config(
        **SHAPE, **sizes, n_routed_experts=4, n_group=1, topk_group=1, num_experts_per_tok=2, first_k_dense_replace=4
    )
    with pytest.raises(ModelError, match="cannot be replaced"):
        BlockModel.checked(model_of(config), "mla")
