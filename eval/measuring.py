"""Measures cells on data sets, one data set after another; what is kept from before is not measured again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from eval.cells import CROSS_VALIDATED, Cell, Result
from eval.comparison import compare_with_parts
from eval.datasets import Dataset, load_dataset
from eval.experiment import Experiment, Models, Settings
from eval.kept import KeptResults
from eval.measures import measure_run
from eval.report import Report
from retrieval.progress import bar
from retrieval.written_system import WrittenSystem


class Work(NamedTuple):
    """What is to be measured on one split of one data set."""

    dataset: Dataset
    cells: Sequence[Cell]


def cells_of(systems: Iterable[WrittenSystem], fusions: Sequence[str], tune: str | None) -> list[Cell]:
    """Each system as it is measured, after the first stage that it reranks: one without a fusion of its own once for each of `fusions`,
    and, of several arms, as `tune` has it."""
    cells: dict[Cell, None] = {}
    for system in systems:
        has_own = system.fusion is not None or len(system.arms) == 1
        fused = [system] if has_own or not fusions else [replace(system, fusion=fusion) for fusion in fusions]
        found = list(map(Cell, fused))
        if tune is not None and len(system.arms) > 1 and system.fusion is None:
            found.append(Cell(system, tune))
        for cell in found:
            cells[cell.first] = None
            cells[cell] = None
    return list(cells)


def measure_all(
    works: Sequence[Work], settings: Settings, measures: Sequence[str], out: Path | None = None
) -> Iterator[Report]:
    """A report of each data set, as soon as it is done.

    out  where results are kept and found again; None: nowhere

    Raises WinnowError, for what models and rerankers cannot do before anything is measured.
    """
    stores = [KeptResults(work.dataset, settings, out) for work in works]
    found = [
        {cell: store.find(cell) for cell in work.cells} for store, work in zip(stores, works, strict=True)
    ]
    models, pending = Models(), [cell for kept in found for cell, result in kept.items() if result is None]
    for cell in pending:
        models.load(cell.system)
    total = sum(len(kept) for kept in found)
    with bar(
        total=total, doing="measuring", unit="systems", first=total - len(pending), shown=settings.progress and total > 1
    ) as shown:
        for work, store, kept in zip(works, stores, found, strict=True):
            experiment = Experiment(work.dataset, settings, models, judged_for(work), store.indexes)
            for cell, result in kept.items():
                if result is None:
                    kept[cell] = result = experiment.measured(cell, kept)
                    store.keep(result, measure_run(work.dataset.qrels, result.run, measures))
                    shown.update()
            store.forget_indexes()
            yield report_of(work.dataset, [result for result in kept.values() if result is not None], measures)


def report_of(dataset: Dataset, results: list[Result], measures: Sequence[str]) -> Report:
    """Systems beside their parts by the first measure."""
    values = [measure_run(dataset.qrels, result.run, measures) for result in results]
    return Report(dataset, results, values, compare_with_parts(dataset.qrels, results, measures[0]))


def judged_for(work: Work) -> Dataset | None:
    """The split whose queries tune, if any does. Raises WinnowError where there is none of that name."""
    splits = {cell.tune for cell in work.cells} - {None, CROSS_VALIDATED}
    return load_dataset(work.dataset.folder, splits.pop()) if splits else None
