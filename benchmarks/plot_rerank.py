"""The picture of what rerank.py recorded: latency over documents, both axes logarithmic.

    python benchmarks/plot_rerank.py OUT.svg FILE [FILE ...]

FILEs hold JSON lines; the last line of a setting counts. Needs matplotlib (`pip install 'winnow-ir[eval]'`).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

MARKERS = "os^D"


def plot(records: list[dict[str, Any]], file: Path) -> None:
    """A line for each contestant, the best call of each number of documents; dashed, linear growth to the last time of blocks."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        sys.exit("Plots need the package matplotlib; run `pip install 'winnow-ir[eval]'`.")
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(r["contestant"] for r in records))
    for number, name in enumerate(names):
        points = sorted((r["documents"], r["best_ms"]) for r in records if r["contestant"] == name)
        counts, times = zip(*points, strict=True)
        axes.plot(counts, times, color=f"C{number}", marker=MARKERS[number % len(MARKERS)], label=name)
        if name == "blocks":
            ends = [counts[0], counts[-1]]
            axes.plot(ends, [times[-1] * end / counts[-1] for end in ends], "--", color="grey", label="linear", lw=1)
    counts = sorted({r["documents"] for r in records})
    axes.set(xscale="log", yscale="log", xlabel="documents", ylabel="milliseconds a list")
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    some = records[0]
    axes.set_title(
        f"{some['model']}\nabout {some['document_tokens']} tokens a document, {some['dtype']}, {some['device']}",
        fontsize="medium",
    )
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help=".svg or .png")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    arguments = parser.parse_args()
    records = {}
    for file in arguments.files:
        for line in file.read_text().splitlines():
            r = json.loads(line)
            if r["kind"] == "latency":
                records[r["contestant"], r["documents"]] = r
    plot(list(records.values()), arguments.out)


if __name__ == "__main__":
    main()
