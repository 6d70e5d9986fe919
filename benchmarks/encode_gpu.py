"""How many documents a second does a GPU encode, with models of several sizes? One JSON line a measurement.

    python benchmarks/encode_gpu.py --json OUT
    python benchmarks/encode_gpu.py --device cpu --shapes tiny --texts 16 --json OUT      no GPU: tiny, to see that it runs

Texts of 128 to 256 tokens. `winnow-mini` is the model of the package, all others have random weights: BERT-base with a head whose bias
leaves some 200 terms of a text, and two decoders. Three kinds of measurement:

whole   from texts to sparse rows in memory, as `LearnedSparseEncoder.encode_texts` gives them, and its parts: `tokens_ms` is tokenizing
        all texts (which in a whole call happens beside the model, but for the first), `device_ms` the layers and the fused head
theirs  the same checkpoint, texts and precision through SparseEncoder of sentence-transformers, in batches of --their-batch
device  one batch of --batch tokens that lies ready: the layers, and the fused head (a decoder's too), to the largest logit of each term

Best of --turns; a first turn on the same texts is left out. `peak_gb` is of the GPU's memory, weights included. `tflops` counts multiplications
and additions by formula.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pooled_head_gpu import environment
from protocol import record

from retrieval import LearnedSparseEncoder
from retrieval.encoders.ragged_model import RaggedModel

TOKENS = 128, 256  # of a text
TERMS_LEFT = 200  # of a text that a model with random weights encodes
SPECIAL = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "pad", "cls", "sep", "mask")}


class Shape(NamedTuple):
    """Of a model with random weights."""

    kind: str  # of transformers' configuration
    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int

    @property
    def is_decoder(self) -> bool:
        return self.kind != "BertConfig"

    def operations(self, lengths: np.ndarray) -> float:
        """Multiplications and additions of texts of these lengths, the head included."""
        size, mlp = self.width // self.heads, (3 if self.is_decoder else 2) * self.width * self.inner
        a_token = self.layers * (2 * self.width**2 + 2 * self.width * size * self.kv_heads + mlp)
        a_token += self.width * self.vocabulary + (0 if self.is_decoder else self.width**2)
        pairs = (lengths.astype(float) ** 2).sum() / (2 if self.is_decoder else 1)
        return float(2 * a_token * lengths.sum() + 4 * self.layers * self.width * pairs)


SHAPES = {
    "winnow-mini": Shape("BertConfig", 30_522, 384, 1_536, 6, 12, 12),
    "bert-base": Shape("BertConfig", 30_522, 768, 3_072, 12, 12, 12),
    "qwen2.5-0.5b": Shape("Qwen2Config", 151_936, 896, 4_864, 24, 14, 2),
    "mistral-7b": Shape("MistralConfig", 32_768, 4_096, 14_336, 32, 32, 8),
    "tiny": Shape("BertConfig", 30_522, 32, 64, 2, 2, 2),
}


def config_of(shape: Shape) -> Any:
    import transformers

    sizes = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
    }
    if shape.is_decoder:
        sizes |= {"num_key_value_heads": shape.kv_heads, "sliding_window": None}
    return getattr(transformers, shape.kind)(**sizes)


def make_texts(tokenizer: Any, count: int) -> tuple[list[str], np.ndarray]:
    """(texts of common English word pieces, how many tokens each has with special ones)"""
    words = [
        token
        for token, number in tokenizer.get_vocab().items()
        if token.isascii() and token.isalpha() and 1_996 <= number < 12_000
    ]
    ordered, rng = np.array(sorted(words)), np.random.default_rng(0)
    lengths = rng.integers(TOKENS[0], TOKENS[1] + 1, count)
    texts = [" ".join(rng.choice(ordered, length - 2)) for length in lengths]
    return texts, np.array([len(one.ids) for one in tokenizer.encode_batch(texts)])


def make_encoder(shape: Shape, tokenizer: Any, folder: Path) -> LearnedSparseEncoder:
    """Random weights, and a bias that leaves TERMS_LEFT terms of a text; `folder` is for its files."""
    from transformers import BertForMaskedLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    model = BertForMaskedLM(config_of(shape)).eval()
    ids = torch.randint(2_000, 12_000, (4, sum(TOKENS) // 2))
    with torch.inference_mode():
        largest = model(input_ids=ids).logits.amax(1)
        model.cls.predictions.bias -= largest.topk(TERMS_LEFT, 1).values[:, -1].mean()
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL).save_pretrained(folder)
    return LearnedSparseEncoder.from_pretrained(folder, activation="log1p", device="cpu")


def best_of(call: Callable[[], Any], turns: int, device: str) -> dict[str, Any]:
    """Seconds of the best turn and of all; the GPU's memory at most."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    found = []
    for _ in range(turns + 1):
        started = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else None
    return {"seconds": min(found[1:]), "all_seconds": [round(one, 4) for one in found[1:]], "peak_gb": peak}


def rates(seconds: float, lengths: np.ndarray, shape: Shape) -> dict[str, float]:
    return {
        "documents_a_second": len(lengths) / seconds,
        "tokens_a_second": int(lengths.sum()) / seconds,
        "tflops": shape.operations(lengths) / seconds / 1e12,
    }


def measure_whole(encoder: LearnedSparseEncoder, texts: list[str], turns: int, device: str) -> dict[str, Any]:
    """What a caller waits for, and its parts, each measured alone."""
    side = encoder.document
    rows = None

    def whole() -> None:
        nonlocal rows
        rows = encoder.encode_texts(texts)

    found = best_of(whole, turns, device)
    assert rows is not None
    tokens = side.tokens.of(texts)
    hidden_and_head = lambda batch: [side.model.largest(*side.model.hidden(batch, side.options))[:0]] * len(batch)  # noqa: E731
    with torch.inference_mode():
        of_device = best_of(lambda: side.in_batches(tokens, hidden_and_head, None), turns, device)
    of_tokens = best_of(lambda: side.tokens.of(texts), turns, device)
    parts = {"tokens_ms": of_tokens["seconds"] * 1e3, "device_ms": of_device["seconds"] * 1e3}
    return {**found, **parts, "terms_a_text": len(rows.indices) / len(texts)}


def measure_theirs(folder: str, texts: list[str], batch: int, dtype: str, turns: int, device: str) -> dict[str, Any]:
    from sentence_transformers import SparseEncoder

    model = SparseEncoder(folder, device=device, model_kwargs={"dtype": getattr(torch, dtype)})
    model.max_seq_length = TOKENS[1]
    return best_of(lambda: model.encode_document(texts, batch_size=batch, show_progress_bar=False), turns, device)


def measure_device(name: str, shape: Shape, dtype: str, tokens: int, turns: int, device: str) -> dict[str, Any]:
    """Layers and head of one batch, its ids on their way from the host."""
    from transformers import AutoModel

    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModel.from_config(config_of(shape), dtype=getattr(torch, dtype)).eval().requires_grad_(False)
    ragged = RaggedModel(model)
    rng = np.random.default_rng(0)
    lengths = np.sort(rng.integers(TOKENS[0], TOKENS[1] + 1, max(1, 2 * tokens // sum(TOKENS))))
    starts = [0, *itertools.accumulate(lengths.tolist())]
    ids = torch.from_numpy(rng.integers(1_000, 12_000, starts[-1]))
    weight = model.get_input_embeddings().weight
    layers = lambda: ragged.hidden(ids, starts)  # noqa: E731
    with torch.inference_mode():
        found = best_of(lambda: pooled(layers(), starts, weight), turns, device)
        parts = {"layers_ms": best_of(layers, turns, device)["seconds"] * 1e3}
        hidden = layers()
        parts["head_ms"] = best_of(lambda: pooled(hidden, starts, weight), turns, device)["seconds"] * 1e3
    return {"texts": len(lengths), "tokens": starts[-1], **found, **rates(found["seconds"], lengths, shape), **parts}


def pooled(hidden: torch.Tensor, starts: list[int], weight: torch.Tensor) -> torch.Tensor:
    if not hidden.is_cuda:
        from kernels.cpu.pooled_head import Head, pooled_head

        return pooled_head(hidden, starts, Head.of(weight, None))
    from kernels.gpu.pooled_head import pooled_head_max

    return pooled_head_max(hidden, torch.tensor(starts), weight)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=[name for name in SHAPES if name != "tiny"])
    parser.add_argument("--kinds", nargs="+", choices=("whole", "theirs", "device"), default=["whole", "device"])
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16", "float16"), default=["bfloat16"])
    parser.add_argument("--texts", type=int, default=8_192, help="of a whole call (default: 8,192)")
    parser.add_argument("--batch", type=int, default=65_536, help="tokens of a batch that lies ready (default: 65,536)")
    parser.add_argument("--their-batch", type=int, default=128, help="texts (default: 128)")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="lines are appended")
    arguments = parser.parse_args()
    turns, device = arguments.turns, arguments.device
    mini = LearnedSparseEncoder.from_pretrained("winnow-mini", device="cpu")
    tokenizer = mini.tokenizer
    texts, lengths = make_texts(tokenizer, arguments.texts)
    with tempfile.TemporaryDirectory() as scratch:
        for name, dtype in itertools.product(arguments.shapes, arguments.dtypes):
            shape, facts = SHAPES[name], {"model": name, "dtype": dtype, **environment(device)}
            sizes = {"texts": len(texts), "tokens": int(lengths.sum())}
            folder = str(Path(scratch) / f"{name}-{dtype}")
            if not shape.is_decoder:  # in a form that the other library reads
                made = mini if name == "winnow-mini" else make_encoder(shape, tokenizer, Path(scratch) / name)
                made.save_pretrained(folder)
            for kind in arguments.kinds:
                if kind == "device":
                    found = measure_device(name, shape, dtype, arguments.batch, turns, device)
                elif shape.is_decoder:
                    continue
                elif kind == "whole":
                    encoder = LearnedSparseEncoder.from_pretrained(folder, device=device, dtype=dtype)
                    found = sizes | measure_whole(encoder, texts, turns, device)
                    found |= rates(found["seconds"], lengths, shape)
                else:
                    found = sizes | measure_theirs(folder, texts, arguments.their_batch, dtype, turns, device)
                    found |= {"batch": arguments.their_batch, **rates(found["seconds"], lengths, shape)}
                record(arguments.json, {"kind": kind, **facts, **found})


if __name__ == "__main__":
    main()
