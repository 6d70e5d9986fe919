"""LoRA adapters: merged once, against peft's own forward of the adapter beside its base."""

import importlib.util
import json
import sys

import numpy as np
import pytest
import torch
import transformers
from decoders_for_tests import (
    TEXTS,
    dense_rows,
    encoder_of,
    library_logits,
    library_model,
    own_ids,
    pooled,
    save_decoder,
)

from index.errors import ModelError
from retrieval import Retriever

needs_peft = pytest.mark.skipif(not importlib.util.find_spec("peft"), reason="NOT RUN: peft is not installed")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_decoder(tmp_path_factory.mktemp("base"), "llama")


def adapter(folder, base, named, **more):
    """A LoRA adapter of `base` with random weights, which calls its base `named`."""
    import peft

    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(
        **{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "lora_dropout": 0.1} | more
    )
    adapted = peft.get_peft_model(model, config)
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.2)
    adapted.save_pretrained(folder)
    rename_base(folder, named)
    return folder


def rename_base(folder, named):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": named}))


def unmerged(base, folder, text):
    """Of peft's own forward, in float64."""
    import peft

    model = peft.PeftModel.from_pretrained(library_model(base), folder, autocast_adapter_dtype=False).double().eval()
    return pooled(library_logits(model, own_ids(text)))


@needs_peft
def test_an_adapter_is_merged_into_the_base_it_names(base, tmp_path):
    folder = adapter(tmp_path / "adapter", base, str(base))
    found = dense_rows(encoder_of(folder).document, TEXTS[:1])[0]
    np.testing.assert_allclose(found, unmerged(base, folder, TEXTS[0]), rtol=0, atol=1e-5)
    assert np.abs(found - dense_rows(encoder_of(base).document, TEXTS[:1])[0]).max() > 0.1


@needs_peft
def test_the_base_may_lie_beside_the_adapter_or_be_given(base, tmp_path):
    (tmp_path / "base").symlink_to(base)
    folder = adapter(tmp_path / "adapter", base, "../base")
    expected = unmerged(base, folder, TEXTS[0])
    np.testing.assert_allclose(dense_rows(encoder_of(folder).document, TEXTS[:1])[0], expected, rtol=0, atol=1e-5)
    rename_base(folder, "somebody/elsewhere")
    given = encoder_of(folder, base_model=str(base))
    np.testing.assert_allclose(dense_rows(given.document, TEXTS[:1])[0], expected, rtol=0, atol=1e-5)


@needs_peft
def test_an_adapter_of_a_tied_projection_leaves_the_input_embeddings_alone(tmp_path):
    tied = save_decoder(tmp_path / "tied", "llama", tie_word_embeddings=True)
    with pytest.warns(UserWarning, match="tie"):  # peft's, whose saved weights hold the projection's delta all the same
        folder = adapter(tmp_path / "adapter", tied, str(tied), target_modules=["q_proj", "lm_head"])
    with pytest.warns(UserWarning, match="tie"):
        expected = unmerged(tied, folder, TEXTS[0])
    np.testing.assert_allclose(dense_rows(encoder_of(folder).document, TEXTS[:1])[0], expected, rtol=0, atol=1e-5)


@needs_peft
def test_an_index_of_an_adapter_is_opened_and_other_weights_refused(base, tmp_path):
    folder = adapter(tmp_path / "adapter", base, str(base))
    retriever = Retriever.from_pretrained(folder, activation="log1p").index(
        [{"_id": str(number), "text": text} for number, text in enumerate(TEXTS)], progress=False
    )
    retriever.save_pretrained(tmp_path / "index")
    found = [(hit.doc_id, hit.score) for hit in retriever.search("the tide")]
    assert found
    assert [
        (hit.doc_id, hit.score) for hit in Retriever.from_pretrained(tmp_path / "index").search("the tide")
    ] == found
    from retrieval.encoders import neural_model

    neural_model.LOADED.clear()
    adapter(folder, base, str(base), r=2)
    with pytest.raises(ModelError, match=r"the index was built with weights and config [0-9a-f]{12}\.\.\."):
        Retriever.from_pretrained(tmp_path / "index").search("the tide")


@needs_peft
def test_an_adapter_of_another_size_or_architecture_is_refused(base, tmp_path):
    folder = adapter(tmp_path / "adapter", base, str(base))
    others = {
        "deeper": (
            {"num_hidden_layers": 3},
            r"4 weights are in one of them alone, base_model\.model\.model\.layers\.2",
        ),
        "shallower": (
            {"num_hidden_layers": 1},
            r"4 weights are in one of them alone, base_model\.model\.model\.layers\.1",
        ),
        "wider": ({"hidden_size": 64}, r"size mismatch"),
    }
    for name, (sizes, reason) in others.items():
        other = save_decoder(tmp_path / name, "llama", **sizes)
        with pytest.raises(ModelError, match=rf"does not fit .*{name} \(.*{reason}"):
            _ = encoder_of(folder, base_model=str(other)).document.model
    config = transformers.GPT2Config(vocab_size=420, n_embd=32, n_layer=1, n_head=2, n_positions=600, bos_token_id=0)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    (tmp_path / "gpt2" / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
    with pytest.raises(
        ModelError,
        match=r"does not fit .*gpt2 \(NoMatchingPeftModuleError: Target modules .* give the base_model it was",
    ):
        _ = encoder_of(folder, base_model=str(tmp_path / "gpt2")).document.model


def written_adapter(folder, **config):
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
    return folder


def test_an_adapter_without_its_base_says_which_it_needs(tmp_path):
    gone = written_adapter(tmp_path / "a", base_model_name_or_path="/models/gone")
    with pytest.raises(
        ModelError,
        match=r"is an adapter of '/models/gone', which is neither a folder nor a model .* give base_model\.$",
    ):
        encoder_of(gone)
    nameless = written_adapter(tmp_path / "b", base_model_name_or_path=None)
    with pytest.raises(ModelError, match=r"is an adapter that does not name its base model; give base_model\.$"):
        encoder_of(nameless)
    elsewhere = written_adapter(tmp_path / "c", base_model_name_or_path="somebody/else")
    with pytest.raises(ModelError, match=r"is an adapter of 'somebody/else', which"):
        encoder_of(elsewhere)


def test_only_lora_and_only_safetensors_are_read(base, tmp_path):
    prompt = written_adapter(tmp_path / "a", peft_type="PROMPT_TUNING", base_model_name_or_path=str(base))
    with pytest.raises(ModelError, match=r"is an adapter of the kind 'PROMPT_TUNING'; only LORA is read\.$"):
        encoder_of(prompt)


def test_without_peft_an_adapter_says_what_to_install(base, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    folder = written_adapter(tmp_path / "a", base_model_name_or_path=str(base))
    with pytest.raises(ModelError, match=r"is an adapter, which needs peft; pip install 'winnow-ir\[train\]'\.$"):
        _ = encoder_of(folder).document.model


@needs_peft
def test_a_pickled_adapter_is_not_read(base, tmp_path):
    folder = written_adapter(tmp_path / "a", base_model_name_or_path=str(base))
    (folder / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match=r"has no adapter_model\.safetensors; save the adapter as safetensors\.$"):
        _ = encoder_of(folder).document.model
