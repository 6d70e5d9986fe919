"""How many steps a second does sparse training take, with the recipe of winnow-mini on made-up data? One JSON line.

    python benchmarks/train_gpu.py --json OUT
    python benchmarks/train_gpu.py --device cpu --steps 4 --json OUT

Begins with winnow-mini's weights: 16 answers with three negatives each, 64 documents of at most 96 tokens, up to two queries of each answer,
bfloat16, FLOPS regulariser. No teachers, whose scores are computed once before a run. The words are made, so only time and the fall of the loss mean
anything. Steps a second are by the median step of the second half of the run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from encode_gpu import make_texts
from pooled_head_gpu import environment
from protocol import record

from retrieval import LearnedSparseEncoder
from retrieval.training.sparse.preparation import prepare
from retrieval.training.sparse.recipe import Recipe
from retrieval.training.trainer import train

DOCUMENTS = 2_048
ANSWERS = 16
NEGATIVES = 3
QUERY_WORDS = 8


def make_data(tokenizer: Any, folder: Path) -> None:
    """A BEIR folder: each document answers two queries of its words; negatives are other documents."""
    texts, _ = make_texts(tokenizer, DOCUMENTS)
    rng = np.random.default_rng(1)
    queries, negatives, judged = [], [], ["query-id\tcorpus-id\tscore"]
    for number in range(2 * DOCUMENTS):
        query, document = f"q{number}", number // 2
        words = rng.choice(texts[document].split()[:60], QUERY_WORDS)
        queries.append({"_id": query, "text": " ".join(words)})
        others = (document + rng.choice(np.arange(1, DOCUMENTS), NEGATIVES + 2, replace=False)) % DOCUMENTS
        negatives.append({"query_id": query, "negatives": [f"d{other}" for other in others]})
        judged.append(f"{query}\td{document}\t1")
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{number}", "title": "", "text": text} for number, text in enumerate(texts)]
    for name, lines in (("corpus", documents), ("queries", queries), ("negatives", negatives)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "qrels" / "train.tsv").write_text("\n".join(judged) + "\n")


def recipe(start: str, data: Path, steps: int, precision: str) -> Recipe:
    settings = {
        "model": {"start": start, "queries": "table", "query_weights": "idf", "learned": True},
        "data": {"folder": str(data), "negatives": str(data / "negatives.jsonl"), "max_length": 96},
        "loss": {
            "answers": ANSWERS, "negatives": NEGATIVES, "queries_a_document": 2, "contrastive": 1.0, "distillation": 0.0,
            "document_weight": 0.1, "document_terms": 128.0, "sparsity_warmup": 0.2, "query_learning_rate": 2e-3,
        },
        "training": {
            "steps": steps, "learning_rate": 2e-4, "warmup": max(1, steps // 10), "accumulation": 1, "precision": precision,
            "evaluate_every": 0, "save_every": steps,
        },
    }  # fmt: skip
    return Recipe.of(settings, "this benchmark's recipe")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="lines are appended")
    arguments = parser.parse_args()
    encoder = LearnedSparseEncoder.from_pretrained("winnow-mini", device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        encoder.save_pretrained(scratch / "start")
        make_data(encoder.tokenizer, scratch / "data")
        told = recipe(str(scratch / "start"), scratch / "data", arguments.steps, arguments.precision)
        task = prepare(told, cache=scratch / "cache", device=arguments.device, progress=False)
        started = time.perf_counter()
        train(task, told.training, scratch / "run", progress=False)
        seconds = time.perf_counter() - started
        log = [json.loads(line) for line in (scratch / "run" / "run" / "log.jsonl").read_text().splitlines()]
    later = log[len(log) // 2 :]
    step_seconds = statistics.median(one["seconds"] for one in later)
    record(arguments.json, {
        "kind": "training", "steps": len(log), "precision": arguments.precision, "run_seconds": seconds,
        "steps_a_second": 1 / step_seconds, "tokens_a_second": statistics.mean(one["tokens"] for one in later) / step_seconds,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if arguments.device == "cuda" else None,
        "first": log[0], "last": log[-1], **environment(arguments.device),
    })  # fmt: skip


if __name__ == "__main__":
    main()
