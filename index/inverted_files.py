"""The arrays of an inverted index as files of a folder, one `.npy` file each (docs/format.md)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from index.building import Parts, count_windows
from index.options import DTYPES, InvertedIndexOptions
from index.storage import open_array, save_array
from kernels.cpu.forward_rows import ForwardRows
from kernels.cpu.impact_tiers import TIERS, ImpactTiers


def write_parts(path: Path, parts: Parts) -> None:
    for part_name, part in parts._asdict().items():
        for name, array in part._asdict().items():
            save_array(path / f"{part_name}.{name}.npy", array)


def describe_parts(parts: Parts, options: InvertedIndexOptions) -> dict[str, Any]:
    """What `read_parts` needs besides the files."""
    return {
        "documents": len(parts.forward.starts) - 1,
        "postings": len(parts.forward.low),
        "low_bits": 8 * parts.forward.low.itemsize,
        "high_words": len(parts.forward.high),
        "options": asdict(options),
    }


def read_parts(path: Path, description: dict[str, Any]) -> tuple[Parts, InvertedIndexOptions]:
    """Map what `write_parts` wrote; IndexFormatError if an array is not of the type and length described."""
    options = InvertedIndexOptions(**description["options"])
    num_docs, num_postings, num_terms = description["documents"], description["postings"], options.num_terms
    num_windows = count_windows(num_docs)

    def array(name: str, dtype: str, length: int) -> np.ndarray:
        return open_array(path / f"{name}.npy", dtype, length)

    tiers = ImpactTiers(
        array("tiers.starts", "int64", num_windows * num_terms * TIERS + 1),
        array("tiers.docs", "uint16", num_postings),
        array("tiers.codes", "uint8", (num_postings + 1) // 2),
        array("tiers.edges", "float32", num_terms * (TIERS + 1)),
        array("tiers.counts", "int64", num_terms * TIERS),
    )
    forward = ForwardRows(
        array("forward.starts", "int64", num_docs + 1),
        array("forward.low", f"uint{description['low_bits']}", num_postings),
        array("forward.high", "uint64", description["high_words"]),
        array("forward.high_starts", "int64", num_windows + 1),
        array("forward.levels", DTYPES[options.impacts], num_postings),
        array("forward.steps", "float32", num_terms),
    )
    return Parts(tiers, forward), options
