"""Results as a table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.datasets import Dataset
from eval.systems import Outcome


def as_json(dataset: Dataset, measured: Sequence[tuple[Outcome, Mapping[str, float]]]) -> dict[str, Any]:
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
                    "bytes": outcome.indexed.bytes,
                    "build_seconds": outcome.build_seconds,
                },
            }
            for outcome, measures in measured
        ],
    }


def as_table(dataset: Dataset, measured: Sequence[tuple[Outcome, Mapping[str, float]]]) -> str:
    """One row a system, columns aligned."""
    names = list(measured[0][1])
    header = ["system", *names, "query ms", "p99 ms", "documents", "postings", "index MB", "build s"]
    rows = [
        [
            outcome.system,
            *(f"{measures[name]:.4f}" for name in names),
            f"{outcome.latency.mean:.2f}",
            f"{outcome.latency.p99:.2f}",
            f"{outcome.indexed.documents:,}",
            f"{outcome.indexed.postings:,}",
            f"{outcome.indexed.bytes / 1e6:.1f}",
            f"{outcome.build_seconds:.1f}",
        ]
        for outcome, measures in measured
    ]
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width)
                  for column, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in [header, *rows]
    ]  # fmt: skip
    title = f"{dataset.name}, {dataset.split} split: {len(dataset.qrels)} judged queries"
    return "\n".join([title, "", lines[0], "-" * len(lines[0]), *lines[1:]])
