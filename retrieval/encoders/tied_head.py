"""A BERT encoder whose input embeddings serve as its vocabulary projection. The only file of `mini` that needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from transformers import BertModel
from transformers.utils import logging

from kernels.cpu.pooled_head import pooled_head
from kernels.cpu.sparse import SparseRows

TOKENS_A_BATCH = 2048  # with padding


class TiedHeadModel:
    """Sparse document vectors from token ids, on the processor, in float32."""

    def __init__(self, model: BertModel, cls_id: int = 101, sep_id: int = 102):
        self.model = model.eval()
        self.embeddings = model.get_input_embeddings().weight.detach()
        self.cls_id, self.sep_id = cls_id, sep_id

    @classmethod
    @cache
    def load(cls, folder: Path) -> TiedHeadModel:
        """From a folder with config.json and model.safetensors."""
        logging.disable_progress_bar()  # ours shows documents; theirs would break into it
        try:
            return cls(BertModel.from_pretrained(folder, use_safetensors=True))
        finally:
            logging.enable_progress_bar()

    @torch.inference_mode()
    def encode(self, texts: Sequence[np.ndarray], threshold: float, is_special: np.ndarray) -> SparseRows:
        """One row a text, in order: log(1 + log(1 + relu(largest logit - threshold))), 0 for special terms.

        texts  int64 token ids without [CLS] and [SEP], each short enough for the model; an empty text has an empty row
        """
        rows: list[tuple[np.ndarray, np.ndarray]] = [(np.empty(0, np.int32), np.empty(0, np.float32))] * len(texts)
        for batch in batches_of_like_length([len(ids) for ids in texts]):
            weights = self.weights([texts[text] for text in batch], threshold)
            weights[:, torch.from_numpy(is_special)] = 0
            for text, row in zip(batch, weights.numpy(), strict=True):
                terms = np.flatnonzero(row).astype(np.int32)
                rows[text] = (terms, row[terms])
        indptr = np.cumsum([0] + [len(terms) for terms, _ in rows])
        return SparseRows(indptr, np.concatenate([r[0] for r in rows]), np.concatenate([r[1] for r in rows]))

    def weights(self, texts: list[np.ndarray], threshold: float) -> torch.Tensor:
        """float32 [texts, vocabulary]; every text has at least one token."""
        lengths = torch.tensor([len(ids) for ids in texts])
        ids = torch.zeros(len(texts), int(lengths.max()) + 2, dtype=torch.int64)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text) + 2] = torch.from_numpy(np.concatenate([[self.cls_id], text, [self.sep_id]]))
        position = torch.arange(ids.shape[1])
        hidden = self.model(ids, attention_mask=position < lengths[:, None] + 2).last_hidden_state
        words = hidden[(position >= 1) & (position <= lengths[:, None])]  # without [CLS], [SEP] and padding
        starts = [0, *lengths.cumsum(0).tolist()]
        return pooled_head(words, starts, self.embeddings).sub_(threshold).relu_().log1p_().log1p_()


def batches_of_like_length(lengths: Sequence[int]) -> list[list[int]]:
    """Positions of the texts that are not empty, shortest first, cut where a padded batch would grow too large."""
    batches: list[list[int]] = []
    for text in sorted((text for text, length in enumerate(lengths) if length), key=lambda text: lengths[text]):
        if not batches or (len(batches[-1]) + 1) * (lengths[text] + 2) > TOKENS_A_BATCH:
            batches.append([])
        batches[-1].append(text)
    return batches
