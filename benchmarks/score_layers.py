"""At which layer does a decoder's attention tell relevant documents from others? nDCG@10 of BlockRank's score by layer, one JSON line each.

    python benchmarks/score_layers.py --data BEIR_FOLDER --split train --model FOLDER --json OUT

For `score_layer` and `signal_tokens` of a decoder that nobody trained for ranking. Lists are a query's relevant documents among the best
negatives of BM25, shuffled: `chance` is their own order. `query` reads the query's tokens in the last block, `end` its last two. Use a split that nothing is tested on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from protocol import record
from sparse_search import environment

from eval.datasets import load_dataset
from kernels.document_mass import log_document_mass
from retrieval.rerankers.list_model import ListModel
from retrieval.training.block_rank import CUTOFF, ndcg
from retrieval.training.lists import candidates_of, some_of

END = [-2, -1]


class EveryLayer:
    """A watch that reads log masses at all layers, by the query's tokens and by the last two."""

    needs_sums = False

    def __init__(self, num_layers: int, starts: torch.Tensor, query: np.ndarray):
        self.last_layer, self.starts = num_layers - 1, starts
        self.rows = {"query": query, "end": END}
        self.found: list[dict[str, torch.Tensor]] = []

    def see(self, layer: int, queries: torch.Tensor, keys: torch.Tensor, lse: Any, scale: float) -> None:
        masses = {name: log_document_mass(queries[rows], keys, self.starts, scale) for name, rows in self.rows.items()}
        self.found.append(masses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="BEIR_FOLDER")
    parser.add_argument("--split", default="train")
    parser.add_argument("--model", required=True, metavar="FOLDER", help="a decoder, as `make smollm2` prints")
    parser.add_argument("--lists", type=int, default=32)
    parser.add_argument("--documents", type=int, default=12, help="of a list")
    parser.add_argument("--document-tokens", type=int, default=96)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()

    dataset = load_dataset(arguments.data, arguments.split)
    every = candidates_of(arguments.data, dataset.queries, dataset.qrels, depth=arguments.documents)
    lists = [one.whole(arguments.documents, (0, n)) for n, one in enumerate(some_of(every, arguments.lists, 0))]
    model = ListModel.load(
        arguments.model, depth=lambda _, total: total, cache=None, query_free=True, device=None, dtype="float32", revision=None,
        trust_remote_code=False, options={"document_tokens": arguments.document_tokens, "signal_tokens": "query"},
    )  # fmt: skip
    gained: dict[str, list[list[float]]] = {"query": [], "end": []}
    for given in lists:
        read, last = model.read(given.query, given.documents), model.reader.last(given.query)
        watch = EveryLayer(model.num_layers, read.starts, model.reader.signal(last))
        model.model.infer(model.prompt(read, last), watch)
        for name, own in gained.items():
            orders = [torch.argsort(masses[name], descending=True, stable=True).tolist() for masses in watch.found]
            own.append([ndcg([given.relevance[i] for i in order], CUTOFF) for order in orders])
    shared = {
        "dataset": dataset.name, "split": dataset.split, "lists": len(lists), "documents": arguments.documents,
        "document_tokens": arguments.document_tokens, "model": arguments.model,
        "chance": float(np.mean([ndcg(given.relevance, CUTOFF) for given in lists])), **environment(),
    }  # fmt: skip
    means = {name: np.mean(own, 0) for name, own in gained.items()}
    for layer in range(model.num_layers):
        record(arguments.json, {"layer": layer, **{name: float(own[layer]) for name, own in means.items()}, **shared})


if __name__ == "__main__":
    main()
