"""Compare TREC runs by paired tests: `winnow eval compare --qrels QRELS RUN RUN ...`, the same as `python -m eval.compare`."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.score import QRELS_HELP, ScoredRun, add_measuring_arguments, populations, print_notes, score_run, write_json

if TYPE_CHECKING:
    from eval.comparison import RunComparison

LONGEST_TEXT = 100  # characters of a query
CORRECTION_NAMES = ("holm", "bonferroni", "benjamini-hochberg", "none")  # of eval.significance, which needs NumPy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_files", nargs="+", metavar="RUN", help="TREC runs (also .gz), two or more")
    parser.add_argument("--qrels", required=True, metavar="QRELS", help=QRELS_HELP)
    parser.add_argument("--baseline", metavar="RUN", help="what the others are compared with (default: the first)")
    add_measuring_arguments(parser)
    parser.add_argument(
        "--correction", choices=CORRECTION_NAMES, default="holm",
        help="of p values for the number of runs compared by one measure (default: holm)",
    )  # fmt: skip
    parser.add_argument("--queries", metavar="PATH", help="queries.jsonl or a BEIR folder, to show texts of queries")
    parser.add_argument(
        "--worst", type=int, default=5, metavar="N", help="show the N largest gains and losses (default: 5)"
    )
    parser.add_argument("--plot", metavar="FILE", help="draw the differences of all queries, as .png or .svg")
    parser.add_argument("--json", metavar="FILE", help="write the results as JSON, with the difference of each query")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")


def run(arguments: argparse.Namespace) -> int:
    from eval.comparison import compare_runs
    from eval.difference_plot import check_can_draw, draw
    from eval.measures import DEFAULT_MEASURES, parse_measures
    from index.vectors import checked_count
    from retrieval.beir_folder import read_qrels

    # everything that can be wrong in the request is found before the long work
    measures = tuple(dict.fromkeys(arguments.measures or DEFAULT_MEASURES))
    parse_measures(measures)
    tested = (
        measures if arguments.measures else measures[:1]
    )  # six measures by default would be six chances to be lucky
    worst = arguments.worst and checked_count("worst", arguments.worst)
    if arguments.plot:
        check_can_draw(arguments.plot)
    paths, baseline = named(arguments.run_files, arguments.baseline)
    qrels, texts = read_qrels(Path(arguments.qrels)), texts_of(arguments.queries)
    scored = [score_run(path, name, qrels, measures, arguments.remove_self) for name, path in paths.items()]
    found = compare_runs({one.name: one.values for one in scored}, baseline, tested, arguments.correction)
    print(f"{len(scored)} runs beside {arguments.qrels}: {len(qrels)} judged queries\n")
    print(means_table(scored, measures))
    print_notes(populations(qrels, measures) + [sentence for one in scored for sentence in one.problems])
    print(f"\n{differences_table(found, arguments.correction)}")
    for one in found if worst else ():
        if one.measure == tested[0]:
            print("\n" + "\n".join(extremes(one, scored, texts, worst)))
    if arguments.plot:
        draw([one for one in found if one.measure == tested[0]], arguments.plot)
    if arguments.json:
        write_json(arguments.json, as_json(arguments, len(qrels), baseline, scored, found))
    return 0


def named(written: Sequence[str], baseline: str | None) -> tuple[dict[str, Path], str]:
    """The run files by the shortest names that tell them apart, the baseline first; its name. Raises WinnowError."""
    from index.errors import WinnowError

    paths = [Path(one) for one in written]
    if baseline is not None:
        first = Path(baseline)
        paths = [first, *(path for path in paths if path != first)]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise WinnowError(f"the run {twice} is given twice; give each run once.")
    if len(paths) < 2:
        raise WinnowError(f"{paths[0]} is the only run; give two or more to compare.")
    names = [path.name for path in paths]
    unique = names if len(set(names)) == len(names) else [str(path) for path in paths]
    return dict(zip(unique, paths, strict=True)), unique[0]


def texts_of(path: str | None) -> dict[str, str]:
    """Query id -> text, from a file or a BEIR folder; empty where no path is given."""
    from retrieval.beir_folder import one_of, read_queries

    if path is None:
        return {}
    return read_queries(one_of(Path(path), "queries.jsonl") if Path(path).is_dir() else Path(path))


def means_table(scored: Sequence[ScoredRun], measures: Sequence[str]) -> str:
    """One row a run."""
    from eval.report import aligned

    rows = [[one.name, *(f"{one.measures[name]:.4f}" for name in measures)] for one in scored]
    return "\n".join(aligned([["run", *measures], *rows], 1))


def differences_table(found: Sequence[RunComparison], correction: str) -> str:
    """One row a run and measure."""
    from eval.report import aligned

    corrects = correction != "none"
    after = [correction] if corrects else []
    header = ["run", "measure", "difference", "95 % interval", "t-test p", *after, "randomisation p", *after]
    rows = [
        [
            one.run,
            one.measure,
            f"{one.gain.mean:+.4f}",
            f"{one.gain.low:+.4f} to {one.gain.high:+.4f}",
            f"{one.gain.p_value:.2g}",
            *([f"{one.p_corrected:.2g}"] if corrects else []),
            f"{one.p_randomisation:.2g}",
            *([f"{one.p_randomisation_corrected:.2g}"] if corrects else []),
            *map(str, one.queries),
        ]
        for one in found
    ]
    title = f"beside {found[0].baseline}, paired over {len(found[0].differences)} queries"
    return "\n".join([title, "", *aligned([[*header, "better", "equal", "worse"], *rows], 2)])


def extremes(one: RunComparison, scored: Sequence[ScoredRun], texts: Mapping[str, str], count: int) -> list[str]:
    """The queries that gained and lost most, with their values before and after, and their texts where these are known."""
    values = {own.name: own.values[one.measure] for own in scored}
    by_gain = sorted(
        one.differences, key=lambda query: -one.differences[query]
    )  # equal ones as the judgments have them
    gained = [query for query in by_gain[:count] if one.differences[query] > 0]
    lost = [query for query in reversed(by_gain[-count:]) if one.differences[query] < 0]
    lines = []
    for what, queries in (("largest gains", gained), ("largest losses", lost)):
        lines.append(f"{one.run} beside {one.baseline}, {one.measure}: {what}" + ("" if queries else ": none"))
        for query in queries:
            before, after = values[one.baseline][query], values[one.run][query]
            said = shown(texts.get(query, ""))
            lines.append(
                f"  {one.differences[query]:+.4f}  {before:.4f} to {after:.4f}  {shown(query)}  {said}".rstrip()
            )
    return lines


def shown(text: str) -> str:
    """On one line, cut, and without characters that a terminal would take as commands."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return plain if len(plain) <= LONGEST_TEXT else plain[: LONGEST_TEXT - 4].rstrip() + " ..."


def as_json(
    arguments: argparse.Namespace,
    num_queries: int,
    baseline: str,
    scored: Sequence[ScoredRun],
    found: Sequence[RunComparison],
) -> dict[str, Any]:
    """The report of `--json`; an interval of one query has no ends: null."""
    from eval.comparison import CONFIDENCE

    return {
        "qrels": arguments.qrels,
        "queries": num_queries,
        "baseline": baseline,
        "correction": arguments.correction,
        "confidence": CONFIDENCE,
        "runs": [{"name": one.name, **one.as_json()} for one in scored],
        "comparisons": [
            {
                "measure": one.measure,
                "run": one.run,
                "mean": one.gain.mean,
                "interval": [finite(one.gain.low), finite(one.gain.high)],
                "bootstrap_interval": [finite(end) for end in one.bootstrap],
                "p_t": one.gain.p_value,
                "p_t_corrected": one.p_corrected,
                "p_randomisation": one.p_randomisation,
                "p_randomisation_corrected": one.p_randomisation_corrected,
                "better_equal_worse": list(one.queries),
                "differences": one.differences,
            }
            for one in found
        ],
    }


def finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def main(argv: list[str] | None = None) -> int:
    try:
        from index.errors import run_command
    except ImportError as error:  # our own sentence about another package named `kernels`
        sys.exit(f"eval.compare: {error}")
    parser = argparse.ArgumentParser(prog="python -m eval.compare", description=__doc__)
    add_arguments(parser)
    arguments = parser.parse_args(argv)
    return run_command(lambda: run(arguments), program="eval.compare", debug=arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
