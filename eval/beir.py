"""Measure retrieval systems on a BEIR data set: `python -m eval.beir --data FOLDER --system bm25 --system mini`."""

from __future__ import annotations

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from retrieval.encoders.written_options import add_option_argument

    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", metavar="FOLDER", help="a local BEIR folder: corpus.jsonl, queries.jsonl, qrels/")
    source.add_argument("--dataset", metavar="NAME", help="a public BEIR data set, downloaded once (scifact, ...)")
    parser.add_argument("--split", default="test", help="which qrels to use (default: test)")
    parser.add_argument(
        "--system", action="append", required=True, dest="systems", metavar="NAME", help="bm25 or mini; may be repeated"
    )
    parser.add_argument(
        "--measure", action="append", dest="measures", metavar="NAME",
        help="any ir_measures name; may be repeated (default: nDCG@10, R@100, MRR@10)",
    )  # fmt: skip
    add_option_argument(parser)
    parser.add_argument("--impacts", choices=("u8", "u16", "f32"), help="how weights are stored (default: u8)")
    parser.add_argument("--depth", type=int, default=1000, help="documents ranked for each query (default: 1000)")
    parser.add_argument("--json", metavar="FILE", help="write the results as JSON")
    parser.add_argument("--runs", metavar="FOLDER", help="write one TREC run file a system")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bars")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")


def run(arguments: argparse.Namespace) -> int:
    import json
    from pathlib import Path

    from eval.datasets import download_dataset, load_dataset
    from eval.measures import DEFAULT_MEASURES, measure_run, parse_measures
    from eval.report import as_json, as_table
    from eval.runs import write_run
    from eval.systems import evaluate_system
    from index.vectors import checked_count
    from retrieval.encoders.loading import WITHOUT_OPTIONS, load_encoder
    from retrieval.encoders.written_options import parse_options

    options = parse_options(arguments.option)
    # everything that can be wrong in the request is found before the long work
    for system in arguments.systems:
        load_encoder(system, options=None if system in WITHOUT_OPTIONS else options)
    names = tuple(arguments.measures or DEFAULT_MEASURES)
    parse_measures(names)
    depth = checked_count("depth", arguments.depth)
    if arguments.json:
        Path(arguments.json).parent.mkdir(parents=True, exist_ok=True)
    if arguments.runs:
        Path(arguments.runs).mkdir(parents=True, exist_ok=True)
    dataset = load_dataset(arguments.data or download_dataset(arguments.dataset), arguments.split)
    measured = []
    for system in dict.fromkeys(arguments.systems):
        outcome = evaluate_system(
            system,
            dataset,
            depth,
            impacts=arguments.impacts,
            options={} if system in WITHOUT_OPTIONS else options,
            progress=not arguments.no_progress,
        )
        measured.append((outcome, measure_run(dataset.qrels, outcome.run, names)))
    print(as_table(dataset, measured))
    for outcome, _ in measured if arguments.runs else []:
        file = Path(arguments.runs) / f"{dataset.name}.{dataset.split}.{outcome.system}.run"
        write_run(file, outcome.run, outcome.system)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(as_json(dataset, measured), indent=2) + "\n", encoding="utf-8")
    return 0


def main(argv: list[str] | None = None) -> int:
    try:
        from index.errors import run_command
    except ImportError as error:  # our own sentence about another package named `kernels`
        sys.exit(f"eval.beir: {error}")
    parser = argparse.ArgumentParser(prog="python -m eval.beir", description=__doc__)
    add_arguments(parser)
    arguments = parser.parse_args(argv)
    return run_command(lambda: run(arguments), program="eval.beir", debug=arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
