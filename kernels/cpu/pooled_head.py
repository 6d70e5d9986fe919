"""Vocabulary projection fused with the maximum over tokens: what SPLADE-type encoders do last, in little memory.

    pooled[text, term] = max over the text's tokens i of hidden[i] . embeddings[term]

One tile of the vocabulary at a time, on texts packed end to end without padding, so the [tokens, vocabulary] table
never exists. What follows (threshold, log) never decreases, so it is applied to the maximum, once a term.
"""

from itertools import pairwise

import torch

TILE = 1024  # terms; a tile of logits then stays in the processor's cache


def pooled_head(hidden: torch.Tensor, starts: list[int], embeddings: torch.Tensor, tile: int = TILE) -> torch.Tensor:
    """Largest logit of each term in each text, float32 [texts, vocabulary].

    hidden      float32 [tokens, width], the texts end to end
    starts      text t owns hidden[starts[t] : starts[t + 1]], at least one token; length texts + 1
    embeddings  float32 [vocabulary, width]
    """
    num_texts = len(starts) - 1
    pooled = torch.empty(num_texts, len(embeddings), dtype=torch.float32)
    for first_term in range(0, len(embeddings), tile):
        logits = hidden @ embeddings[first_term : first_term + tile].T
        for text in range(num_texts):
            pooled[text, first_term : first_term + tile] = logits[starts[text] : starts[text + 1]].amax(0)
    return pooled


def pooled_head_reference(hidden: torch.Tensor, starts: list[int], embeddings: torch.Tensor) -> torch.Tensor:
    logits = hidden @ embeddings.T
    return torch.stack([logits[a:b].amax(0) for a, b in pairwise(starts)])
