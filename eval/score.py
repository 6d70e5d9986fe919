"""Measure a TREC run: `winnow eval score RUN QRELS`, the same as `python -m eval.score RUN QRELS`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

QRELS_HELP = "judgments: BEIR's tsv, or TREC's four columns"


class ScoredRun(NamedTuple):
    """What came of one run file; its documents are not kept."""

    name: str
    path: Path
    values: dict[str, dict[str, float]]  # measure -> query -> value
    measures: dict[str, float]  # the means
    counts: dict[str, int]
    problems: list[str]  # a sentence each

    def as_json(self) -> dict[str, Any]:
        return {
            "run": str(self.path),
            "measures": self.measures,
            "counts": self.counts,
            "problems": self.problems,
        }


def score_run(
    path: Path, name: str, qrels: Mapping[str, Mapping[str, int]], measures: Sequence[str], remove_self: bool
) -> ScoredRun:
    """Raises CorpusError for a file that is no run, WinnowError for an unknown measure.

    remove_self  leave out documents that have the id of their query
    """
    from eval.measures import Coverage, means, measure_queries, without_self
    from eval.runs import read_run

    read = read_run(path)
    run, removed = without_self(read.run) if remove_self else (read.run, 0)
    coverage = Coverage.of(qrels, run)
    problems = read.problems(name) + coverage.problems(name)
    if remove_self:
        problems.append(f"documents of {name} that have the id of their query and were removed: {removed}.")
    counts = {
        "queries_without_results": len(coverage.without_results),
        "queries_without_judgments": len(coverage.without_judgments),
        "self_retrieved_removed": removed,
    }
    values = measure_queries(qrels, run, measures)
    return ScoredRun(name, path, values, means(values), counts, problems)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_file", metavar="RUN", help="a TREC run (also .gz)")
    parser.add_argument("qrels", metavar="QRELS", help=QRELS_HELP)
    add_measuring_arguments(parser)
    parser.add_argument("--per-query", metavar="FILE", help="write a tab-separated table, a row a query")
    parser.add_argument("--json", metavar="FILE", help="write the results as JSON")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")


def add_measuring_arguments(parser: argparse.ArgumentParser) -> None:
    """Which runs measured alone and runs compared have in common."""
    parser.add_argument(
        "--measure", action="append", dest="measures", metavar="NAME",
        help="any ir_measures name, or AllGold@K; may be repeated (default: nDCG@10, R@100, R@1000, MRR@10, MAP, P@10)",
    )  # fmt: skip
    parser.add_argument(
        "--remove-self", action="store_true",
        help="leave out documents that have the id of their query, as BEIR does for ArguAna and Quora",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    from eval.measures import DEFAULT_MEASURES, parse_measures
    from eval.report import aligned
    from retrieval.beir_folder import read_qrels

    measures = tuple(dict.fromkeys(arguments.measures or DEFAULT_MEASURES))
    parse_measures(measures)
    path, qrels = Path(arguments.run_file), read_qrels(Path(arguments.qrels))
    scored = score_run(path, path.name, qrels, measures, arguments.remove_self)
    print(f"{scored.name} beside {arguments.qrels}: {len(qrels)} judged queries\n")
    row = [scored.name, *(f"{value:.4f}" for value in scored.measures.values())]
    print("\n".join(aligned([["run", *measures], row], 1)))
    print_notes(populations(qrels, measures) + scored.problems)
    if arguments.per_query:
        write(arguments.per_query, per_query_table(qrels, scored.values))
    if arguments.json:
        write_json(arguments.json, {"qrels": arguments.qrels, "queries": len(qrels), **scored.as_json()})
    return 0


def populations(qrels: Mapping[str, Mapping[str, int]], measures: Sequence[str]) -> list[str]:
    """A sentence on each measure that is not over all queries."""
    from eval.measures import population

    return [sentence for name in measures if (sentence := population(qrels, name))]


def print_notes(sentences: Sequence[str]) -> None:
    """Below what was printed before, if there are any."""
    if sentences:
        print("\n" + "\n".join(sentences))


def per_query_table(queries: Sequence[str] | Mapping[str, Any], values: Mapping[str, Mapping[str, float]]) -> str:
    """Tab-separated, a row a query in their order; empty where a measure is not defined for a query."""
    lines = ["\t".join(["query", *values])]
    for query in queries:
        lines.append("\t".join([query, *(str(own.get(query, "")) for own in values.values())]))
    return "".join(f"{line}\n" for line in lines)


def write_json(path: str, content: Mapping[str, Any]) -> None:
    """Numbers at full precision. Raises StorageError."""
    import json

    write(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write(path: str, content: str | bytes) -> None:
    """A file that is whole or not there. Raises StorageError."""
    from index.files import make_folders
    from index.placing import replace_file

    make_folders(Path(path).parent)
    replace_file(Path(path), content if isinstance(content, bytes) else content.encode())


def main(argv: list[str] | None = None) -> int:
    try:
        from index.errors import run_command
    except ImportError as error:  # our own sentence about another package named `kernels`
        sys.exit(f"eval.score: {error}")
    parser = argparse.ArgumentParser(prog="python -m eval.score", description=__doc__)
    add_arguments(parser)
    arguments = parser.parse_args(argv)
    return run_command(lambda: run(arguments), program="eval.score", debug=arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
