"""Does a query side that learned from rewrites find what a conversation asks for? Measured on conversations that it was not trained or tuned on.

    python benchmarks/conversational.py --conversations canard-dev/dev.json --passages squad2-dev --data mtrag-un-conversational \
        --out RUN --json out.json [--start FOLDER] [--set training.steps=50] [--resume]

Trains benchmarks/conversational.toml (DiSCo, arXiv:2410.14609): rewrites of the conversations, scored with passages of another collection.
Then the queries of a BEIR folder with `raw/conversations.jsonl`, nDCG@10: the last turn by the encoder's own query side; all turns by it; all
turns by the query model before and after training; the rewrites by the own query side where the folder has them; BM25 beside. Documents are
those of the encoder that training began with, all along. --start is a checkpoint in place of the recipe's tied head, read as its files say.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from eval.datasets import Dataset, load_dataset
from index.inverted import InvertedIndex
from index.options import InvertedIndexOptions
from index.vectors import SparseQuery
from kernels.cpu.sparse import SparseRows
from retrieval import LearnedSparseEncoder, Retriever
from retrieval.beir_folder import documents_in, one_of
from retrieval.encoders.learned import TokenCounts
from retrieval.encoders.term_weights import TermWeights
from retrieval.encoders.tokens import special_terms
from retrieval.encoders.weighted_terms import inverse_document_frequency
from retrieval.significance import paired_gain
from retrieval.training.sparse.conversations import Conversation, read_conversations
from retrieval.training.sparse.frozen import encoded
from retrieval.training.sparse.preparation import prepare
from retrieval.training.sparse.recipe import Recipe
from retrieval.training.trainer import train

RECIPE = Path(__file__).with_suffix(".toml")
DEPTH = 10
Encode = Callable[[list[str]], SparseRows]


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    changes: dict[str, Any] = {
        "data.conversations": str(arguments.conversations),
        "data.folder": str(arguments.passages),
    }
    if arguments.start:
        changes |= {
            "model.start": str(arguments.start),
            "model.head": "own",
            "model.encoder": {"query_max_length": 128},
        }
    for one in arguments.set:
        name, _, value = one.partition("=")
        changes[name] = json.loads(value)
    return Recipe.read(RECIPE, changes)


def own_query_side(recipe: Recipe, trained: LearnedSparseEncoder, documents: Sequence[str]) -> Encode:
    """How the encoder that training began with reads a query; without a table of its own, by the idf of the collection that is searched."""
    if recipe.model.head == "own":
        return LearnedSparseEncoder.from_pretrained(recipe.model.start, **recipe.model.encoder).encode_queries
    counts = TokenCounts(trained.num_terms)
    counts.add(trained.document.tokens.own(list(documents)))
    idf = inverse_document_frequency(counts.frequency, len(documents)).astype(np.float32)
    idf[special_terms(trained.tokenizer)] = 0
    name, tokenizer = trained.name, trained.tokenizer
    return LearnedSparseEncoder(name, tokenizer, trained.num_terms, trained.document, TermWeights(idf)).encode_queries


def ndcg(dataset: Dataset, found: Mapping[str, Mapping[str, float]]) -> np.ndarray:
    """float64 [queries]: nDCG@10 by trec_eval; a query that finds nothing has 0."""
    import ir_measures

    values = {
        one.query_id: one.value for one in ir_measures.iter_calc([ir_measures.nDCG @ DEPTH], dataset.qrels, found)
    }
    return np.array([values.get(query, 0.0) for query in dataset.queries])


def searched(index: InvertedIndex, ids: Sequence[str], queries: Sequence[str], rows: SparseRows) -> dict[str, Any]:
    """Query id -> document id -> a number that falls with the rank, so that equal scores stay in our order."""
    each = [
        SparseQuery(rows.indices[a:b], rows.data[a:b])
        for a, b in zip(rows.indptr[:-1].tolist(), rows.indptr[1:].tolist(), strict=True)
    ]
    answers = index.search_batch(each, DEPTH)
    return {
        query: {ids[doc]: -float(rank) for rank, doc in enumerate(docs.tolist())}
        for query, (_, docs) in zip(queries, answers, strict=True)
    }


def by_bm25(dataset: Dataset, texts: Sequence[str]) -> dict[str, Any]:
    retriever = Retriever.from_pretrained("bm25").index(dataset.folder, progress=False)
    found = zip(dataset.queries, retriever.search_batch(list(texts), k=DEPTH), strict=True)
    return {query: {hit.doc_id: -float(hit.rank) for hit in hits} for query, hits in found}


def of_dataset(dataset: Dataset) -> list[Conversation]:
    """The conversation of each judged query, in their order."""
    found = {one.conversation_id: one for one in read_conversations(dataset.folder / "raw" / "conversations.jsonl")}
    return [found[query] for query in dataset.queries]


def results(
    dataset: Dataset, trained: LearnedSparseEncoder, own: Callable[[Sequence[str]], Encode], untrained: Encode
) -> list[dict[str, Any]]:
    """A row for each way to ask. `own` is given the documents' texts."""
    documents = [document for _, document in documents_in(one_of(dataset.folder, "corpus.jsonl"))]
    texts = [document.searched_text for document in documents]
    options = InvertedIndexOptions(trained.num_terms, "f32")
    index = InvertedIndex.build(trained.encode_texts(texts), options)
    asked, table = of_dataset(dataset), own(texts)
    last, all_turns = [one.turns[-1] for one in asked], [one.text for one in asked]
    ways: dict[str, dict[str, Any]] = {}
    for name, encode, given in (
        ("last turn, own query side", table, last),
        ("all turns, own query side", table, all_turns),
        ("all turns, query model untrained", untrained, all_turns),
        ("all turns, query model trained", trained.encode_queries, all_turns),
        ("rewrites, own query side", table, [one.rewrites[0] for one in asked if one.rewrites]),
    ):
        if len(given) == len(asked):
            ids = [document.doc_id for document in documents]
            ways[name] = searched(index, ids, list(dataset.queries), encode(given))
    ways["last turn, BM25"] = by_bm25(dataset, last)
    ways["all turns, BM25"] = by_bm25(dataset, [" ".join(one.turns) for one in asked])
    values = {name: ndcg(dataset, found) for name, found in ways.items()}
    later = np.array([len(one.turns) > 1 for one in asked])
    rows = []
    for name, own_values in values.items():
        gain = paired_gain(own_values - values["last turn, own query side"], 0.95)
        rows.append(
            {
                "asked": name, "nDCG@10": float(own_values.mean()), "queries": len(own_values),
                "nDCG@10 of first turns": float(own_values[~later].mean()) if not later.all() else None,
                "nDCG@10 of later turns": float(own_values[later].mean()) if later.any() else None,
                "gain over last turn": gain.mean, "low": gain.low, "high": gain.high, "p": gain.p_value,
            }
        )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--conversations", type=Path, required=True, metavar="FILE", help="with rewrites")
    parser.add_argument("--passages", type=Path, required=True, metavar="FOLDER", help="a BEIR folder; its corpus")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="a BEIR folder with conversations")
    parser.add_argument("--split", default="test")
    parser.add_argument("--start", metavar="MODEL")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.NAME=JSON")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--device", default=None)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    arguments = parser.parse_args()
    recipe = recipe_of(arguments)
    task = prepare(recipe, cache=arguments.out.absolute().parent / "teachers", device=arguments.device)
    dataset = load_dataset(arguments.data, arguments.split)
    texts = [one.text for one in of_dataset(dataset)]
    before = encoded(task.towers.query, task.reads[1], texts)
    trained = train(
        task, recipe.training, arguments.out, resume=arguments.resume, report=lambda line: print(line, flush=True)
    )
    encoder = LearnedSparseEncoder.from_pretrained(trained.model, device=arguments.device)
    rows = results(dataset, encoder, lambda documents: own_query_side(recipe, encoder, documents), lambda given: before)
    for row in rows:
        print(json.dumps(row), flush=True)
    told = {
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip(),
        "machine": platform.processor() or platform.machine(),
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "start": recipe.model.start, "steps": recipe.training.steps, "seed": recipe.training.seed,
        "agreement with rewrites": {"before": trained.first, "best": trained.best, "step": trained.best_step},
        "data": arguments.data.name, "conversations": arguments.conversations.parent.name, "passages": arguments.passages.name,
        "results": rows,
    }  # fmt: skip
    arguments.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
