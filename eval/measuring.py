"""Measures cells on data sets, one data set after another; what is kept from before is not measured again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from eval.cells import CROSS_VALIDATED, Cell, Result
from eval.comparison import compare_with_parts
from eval.datasets import Dataset, load_dataset, missing_documents
from eval.experiment import Experiment, Models, Settings
from eval.kept import KeptResults
from eval.measures import measure_run
from eval.report import Report
from index.errors import WinnowError
from retrieval.progress import bar
from retrieval.written_system import WrittenSystem


class Work(NamedTuple):
    """What is to be measured on one split of one data set."""

    dataset: Dataset
    cells: Sequence[Cell]


def cells_of(systems: Iterable[WrittenSystem], tune: str | None) -> list[Cell]:
    """Each system as it is written, after the first stage that it reranks; several arms without a fusion of their own also as `tune` has
    them fused. Raises WinnowError for what cannot be tuned so."""
    cells: dict[Cell, None] = {}
    for system in systems:
        if tune == CROSS_VALIDATED and system.reranks:
            raise WinnowError(  # each fold would have a first stage of its own to rerank
                f"--tune {CROSS_VALIDATED} cannot be had with {system}; tune on another split, or leave one of them out."
            )
        is_tuned = tune is not None and len(system.arms) > 1 and system.fusion is None
        for cell in [Cell(system), *([Cell(system, tune)] if is_tuned else [])]:
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
    found = [{cell: store.find(cell) for cell in work.cells} for store, work in zip(stores, works, strict=True)]
    models, pending = Models(), [cell for kept in found for cell, result in kept.items() if result is None]
    for cell in pending:
        models.load(cell.system)
    total = sum(len(kept) for kept in found)
    with bar(
        total=total,
        doing="measuring",
        unit="systems",
        first=total - len(pending),
        shown=settings.progress and total > 1,
    ) as shown:
        for work, store, kept in zip(works, stores, found, strict=True):
            dataset = work.dataset if all(kept.values()) else with_corpus_checked(work.dataset)
            experiment = Experiment(dataset, settings, models, judged_for(work), store.indexes)
            for cell, result in kept.items():
                if result is None:
                    kept[cell] = result = experiment.measured(cell, kept)
                    store.keep(result, measure_run(dataset.qrels, result.run, measures))
                    shown.update()
            store.forget_indexes()
            yield report_of(dataset, [result for result in kept.values() if result is not None], measures)


def with_corpus_checked(dataset: Dataset) -> Dataset:
    """With what a pass over the corpus says of it. Raises CorpusError for an id that occurs twice and for what is no document."""
    check = missing_documents(dataset)
    counts = {"documents": check.documents or 0, "judged_documents_missing": len(check.missing)}
    return dataset._replace(problems=(*dataset.problems, *check.problems), counts={**dataset.counts, **counts})


def report_of(dataset: Dataset, results: list[Result], measures: Sequence[str]) -> Report:
    """Systems beside their parts by the first measure."""
    values = [measure_run(dataset.qrels, result.run, measures) for result in results]
    return Report(dataset, results, values, compare_with_parts(dataset.qrels, results, measures[0]))


def judged_for(work: Work) -> Dataset | None:
    """The split whose queries tune, if any does. Raises WinnowError where there is none of that name."""
    splits = [cell.tune for cell in work.cells if cell.tune not in (None, CROSS_VALIDATED)]
    return load_dataset(work.dataset.folder, str(splits[0])) if splits else None
