"""How fast are documents encoded, beside sentence-transformers, with the same checkpoint, precision and processors?

    python benchmarks/encode.py --model minilm --dtype float32 --json OUT
    python benchmarks/encode.py --dense --model minilm --json OUT

Both encode the same texts of 128 to 256 tokens in turns, each turn a process of its own, so that its peak memory is its own; ours with
its defaults, theirs in batches of 32. The best turn of each counts. `minilm` is all-MiniLM-L6-v2 written as a masked language model with a tied
head, `bert` BERT-base's shape with random weights; or the folder of a checkpoint in sentence-transformers' layout. The arithmetic floor
is what the products of the model alone would take at the rate that this machine multiplies matrices of such shapes.

With --dense, `minilm` is all-MiniLM-L6-v2 as it is and theirs is SentenceTransformer; then each also encodes short queries one at a time, and
the median of the turn whose median is least counts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sparse_search import environment

TOKENS = (128, 256)
BATCH = 32
WARM_UP = 8
TURNS = 3
CLOSE = 1e-5
TIMED = 200  # single queries
QUERIES = [
    "what is the effect of lunar gravity on tides",
    "how long does yeast bread have to rise",
    "weather in new york now",
    "symptoms of iron deficiency in adults",
    "who wrote the first compiler",
]
SPECIAL = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "pad", "cls", "sep", "mask")}

Encode = Callable[[list[str]], dict[str, np.ndarray]]
Encoders = tuple[Encode, Callable[[str], Any] | None]
Loader = Callable[[str, str, str], Encoders]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="minilm", help="minilm, bert, or a folder (default: minilm)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="ours (default: float32)")
    parser.add_argument("--their-dtype", choices=("float32", "bfloat16"), help="theirs (default: the same)")
    parser.add_argument("--dense", action="store_true", help="one vector a text, and single queries too")
    parser.add_argument("--texts", type=int, default=256, help="how many (default: 256)")
    parser.add_argument("--turns", type=int, default=TURNS, help="of each (default: 3)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", metavar="FILE", help="append the record to this file")
    parser.add_argument("--turn", nargs=3, metavar=("WHO", "FOLDER", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.turn:
        encoders = DENSE if arguments.dense else SPARSE
        take_turn(*arguments.turn, encoders[arguments.turn[0]], arguments.dtype, arguments.device)
        return
    with tempfile.TemporaryDirectory() as folder:
        record = compare(arguments, Path(folder))
    line = json.dumps(record)
    print(line)
    if arguments.json:
        with open(arguments.json, "a", encoding="utf-8") as file:
            file.write(line + "\n")


def compare(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Both in turns, and how far their vectors are apart."""
    checkpoint = (make_dense_checkpoint if arguments.dense else make_checkpoint)(arguments.model, scratch / "model")
    texts, tokens = make_texts(checkpoint, arguments.texts)
    (scratch / "texts.json").write_text(json.dumps(texts))
    dtypes = {"ours": arguments.dtype, "theirs": arguments.their_dtype or arguments.dtype}
    turns: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
    for turn in range(arguments.turns):
        for who, own in turns.items():
            print(f"turn {turn + 1} of {arguments.turns}: {who}", file=sys.stderr)
            out = scratch / f"{who}.npz"
            command = [sys.executable, __file__, "--dtype", dtypes[who], "--device", arguments.device]
            command += ["--dense"] if arguments.dense else []
            subprocess.run([*command, "--turn", who, str(checkpoint), str(out)], check=True)
            own.append(json.loads(out.with_suffix(".json").read_text()))
    best = {who: min(own, key=lambda one: one["seconds"]) for who, own in turns.items()}
    rates = {who: len(texts) / one["seconds"] for who, one in best.items()}
    floor = floor_seconds(checkpoint, tokens, arguments.dtype, with_head=not arguments.dense)
    return {
        "kind": "dense" if arguments.dense else "sparse",
        "model": arguments.model,
        "dtype": dtypes["ours"],
        "their_dtype": dtypes["theirs"],
        "texts": len(texts),
        "tokens": int(tokens.sum()),
        "documents_a_second": {who: round(rate, 2) for who, rate in rates.items()},
        "tokens_a_second": {who: round(rate * tokens.mean()) for who, rate in rates.items()},
        "all_seconds": {who: [round(one["seconds"], 2) for one in own] for who, own in turns.items()},
        "times_as_fast": round(rates["ours"] / rates["theirs"], 2),
        "peak_mb": {who: round(one["peak_mb"]) for who, one in best.items()},
        "peak_part": round(best["ours"]["peak_mb"] / best["theirs"]["peak_mb"], 3),
        **(dense_differences(scratch) | single_queries(turns) if arguments.dense else differences(scratch)),
        "floor_documents_a_second": round(len(texts) / floor, 2),
        "part_of_floor": round(floor / best["ours"]["seconds"], 3),
        **environment(),
    }


def take_turn(who: str, checkpoint: str, out: str, load: Loader, dtype: str, device: str) -> None:
    """Encode all texts once, as one contestant does; write what it took, and the vectors."""
    texts = json.loads(Path(out).with_name("texts.json").read_text())
    encode, encode_query = load(checkpoint, dtype, device)
    encode(texts[:WARM_UP])
    started = time.perf_counter()
    found = encode(texts)
    took = {"seconds": time.perf_counter() - started, "peak_mb": peak_megabytes()}
    if encode_query is not None:
        took["query_ms"] = median_ms(encode_query)
    np.savez(out, **found)
    Path(out).with_suffix(".json").write_text(json.dumps(took))


def median_ms(encode_query: Callable[[str], Any]) -> float:
    """Of one short query after another."""
    latencies = []
    for query in (QUERIES * (1 + TIMED // len(QUERIES)))[:TIMED]:
        started = time.perf_counter()
        encode_query(query)
        latencies.append(time.perf_counter() - started)
    return float(np.median(latencies[WARM_UP:])) * 1e3


def peak_megabytes() -> float:
    """The most memory that this process has held. (getrusage would count what the process that started it held.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def ours(checkpoint: str, dtype: str, device: str) -> Encoders:
    from retrieval import LearnedSparseEncoder

    encoder = LearnedSparseEncoder.from_pretrained(checkpoint, dtype=dtype, device=device)
    return lambda texts: encoder.encode_texts(texts)._asdict(), None


def ours_dense(checkpoint: str, dtype: str, device: str) -> Encoders:
    from retrieval.encoders.dense.encoder import DenseEncoder

    encoder = DenseEncoder.from_pretrained(checkpoint, dtype=dtype, device=device)
    return lambda texts: {"vectors": encoder.encode_texts(texts)}, encoder.encode_query


def theirs_dense(checkpoint: str, dtype: str, device: str) -> Encoders:
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(checkpoint, device=device, model_kwargs={"dtype": getattr(torch, dtype)})

    def encode(texts: list[str]) -> dict[str, np.ndarray]:
        found = model.encode_document(texts, batch_size=BATCH, show_progress_bar=False, convert_to_tensor=True)
        return {"vectors": found.float().cpu().numpy()}

    return encode, lambda query: model.encode_query(query, convert_to_tensor=True).float().cpu().numpy()


def theirs(checkpoint: str, dtype: str, device: str) -> Encoders:
    import torch
    from sentence_transformers import SparseEncoder

    model = SparseEncoder(checkpoint, device=device, model_kwargs={"dtype": getattr(torch, dtype)})

    def encode(texts: list[str]) -> dict[str, np.ndarray]:
        found = model.encode_document(texts, batch_size=BATCH, show_progress_bar=False).cpu().coalesce().float()
        rows, terms = found.indices().numpy()
        indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(texts)))])
        return {"indptr": indptr, "indices": terms, "data": found.values().numpy()}

    return encode, None


SPARSE: dict[str, Loader] = {"ours": ours, "theirs": theirs}
DENSE: dict[str, Loader] = {"ours": ours_dense, "theirs": theirs_dense}


def single_queries(turns: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    best = {who: min(one["query_ms"] for one in own) for who, own in turns.items()}
    return {
        "query_ms": {who: round(ms, 2) for who, ms in best.items()},
        "all_query_ms": {who: [round(one["query_ms"], 2) for one in own] for who, own in turns.items()},
        "query_times_as_fast": round(best["theirs"] / best["ours"], 2),
    }


def dense_differences(scratch: Path) -> dict[str, float]:
    """Between the numbers that the two give any text, and the least cosine of two vectors of a text."""
    ours, theirs = (np.load(scratch / f"{who}.npz")["vectors"] for who in ("ours", "theirs"))
    cosines = (ours * theirs).sum(axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    return {"largest_difference": float(np.abs(ours - theirs).max()), "least_cosine": round(float(cosines.min()), 6)}


def differences(scratch: Path) -> dict[str, float]:
    """Between the weights that the two give any term of any text."""
    largest, num_weights, num_apart = 0.0, 0, 0
    both = [np.load(scratch / f"{who}.npz") for who in ("ours", "theirs")]
    arrays = [[one[name] for name in ("indptr", "indices", "data")] for one in both]
    for text in range(len(arrays[0][0]) - 1):
        weights: dict[int, float] = {}
        for sign, (indptr, indices, data) in zip((1, -1), arrays, strict=True):
            entries = slice(indptr[text], indptr[text + 1])
            for term, weight in zip(indices[entries].tolist(), data[entries].tolist(), strict=True):
                weights[term] = weights.get(term, 0.0) + sign * weight
        apart = np.abs(np.fromiter(weights.values(), float, len(weights)))
        largest = max(largest, apart.max(initial=0.0))
        num_weights, num_apart = num_weights + len(apart), num_apart + int((apart > CLOSE).sum())
    return {"weights": num_weights, "largest_difference": float(largest), "differences_above_1e-5": num_apart}


def make_checkpoint(model: str, folder: Path) -> Path:
    """A folder in sentence-transformers' layout."""
    if model not in ("minilm", "bert"):
        return Path(model)
    import torch
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import SpladePooling, Transformer
    from transformers import BertConfig, BertForMaskedLM, BertModel, PreTrainedTokenizerFast

    from retrieval.encoders.minilm import minilm_folder

    torch.manual_seed(0)
    source = minilm_folder()
    if model == "bert":
        masked = BertForMaskedLM(BertConfig())
    else:
        encoder = BertModel.from_pretrained(source)
        masked = BertForMaskedLM(encoder.config)
        masked.bert.load_state_dict(encoder.state_dict(), strict=False)
        write_tied_head(masked)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(source / "tokenizer.json"), **SPECIAL)
    plain = folder.with_name("plain")
    masked.save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    modules = [Transformer(str(plain), transformer_task="fill-mask", max_seq_length=TOKENS[1]), SpladePooling("max")]
    SparseEncoder(modules=modules, device="cpu").save(str(folder))
    return folder


def make_dense_checkpoint(model: str, folder: Path) -> Path:
    """The same with a mean of the hidden states in the place of a head."""
    if model not in ("minilm", "bert"):
        return Path(model)
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from retrieval.encoders.minilm import minilm_folder

    source = minilm_folder()
    torch.manual_seed(0)
    encoder = BertModel(BertConfig()) if model == "bert" else BertModel.from_pretrained(source)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(source / "tokenizer.json"), **SPECIAL)
    plain = folder.with_name("plain")
    encoder.save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    pooling = Pooling(encoder.config.hidden_size)
    modules = [Transformer(str(plain), max_seq_length=TOKENS[1]), pooling, Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))
    return folder


def write_tied_head(masked: Any) -> None:
    """A masked-language head that is nearly the product with the input embeddings, less a threshold of 2.5."""
    import torch

    head = masked.cls.predictions
    with torch.no_grad():
        head.transform.dense.weight.copy_(torch.eye(len(head.transform.dense.weight)))
        head.transform.dense.bias.fill_(4.0)  # where GELU is nearly the identity; the norm takes it off again
        head.transform.LayerNorm.weight.fill_(0.407)
        head.transform.LayerNorm.bias.zero_()
        head.bias.fill_(-2.5)


def make_texts(checkpoint: Path, count: int) -> tuple[list[str], np.ndarray]:
    """(Texts of common English word pieces, their lengths in tokens with special ones)."""
    from retrieval.encoders.tokens import read_tokenizer

    tokenizer = read_tokenizer(checkpoint)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    words = [
        token
        for token, number in tokenizer.get_vocab().items()
        if token.isascii() and token.isalpha() and 1_996 <= number < 12_000
    ]
    words.sort()
    rng = np.random.default_rng(0)
    lengths = rng.integers(TOKENS[0], TOKENS[1] + 1, count)
    texts = [" ".join(rng.choice(words, length - 2)) for length in lengths]
    return texts, np.array([len(encoding.ids) for encoding in tokenizer.encode_batch(texts)])


def floor_seconds(checkpoint: Path, tokens: np.ndarray, dtype: str, *, with_head: bool = True) -> float:
    """What the model's products take at this machine's rate for such products.

    with_head  whether it projects to a vocabulary
    """
    import torch

    from kernels.cpu.linear import linear
    from retrieval.encoders.model_files import read_json

    config = read_json(checkpoint / "config.json")
    width, inner, layers = (config[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    a_token = layers * (4 * width * width + 2 * width * inner)
    if with_head:
        a_token += width * width + width * config["vocab_size"]
    attention = layers * 2 * width * float((tokens.astype(float) ** 2).sum())
    rows = torch.randn(2048, width, dtype=getattr(torch, dtype))
    layer = linear(torch.randn(inner, width, dtype=getattr(torch, dtype)))
    best = float("inf")
    with torch.inference_mode():
        for _ in range(20):
            started = time.perf_counter()
            layer(rows)
            best = min(best, time.perf_counter() - started)
    return (a_token * float(tokens.sum()) + attention) * best / (2048 * width * inner)


if __name__ == "__main__":
    main()
