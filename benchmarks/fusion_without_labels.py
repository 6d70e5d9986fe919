"""Do weights from the arms' own scores beat fixed equal ones? Without judgments to tune on; judgments only measure here.

    python benchmarks/fusion_without_labels.py --data FOLDER --split train --json out.json

BM25 and all-MiniLM-L6-v2 (the extra `minilm`), 1,000 documents of each for a query, fused with weights that a predictor of query performance gives to each list. "typical" divides it by its median over the
queries of the arm, for which queries suffice. Predictors: NQC (Shtok et al., TOIS 2012), WIG (Zhou and Croft, SIGIR 2007), and the lead
of the first hit over the sixth, all made independent of the scale of scores. Use splits that nothing else is tested on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from eval.datasets import Dataset, load_dataset
from index.impact_search import Answer
from retrieval import Retriever
from retrieval.arm_search import Trying
from retrieval.fusion import Fusion
from retrieval.hybrid import Hybrid, by_query
from retrieval.query_weights import confidence
from retrieval.significance import paired_gain

DEPTH = 1000
FUSIONS = (Fusion(), Fusion(normalisation="z-score"))
ARMS = ("bm25", "minilm")
Answers = Sequence[Mapping[str, Answer]]


def nqc(scores: np.ndarray) -> float:
    """The deviation of the best 100 over that of the list."""
    return float(scores[:100].std(dtype=float) / (scores.std(dtype=float) or 1)) if len(scores) else 0.0


def lead(scores: np.ndarray) -> float:
    """How far the first hit is above the sixth, of the list's range."""
    return (
        float((scores[0] - scores[min(5, len(scores) - 1)]) / ((scores[0] - scores[-1]) or 1)) if len(scores) else 0.0
    )


PREDICTORS = {"wig": confidence, "nqc": nqc, "lead": lead, "root of lead": lambda scores: lead(scores) ** 0.5}


def answers_of(dataset: Dataset) -> tuple[list[str], Answers]:
    """(ids of the documents, what each arm answers to each query)"""
    retriever = Retriever.from_pretrained("+".join(ARMS)).index(dataset.folder)
    snapshot, arms = retriever._opened.snapshot, retriever._opened.arms
    queries = [dict.fromkeys(ARMS, text) for text in dataset.queries.values()]
    found = Hybrid(arms, Fusion()).batches(queries, DEPTH, 1, Trying())
    return snapshot.ids(range(snapshot.num_docs)), list(by_query({arm: search() for arm, search in found.items()}))


def ndcg(dataset: Dataset, ids: Sequence[str], ranked: Sequence[np.ndarray]) -> np.ndarray:
    """float64 [queries]: nDCG@10 by trec_eval."""
    import ir_measures

    run = {
        query: {ids[doc]: -float(rank) for rank, doc in enumerate(docs.tolist())}
        for query, docs in zip(dataset.queries, ranked, strict=True)
    }
    values = {one.query_id: one.value for one in ir_measures.iter_calc([ir_measures.nDCG @ 10], dataset.qrels, run)}
    return np.array([values.get(query, 0.0) for query in dataset.queries])


def fused(fusion: Fusion, answers: Answers, weights: np.ndarray) -> list[np.ndarray]:
    """The best documents of each query, with its own weights."""
    return [
        replace(fusion, weights=dict(zip(own, row.tolist(), strict=True))).fuse(own, 10).docs
        for own, row in zip(answers, weights, strict=True)
    ]


def results(dataset: Dataset, ids: Sequence[str], answers: Answers) -> Iterator[dict[str, object]]:
    name = f"{dataset.name}.{dataset.split}"
    arms = list(answers[0])
    for arm in arms:
        alone = ndcg(dataset, ids, [own[arm][1][:10] for own in answers])
        yield {"dataset": name, "system": arm, "nDCG@10": float(alone.mean())}
    for fusion in FUSIONS:
        equal = ndcg(dataset, ids, fused(fusion, answers, np.ones((len(answers), len(arms)))))
        yield {"dataset": name, "system": fusion.normalisation, "weights": "equal", "nDCG@10": float(equal.mean())}
        for predictor, predict in PREDICTORS.items():
            found = np.array([[predict(own[arm][0]) for arm in arms] for own in answers]) + 1e-9
            for kind, weights in (("as it is", found), ("over the typical", found / np.median(found, axis=0))):
                values = ndcg(dataset, ids, fused(fusion, answers, weights))
                gain = paired_gain(values - equal, 0.95)
                yield {
                    "dataset": name, "system": fusion.normalisation, "weights": f"{predictor}, {kind}",
                    "nDCG@10": float(values.mean()), "gain": gain.mean, "low": gain.low, "high": gain.high, "p": gain.p_value,
                }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, action="append", metavar="FOLDER", help="BEIR folders")
    parser.add_argument("--split", default="train")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    arguments = parser.parse_args()
    rows = []
    for folder in arguments.data:
        dataset = load_dataset(folder, arguments.split)
        for row in results(dataset, *answers_of(dataset)):
            print(json.dumps(row), flush=True)
            rows.append(row)
    arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
