"""Measure retrieval systems on BEIR data sets: `python -m eval.beir --datasets scifact --system bm25 --system bm25+minilm`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pathlib import Path

    from eval.datasets import Dataset, DatasetSpec
    from eval.report import Report
    from retrieval.written_system import WrittenSystem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_argument_group("data sets")
    source.add_argument(
        "--data", action="append", default=[], metavar="FOLDER",
        help="a local BEIR folder: corpus.jsonl, queries.jsonl, qrels/; may be repeated",
    )  # fmt: skip
    source.add_argument(
        "--datasets", "--dataset", metavar="NAMES",
        help="public BEIR data sets, downloaded once: names with commas between them, or all, public, small",
    )  # fmt: skip
    source.add_argument(
        "--data-root", metavar="FOLDER", help="where folders of data sets are looked for before they are downloaded"
    )
    source.add_argument(
        "--split", action="append", dest="splits", metavar="NAME",
        help="which qrels to use; may be repeated (default: test, of msmarco dev)",
    )  # fmt: skip
    source.add_argument(
        "--self-retrieval", choices=("keep", "remove"),
        help="whether documents with the id of the query are taken out of its ranking (default: as BEIR does, for those data sets "
        "whose queries are documents)",
    )  # fmt: skip
    systems = parser.add_argument_group("systems")
    systems.add_argument(
        "--system", action="append", default=[], dest="systems", metavar="NAME",
        help="bm25, winnow-mini, minilm, sparse:MODEL, dense:MODEL, or several with + between them, which are fused; settings after "
        "commas, as in bm25+minilm,fusion=rrf,rerank=blockrank:MODEL,depth=100 (docs/evaluation.md); the folder of a saved "
        "index; a TOML file of systems; lucene:bm25; may be repeated",
    )  # fmt: skip
    systems.add_argument(
        "--tune", metavar="SPLIT",
        help="also fuse with weights tuned on the queries of another split, as in --tune train; cv: on those of the split itself, "
        "cross-validated",
    )  # fmt: skip
    systems.add_argument("--depth", type=int, default=1000, help="documents ranked for each query (default: 1000)")
    results = parser.add_argument_group("results")
    results.add_argument(
        "--measure", action="append", dest="measures", metavar="NAME",
        help="any ir_measures name, or AllGold@k; may be repeated (default: nDCG@10, R@100, R@1000, MRR@10, MAP, P@10)",
    )  # fmt: skip
    results.add_argument(
        "--out", metavar="FOLDER",
        help="keep results and TREC runs there: what is finished is not computed again, a run that was killed goes on",
    )  # fmt: skip
    results.add_argument("--json", metavar="FILE", help="write the results as JSON")
    results.add_argument("--html", metavar="FILE", help="write them as a page for a browser, beside published figures")
    results.add_argument(
        "--reproduce", action="store_true",
        help="measure again what docs/reproduction.md lists, of the data sets at hand, and fail where a value moved",
    )  # fmt: skip
    parser.add_argument("--no-progress", action="store_true", help="show no progress bars")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")


def run(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from eval.experiment import Settings
    from eval.measures import DEFAULT_MEASURES, parse_measures
    from eval.measuring import Work, cells_of, measure_all
    from eval.report import summary_table
    from index.errors import WinnowError
    from index.vectors import checked_count

    # everything that can be wrong in the request is found before the long work
    measures = tuple(dict.fromkeys(arguments.measures or DEFAULT_MEASURES))
    parse_measures(measures)
    settings = Settings(checked_count("depth", arguments.depth), measures[0], not arguments.no_progress)
    out = None if arguments.out is None else Path(arguments.out)
    for path in (arguments.json, arguments.html):
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
    if arguments.reproduce:
        return reproduce(arguments, measures, settings, out)
    cells = cells_of(systems_of(arguments), arguments.tune)
    works = [Work(dataset, cells) for dataset in datasets_of(arguments)]
    reports = []
    for report in measure_all(works, settings, measures, out):
        print(report.as_text(), end="\n\n\n", flush=True)
        reports.append(report)
    if len(reports) > 1:
        print(summary_table(reports, measures[0]))
    write_results(arguments, reports)
    return 0


def systems_of(arguments: argparse.Namespace) -> list[WrittenSystem]:
    """What is written as systems, with the options that are given for all of them. Raises WinnowError."""
    from index.errors import WinnowError
    from retrieval.system_files import named_systems

    if not arguments.systems:
        raise WinnowError("there is no system to measure; give one or more, as in --system bm25 --system bm25+minilm.")
    return list(dict.fromkeys(system for written in arguments.systems for system in named_systems(written).values()))


def datasets_of(arguments: argparse.Namespace) -> list[Dataset]:
    """Each split of each data set, those that are public downloaded. Raises WinnowError."""
    from pathlib import Path

    from eval.datasets import download, named, parts_of
    from eval.datasets.specs import DEFAULT_SPLIT
    from index.errors import WinnowError

    folders: list[tuple[Path, DatasetSpec | None]] = [(Path(folder), None) for folder in arguments.data]
    for spec in named(arguments.datasets) if arguments.datasets is not None else ():
        local = None if arguments.data_root is None else Path(arguments.data_root) / spec.name
        folders.append((local if local is not None and local.is_dir() else download(spec), spec))
    if not folders:
        raise WinnowError("there is no data set; give --data FOLDER, or --datasets NAME, as in --datasets scifact.")
    found: list[Dataset] = []
    for folder, spec in folders:
        for split in dict.fromkeys(arguments.splits or (DEFAULT_SPLIT if spec is None else spec.split,)):
            found += parts_of(folder, split, spec)
    if arguments.self_retrieval is not None:
        found = [dataset._replace(removes_self=arguments.self_retrieval == "remove") for dataset in found]
    return found


def write_results(arguments: argparse.Namespace, reports: Sequence[Report]) -> None:
    """As JSON, and as a page, where that is asked for."""
    import json
    from pathlib import Path

    from eval.reproduction.matrix import Matrix
    from eval.reproduction.page import write_page
    from eval.reproduction.published import read_published
    from index.placing import replace_file

    found = [report.as_json() for report in reports]
    cells = [cell for one in found for cell in one["cells"]]
    if arguments.json is not None:
        comparisons = [comparison for one in found for comparison in one["comparisons"]]
        whole = {"cells": cells, "comparisons": comparisons}
        replace_file(Path(arguments.json), (json.dumps(whole, indent=2) + "\n").encode())
    if arguments.html is not None:
        write_page(arguments.html, Matrix.of([], cells, read_published()))


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
