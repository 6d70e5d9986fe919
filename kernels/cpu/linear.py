"""Linear layers for inference on a processor: oneDNN's products, with weights kept in the layout that it computes in.

PyTorch gives float32 products to MKL, which on AMD processors reaches less than half of oneDNN's rate. And a row's result
does not depend on the rows beside it, as long as there are some: what is encoded together does not change a vector.
"""

from __future__ import annotations

import torch

FEWEST_ROWS = 16  # one row alone is added up in another order; the rest is a margin
ROWS_EXPECTED = 2048  # oneDNN chooses the layout of the weights by them
DTYPES = (torch.float32, torch.bfloat16)


class InferenceLinear(torch.nn.Module):
    """input @ weight.T + bias, then perhaps GELU, without gradients. A drop-in for `torch.nn.Linear`.

    weight  [outputs, inputs] float32 or bfloat16, copied into another layout
    bias    [outputs] or None
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None, gelu: bool = False):
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), ROWS_EXPECTED)
        self.bias = None if bias is None else bias.detach()
        self.operation = ("gelu", "none") if gelu else ("none", "")

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        rows = inputs.reshape(-1, inputs.shape[-1])
        count = len(rows)
        if count < FEWEST_ROWS:
            rows = torch.nn.functional.pad(rows, (0, 0, 0, FEWEST_ROWS - count))
        name, algorithm = self.operation
        outputs: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, name, [], algorithm)
        return outputs[:count].view(*inputs.shape[:-1], -1)


def is_supported(weight: torch.Tensor) -> bool:
    """Whether oneDNN takes this weight here; `torch.nn.Linear` does in any case."""
    return (
        weight.device.type == "cpu"
        and weight.numel() > 0
        and weight.dtype in DTYPES
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.nn.Module:
    """The fastest layer for these values here."""
    if is_supported(weight):
        return InferenceLinear(weight, bias)
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = torch.nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = torch.nn.Parameter(bias.detach(), requires_grad=False)
    return layer
