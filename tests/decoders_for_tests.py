"""Tiny random decoders as checkpoints, and what the library itself makes of a text: slow, one at a time, in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from retrieval.encoders.loading import load_encoder

TEXTS = [
    "The moon pulls the water of the sea, and so the tide follows the moon.",
    "",
    "a",
    "Flour, water, salt and yeast make bread: café, naïve, 12345. " * 2,
    "The tide",
]
SPECIAL = ["<|begin_of_text|>", "<|im_start|>", "<|im_end|>", "<pad>"]
NUM_TERMS = 420
SIZES = {
    "vocab_size": NUM_TERMS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 900,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 3,
    "tie_word_embeddings": False,
}
ARCHITECTURES = {
    "llama": lambda **more: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES | more)),
    "mistral": lambda **more: transformers.MistralForCausalLM(
        transformers.MistralConfig(**SIZES | {"sliding_window": 6, "head_dim": 8} | more)
    ),
    "qwen2": lambda **more: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SIZES | more)),
    "qwen3": lambda **more: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SIZES | {"head_dim": 8} | more)),
}


def tokenizer() -> Tokenizer:
    """Byte-level BPE, as Llama 3, Qwen and SmolLM2 have it, with a first token that is added unless told otherwise."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([*TEXTS, "query: passage: the sea tides moon"] * 3, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
    )
    return made


def save_decoder(folder: Path, architecture: str = "llama", **more) -> Path:
    torch.manual_seed(sum(map(ord, architecture)))
    ARCHITECTURES[architecture](**more).eval().save_pretrained(folder)
    tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def library_model(folder: Path):
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager"
    ).eval()


def library_logits(model, ids: list[int], mask: np.ndarray | None = None) -> np.ndarray:
    """float64 [tokens, terms]; mask bool [tokens, tokens]: which see which, instead of the model's own."""
    given = {} if mask is None else {"attention_mask": torch.where(torch.tensor(mask), 0.0, -1e30)[None, None].double()}
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids]), **given).logits[0].double().numpy()


def pooled(logits: np.ndarray, pooling: str = "max") -> np.ndarray:
    """The formula of SPLADE, one logarithm."""
    weights = np.log1p(np.maximum(logits, 0))
    if pooling == "last":
        return weights[-1]
    return {"max": np.max, "sum": np.sum, "mean": np.mean}[pooling](weights, axis=0)


def encoder_of(folder: Path, **options):
    return load_encoder(str(folder), None, {"activation": "log1p", **options})


def dense_rows(side, texts: list[str]) -> np.ndarray:
    """float32 [texts, terms] of one side of an encoder."""
    return np.concatenate([spread(rows) for rows in side.encode(texts)])


def spread(rows) -> np.ndarray:
    found = np.zeros((len(rows.indptr) - 1, NUM_TERMS), np.float32)
    for number, row in enumerate(found):
        part = slice(rows.indptr[number], rows.indptr[number + 1])
        row[rows.indices[part]] = rows.data[part]
    return found


def own_ids(text: str) -> list[int]:
    return tokenizer().encode(text, add_special_tokens=False).ids
