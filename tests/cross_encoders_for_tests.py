"""Small cross-encoders with random weights, as transformers saves them."""

from __future__ import annotations

from pathlib import Path

import tiny_checkpoints as tiny
import torch
import transformers
from tokenizers import processors


def save_classifier(config, folder: Path, num_labels: int = 1, **more) -> Path:
    """Weights that tell texts apart: a classifier's own are too small to show a difference."""
    torch.manual_seed(7)
    config.num_labels = num_labels
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1 if "norm" in name.lower() and name.endswith("weight") else 0, 0.2)
    for name, value in more.items():
        setattr(model.config, name, value)
    model.save_pretrained(folder)
    return folder


def pairs_of(tokens, folder: Path, before: str, between: list[str], after: str, types: bool = False):
    """Give a tokenizer that knows single texts the template of pairs."""
    backend, specials = tokens.backend_tokenizer, {before, *between, after}
    second = 1 if types else 0
    backend.post_processor = processors.TemplateProcessing(
        single=f"{before} $A {after}",
        pair=[before, "$A", *between, f"$B:{second}", f"{after}:{second}"],
        special_tokens=[(one, backend.token_to_id(one)) for one in specials],
    )
    tokens.save_pretrained(folder)
    return tokens


def bert(folder: Path, num_labels: int = 1, **more) -> Path:
    tokens = tiny.wordpieces(folder)
    config = transformers.BertConfig(vocab_size=len(tokens), max_position_embeddings=tiny.POSITIONS, **tiny.SIZE)
    return save_classifier(config, folder, num_labels, **more)


def distilbert(folder: Path, num_labels: int = 1) -> Path:
    tokens = tiny.wordpieces(folder, model_input_names=["input_ids", "attention_mask"])
    config = transformers.DistilBertConfig(
        vocab_size=len(tokens), max_position_embeddings=tiny.POSITIONS, dim=32, hidden_dim=48, n_layers=2, n_heads=4
    )
    return save_classifier(config, folder, num_labels)


def roberta(folder: Path, num_labels: int = 1) -> Path:
    tokens = pairs_of(tiny.byte_pairs(folder, tiny.ROBERTAS), folder, "<s>", ["</s>", "</s>"], "</s>")
    config = transformers.RobertaConfig(
        vocab_size=len(tokens),
        max_position_embeddings=tiny.POSITIONS + 2,
        pad_token_id=tokens.pad_token_id,
        **tiny.SIZE,
    )
    return save_classifier(config, folder, num_labels)


def xlm_roberta(folder: Path, num_labels: int = 1) -> Path:
    tokens = pairs_of(tiny.unigrams(folder, tiny.ROBERTAS), folder, "<s>", ["</s>", "</s>"], "</s>")
    config = transformers.XLMRobertaConfig(
        vocab_size=len(tokens),
        max_position_embeddings=tiny.POSITIONS + 2,
        pad_token_id=tokens.pad_token_id,
        **tiny.SIZE,
    )
    return save_classifier(config, folder, num_labels)


def modernbert(folder: Path, num_labels: int = 1, pooling: str = "cls") -> Path:
    """Every other layer sees 4 tokens to each side."""
    tokens = tiny.byte_pairs(folder, tiny.MODERNBERTS, model_max_length=90)
    tokens = pairs_of(tokens, folder, "[CLS]", ["[SEP]"], "[SEP]")
    config = transformers.ModernBertConfig(
        vocab_size=len(tokens), max_position_embeddings=200, local_attention=8, global_attn_every_n_layers=2,
        pad_token_id=tokens.pad_token_id, classifier_pooling=pooling, bos_token_id=None, eos_token_id=None,
        cls_token_id=tokens.cls_token_id, sep_token_id=tokens.sep_token_id, **tiny.SIZE,
    )  # fmt: skip
    return save_classifier(config, folder, num_labels)


def modernbert_mean(folder: Path, num_labels: int = 1) -> Path:
    return modernbert(folder, num_labels, "mean")


def deberta(folder: Path, num_labels: int = 1) -> Path:
    """Its attention is its own, so its pairs are padded; it is told which text a token is of."""
    tokens = tiny.wordpieces(folder)
    config = transformers.DebertaV2Config(
        vocab_size=len(tokens), max_position_embeddings=tiny.POSITIONS, relative_attention=True, position_buckets=8,
        norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type=["p2c", "c2p"], type_vocab_size=2, pooler_hidden_size=32,
        **tiny.SIZE,
    )  # fmt: skip
    return save_classifier(config, folder, num_labels)


ARCHITECTURES = {
    made.__name__: made for made in (bert, distilbert, roberta, xlm_roberta, modernbert, modernbert_mean, deberta)
}
