"""Checkpoints of a few kilobytes, laid out as each project lays out its own, with weights at random.

Nothing here is of our library: transformers, tokenizers and sentence-transformers write what they write for anybody.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertTokenizer,
    DistilBertConfig,
    ModernBertConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

TEXTS = [
    "The moon pulls the water of the sea.",
    "Flour, water, salt and yeast make bread; the bread rises twice before it bakes for an hour.",
    "rain",
    "New York is rainy NOW, and the café is open: the tide of the lunar month rises with the moon and falls " * 3,
]
WORDS = """the moon pulls water of sea flour salt and yeast make bread rises twice before it bakes for an hour rain new york
is rainy now cafe open tide lunar month with falls what weather in ny query document passage : . , ; ? ' s ##y ##s""".split()
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]"]
WORDPIECES = list(dict.fromkeys([*SPECIALS, *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS)]))

SIZE = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "hidden_size": 32}
POSITIONS = 40  # fewer than the last text has tokens


def wordpieces(folder: Path, **options) -> BertTokenizer:
    """BERT's tokenizer over a handful of words, in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDPIECES) + "\n")
    tokenizer = BertTokenizer(vocab=str(folder / "vocab.txt"), **{"model_max_length": POSITIONS, **options})
    tokenizer.save_pretrained(folder)
    return tokenizer


def byte_pairs(folder: Path, specials: dict[str, str], model_max_length: int = POSITIONS) -> PreTrainedTokenizerFast:
    """A byte-level BPE as RoBERTa and ModernBERT have: a blank is part of the word after it."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = list(dict.fromkeys(specials.values()))
    trainer = trainers.BpeTrainer(vocab_size=341, special_tokens=names, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    tokenizer.train_from_iterator(TEXTS, trainer)
    before, after = specials["cls_token"], specials["sep_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{before} $A {after}", special_tokens=[(one, tokenizer.token_to_id(one)) for one in (before, after)]
    )
    return saved_tokenizer(tokenizer, folder, specials, model_max_length)


def unigrams(folder: Path, specials: dict[str, str]) -> PreTrainedTokenizerFast:
    """XLM-R's kind: SentencePiece's unigrams with a mark for blanks."""
    names = list(dict.fromkeys(specials.values()))
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=names, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(one, tokenizer.token_to_id(one)) for one in ("<s>", "</s>")]
    )
    return saved_tokenizer(tokenizer, folder, specials, POSITIONS)


def saved_tokenizer(tokenizer, folder, specials, model_max_length):
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=model_max_length, model_input_names=["input_ids", "attention_mask"],
        **{name: AddedToken(token, special=True) for name, token in specials.items()},
    )  # fmt: skip
    fast.save_pretrained(folder)
    return fast


ROBERTAS = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>",
            "cls_token": "<s>", "sep_token": "</s>"}  # fmt: skip
MODERNBERTS = {
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
}


def saved(config, folder: Path, seed: int = 0, *, scale: float = 0.2, dtype=torch.float32) -> Path:
    """A masked language model with random weights, saved by transformers: norms near 1, everything else near 0."""
    torch.manual_seed(seed)
    model = AutoModelForMaskedLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1 if "norm" in name.lower() and name.endswith("weight") else 0, scale)
    model.to(dtype).save_pretrained(folder)
    return folder


def bert(folder: Path, seed: int = 0, *, dtype=torch.float32, tokenizer_options=None, **options) -> Path:
    tokenizer = wordpieces(folder, **(tokenizer_options or {}))
    return saved(
        BertConfig(**{"vocab_size": len(tokenizer), "max_position_embeddings": POSITIONS, **SIZE, **options}), folder, seed, dtype=dtype
    )  # fmt: skip


def distilbert(folder: Path) -> Path:
    tokenizer = wordpieces(folder, model_input_names=["input_ids", "attention_mask"])
    config = DistilBertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=POSITIONS, dim=32, hidden_dim=48, n_layers=2, n_heads=4
    )
    return saved(config, folder)


def roberta(folder: Path) -> Path:
    """Its positions begin after the number of the padding token, so it reads two tokens less than it has positions."""
    tokenizer = byte_pairs(folder, ROBERTAS)
    config = RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=POSITIONS + 2, pad_token_id=tokenizer.pad_token_id,
                           bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, **SIZE)  # fmt: skip
    assert tokenizer.pad_token_id == 1
    return saved(config, folder)


def xlm_roberta(folder: Path) -> Path:
    tokenizer = unigrams(folder, ROBERTAS)
    config = XLMRobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=POSITIONS + 2, pad_token_id=tokenizer.pad_token_id,
                              bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, **SIZE)  # fmt: skip
    return saved(config, folder)


def modernbert(folder: Path) -> Path:
    """Every other layer sees 4 tokens to each side; more rows than the tokenizer has tokens, as the real one."""
    tokenizer = byte_pairs(folder, MODERNBERTS, model_max_length=200)
    config = ModernBertConfig(vocab_size=len(tokenizer) + 4, max_position_embeddings=200, local_attention=8,
                              global_attn_every_n_layers=2, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
                              eos_token_id=None, cls_token_id=tokenizer.cls_token_id, sep_token_id=tokenizer.sep_token_id, **SIZE)  # fmt: skip
    return saved(config, folder)


def as_pickle(folder: Path) -> Path:
    """The same weights as transformers wrote them before safetensors."""
    model = AutoModelForMaskedLM.from_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def some_idf() -> dict[str, float]:
    """As OpenSearch's idf.json: exactly 1 for special and unused tokens."""
    numbers = np.random.default_rng(5)
    return {
        token: 1.0 if token.startswith("[") else round(float(numbers.uniform(0.1, 6)), 4) for token in WORDPIECES
    }  # fmt: skip


def write_json(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def edit_json(path: Path, **changes) -> None:
    write_json(path, {**(json.loads(path.read_text()) if path.is_file() else {}), **changes})


def formula(
    folder: Path, texts, *, logs: int = 1, pooling: str = "max", length: int | None = None, tokenizer=None
) -> np.ndarray:
    """float64 [texts, terms]: transformers' own logits, one text at a time, then what the papers write."""
    tokenizer = tokenizer or AutoTokenizer.from_pretrained(folder)
    model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float64).eval()
    rows = []
    for text in texts:
        given = tokenizer(text, truncation=True, max_length=length or tokenizer.model_max_length, return_tensors="pt")
        with torch.inference_mode():
            weights = model(**given).logits[0].relu()
        for _ in range(logs):
            weights = weights.log1p()
        rows.append(weights.amax(0) if pooling == "max" else weights.sum(0))
    return torch.stack(rows).numpy()


def dense(rows, num_terms: int) -> np.ndarray:
    """float32 [rows, terms]"""
    table = np.zeros((len(rows.indptr) - 1, num_terms), np.float32)
    for row, (start, end) in enumerate(zip(rows.indptr[:-1], rows.indptr[1:], strict=True)):
        table[row, rows.indices[start:end]] = rows.data[start:end]
    return table
