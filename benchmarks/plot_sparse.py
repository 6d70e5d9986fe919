"""Pictures of what sparse_search.py, compare_sparse.py and the peers recorded.

    python benchmarks/plot_sparse.py recall OUT.svg FILE [FILE ...]     latency against recall, of one collection
    python benchmarks/plot_sparse.py growth OUT.svg FILE [FILE ...]     latency against the number of documents

FILEs hold JSON lines; the last line of a setting counts. Needs matplotlib (`pip install 'winnow-ir[eval]'`).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

PANELS = ("splade", "if")
WITHOUT_LOSS = 3e-5  # where the logarithmic axis of lost recall puts a loss of 0; 1,000 queries can show 1e-4
GROWTH_TARGETS = ("exact", "0.99", "0.95")
MARKERS = "ovsD^P"
OURS = "winnow"


def latest(files: list[Path]) -> list[dict[str, Any]]:
    """The last record of each setting."""
    records = {}
    for file in files:
        for line in file.read_text().splitlines():
            r = json.loads(line)
            records[r["contestant"], r["dataset"], r["queries"], r["k"], r["target"], r.get("impacts")] = r
    return list(records.values())


def new_figure():
    """A figure with one pair of axes a kind of queries; drawn to a file, never to a display."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        sys.exit("Plots need the package matplotlib; run `pip install 'winnow-ir[eval]'`.")
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    return figure, dict(zip(PANELS, figure.subplots(1, len(PANELS)), strict=True))


def finish(figure, axes, file: Path) -> None:
    """One legend for all panels, below them."""
    entries = {label: handle for panel in axes.values() for handle, label in zip(*panel.get_legend_handles_labels())}  # noqa: B905
    figure.legend(entries.values(), entries, loc="outside lower center", ncols=6, fontsize=9, frameon=False)
    figure.savefig(file)


def frontier(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points that no other one beats in both time and recall, fastest first."""
    kept: list[dict[str, Any]] = []
    for point in sorted(points, key=lambda r: (r["cpu_us"], -r["recall"])):
        if not kept or point["recall"] > kept[-1]["recall"]:
            kept.append(point)
    return kept


def plot_recall(records: list[dict[str, Any]], file: Path) -> None:
    """CPU microseconds against recall: every setting a point, a line through the best, exact search a star."""
    figure, axes = new_figure()
    records = [r for r in records if "recall" in r]
    series = sorted({name_of(r) for r in records}, key=lambda name: (not name.startswith(OURS), name))
    for number, name in enumerate(series):
        look = {"color": f"C{number}", "marker": MARKERS[number % len(MARKERS)]}
        width = 2.0 if name.startswith(OURS) else 1.0
        for kind, panel in axes.items():
            points = [r for r in records if name_of(r) == name and r["queries"] == kind]
            best = frontier(points)
            panel.plot(*coordinates(points), **look, linestyle="", alpha=0.35, markersize=4)
            panel.plot(*coordinates(best), **look, label=name, linewidth=width, markersize=5)
            exact = [r for r in points if r["target"] == "exact"]
            panel.plot(*coordinates(exact), color=f"C{number}", marker="*", linestyle="", markersize=15)
    for kind, panel in axes.items():
        panel.set(title=f"{kind} queries", xlabel="CPU microseconds a query, one thread", ylabel="recall@10")
        panel.set(xscale="log", yscale="log", ylim=(0.2, WITHOUT_LOSS / 1.5))
        ticks = {0.1: ".9", 0.05: ".95", 0.02: ".98", 0.01: ".99", 0.005: ".995", 0.002: ".998", 0.001: ".999"}
        panel.set_yticks([*ticks, 1e-4, WITHOUT_LOSS], [*ticks.values(), ".9999", "1"])
        panel.set_yticks([], minor=True)
        panel.grid(alpha=0.3)
        label_times(panel.xaxis)
    figure.suptitle(f"{', '.join(sorted({of_size(r) for r in records}))}; stars: exact search")
    finish(figure, axes, file)


def plot_growth(records: list[dict[str, Any]], file: Path, impacts: str) -> None:
    """CPU microseconds against documents: ours (with `impacts`) exact and by recall asked for, peers' exact search."""
    figure, axes = new_figure()
    records = [r for r in records if r["queries"] in PANELS and r.get("impacts", impacts) == impacts]
    drawn = [r for r in records if r["target"] in GROWTH_TARGETS]
    sizes = sorted({r["documents"] for r in drawn})
    series = sorted({(r["contestant"] != OURS, r["contestant"], GROWTH_TARGETS.index(r["target"])) for r in drawn})
    for number, (is_peer, contestant, target) in enumerate(series):
        for kind, panel in axes.items():
            chosen = {"contestant": contestant, "target": GROWTH_TARGETS[target], "queries": kind}
            points = sorted((r["documents"], r["cpu_us"]) for r in drawn if chosen.items() <= r.items())
            panel.plot(
                [documents for documents, _ in points], [us for _, us in points], color=f"C{number}",
                marker=MARKERS[number % len(MARKERS)], linestyle="--" if is_peer else "-",
                label=f"{contestant} {GROWTH_TARGETS[target]}",
            )  # fmt: skip
    for kind, panel in axes.items():
        panel.set(title=f"{kind} queries", xlabel="documents", ylabel="CPU microseconds a query, one thread")
        panel.set(xscale="log", yscale="log")
        panel.set_xticks(sizes, [f"{size:,}" for size in sizes])
        panel.set_xticks([], minor=True)
        panel.grid(alpha=0.3, which="both")
        label_times(panel.yaxis)
    figure.suptitle(f"Growth with the collection ({impacts} impacts; exact, or the recall@10 asked for)")
    finish(figure, axes, file)


def label_times(axis) -> None:
    """Plain numbers at 1, 2 and 5 of each power of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda us, _: f"{us:,.0f}"))
    axis.set_minor_formatter(NullFormatter())


def coordinates(points: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    return [r["cpu_us"] for r in points], [max(1 - r["recall"], WITHOUT_LOSS) for r in points]


def name_of(r: dict[str, Any]) -> str:
    return f"{r['contestant']} {r.get('impacts', '')}".strip()


def of_size(r: dict[str, Any]) -> str:
    return f"{r['dataset']}: {r['documents']:,} documents"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", choices=("recall", "growth"))
    parser.add_argument("out", type=Path, metavar="OUT", help=".svg or .png")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--impacts", default="u16", help="ours in the picture of growth (default: u16)")
    arguments = parser.parse_args()
    records = latest(arguments.files)
    if arguments.picture == "recall":
        plot_recall(records, arguments.out)
    else:
        plot_growth(records, arguments.out, arguments.impacts)


if __name__ == "__main__":
    main()
