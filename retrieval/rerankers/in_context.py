"""In-context reranking (ICR): the attention of a query's tokens over all layers and heads, calibrated by a query without content.

Chen et al., "Attention in large language models yields efficient zero-shot re-rankers", arXiv:2410.02642. With a(t) the attention that
document token t gets, summed over layers and heads and averaged over the tokens of the query, and a0(t) that of the query "N/A",

    s(t) = a(t) - a0(t),   a document's score = sum of s(t) over its tokens, without those below mean - 2 standard deviations

Nothing is trained. With causal attention, as in the paper, documents see those before them; with attention of blocks they do not, which
takes time linear in the list and lets their states be kept from query to query.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from index.errors import WinnowError
from retrieval.encoders.options import Dtype, check_choice
from retrieval.rerankers.document_cache import DocumentCache
from retrieval.rerankers.list_model import ListModel, ListReranker, ReadList
from retrieval.rerankers.protocol import Ranked, best_first

Attention = Literal["blocks", "causal"]
CONTENT_FREE = "N/A"
DEVIATIONS = 2.0
MOST_SCORES = 1 << 25  # attention weights in memory at once
PROMPT: dict[str, Any] = {
    "instruction": "Here are some paragraphs:",
    "document": "{text}",
    "last": "Please find the paragraphs above that are relevant to this query.\nQuery: {query}",
    "answer": "",
    "signal_tokens": "query",
}


class InContextReranker(ListReranker):
    """Reranks a list by the attention of an untrained decoder. Scores of different lists or queries cannot be compared."""

    def __init__(self, lists: ListModel, name: str, attention: Attention = "blocks"):
        check_choice("attention", attention, get_args(Attention))
        self.lists, self.name, self.attention = lists, name, attention

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        *,
        attention: Attention = "blocks",
        cache: DocumentCache | str | Path | None = None,
        device: str | None = None,
        dtype: Dtype = "float32",
        revision: str | None = None,
        trust_remote_code: bool = False,
        **settings: Any,
    ) -> InContextReranker:
        """Any decoder, as `BlockRankReranker.from_pretrained` takes them.

        attention  "causal" as in the paper; "blocks": documents do not see each other
        cache      keeps documents' keys and values from query to query, or a folder for one; with blocks
        settings   fields of `BlockRankSettings`: other words, document_tokens, ...
        """
        check_choice("attention", attention, get_args(Attention))
        if attention == "causal" and cache is not None:
            raise WinnowError(
                "attention is 'causal', where a document's states depend on those before it; leave cache out."
            )
        lists = ListModel.load(
            name_or_folder,
            depth=lambda _, total: total,
            cache=cache,
            query_free=False,
            device=device,
            dtype=dtype,
            revision=revision,
            trust_remote_code=trust_remote_code,
            options={**PROMPT, **settings},
        )
        return cls(lists, f"icr:{name_or_folder}", attention)

    def ranked(self, query: str, texts: Sequence[str], top_k: int | None) -> list[Ranked]:
        read = self.lists.read(query, texts)
        scores = calibrated(self.attention_of(query, read), self.attention_of(CONTENT_FREE, read), read.starts)
        return [Ranked(i, float(scores[i])) for i in best_first(scores, top_k)]

    def attention_of(self, query: str, read: ReadList) -> torch.Tensor:
        """float64 [document tokens]."""
        last = self.lists.reader.last(query)
        watch = AttentionWatch(self.lists.reader.signal(last), sum(map(len, read.documents)), self.lists.num_layers)
        self.lists.model.infer(self.lists.prompt(read, last), watch, causal=self.attention == "causal")
        return watch.attention.cpu()


class AttentionWatch:
    """Adds up what every layer's heads give the tokens of documents."""

    needs_sums = True

    def __init__(self, rows: np.ndarray, num_tokens: int, num_layers: int):
        self.rows, self.last_layer = rows, num_layers - 1
        self.attention = torch.zeros(num_tokens, dtype=torch.float64)

    def see(
        self, layer: int, queries: torch.Tensor, keys: torch.Tensor, lse: torch.Tensor | None, scale: float
    ) -> None:
        assert lse is not None
        q, sums = queries[self.rows].float(), lse[self.rows]
        groups = q.shape[1] // keys.shape[1]
        step = max(1, MOST_SCORES // (q.shape[0] * q.shape[1]))
        self.attention = self.attention.to(keys.device)
        for first in range(0, len(keys), step):
            some = keys[first : first + step].float().repeat_interleave(groups, 1)
            logits = torch.einsum("qhd,khd->qhk", q, some) * scale
            weights = (logits - sums[..., None]).exp().sum((0, 1)) / len(q)
            self.attention[first : first + step] += weights


def calibrated(found: torch.Tensor, content_free: torch.Tensor, starts: torch.Tensor) -> np.ndarray:
    """float64 [documents]: the sum over each document's tokens, without outliers below; 0 of one without tokens."""
    difference = found - content_free
    scores = np.zeros(len(starts) - 1)
    for document, own in enumerate(torch.split(difference, torch.diff(starts).tolist())):
        if len(own):
            kept = own >= own.mean() - DEVIATIONS * own.std(correction=0)
            scores[document] = float(own[kept].sum())
    return scores
