"""How much attention the last block of a BlockRank prompt gives each document (arXiv:2510.05396, section 4.3).

The scaled products of the signal tokens with all document tokens, instruction and query left out, go through a softmax; a document's
mass is the sum over its tokens of the mean over heads and signal tokens. The masses of a list add up to 1.
"""

from __future__ import annotations

import math

import torch


def log_document_mass(
    q: torch.Tensor, k: torch.Tensor, starts: torch.Tensor, scale: float | None = None
) -> torch.Tensor:
    """float32 [documents] (float64 of float64): the natural logarithm of each document's mass, -inf for one without tokens.

    q       [signal tokens, heads, size]
    k       [document tokens, kv_heads, size]; query head h reads head h // (heads // kv_heads)
    starts  int64 [documents + 1]: document d is the tokens starts[d] to starts[d + 1]
    scale   of the products; size ** -0.5 unless told
    """
    rows, heads, size = q.shape
    scale = size**-0.5 if scale is None else scale
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    queries = q.to(dtype).unflatten(1, (k.shape[1], -1)).permute(1, 0, 2, 3).flatten(1, 2)
    scores = queries @ k.to(dtype).permute(1, 2, 0) * scale  # [kv_heads, signal tokens * groups, document tokens]
    lengths = torch.diff(starts).to(k.device)
    # a document without tokens has no logarithm, and its gradient must not reach the others
    there = lengths.nonzero().flatten()
    document = torch.repeat_interleave(torch.arange(len(there), device=k.device), lengths[there])
    largest = scores.new_full((*scores.shape[:2], len(there)), -torch.inf).scatter_reduce(
        2, document.expand(scores.shape), scores.detach(), "amax"
    )
    sums = torch.zeros_like(largest).index_add(2, document, (scores - largest[..., document]).exp())
    of_documents = largest + sums.log()
    log_mass = of_documents - of_documents.logsumexp(2, keepdim=True)
    mean = log_mass.flatten(0, 1).logsumexp(0) - math.log(rows * heads)
    return mean.new_full((len(lengths),), -torch.inf).index_copy(0, there, mean)
