"""The arrays of an inverted index as files of a folder, one `.npy` file each (docs/format.md)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from index.building import NO_GROWTH, Parts, count_windows
from index.errors import IndexFormatError
from index.files import save_array
from index.options import DTYPES, InvertedIndexOptions
from index.storage import open_array
from kernels.cpu.forward_rows import ForwardRows
from kernels.cpu.impact_tiers import TIERS, ImpactTiers

NO_LISTS = ImpactTiers(
    np.empty(0, np.int64), np.empty(0, np.uint16), np.empty(0, np.uint8), np.empty(0, np.float32), np.empty(0, np.int64),
    NO_GROWTH,
)  # fmt: skip
FOLLOWS = ("growth", "saturation")  # from the options and the mean length: no files


def named_arrays(parts: Parts) -> Iterator[tuple[str, np.ndarray]]:
    """Those that have a file, and its name."""
    for part_name, part in (("tiers", parts.tiers), ("forward", parts.forward)):
        for name, array in part._asdict().items():
            if name not in FOLLOWS:
                yield f"{part_name}.{name}", array


def write_parts(path: Path, parts: Parts) -> None:
    for name, array in named_arrays(parts):
        save_array(path / f"{name}.npy", array)


def describe_parts(parts: Parts, options: InvertedIndexOptions) -> dict[str, Any]:
    """What `read_parts` needs besides the files."""
    return {
        "documents": len(parts.forward.starts) - 1,
        "postings": len(parts.forward.low),
        "low_bits": 8 * parts.forward.low.itemsize,
        "high_words": len(parts.forward.high),
        "levels": parts.forward.levels.dtype.name,
        "mean_length": parts.mean_length if options.impacts == "counts" else None,
        "options": asdict(options),
    }


def read_parts(path: Path, description: dict[str, Any]) -> tuple[Parts, InvertedIndexOptions]:
    """Map what `write_parts` wrote; IndexFormatError if an array is not of the type and length described."""
    parts, options = read_rows(path, description)
    num_postings, num_terms = description["postings"], options.num_terms
    num_windows = count_windows(description["documents"])
    tiers = ImpactTiers(
        open_array(path / "tiers.starts.npy", "int64", num_windows * num_terms * TIERS + 1),
        open_array(path / "tiers.docs.npy", "uint16", num_postings),
        open_array(path / "tiers.codes.npy", "uint8", (num_postings + 1) // 2),
        open_array(path / "tiers.edges.npy", "float32", num_terms * (TIERS + 1)),
        open_array(path / "tiers.counts.npy", "int64", num_terms * TIERS),
        NO_GROWTH,
    )
    return parts._replace(tiers=tiers), options


def read_rows(path: Path, description: dict[str, Any]) -> tuple[Parts, InvertedIndexOptions]:
    """The same with the forward index alone, and no inverted lists."""
    options = InvertedIndexOptions(**description["options"])
    num_docs, num_postings = description["documents"], description["postings"]
    mean_length = description["mean_length"] or 0.0
    if description["levels"] not in DTYPES[options.impacts]:
        raise IndexFormatError(
            f"the levels of {path} are {description['levels']!r}; {options.impacts} impacts need "
            f"{' or '.join(DTYPES[options.impacts])}, so build the index again."
        )
    forward = ForwardRows(
        open_array(path / "forward.starts.npy", "int64", num_docs + 1),
        open_array(path / "forward.low.npy", f"uint{description['low_bits']}", num_postings),
        open_array(path / "forward.high.npy", "uint64", description["high_words"]),
        open_array(path / "forward.high_starts.npy", "int64", count_windows(num_docs) + 1),
        open_array(path / "forward.levels.npy", description["levels"], num_postings),
        open_array(path / "forward.scales.npy", "float32", num_docs),
        options.saturation(mean_length),
    )
    return Parts(NO_LISTS, forward, mean_length), options
