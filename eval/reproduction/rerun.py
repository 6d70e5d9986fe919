"""What is expected, measured again: which cells of the data sets at hand, what moved, and what nobody ran."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from eval.cells import Cell
from eval.datasets import Dataset, parts_of
from eval.datasets.specs import catalogue
from eval.measuring import Work
from eval.reproduction.cells import EXPECTED, Place, Result, place_of, read_expected
from eval.reproduction.matrix import moved
from index.errors import WinnowError
from index.placing import replace_file


def expected_works(folders: Iterable[Path], expected: Sequence[Result]) -> list[Work]:
    """The cells that are expected of the data sets in these folders. Raises WinnowError where none is."""
    works = []
    for folder in folders:
        name = folder.resolve().name
        splits = dict.fromkeys(one["split"] for one in expected if name in (one["dataset"], one.get("part_of")))
        for split in splits:
            works += [Work(dataset, cells_at(dataset, expected)) for dataset in parts_of(folder, split)]
    works = [work for work in works if work.cells]
    if not works:
        places = ", ".join(dict.fromkeys(place_of(one).label for one in expected)) or "none"
        raise WinnowError(f"nothing is expected of the data sets that were given; there are figures of: {places}.")
    return works


def cells_at(dataset: Dataset, expected: Sequence[Result]) -> list[Cell]:
    """Each after its first stage, which a tuned system is reranked after."""
    cells: dict[Cell, None] = {}
    for one in expected:
        if place_of(one) == Place(dataset.name, dataset.split):
            cell = Cell.of_name(one["system"])
            cells[cell.first] = None
            cells[cell] = None
    return list(cells)


def folders_at_hand(root: Path | None, expected: Sequence[Result]) -> list[Path]:
    """Of the data sets that something is expected of: below `root`, or public ones that were downloaded before."""
    from eval.datasets import cache_folder

    names = dict.fromkeys(one.get("part_of") or one["dataset"] for one in expected)
    places = [place for place in (root, cache_folder()) if place is not None]
    found = [next((place / name for place in places if (place / name).is_dir()), None) for name in names]
    return [folder for folder in found if folder is not None]


def verdict(expected: Sequence[Result], measured: Sequence[Result]) -> tuple[str, bool]:
    """What came of it, for a person; and whether every value that was measured is as expected."""
    shifts = moved(expected, measured)
    ran = {(place_of(one), one["system"]) for one in measured}
    checked = [one for one in expected if (place_of(one), one["system"]) in ran]
    not_run = dict.fromkeys(place_of(one).label for one in expected if (place_of(one), one["system"]) not in ran)
    lines = [f"{len(checked)} of {len(expected)} expected cells were measured again; values that moved: {len(shifts)}"]
    lines += [f"  {shift}" for shift in shifts]
    if not_run:
        lines.append(f"not run, as it is not at hand or was not asked for: {', '.join(not_run)}")
    return "\n".join(lines), not shifts


def accept(measured: Sequence[Result], path: Path = EXPECTED) -> None:
    """From now on these are the expected results of their cells."""
    cells = {(place_of(one), one["system"]): one for one in (*read_expected(path), *measured)}
    order = list(catalogue())
    in_order = sorted(
        cells.values(), key=lambda one: order.index(one["dataset"]) if one["dataset"] in order else len(order)
    )
    replace_file(path, (json.dumps(in_order, indent=1, ensure_ascii=False) + "\n").encode())
