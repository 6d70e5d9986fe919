"""Small dense models as sentence-transformers itself saves them, and its vectors beside ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tiny_checkpoints as tiny
import torch
import transformers
from decoders_for_tests import ARCHITECTURES, tokenizer
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tiny_checkpoints import TEXTS
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from retrieval.encoders.dense.encoder import DenseEncoder

QUERIES = ["moon", "What's the weather in NEW York now?", "  bread and salt; flour,\nand café "]
EMPTY = ["", " \n "]
WIDTH = 32


def mpnet(folder: Path) -> Path:
    """Its attention adds a bias for the distance of two tokens."""
    tokens = tiny.byte_pairs(folder, tiny.ROBERTAS)
    config = transformers.MPNetConfig(
        vocab_size=len(tokens),
        max_position_embeddings=tiny.POSITIONS + 2,
        pad_token_id=tokens.pad_token_id,
        **tiny.SIZE,
    )
    return saved_base(transformers.MPNetModel(config), folder)


def t5(folder: Path, **options) -> Path:
    tokens = tiny.unigrams(folder, tiny.ROBERTAS)
    sizes = {"d_model": WIDTH, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    config = transformers.T5Config(vocab_size=len(tokens), pad_token_id=tokens.pad_token_id, **sizes, **options)
    return saved_base(transformers.T5ForConditionalGeneration(config), folder)


def saved_base(model, folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1 if "norm" in name.lower() and name.endswith("weight") else 0, 0.2)
    model.save_pretrained(folder)
    return folder


def decoder(folder: Path, architecture: str, end: bool = True, **more) -> Path:
    """A causal language model whose tokenizer puts a token at the end of each text, as E5-Mistral's does, or at the beginning."""
    torch.manual_seed(sum(map(ord, architecture)))
    ARCHITECTURES[architecture](**more).eval().save_pretrained(folder)
    tokens = tokenizer()
    if end:
        tokens.post_processor = processors.TemplateProcessing(
            single="<|begin_of_text|> $A <|im_end|>", special_tokens=[("<|begin_of_text|>", 0), ("<|im_end|>", 2)]
        )
    PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        model_max_length=64,
        pad_token="<pad>",
        eos_token="<|im_end|>",
        bos_token="<|begin_of_text|>",
    ).save_pretrained(folder)
    return folder


def dense_model(plain: Path, folder: Path, pooling="mean", *rest, include_prompt: bool = True, **options) -> Path:
    """A checkpoint with a pooling and other modules, written by sentence-transformers."""
    transformer = Transformer(str(plain))
    width = transformer.get_embedding_dimension()
    return saved([transformer, Pooling(width, pooling, include_prompt=include_prompt), *rest], folder, **options)


def saved(modules, folder: Path, **options) -> Path:
    SentenceTransformer(modules=modules, device="cpu", **options).save_pretrained(str(folder), create_model_card=False)
    return folder


def theirs(folder: Path, texts=None, *, like=None, queries=QUERIES, **options) -> list[np.ndarray]:
    """[vectors of queries, vectors of documents]"""
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, **options)
    own = like or {}
    return [
        model.encode_query(list(queries), **own),
        model.encode_document([*TEXTS, *EMPTY] if texts is None else texts, **own),
    ]


def ours(folder: Path, texts=None, *, queries=QUERIES, **options) -> list[np.ndarray]:
    encoder = DenseEncoder.from_pretrained(folder, **options)
    return [encoder.encode_queries(queries), encoder.encode_texts([*TEXTS, *EMPTY] if texts is None else texts)]


def assert_equal_vectors(folder: Path, texts=None, *, like=None, differ=True, **options) -> None:
    """differ  whether texts have vectors of their own, without which equal ones tell nothing"""
    for found, expected in zip(ours(folder, texts, **options), theirs(folder, texts, like=like), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
        assert len(np.unique(expected.round(3), axis=0)) > 2 or not differ
