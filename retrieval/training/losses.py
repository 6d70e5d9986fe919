"""Losses of in-context ranking, on what a query's attention gives each document of one list.

m_i is the attention mass of document i (BlockRank, Gupta et al., arXiv:2510.05396): the masses of a list sum to 1. All losses take
ln m, which stays finite where a mass underflows.
"""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

IGNORED = -100  # a target of `next_token_loss` that does not count


def contrastive_attention_loss(
    log_mass: torch.Tensor, positives: torch.Tensor, temperature: float = 0.05
) -> torch.Tensor:
    """A scalar: -(LSE over positives of m / temperature - LSE over all documents of m / temperature).

    The auxiliary loss of BlockRank. It is finite however much one document dominates, as m / temperature <= 1 / temperature; where
    the positives have all the mass there is, the loss is not 0: others still count exp(0) each.

    log_mass   float [documents]
    positives  bool [documents], at least one
    """
    assert positives.any(), "a list without positives teaches nothing; retrieval.training.lists makes none"
    scaled = log_mass.exp() / temperature
    return torch.logsumexp(scaled, 0) - torch.logsumexp(scaled[positives], 0)


def irpo_loss(
    log_mass: torch.Tensor,
    relevance: torch.Tensor,
    reference: torch.Tensor | None = None,
    beta: float = 1.0,
) -> torch.Tensor:
    """A scalar: the position-weighted mean of -ln P(i before all documents of lower relevance), over the documents i above the lowest.

    With s_i = beta * (ln m_i - ln m_i of the reference model, where one is given), as DPO's implicit reward has it:

        z_i  = -ln sum over j with relevance_j < relevance_i of exp(s_j - s_i)
        P_i  = sigmoid(z_i) = exp(s_i) / (exp(s_i) + sum over those j of exp(s_j))
        w_i  = (2 ** relevance_i - 1) / log2(1 + rank_i)
        loss = -sum w_i ln P_i / sum w_i

    rank_i is the rank from 1 by relevance, equal relevances by s: judgments say nothing of the order among equals, so the one that
    is ahead keeps the larger weight. Ranks carry no gradient.

    In-context ranking preference optimisation (IRPO; Wu et al., arXiv:2504.15477) sums -w ln sigmoid(z) over a list too, with
    weights of gain and position as in DCG and z from all pairwise margins of DPO rewards against a reference model. What differs
    here: the policy is the attention distribution over the documents, not the probability of generating an item; a document is
    compared only with those judged lower, which makes each term one choice of Plackett and Luce's model (Bradley and Terry's where
    one document is below); weights are divided by their sum, so that lists of many relevant documents do not count for more.
    Without a reference s is beta * ln m: the prior is then uniform over the list.

    log_mass   float [documents]
    relevance  int64 [documents], not all equal, the lowest is 0 or more
    reference  float [documents], or None
    """
    score = beta * (log_mass if reference is None else log_mass - reference)
    below = relevance[None, :] < relevance[:, None]
    compared = below.any(1)
    assert compared.any(), "a list of equal relevances teaches nothing; retrieval.training.lists makes none"
    by_score = torch.argsort(score.detach(), descending=True, stable=True)
    order = by_score[torch.argsort(relevance[by_score], descending=True, stable=True)]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(1, len(order) + 1, device=order.device)
    weight = (2 ** relevance[compared].to(score.dtype) - 1) / torch.log2(1 + rank[compared].to(score.dtype))
    margins = (score[None, :] - score[:, None])[compared].masked_fill(~below[compared], -torch.inf)
    loss = torch.nn.functional.softplus(torch.logsumexp(margins, 1))  # -ln sigmoid(z)
    return (weight * loss).sum() / weight.sum()


def next_token_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """A scalar: the mean cross entropy of the targets that count.

    logits   float [tokens, terms], each row of the position before its target
    targets  int64 [tokens], IGNORED where a token does not count
    """
    return cross_entropy(logits.float(), targets, ignore_index=IGNORED)
