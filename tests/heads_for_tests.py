"""Texts for the heads of sparse encoders, and what the heads must make of them: one dot product after another, in float64."""

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode


def packed(lengths, vocabulary, width, dtype=torch.float32, device="cpu", bias=True, seed=0):
    """Random (hidden, starts, weight, bias) of texts of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    hidden, weight, offsets = (
        torch.randn(shape, generator=generator).to(device, dtype)
        for shape in ((sum(lengths), width), (vocabulary, width), (vocabulary,))
    )
    return hidden, starts_of(lengths, device), weight, offsets if bias else None


def starts_of(lengths, device="cpu"):
    return torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int64, device=device)


def brute_force_logits(hidden, starts, weight, bias):
    """One float64 [length, vocabulary] table a text."""
    rows, columns = hidden.detach().cpu().double().numpy(), weight.detach().cpu().double().numpy()
    offsets = np.zeros(len(columns)) if bias is None else bias.detach().cpu().double().numpy()
    bounds = starts.tolist()
    return [
        np.array([[np.dot(rows[i], column) for column in columns] for i in range(bounds[t], bounds[t + 1])]) + offsets
        for t in range(len(bounds) - 1)
    ]


def brute_force_pooled(hidden, starts, weight, bias):
    """(pooled float64 [texts, vocabulary], winner): token by token, a later one wins only if it is larger."""
    pooled, winner = [], []
    for table, start in zip(brute_force_logits(hidden, starts, weight, bias), starts.tolist(), strict=False):
        best, best_token = table[0].copy(), np.full(table.shape[1], start)
        for i, logits in enumerate(table):
            larger = logits > best
            best[larger], best_token[larger] = logits[larger], start + i
        pooled.append(best)
        winner.append(best_token)
    return torch.tensor(np.array(pooled)), torch.tensor(np.array(winner), dtype=torch.int32)


def brute_force_gradients(gradient, winner, hidden, weight):
    """Of hidden, weight and bias, float64, one entry after another."""
    rows, columns, values = (tensor.detach().cpu().double().numpy() for tensor in (hidden, weight, gradient))
    of_hidden, of_weight, of_bias = np.zeros_like(rows), np.zeros_like(columns), np.zeros(len(columns))
    for (text, term), token in np.ndenumerate(winner.cpu().numpy()):
        of_hidden[token] += values[text, term] * columns[term]
        of_weight[term] += values[text, term] * rows[token]
        of_bias[term] += values[text, term]
    return torch.tensor(of_hidden), torch.tensor(of_weight), torch.tensor(of_bias)


def brute_force_summed(hidden, starts, weight, bias):
    """float64 [texts, vocabulary]"""
    tables = brute_force_logits(hidden, starts, weight, bias)
    return torch.tensor(np.array([np.log1p(np.maximum(table, 0)).sum(0) for table in tables]))


class LargestTensor(TorchDispatchMode):
    """Watches every tensor that torch makes while it is entered."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return result
