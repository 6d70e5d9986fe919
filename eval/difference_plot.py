"""The picture of runs beside a baseline: the difference of every query, sorted, with the mean and its interval."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eval.score import write
from index.errors import WinnowError

if TYPE_CHECKING:
    from eval.comparison import RunComparison

KINDS = (".png", ".svg")
GAINED, LOST, MEAN = (
    "#0072B2",
    "#E69F00",
    "#000000",
)  # of Okabe and Ito's palette, which colour-blind readers tell apart


def check_can_draw(path: str) -> None:
    """Raise WinnowError for a file of another kind, and where matplotlib is missing."""
    if Path(path).suffix.lower() not in KINDS:
        raise WinnowError(f"--plot is {path!r:.100}; name a file that ends in {' or '.join(KINDS)}.")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise WinnowError("--plot needs the package matplotlib; run `pip install 'winnow-ir[eval]'`.") from error


def draw(found: Sequence[RunComparison], path: str) -> None:
    """A panel for each run, on one scale. Raises StorageError."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 0.5 + 2.7 * len(found)), layout="constrained")
    panels = figure.subplots(len(found), squeeze=False, sharex=True, sharey=True)[:, 0]
    for axes, one in zip(panels, found, strict=True):
        values = np.sort(np.array(list(one.differences.values())))[::-1]
        edges = np.arange(len(values) + 1)
        axes.stairs(np.maximum(values, 0), edges, fill=True, color=GAINED)
        axes.stairs(np.minimum(values, 0), edges, fill=True, color=LOST)
        axes.axhline(0, color=MEAN, linewidth=0.6)
        axes.axhline(one.gain.mean, color=MEAN, linewidth=1.2, linestyle="--", label="mean")
        if np.isfinite([one.gain.low, one.gain.high]).all():
            axes.axhspan(one.gain.low, one.gain.high, color="grey", alpha=0.35, linewidth=0, label="95 % interval")
        better, equal, worse = one.queries
        axes.set_title(
            f"{one.run} beside {one.baseline}: {one.gain.mean:+.4f}, p {one.gain.p_value:.2g} (corrected {one.p_corrected:.2g})\n"
            f"{better} better, {equal} equal, {worse} worse",
            fontsize="medium",
        )
        axes.set(ylabel=f"difference in {one.measure}", xlim=(0, len(values)))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="upper right")
    panels[-1].set_xlabel("queries, from the largest gain to the largest loss")
    picture, kind = io.BytesIO(), Path(path).suffix.lower().removeprefix(".")
    figure.savefig(picture, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    write(path, picture.getvalue())
