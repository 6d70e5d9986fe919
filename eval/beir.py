"""Measure retrieval systems on BEIR data sets: `python -m eval.beir --datasets scifact --system bm25 --system bm25+minilm`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from eval.datasets import Dataset, DatasetSpec
    from eval.measuring import Work
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
    results.add_argument(
        "--accept", action="store_true", help="from now on expect what is measured (eval/reproduction/expected.json)"
    )
    parser.add_argument("--no-progress", action="store_true", help="show no progress bars")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")


def run(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from eval.experiment import Settings
    from eval.measures import DEFAULT_MEASURES, parse_measures
    from eval.measuring import measure_all
    from eval.report import summary_table
    from index.vectors import checked_count

    # everything that can be wrong in the request is found before the long work
    measures = tuple(dict.fromkeys(arguments.measures or DEFAULT_MEASURES))
    parse_measures(measures)
    settings = Settings(checked_count("depth", arguments.depth), measures[0], not arguments.no_progress)
    out = None if arguments.out is None else Path(arguments.out)
    for path in (arguments.json, arguments.html):
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
    works = reproduced_works(arguments) if arguments.reproduce else asked_works(arguments)
    reports = []
    for report in measure_all(works, settings, measures, out):
        print(report.as_text(), end="\n\n\n", flush=True)
        reports.append(report)
    if len(reports) > 1:
        print(summary_table(reports, measures[0]), end="\n\n\n")
    return conclude(arguments, reports)


def differs(arguments: argparse.Namespace) -> bool:
    """From what is expected: all that is expected is measured in one way."""
    from eval.experiment import DEFAULT_DEPTH

    return arguments.depth != DEFAULT_DEPTH or arguments.self_retrieval is not None


def asked_works(arguments: argparse.Namespace) -> list[Work]:
    """Every system on every data set. Raises WinnowError."""
    from eval.measuring import Work, cells_of
    from index.errors import WinnowError

    if arguments.accept and (arguments.measures or differs(arguments)):
        raise WinnowError(
            "--accept keeps values of the usual measures, depth and self-retrieval, as --reproduce measures them again; leave "
            "--measure, --depth and --self-retrieval out."
        )
    cells = cells_of(systems_of(arguments), arguments.tune)
    return [Work(dataset, cells) for dataset in datasets_of(arguments)]


def reproduced_works(arguments: argparse.Namespace) -> list[Work]:
    """What is expected of the data sets that are given, or of all that are at hand. Raises WinnowError."""
    from pathlib import Path

    from eval.reproduction.cells import read_expected
    from eval.reproduction.rerun import expected_works, folders_at_hand
    from index.errors import WinnowError

    if arguments.systems or arguments.tune or arguments.splits or arguments.measures or differs(arguments):
        raise WinnowError("--reproduce takes systems and settings from what is expected; leave them out.")
    folders = [folder for folder, _ in folders_of(arguments)]
    root = None if arguments.data_root is None else Path(arguments.data_root)
    return expected_works(folders or folders_at_hand(root, read_expected()), read_expected())


def systems_of(arguments: argparse.Namespace) -> list[WrittenSystem]:
    """What is written as systems, with the options that are given for all of them. Raises WinnowError."""
    from index.errors import WinnowError
    from retrieval.system_files import named_systems

    if not arguments.systems:
        raise WinnowError("there is no system to measure; give one or more, as in --system bm25 --system bm25+minilm.")
    return list(dict.fromkeys(system for written in arguments.systems for system in named_systems(written).values()))


def datasets_of(arguments: argparse.Namespace) -> list[Dataset]:
    """Each split of each data set, or of each of its parts. Raises WinnowError."""
    from eval.datasets import parts_of
    from eval.datasets.specs import DEFAULT_SPLIT
    from index.errors import WinnowError

    found: list[Dataset] = []
    for folder, spec in folders_of(arguments):
        for split in dict.fromkeys(arguments.splits or (DEFAULT_SPLIT if spec is None else spec.split,)):
            found += parts_of(folder, split, spec)
    if not found:
        raise WinnowError("there is no data set; give --data FOLDER, or --datasets NAME, as in --datasets scifact.")
    if arguments.self_retrieval is not None:
        found = [dataset._replace(removes_self=arguments.self_retrieval == "remove") for dataset in found]
    return found


def folders_of(arguments: argparse.Namespace) -> list[tuple[Path, DatasetSpec | None]]:
    """Each data set that is asked for with what is published of it; one that is neither local nor there yet is downloaded. Of a group
    those that need a licence and are not there are left out, and that is said."""
    from pathlib import Path

    from eval.datasets import cache_folder, download, named

    root = None if arguments.data_root is None else Path(arguments.data_root)
    folders: list[tuple[Path, DatasetSpec | None]] = [(Path(folder), None) for folder in dict.fromkeys(arguments.data)]
    asked = (arguments.datasets or "").split(",")
    for spec in named(arguments.datasets) if arguments.datasets is not None else ():
        local = next(
            (place / spec.name for place in (root, cache_folder()) if place and (place / spec.name).is_dir()), None
        )
        if local is None and not spec.is_public and spec.name not in asked:
            print(
                f"{spec.name} is left out: it needs a licence ({spec.where}); put it into {cache_folder()}.",
                file=sys.stderr,
            )
        else:
            folders.append((local if local is not None and local.parent == root else download(spec), spec))
    return folders


def conclude(arguments: argparse.Namespace, reports: Sequence[Report]) -> int:
    """Write what is to be written; with --reproduce, 1 where a value moved."""
    import json
    from pathlib import Path

    from eval.reproduction.cells import read_expected
    from eval.reproduction.matrix import Matrix
    from eval.reproduction.page import write_page
    from eval.reproduction.published import read_published
    from eval.reproduction.rerun import accept, verdict
    from index.placing import replace_file

    found = [report.as_json() for report in reports]
    cells = [cell for one in found for cell in one["cells"]]
    if arguments.json is not None:
        whole = {"cells": cells, "comparisons": [comparison for one in found for comparison in one["comparisons"]]}
        replace_file(Path(arguments.json), (json.dumps(whole, indent=2) + "\n").encode())
    expected = read_expected() if arguments.reproduce else []
    if arguments.html is not None:
        write_page(arguments.html, Matrix.of(expected, cells, read_published()))
    if arguments.accept:
        accept(cells)
        return 0
    if not arguments.reproduce:
        return 0
    said, is_as_expected = verdict(expected, cells)
    print(said)
    return 0 if is_as_expected else 1


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
