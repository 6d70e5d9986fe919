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
    options = InvertedIndexOptions(**description["options"])
    num_docs, num_postings, num_terms = description["documents"], description["postings"], options.num_terms
    num_windows = count_windows(num_docs)
    mean_length = description["mean_length"] or 0.0
    if description["levels"] not in DTYPES[options.impacts]:
        raise IndexFormatError(
            f"the levels of {path} are {description['levels']!r}; {options.impacts} impacts need "
            f"{' or '.join(DTYPES[options.impacts])}, so build the index again."
        )

    def array(name: str, dtype: str, length: int) -> np.ndarray:
        return open_array(path / f"{name}.npy", dtype, length)

    tiers = ImpactTiers(
        array("tiers.starts", "int64", num_windows * num_terms * TIERS + 1),
        array("tiers.docs", "uint16", num_postings),
        array("tiers.codes", "uint8", (num_postings + 1) // 2),
        array("tiers.edges", "float32", num_terms * (TIERS + 1)),
        array("tiers.counts", "int64", num_terms * TIERS),
        NO_GROWTH,
    )
    forward = ForwardRows(
        array("forward.starts", "int64", num_docs + 1),
        array("forward.low", f"uint{description['low_bits']}", num_postings),
        array("forward.high", "uint64", description["high_words"]),
        array("forward.high_starts", "int64", num_windows + 1),
        array("forward.levels", description["levels"], num_postings),
        array("forward.scales", "float32", num_docs),
        options.saturation(mean_length),
    )
    return Parts(tiers, forward, mean_length), options
