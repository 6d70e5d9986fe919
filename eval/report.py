"""Results as tables for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from eval.cells import Result
from eval.comparison import Comparison
from eval.datasets import Dataset
from eval.latency import Latency
from eval.measures import population

NOTHING = "-"  # in a table, where there is no number


class Report(NamedTuple):
    """What came of it on one split of one data set."""

    dataset: Dataset
    results: list[Result]
    measures: list[dict[str, float]]  # of each result
    comparisons: list[Comparison]

    def as_text(self) -> str:
        """What each system found and what it cost, what tuning found, the comparison of fusions with their arms and of rerankers with
        their first stages, and what a reader of the numbers should know."""
        dataset, names = self.dataset, list(self.measures[0])
        title = f"{dataset.name}, {dataset.split} split: {len(dataset.qrels)} judged queries"
        if unjudged := dataset.counts["queries_without_judgments"]:
            title += f" of {len(dataset.queries) + unjudged:,}"
        if dataset.version:
            title += f", {dataset.version}"
        blocks = [
            f"{title}\n\n{effectiveness_table(self.results, self.measures, names)}",
            efficiency_table(self.results),
        ]
        blocks += [f"{result.name}\n{result.tuning['text']}" for result in self.results if result.tuning is not None]
        if self.comparisons:
            blocks.append(comparison_table(self.comparisons, names[0]))
        if notes := self.notes():
            blocks.append("\n".join(["to know", "", *notes]))
        return "\n\n".join(blocks)

    def notes(self) -> list[str]:
        """Each once, with the systems that it is of unless it is of all."""
        said: dict[str, list[str]] = {}
        everywhere = [result.name for result in self.results]
        for name in self.measures[0]:
            if (averaged_over := population(self.dataset.qrels, name)) is not None:
                said[averaged_over] = everywhere
        for result in self.results:
            for note in (*result.problems, *counted_notes(result.counts)):
                said.setdefault(note, []).append(result.name)
        return [
            note if len(names) == len(self.results) else f"{', '.join(names)}: {note}" for note, names in said.items()
        ]

    def as_json(self) -> dict[str, Any]:
        """As `--json` has it (docs/evaluation.md)."""
        return {
            "cells": [
                result.as_json(self.dataset, measures)
                for result, measures in zip(self.results, self.measures, strict=True)
            ],
            "comparisons": [
                {
                    "dataset": self.dataset.name,
                    "split": self.dataset.split,
                    "system": one.system,
                    "with": one.other,
                    **one.gain._asdict(),
                    "p_holm": one.p_holm,
                    "better_equal_worse": list(one.queries),
                }
                for one in self.comparisons
            ],
        }


def counted_notes(counts: Mapping[str, int]) -> list[str]:
    """What counts that are not 0 say of the numbers beside them."""
    found, removed = counts["queries_without_results"], counts["self_retrieved_removed"]
    notes = []
    if found:
        notes.append(f"{found} judged queries without results count 0")
    if removed:
        notes.append(f"{removed} documents that are the query itself were taken out of the rankings")
    return notes


def effectiveness_table(results: Sequence[Result], measures: Sequence[Mapping[str, float]], names: list[str]) -> str:
    """One row a system, one column a measure."""
    rows = [
        [result.name, *(f"{values[name]:.4f}" for name in names)]
        for result, values in zip(results, measures, strict=True)
    ]
    return "\n".join(aligned([["system", *names], *rows], 1))


def efficiency_table(results: Sequence[Result]) -> str:
    """One row a system: times of a query, of its encoding and of the search for it (median, 99th percentile), building, sizes."""
    header = [
        "system", "query ms", "p99", "encode", "p99", "search", "p99",
        "documents/s", "build s", "index MB", "peak MB", "documents", "postings", "vectors",
    ]  # fmt: skip
    rows = []
    for result in results:
        costs = result.efficiency
        rows.append([
            result.name, *times(costs.query_ms), *times(costs.encode_ms), *times(costs.search_ms),
            number(costs.encode_documents_per_second, ",.0f"), number(costs.build_seconds, ".1f"),
            megabytes(costs.index_bytes, ".1f"), megabytes(costs.peak_bytes, ",.0f"),
            number(costs.documents, ",d"), number(costs.postings, ",d"), number(costs.vectors, ",d"),
        ])  # fmt: skip
    return "\n".join(aligned([header, *rows], 1))


def times(latency: Latency | None) -> tuple[str, str]:
    return (NOTHING, NOTHING) if latency is None else (f"{latency.p50:.2f}", f"{latency.p99:.2f}")


def number(value: float | None, how: str) -> str:
    return NOTHING if value is None else format(value, how)


def megabytes(value: int | None, how: str) -> str:
    return NOTHING if value is None else format(value / 1e6, how)


def comparison_table(comparisons: Sequence[Comparison], measure: str) -> str:
    """One row a comparison of a system with one of its parts."""
    header = ["system", "beside", "gain", "95 % interval", "p", "p (Holm)", "better", "equal", "worse"]
    rows = [
        [
            one.system,
            one.other,
            f"{one.gain.mean:+.4f}",
            f"{one.gain.low:+.4f} to {one.gain.high:+.4f}",
            f"{one.gain.p_value:.2g}",
            f"{one.p_holm:.2g}",
            *map(str, one.queries),
        ]
        for one in comparisons
    ]
    return "\n".join(
        [f"{measure} beside arms and first stages, paired t-test over queries", "", *aligned([header, *rows], 2)]
    )


def summary_table(reports: Sequence[Report], measure: str) -> str:
    """Of several data sets: one row a system, one column a data set, and the mean of those on which all systems were measured.

    The parts of a data set (CQADupStack) enter as one: the mean of its parts.
    """
    columns: dict[str, dict[str, list[float]]] = {}  # column -> system -> values of its parts
    for report in reports:
        column = columns.setdefault(column_of(report.dataset), {})
        for result, values in zip(report.results, report.measures, strict=True):
            column.setdefault(result.name, []).append(values[measure])
    systems = list(dict.fromkeys(result.name for report in reports for result in report.results))
    means = {name: {system: sum(of) / len(of) for system, of in column.items()} for name, column in columns.items()}
    rows = []
    for system in systems:
        own = [mean.get(system) for mean in means.values()]
        known = [value for value in own if value is not None]
        mean = sum(known) / len(known) if len(known) == len(own) else None
        rows.append([system, *(number(value, ".4f") for value in own), number(mean, ".4f")])
    return "\n".join([measure, "", *aligned([["system", *columns, "mean"], *rows], 1)])


def column_of(dataset: Dataset) -> str:
    name = dataset.part_of or dataset.name
    return name if dataset.split == "test" else f"{name} {dataset.split}"


def aligned(rows: Sequence[Sequence[str]], num_left: int) -> list[str]:
    """The rows as lines with a rule below the first one; the first `num_left` columns to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) if column < num_left else cell.rjust(width)
                  for column, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]  # fmt: skip
    return [lines[0], "-" * len(lines[0]), *lines[1:]]
