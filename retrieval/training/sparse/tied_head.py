"""A masked language model from an encoder that has none: all-MiniLM-L6-v2 with its input embeddings for a head.

A sentence encoder's last hidden states, multiplied with its input embeddings, already rank the tokens that a text is about. As an ordinary
BertForMaskedLM its head has a transformation before the product: here the identity plus a constant that carries nearly all values past
the bend of GELU, and a LayerNorm that takes the constant off again and restores the scale.
"""

from __future__ import annotations

import numpy as np
import torch
from tokenizers import Tokenizer

from index.errors import ModelError
from retrieval.encoders.model_files import ModelFiles
from retrieval.encoders.model_reading import read_model
from retrieval.encoders.tokens import special_terms

SHIFT = 4.0  # of the hidden states before GELU: their standard deviation is .4
SCALE = 0.407  # of LayerNorm: that standard deviation
NEVER = -100.0  # the bias of a term that shall not be in any text


def tied_head_start(files: ModelFiles, tokenizer: Tokenizer, threshold: float) -> torch.nn.Module:
    """A BertForMaskedLM whose logits are those of the tied head minus `threshold`; of special terms they are far below 0.

    files  of an encoder of the class BertModel

    Raises ModelError.
    """
    from transformers import BertConfig, BertForMaskedLM

    if (kind := files.config.get("model_type")) != "bert":
        raise ModelError(f"{files.name} is a model of the type {kind!r:.40}; a head is put on one of the type 'bert'.")
    encoder = read_model(files, "float32", with_head=False)
    config = BertConfig.from_dict({**files.config, "architectures": ["BertForMaskedLM"], "tie_word_embeddings": True})
    model = BertForMaskedLM(config)
    body = {name: value for name, value in encoder.state_dict().items() if not name.startswith("pooler.")}
    model.bert.load_state_dict(body)
    head = model.cls.predictions
    with torch.no_grad():
        head.transform.dense.weight.copy_(torch.eye(config.hidden_size))
        head.transform.dense.bias.fill_(SHIFT)
        head.transform.LayerNorm.weight.fill_(SCALE)
        head.transform.LayerNorm.bias.zero_()
        head.bias.fill_(-threshold)
        head.bias[torch.from_numpy(special_terms(tokenizer).astype(np.int64))] = NEVER
    model.tie_weights()
    return model
