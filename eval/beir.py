"""Measure retrieval systems on a BEIR data set: `python -m eval.beir --data FOLDER --system bm25 --system bm25+minilm`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from index.options import WeightImpacts
    from retrieval.encoders.protocol import Encoder
    from retrieval.written_system import WrittenSystem

CROSS_VALIDATED = "cv"  # instead of a split to tune on
LONGEST_NAME = 150  # of a run, which is also a file: a reranker may be called by a whole path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from retrieval.encoders.written_options import add_option_argument

    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", metavar="FOLDER", help="a local BEIR folder: corpus.jsonl, queries.jsonl, qrels/")
    source.add_argument("--dataset", metavar="NAME", help="a public BEIR data set, downloaded once (scifact, ...)")
    parser.add_argument(
        "--split",
        action="append",
        dest="splits",
        metavar="NAME",
        help="which qrels to use; may be repeated (default: test)",
    )
    parser.add_argument(
        "--system", action="append", required=True, dest="systems", metavar="NAME",
        help="bm25, winnow-mini, minilm, a name of docs/models.md, or several with + between them, which are fused; any of these reranked, as in "
        "bm25,rerank=blockrank:MODEL,depth=100 (also cross-encoder: and icr:; further NAME=VALUE are options of the reranker); may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--fusion", action="append", dest="fusions", metavar="HOW",
        help="how arms are fused: min-max, z-score, theoretical-min, distribution, none, rrf, combsum, combmnz, or one of them with "
        "/per-query; may be repeated (default: min-max)",
    )  # fmt: skip
    parser.add_argument(
        "--tune", metavar="SPLIT",
        help="also fuse with weights tuned on the queries of another split, as in --tune train; cv: on those of the split itself, "
        "cross-validated",
    )  # fmt: skip
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
    from eval.experiment import Experiment
    from eval.measures import DEFAULT_MEASURES, parse_measures
    from eval.reranking import load_rerankings
    from eval.runs import write_run
    from eval.systems import Built, arms_of, options_of
    from index.vectors import checked_count
    from retrieval.encoders.loading import load_encoder
    from retrieval.encoders.written_options import parse_options
    from retrieval.system_files import named_systems
    from retrieval.written_system import fusion_of

    options = parse_options(arguments.option)
    # everything that can be wrong in the request is found before the long work
    asked = {str(system): system for text in arguments.systems for system in named_systems(text).values()}
    written = list(asked.values())
    check_tuning(arguments.tune, written)
    for system in written:
        check_is_plain(system)
    firsts = [str(system.without_reranker()) for system in written]  # first stages of rerankers are measured too
    systems = tuple(dict.fromkeys(firsts))
    models = {model: load_encoder(model, options=options_of(model, options)) for model in arms_of(systems)}
    impacts = impacts_of(models, arguments.impacts)
    measures = tuple(arguments.measures or DEFAULT_MEASURES)
    parse_measures(measures)
    depth = checked_count("depth", arguments.depth)
    fusions = {name: fusion_of(name, depth) for name in arguments.fusions or ("min-max",)}
    for path in (arguments.json and Path(arguments.json).parent, arguments.runs):
        if path:
            Path(path).mkdir(parents=True, exist_ok=True)
    folder = arguments.data or download_dataset(arguments.dataset)
    datasets = [load_dataset(folder, split) for split in dict.fromkeys(arguments.splits or ("test",))]
    tunes_on_another = arguments.tune not in (None, CROSS_VALIDATED)
    judged = load_dataset(folder, arguments.tune) if tunes_on_another else None
    progress, rerankings = not arguments.no_progress, load_rerankings(written)
    built = {
        model: Built.of(model, datasets[0], impacts.get(model), options_of(model, options), progress)
        for model in models
    }
    experiment = Experiment(systems, built, depth, fusions, arguments.tune, judged, measures, progress, rerankings)
    reports = []
    for dataset in datasets:
        report = experiment.on(dataset)
        print(report.as_text(), end="\n" if dataset is datasets[-1] else "\n\n\n")
        for outcome in report.outcomes if arguments.runs else ():
            name = re.sub(r"[/, :=]+", "-", outcome.system)[-LONGEST_NAME:]
            write_run(Path(arguments.runs) / f"{dataset.name}.{dataset.split}.{name}.run", outcome.run, name)
        reports.append(report.as_json())
    if arguments.json:
        whole = reports[0] if len(reports) == 1 else {"reports": reports}
        Path(arguments.json).write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    return 0


def check_tuning(tune: str | None, systems: Sequence[WrittenSystem]) -> None:
    """Raise WinnowError where each fold would have a first stage of its own to rerank."""
    from index.errors import WinnowError

    reranked = next((str(system) for system in systems if system.reranks), None)
    if tune == CROSS_VALIDATED and reranked is not None:
        raise WinnowError(
            f"--tune {CROSS_VALIDATED} cannot be had with {reranked}; tune on another split, or leave one of them out."
        )


def check_is_plain(system: WrittenSystem) -> None:
    """Raise WinnowError for what is said for all systems at once."""
    from index.errors import WinnowError

    if system.is_saved or system.fusion is not None or system.options:
        raise WinnowError(
            f"the system {str(system)!r:.100} is a saved folder, or has a fusion or options of arms; give models, and --fusion and --option."
        )


def impacts_of(models: Mapping[str, Encoder], impacts: WeightImpacts | None) -> dict[str, WeightImpacts | None]:
    """For those models that store weights. Raises WinnowError where impacts are asked for and none does."""
    from index.errors import WinnowError

    storing = [name for name, encoder in models.items() if encoder.kind == "sparse" and name != "bm25"]
    if impacts is not None and not storing:
        raise WinnowError(f"{', '.join(models)} stores no weights; leave --impacts {impacts} out.")
    return dict.fromkeys(storing, impacts)


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
