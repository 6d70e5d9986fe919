"""Results as a table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.comparison import Comparison
from eval.datasets import Dataset
from eval.systems import Outcome
from retrieval.tuning import Tuning


def as_json(
    dataset: Dataset, measured: Sequence[tuple[Outcome, Mapping[str, float]]], comparisons: Sequence[Comparison] = ()
) -> dict[str, Any]:
    """The report that `--json` writes; its keys are described in docs/results.md."""
    return {
        "dataset": dataset.name,
        "split": dataset.split,
        "systems": [
            {
                "system": outcome.system,
                "measures": dict(measures),
                "query_latency_ms": outcome.latency._asdict(),
                "index": {
                    "documents": outcome.indexed.documents,
                    "postings": outcome.indexed.postings,
                    "vectors": outcome.indexed.vectors,
                    "bytes": outcome.indexed.bytes,
                    "build_seconds": outcome.build_seconds,
                },
                **({"tuning": tuning_as_json(outcome.tuning)} if outcome.tuning is not None else {}),
            }
            for outcome, measures in measured
        ],
        "comparisons": [
            {
                "system": one.system,
                "with": one.other,
                **one.gain._asdict(),
                "p_holm": one.p_holm,
                "better_equal_worse": list(one.queries),
            }
            for one in comparisons
        ],
    }


def tuning_as_json(tuning: Tuning) -> dict[str, Any]:
    """What was found, and how the arms are fused from then on."""
    return {
        "is_adopted": tuning.is_adopted,
        "fusion": tuning.fusion.as_json(),
        "measure": tuning.measure,
        "queries": tuning.num_queries,
        "held_out": tuning.fused,
        "best_arm": tuning.best_arm,
        "gain": tuning.gain,
        "interval": list(tuning.interval),
        "p_value": tuning.p_value,
    }


def as_table(dataset: Dataset, measured: Sequence[tuple[Outcome, Mapping[str, float]]]) -> str:
    """One row a system, columns aligned."""
    names = list(measured[0][1])
    header = ["system", *names, "query ms", "p99 ms", "documents", "postings", "vectors", "index MB", "build s"]
    rows = [
        [
            outcome.system,
            *(f"{measures[name]:.4f}" for name in names),
            f"{outcome.latency.mean:.2f}",
            f"{outcome.latency.p99:.2f}",
            f"{outcome.indexed.documents:,}",
            f"{outcome.indexed.postings:,}",
            f"{outcome.indexed.vectors:,}",
            f"{outcome.indexed.bytes / 1e6:.1f}",
            f"{outcome.build_seconds:.1f}",
        ]
        for outcome, measures in measured
    ]
    title = f"{dataset.name}, {dataset.split} split: {len(dataset.qrels)} judged queries"
    return "\n".join([title, "", *aligned([header, *rows], 1)])


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


def aligned(rows: Sequence[Sequence[str]], num_left: int) -> list[str]:
    """The rows as lines with a rule below the first one; the first `num_left` columns to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) if column < num_left else cell.rjust(width)
                  for column, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]  # fmt: skip
    return [lines[0], "-" * len(lines[0]), *lines[1:]]
