"""A dense model in memory: packed texts to hidden states, pooled, then through the layers that follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, Protocol
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch.nn.functional import normalize

from index.errors import ModelError
from retrieval.encoders.dense.layers import Layer, activation_of
from retrieval.encoders.dense.options import DenseOptions
from retrieval.encoders.model_files import ModelFiles, brief
from retrieval.encoders.model_reading import on_device, quiet, read_model, read_tensors
from retrieval.encoders.neural_model import ON_GPU, ON_PROCESSOR
from retrieval.encoders.ragged_model import RaggedModel
from retrieval.encoders.tokens import Tokens

BODIES: WeakValueDictionary[tuple[Any, ...], Body] = WeakValueDictionary()
Step = Callable[[torch.Tensor], torch.Tensor]


class Body(Protocol):
    """What makes token ids into hidden states."""

    def hidden(self, ids: torch.Tensor, starts: Sequence[int]) -> torch.Tensor:
        """[tokens, width] of texts end to end; text t is ids[starts[t] : starts[t + 1]]."""
        ...


class TokenTable:
    """A row for each token, whatever stands beside it: StaticEmbedding of sentence-transformers, model2vec."""

    def __init__(self, rows: torch.Tensor):
        """rows  [tokens of the vocabulary, width]"""
        self.rows = rows

    def hidden(self, ids: torch.Tensor, starts: Sequence[int]) -> torch.Tensor:
        return self.rows[ids.to(self.rows.device)]


class DenseModel:
    """A model ready to encode."""

    def __init__(self, body: Body, steps: Sequence[Step], *, on_gpu: bool):
        self.body, self.steps = body, steps
        self.texts_together, self.tokens_a_batch = ON_GPU if on_gpu else ON_PROCESSOR

    @classmethod
    def of(
        cls, files: ModelFiles, layers: Sequence[Layer], options: DenseOptions, *, is_table: bool, device: str | None
    ) -> DenseModel:
        """The model; its weights are shared with whatever else uses them in the same way. Raises ModelError.

        is_table  see TokenTable
        device    as PyTorch calls it; None: a CUDA device where there is one
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        files.check_fingerprint()
        # by what lies there now: a name may mean other weights than before
        weights = (files.folder, files.found_fingerprint, files.trust_remote_code)
        key = (*weights, options.dtype, options.bidirectional, is_table, device)
        body = BODIES.get(key)
        try:
            if body is None:
                BODIES[key] = body = token_table(files, device) if is_table else transformer(files, options, device)
            steps = [step(layer, device) for layer in layers]
        except (ModelError, MemoryError):
            raise
        except Exception as error:  # whatever an architecture that is like no other does
            raise ModelError(f"{files.name} cannot be run here ({type(error).__name__}: {brief(error)}).") from error
        return cls(body, steps, on_gpu=torch.device(device).type == "cuda")

    @torch.inference_mode()
    def vectors(self, batch: Sequence[Tokens], options: DenseOptions) -> np.ndarray:
        """float32 [texts, dimension]; none of the texts is without tokens."""
        if len(batch) == 1:
            ids, starts = torch.from_numpy(batch[0].ids), [0, len(batch[0].ids)]
        else:
            ids = torch.from_numpy(np.concatenate([one.ids for one in batch]))
            starts = [0, *accumulate(len(one.ids) for one in batch)]
        hidden = self.body.hidden(ids, starts)
        firsts = [start + one.pooled.start for start, one in zip(starts, batch, strict=False)]
        found = pooled(hidden, starts, firsts, options.modes)
        for each in self.steps:
            found = each(found)
        return np.asarray(found.cpu().numpy(), np.float32)


def pooled(hidden: torch.Tensor, starts: Sequence[int], firsts: Sequence[int], modes: Sequence[str]) -> torch.Tensor:
    """float32 [texts, width times the number of modes]

    firsts  where each text's pooled positions begin; a text that has none (its prompt fills it) gives zeros, but for cls
    """
    ends = starts[1:]
    spans = [(min(first, end), end) for first, end in zip(firsts, ends, strict=True)]
    lengths = torch.tensor([end - first for first, end in spans], device=hidden.device)
    rows = []
    for mode in modes:
        if mode == "cls":
            at = [first if first < end else start for start, (first, end) in zip(starts, spans, strict=False)]
            rows.append(hidden[torch.tensor(at, device=hidden.device)].float())
        elif mode == "last":
            rows.append(hidden[torch.tensor(ends, device=hidden.device) - 1].float() * (lengths > 0)[:, None])
        elif mode == "max":
            rows.append(torch.stack([largest(hidden[first:end]) for first, end in spans]))
        elif mode == "weighted_mean":
            rows.append(
                torch.stack(
                    [weighted_mean(hidden[a:end], a - start) for start, (a, end) in zip(starts, spans, strict=False)]
                )
            )
        else:
            sums = torch.stack([hidden[first:end].sum(0, dtype=torch.float32) for first, end in spans])
            counts = lengths.clamp(min=1)[:, None]
            rows.append(sums / (counts if mode == "mean" else counts.sqrt()))
    return rows[0] if len(rows) == 1 else torch.cat(rows, 1)


def largest(hidden: torch.Tensor) -> torch.Tensor:
    return hidden.float().amax(0) if len(hidden) else hidden.new_zeros(hidden.shape[1], dtype=torch.float32)


def weighted_mean(hidden: torch.Tensor, before: int) -> torch.Tensor:
    """Each position by its number in the text, from 1; `before` are not pooled, but count."""
    weights = torch.arange(before + 1, before + 1 + len(hidden), device=hidden.device, dtype=torch.float32)
    return weights @ hidden.float() / weights.sum().clamp(min=1)


def transformer(files: ModelFiles, options: DenseOptions, device: str) -> RaggedModel:
    """Raises ModelError for a device that is not there, and for what is no transformer over texts."""
    model = read_model(files, options.dtype, with_head=False)
    on_device(model, files.name, device)
    with quiet():
        return RaggedModel.checked(model, None, files.name, bidirectional=options.bidirectional)


def token_table(files: ModelFiles, device: str) -> TokenTable:
    """Raises ModelError."""
    tensors = layer_tensors(files)
    if "embedding.weight" in tensors:
        rows = tensors["embedding.weight"].float()
    else:  # of model2vec: rows that tokens share, and a weight for each token
        rows = tensor(files, tensors, "embeddings").float()
        if "mapping" in tensors:
            rows = rows[tensors["mapping"].long()]
        if "weights" in tensors:
            rows = rows * tensors["weights"].float()[:, None]
    return TokenTable(on_device(rows, files.name, device))


def step(layer: Layer, device: str) -> Step:
    """Raises ModelError for weights that are missing, or of another shape than their file says."""
    if layer.files is None:
        return lambda vectors: normalize(vectors, dim=-1)
    files = layer.files
    files.check_fingerprint()
    tensors = {name: found.float() for name, found in layer_tensors(files).items()}
    if layer.kind == "LayerNorm":
        width = int(files.config["dimension"])
        made: torch.nn.Module = torch.nn.LayerNorm(width)
        fill(made, files, tensors, "norm.")
    else:
        made = Projection(files, tensors)
    ready: Step = on_device(made.eval().requires_grad_(False), files.name, device)
    return ready


class Projection(torch.nn.Module):
    """Dense of sentence-transformers: activation(x W + b), perhaps with x added."""

    def __init__(self, files: ModelFiles, tensors: dict[str, torch.Tensor]):
        super().__init__()
        config = files.config
        inputs, outputs = int(config["in_features"]), int(config["out_features"])
        self.linear = torch.nn.Linear(inputs, outputs, bias=bool(config.get("bias", True)))
        fill(self.linear, files, tensors, "linear.")
        self.activation = getattr(torch.nn, activation_of(files))()
        self.residual: torch.nn.Module | None = None
        if config.get("use_residual"):
            self.residual = torch.nn.Identity()
            if inputs != outputs:
                self.residual = torch.nn.Linear(inputs, outputs, bias=False)
                fill(self.residual, files, tensors, "residual.")

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.activation(self.linear(vectors))
        return found if self.residual is None else found + self.residual(vectors)


def fill(module: torch.nn.Module, files: ModelFiles, tensors: dict[str, torch.Tensor], prefix: str) -> None:
    for name, wanted in module.state_dict().items():
        found = tensor(files, tensors, prefix + name)
        if found.shape != wanted.shape:
            raise ModelError(
                f"{files.folder} has {prefix + name} of shape {tuple(found.shape)}, its config.json asks for {tuple(wanted.shape)}; get the "
                "checkpoint again."
            )
    module.load_state_dict({name: tensors[prefix + name] for name in module.state_dict()})


def tensor(files: ModelFiles, tensors: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    if name not in tensors:
        raise ModelError(f"{files.folder} has no tensor {name!r:.60}; get the checkpoint again.")
    return tensors[name]


def layer_tensors(files: ModelFiles) -> dict[str, torch.Tensor]:
    """All tensors of a module's folder, safetensors or a pickle of tensors. Raises ModelError."""
    paths = files.weight_files()
    try:
        if paths and paths[0].suffix == ".safetensors":
            return read_tensors(files)
        found: dict[str, torch.Tensor] = torch.load(paths[0], map_location="cpu", weights_only=True)
        return found
    except ModelError:
        raise
    except Exception as error:  # each library raises its own; and no file at all
        raise ModelError(
            f"{files.folder} has no weights that can be read ({brief(error, 100)}); get the checkpoint again."
        ) from error
