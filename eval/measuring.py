"""Measures cells on data sets, one data set after another; what is kept from before is not measured again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from eval.cells import CROSS_VALIDATED, Cell, Result
from eval.comparison import compare_with_parts
from eval.datasets import Dataset, load_dataset, missing_documents
from eval.experiment import Arms, Experiment, Models, Settings
from eval.kept import KeptResults, forget, indexes_of
from eval.measures import means, measure_queries
from eval.report import Report
from eval.runs import check_column
from index.errors import CorpusError, WinnowError
from index.locks import WriterLock
from retrieval.beir_folder import qrels_of
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
    """A report of each data set, as soon as it is done. Splits of one corpus that follow each other share its arms.

    out  where results are kept and found again; None: nowhere

    Raises WinnowError, for what models and rerankers cannot do before anything is measured, and LockedError while another process
    writes to `out`.
    """
    check_names(works)
    stores, models = [KeptResults(work.dataset, settings, out) for work in works], Models()
    each = list(zip(works, stores, strict=True))
    for query in (query for work, store in each if store.folder is not None for query in work.dataset.qrels):
        check_column("the query id", query)
    pending = [cell for work, store in each for cell in work.cells if not store.has(cell)]
    for cell in pending:
        models.load(cell.system)
    for work in works:
        if (split := tuning_split(work)) is not None:
            qrels_of(work.dataset.folder, split)  # which raises where there is none
    total = sum(len(work.cells) for work in works)
    first, is_shown = total - len(pending), settings.progress and total > 1
    with alone(out), bar(total=total, doing="measuring", unit="systems", first=first, shown=is_shown) as shown:
        for corpus, same in groupby(each, key=lambda one: one[0].dataset.folder):
            arms = Arms(corpus, models, indexes_of(corpus, out), settings.progress)
            for work, store in same:
                yield measure_split(work, store, arms, measures, shown.update)
            forget(arms.folder)


def check_names(works: Sequence[Work]) -> None:
    """Raise WinnowError for two data sets that reports could not tell apart."""
    folders: dict[tuple[str, str], Path] = {}
    for work in works:
        name, split = work.dataset.name, work.dataset.split
        other = folders.setdefault((name, split), work.dataset.folder)
        if other.resolve() != work.dataset.folder.resolve():
            raise WinnowError(
                f"{other} and {work.dataset.folder} are both called {name}; rename one of the folders, so that results can be told apart."
            )


@contextmanager
def alone(out: Path | None) -> Iterator[None]:
    """While no other process writes results to the same folder. Raises LockedError."""
    lock = None if out is None else WriterLock(out)
    try:
        yield
    finally:
        if lock is not None:
            lock.release(remove=True)


def measure_split(
    work: Work, store: KeptResults, arms: Arms, measures: Sequence[str], measured: Callable[[], object]
) -> Report:
    """What is kept of it, and what is measured now.

    measured  is called after each cell that is
    """
    dataset, experiment = work.dataset, None
    results: dict[Cell, Result] = {}
    values: list[dict[str, dict[str, float]]] = []  # a run is let go as soon as it is measured: it may be large
    for cell in work.cells:
        found = kept = store.find(cell)
        if found is None:
            experiment = experiment or Experiment(checked(work, store), store.settings, arms, judged_for(work))
            found = experiment.measured(cell, results)
        values.append(measure_queries(dataset.qrels, found.run, measures))
        if kept is None:
            store.keep(found, means(values[-1]))
            measured()
        results[cell] = found.result
    first = {cell.name: own[measures[0]] for cell, own in zip(work.cells, values, strict=True)}
    compared = compare_with_parts(first, {cell.name: cell.parts for cell in work.cells})
    return Report(dataset, list(results.values()), list(map(means, values)), compared)


def checked(work: Work, store: KeptResults) -> Dataset:
    """The data set with what a pass over the corpus says of it. Raises CorpusError for an id that occurs twice, for what is no document,
    and for an id that no run can be kept with."""
    dataset, check = work.dataset, missing_documents(work.dataset)
    if store.folder is not None and check.unwritable is not None:
        raise CorpusError(
            f"{check.unwritable} has an id with white space or invalid Unicode, which a run file cannot hold; rename it, or leave --out out."
        )
    counts = {"documents": check.documents or 0, "judged_documents_missing": len(check.missing)}
    return dataset._replace(problems=(*dataset.problems, *check.problems), counts={**dataset.counts, **counts})


def judged_for(work: Work) -> Dataset | None:
    """The split whose queries tune, if another does."""
    split = tuning_split(work)
    return None if split is None else load_dataset(work.dataset.folder, split)


def tuning_split(work: Work) -> str | None:
    """Its name."""
    return next((cell.tune for cell in work.cells if cell.tune not in (None, CROSS_VALIDATED)), None)
