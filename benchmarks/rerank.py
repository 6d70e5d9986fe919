"""How long does reranking take, of 10 to 500 documents, and where does the time go? One JSON line a measurement, and a table.

    python benchmarks/rerank.py --model "$(make -s smollm2)" --data BEIR_FOLDER --causal-up-to 100 --json OUT --plot FILE.svg
    python benchmarks/rerank.py --shape mistral-7b --dtype bfloat16 --device cuda --json OUT      random weights, for time only

Contestants are `blocks` (BlockRank), `causal` (the same model, prompt and score layer, every token seeing all before it), `cross-encoder`
(a checkpoint, or random weights in MiniLM's shape) and `cached` (BlockRank whose documents are all in its cache). For `causal`, our
kernel, the same in parts of a prompt, and transformers' sdpa are tried once, at the most documents it is measured at, and the fastest is
what is measured (the record of kind `baseline`). Every call is from texts to a ranked list, with a query of its own; the first call, in
which memory is watched and the cache filled, does not count. The contestants then take turns, in an order that moves on by one each time.

Parts of the best call: tokenization; states (reading the cache, and copying keys and values to where attention wants them); attention;
scoring (the masses); layers, which is all the rest. Rates are of operations counted by formula, over the time of their part.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from plot_rerank import plot
from protocol import record
from rerank_contestants import (
    PLACES,
    SHAPES,
    Contestant,
    blocks_contestant,
    cached_contestant,
    causal_contestants,
    cross_encoder_contestant,
    load_model,
    make_cross_encoder,
    make_model,
    make_queries,
    make_texts,
    some_words,
)
from rerank_costs import PARTS, Stopwatch
from sparse_search import PeakMemory, environment

DOCUMENTS = [10, 50, 100, 200, 500]
RATIOS = (("causal", "blocks"), ("cross-encoder", "blocks"), ("blocks", "cached"))
NAMES = ("blocks", "causal", "cross-encoder", "cached")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
GROWTH_FROM = 100  # documents


def parsed(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", metavar="FOLDER", help="a decoder")
    model.add_argument("--shape", choices=SHAPES, help="random weights of this shape")
    parser.add_argument("--documents", type=int, nargs="+", default=DOCUMENTS, help="(default: 10 50 100 200 500)")
    parser.add_argument("--document-tokens", type=int, default=160, help="about so many in each (default: 160)")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="texts of a BEIR folder; without, made words")
    parser.add_argument("--contestants", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--causal-up-to", type=int, default=100, metavar="N", help="documents (default: 100)")
    parser.add_argument(
        "--past-positions", action="store_true", help="causal prompts may be longer than the model allows"
    )
    parser.add_argument("--cross-encoder", metavar="FOLDER", help="without, random weights in MiniLM's shape")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tokens-together", type=int, help="in a layer at once, of blocks (default: the model's own)")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default: 1)")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: of this process, where others keep the machine busy"
    )
    parser.add_argument("--repeats", type=int, default=3, help="calls that count (default: 3)")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="lines are appended")
    parser.add_argument("--plot", type=Path, metavar="FILE", help=".svg or .png")
    found = parser.parse_args(given)
    if found.clock == "cpu" and torch.device(found.device).type != "cpu":
        parser.error("--clock cpu does not see what a GPU does; leave it out.")
    return found


def main(given: Sequence[str] | None = None) -> None:
    arguments = parsed(given)
    torch.set_num_threads(arguments.threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true" if arguments.threads > 1 else "false")
    warnings.simplefilter("ignore")  # what is cut is no concern here
    words = some_words(arguments.data)
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(arguments, words, Path(scratch))
        for count in sorted(set(arguments.documents)):
            bench.measure(count)
    record(arguments.json, {"kind": "ratios", **bench.facts, **ratios(bench.records), "growth": growth(bench.records)})
    print(table(bench.records))
    if arguments.plot:
        plot(bench.records, arguments.plot)


class Bench:
    """One model, its contestants, and what was recorded of them."""

    def __init__(self, arguments: argparse.Namespace, words: list[str], scratch: Path):
        self.arguments, self.words = arguments, words
        self.records: list[dict[str, Any]] = []
        self.facts = facts_of(arguments)
        most = max(384, 2 * arguments.document_tokens)
        run = (arguments.dtype, arguments.device, most)
        if arguments.model:
            self.model = load_model(arguments.model, *run)
        else:
            self.model = make_model(arguments.shape, words, *run, scratch)
        if arguments.tokens_together is not None:
            self.model.blocks.tokens_together = arguments.tokens_together
        self.facts["tokens_together"] = self.model.blocks.tokens_together
        self.watch = Stopwatch(self.model.blocks.model.device, CLOCKS[arguments.clock])
        reader = self.model.lists(self.model.settings).reader
        self.texts = make_texts(words, reader, max(arguments.documents), arguments.document_tokens)
        self.queries = make_queries(words, arguments.repeats + 1)
        self.contestants = [self.contestant(name, scratch) for name in arguments.contestants if name != "causal"]
        self.causal = causal_contestants(self.model)
        self.causal_counts: list[int] = []
        if "causal" in arguments.contestants:
            self.causal_counts = [count for count in arguments.documents if self.causal_fits(count)]
        if self.causal_counts:
            self.contestants.append(self.fastest_causal(max(self.causal_counts)))

    def contestant(self, name: str, scratch: Path) -> Contestant:
        if name == "cross-encoder":
            folder = self.arguments.cross_encoder or make_cross_encoder(self.words, scratch / "cross-encoder")
            return cross_encoder_contestant(folder, self.arguments.dtype, self.arguments.device)
        return {"blocks": blocks_contestant, "cached": cached_contestant}[name](self.model)

    def causal_fits(self, count: int) -> bool:
        """Whether causal attention is to be measured at so many documents; told where it is not."""
        if count > self.arguments.causal_up_to:
            print(
                f"causal: {count} documents are more than --causal-up-to {self.arguments.causal_up_to}", file=sys.stderr
            )
            return False
        tokens, most = self.causal_tokens(count), self.model.blocks.num_positions
        if most is not None and tokens > most and not self.arguments.past_positions:
            print(
                f"causal: {count} documents are {tokens:,} tokens and the model has {most:,} positions; --past-positions takes "
                "the time all the same",
                file=sys.stderr,
            )
            return False
        return True

    def causal_tokens(self, count: int) -> int:
        return self.causal["kernel"].work(self.queries[0], self.texts[:count]).tokens

    def fastest_causal(self, count: int) -> Contestant:
        """By one call each, after a short one."""
        few, texts = self.texts[:10], self.texts[:count]
        ms = {}
        for way, one in self.causal.items():
            one.rank(self.queries[0], few)
            ms[way] = round(self.watch.run(lambda o=one: o.rank(self.queries[0], texts))["total"], 2)
        fastest = min(ms, key=ms.__getitem__)
        record(self.arguments.json, {"kind": "baseline", **self.facts, "documents": count, "ms": ms, "taken": fastest})
        return self.causal[fastest]

    def measure(self, count: int) -> None:
        """All contestants in turns, on the first documents."""
        texts = self.texts[:count]
        taking = [one for one in self.contestants if one.name != "causal" or count in self.causal_counts]
        first = {one.name: self.first_call(one, texts) for one in taking}
        calls: dict[str, list[dict[str, float]]] = {one.name: [] for one in taking}
        with self.watch.around(PLACES):
            for turn in range(self.arguments.repeats):
                query = self.queries[1 + turn]
                for place in range(len(taking)):
                    one = taking[(place + turn) % len(taking)]
                    calls[one.name].append(self.watch.run(lambda o=one, q=query: o.rank(q, texts)))
        for one in taking:
            entry = {"kind": "latency", "contestant": one.name, **self.facts, "documents": count}
            if one.name == "causal":
                entry["past_positions"] = self.causal_tokens(count) > (self.model.blocks.num_positions or 1 << 62)
            own = entry | summary(calls[one.name], one.work(self.queries[1], texts)) | first[one.name]
            record(self.arguments.json, own)
            self.records.append(own)

    def first_call(self, one: Contestant, texts: Sequence[str]) -> dict[str, float]:
        """Its time and the most memory meanwhile, all models in memory included: anonymous memory of the process, and the GPU's."""
        one.starts_anew()
        if self.watch.is_cuda:
            torch.cuda.reset_peak_memory_stats()
        with PeakMemory() as memory:
            taken = self.watch.run(lambda: one.rank(self.queries[0], texts))
        found = {"first_ms": taken["total"], "peak_mb": memory.peak_bytes / 1e6}
        if self.watch.is_cuda:
            found["cuda_peak_mb"] = torch.cuda.max_memory_allocated() / 1e6
        return found


def facts_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What every record says."""
    device = torch.device(arguments.device)
    return {
        "model": arguments.shape or name_of(Path(arguments.model)),
        "document_tokens": arguments.document_tokens,
        "texts": arguments.data.name if arguments.data else "made words",
        "dtype": arguments.dtype,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "clock": arguments.clock,
        "repeats": arguments.repeats,
        **environment(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def name_of(folder: Path) -> str:
    """That of the one GGUF file within, which says more than its folder's."""
    return next((file.stem for file in folder.glob("*.gguf")), folder.name)


def summary(calls: list[dict[str, float]], work: Any) -> dict[str, Any]:
    """Times in milliseconds, and rates of the best call."""
    best = min(calls, key=lambda call: call["total"])
    totals = [call["total"] for call in calls]
    gflop = {part: getattr(work, part) / 1e9 for part in ("linear", "attention", "scoring")}
    spent = {"linear": best["layers"], "attention": best["attention"], "scoring": best["scoring"]}
    return {
        "tokens": work.tokens,
        "computed_tokens": work.computed,
        "best_ms": best["total"],
        "median_ms": float(np.median(totals)),
        "all_ms": [round(total, 3) for total in totals],
        "parts_ms": {part: best[part] for part in PARTS},
        "gflop": gflop,
        "gflops_a_second": {part: gflop[part] / spent[part] * 1e3 for part in gflop if spent[part] > 0},
    }


def ratios(records: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """How many times as long the one takes as the other, at each number of documents."""
    found: dict[str, dict[str, dict[str, float]]] = {"best": {}, "median": {}}
    for kind, own in found.items():
        times = {(r["contestant"], r["documents"]): r[f"{kind}_ms"] for r in records}
        for slow, fast in RATIOS:
            both = sorted(count for name, count in times if name == slow and (fast, count) in times)
            own[f"{slow} / {fast}"] = {str(count): round(times[slow, count] / times[fast, count], 3) for count in both}
    return found


def growth(records: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The best time a document at the most documents, over that at 100 or the fewest above: 1 is linear."""
    found = {}
    for name in NAMES:
        own = {r["documents"]: r["best_ms"] / r["documents"] for r in records if r["contestant"] == name}
        large = sorted(count for count in own if count >= GROWTH_FROM) or sorted(own)
        if len(large) > 1:
            found[name] = {
                "from": large[0],
                "to": large[-1],
                "time_a_document": round(own[large[-1]] / own[large[0]], 3),
            }
    return found


def table(records: list[dict[str, Any]]) -> str:
    """For the eye."""
    head = [
        "documents",
        "contestant",
        "tokens",
        "best ms",
        "median ms",
        *PARTS,
        "GFLOP/s linear",
        "attention",
        "peak MB",
    ]
    rows = [head]
    for r in records:
        rates = [f"{r['gflops_a_second'].get(part, 0):,.0f}" for part in ("linear", "attention")]
        times = [f"{ms:,.1f}" for ms in (r["best_ms"], r["median_ms"], *r["parts_ms"].values())]
        rows.append([str(r["documents"]), r["contestant"], f"{r['tokens']:,}", *times, *rates, f"{r['peak_mb']:,.0f}"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    found = json.dumps({**ratios(records)["best"], "growth": growth(records)}, indent=2)
    return "\n".join([*lines, found])


if __name__ == "__main__":
    main()
