"""A model in a GGUF file, written here tensor by tensor: read with the vectors of the checkpoint it was made of."""

import importlib.util
import json

import numpy as np
import pytest
import transformers
from decoders_for_tests import SIZES, TEXTS, dense_rows, encoder_of, own_ids, save_decoder, tokenizer

from index.errors import ModelError
from retrieval.encoders.tokens import read_tokenizer

HEADS, HEADS_OF_KEYS = SIZES["num_attention_heads"], SIZES["num_key_value_heads"]
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
OF_LAYERS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
needs_gguf = pytest.mark.skipif(not importlib.util.find_spec("gguf"), reason="NOT RUN: gguf is not installed")


def write_gguf(path, checkpoint):
    """As llama.cpp does it, with 32 bits a weight."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(SIZES["max_position_embeddings"])
    writer.add_embedding_length(SIZES["hidden_size"])
    writer.add_block_count(SIZES["num_hidden_layers"])
    writer.add_feed_forward_length(SIZES["intermediate_size"])
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS_OF_KEYS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(SIZES["hidden_size"] // HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(SIZES["vocab_size"])
    words = json.loads(tokenizer().to_str())["model"]
    names = sorted(words["vocab"], key=words["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(names)
    writer.add_token_types([3 if number < 4 else 1 for number in range(len(names))])  # control, normal
    writer.add_token_merges([" ".join(merge) for merge in words["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    for name, weight in transformers.AutoModelForCausalLM.from_pretrained(checkpoint).state_dict().items():
        writer.add_tensor(gguf_name(name), permuted(name, weight.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name):
    if name in NAMES:
        return NAMES[name]
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{OF_LAYERS[part]}.weight"


def permuted(name, weight):
    """Queries and keys with the halves of each head interleaved."""
    heads = {"q_proj": HEADS, "k_proj": HEADS_OF_KEYS}.get(name.split(".")[-2])
    if heads is None:
        return weight
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape).copy()


@needs_gguf
def test_a_gguf_file_has_the_vectors_of_the_checkpoint(tmp_path):
    checkpoint = save_decoder(tmp_path / "checkpoint", "llama")
    (tmp_path / "model").mkdir()
    write_gguf(tmp_path / "model" / "tiny.gguf", checkpoint)
    encoder = encoder_of(tmp_path / "model", query_prefix="query: ")
    expected = encoder_of(checkpoint, query_prefix="query: ")
    assert encoder.num_terms == SIZES["vocab_size"]
    assert not encoder.document.options.special_tokens
    assert [ids.tolist() for ids in encoder.document.tokens.own(TEXTS)] == [own_ids(text) for text in TEXTS]
    for side, other in ((encoder.document, expected.document), (encoder.query, expected.query)):
        np.testing.assert_allclose(dense_rows(side, TEXTS), dense_rows(other, TEXTS), rtol=0, atol=1e-5)
    with pytest.raises(ModelError, match=r"max_length is 901, but .* has 900 positions"):
        encoder_of(tmp_path / "model", max_length=901)


@needs_gguf
def test_a_file_that_is_no_gguf_is_refused(tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(ModelError, match=r"broken\.gguf cannot be read|has no tokenizer that can be read"):
        encoder_of(tmp_path)


def test_two_gguf_files_in_a_folder_are_refused(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ModelError, match=r"has 2 GGUF files, a\.gguf and others; keep one in a folder of its own\."):
        encoder_of(tmp_path)


def test_without_gguf_a_file_says_what_to_install(tmp_path, monkeypatch):
    def absent(*_, **__):
        raise ImportError("Please install torch and gguf>=0.10.0 to load a GGUF checkpoint in PyTorch.")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", absent)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", absent)
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(
        ModelError, match=r"a\.gguf is a GGUF file, which needs gguf; pip install 'winnow-ir\[gguf\]'\.$"
    ):
        encoder_of(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="has no tokenizer that can be read"):
        read_tokenizer(tmp_path)
