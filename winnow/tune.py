"""Find by judged queries how the arms of an index are best fused, and keep it with the index."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="an index of several arms, as `winnow index --model bm25+minilm` writes it")
    parser.add_argument(
        "--data", required=True, metavar="FOLDER", help="a BEIR folder whose queries and qrels are used"
    )
    parser.add_argument(
        "--split", default="train", help="which qrels; never those that you will test on (default: train)"
    )
    parser.add_argument("--measure", default="nDCG@10", help="nDCG@k, R@k or RR@k (default: nDCG@10)")
    parser.add_argument("--folds", type=int, default=5, help="of the cross-validation (default: 5)")
    parser.add_argument("--dry-run", action="store_true", help="report only; leave the index as it is")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bars")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")


def run(arguments: argparse.Namespace) -> int:
    from eval.datasets import load_dataset, warned
    from retrieval import Retriever

    retriever = Retriever.from_folder(arguments.folder)
    judged = warned(load_dataset(arguments.data, arguments.split))
    tuning = retriever.tune(
        judged.queries,
        judged.qrels,
        measure=arguments.measure,
        folds=arguments.folds,
        progress=not arguments.no_progress,
    )
    print(tuning)
    if not arguments.dry_run:
        retriever.save_pretrained(arguments.folder)
        print(f"{arguments.folder} is fused so from now on")
    return 0
