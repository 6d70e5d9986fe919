"""The regulariser of one side under way: which it is, how strongly it acts now, and whether the side has collapsed."""

from __future__ import annotations

import numpy as np
import torch

from index.errors import WinnowError
from retrieval.training.sparse.options import Regulariser
from retrieval.training.sparse.regularisers import (
    CollapseWatch,
    SparsityWeight,
    df_flops,
    flops,
    idf_flops,
    l1,
    masked_flops,
    mean_terms,
)

SMOOTHING = 100  # steps over which the share of texts with a term is estimated, for DF-FLOPS
SMALLEST_IDF = 1e-2  # of a term in every text


class Sparsity(torch.nn.Module):
    """All its state is in buffers."""

    steps: torch.Tensor
    share: torch.Tensor

    def __init__(
        self,
        regulariser: Regulariser,
        weight: SparsityWeight,
        watch: CollapseWatch,
        idf: np.ndarray | None,
        num_terms: int,
        threshold: int = 0,
    ):
        """
        idf        float32 [terms], of `idf-flops`
        threshold  of `masked-flops`

        Raises WinnowError where the IDF is needed and not there.
        """
        super().__init__()
        if regulariser == "idf-flops" and idf is None:
            raise WinnowError("the regulariser idf-flops needs the IDF of terms; give it, or take flops.")
        self.regulariser, self.weight, self.watch, self.threshold = regulariser, weight, watch, threshold
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("share", torch.zeros(num_terms) if regulariser == "df-flops" else None)
        self.register_buffer(
            "idf", None if idf is None else torch.from_numpy(np.maximum(idf, SMALLEST_IDF)), persistent=False
        )

    def forward(self, weights: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        """(what is added to the loss, numbers to tell) of a batch's weights, float32 [texts, terms]; one step of training.

        Raises TrainingError where the side has collapsed.
        """
        terms, step = mean_terms(weights), int(self.steps.item())
        weight = self.weight.value
        self.watch.update(terms, weight, step)
        penalty = self.penalty(weights)
        self.weight.update(terms, step)
        self.steps += 1
        return weight * penalty, {"terms": terms, "weight": weight, self.regulariser: penalty.item()}

    def penalty(self, weights: torch.Tensor) -> torch.Tensor:
        if self.regulariser == "l1":
            return l1(weights)
        if self.regulariser == "masked-flops":
            return masked_flops(weights, self.threshold)
        if self.regulariser == "idf-flops":
            return idf_flops(weights, self.idf)
        if self.regulariser == "df-flops":
            now = (weights.detach() > 0).float().mean(0)
            self.share += (now - self.share) / min(int(self.steps.item()) + 1, SMOOTHING)
            return df_flops(weights, self.share, 1)
        return flops(weights)
