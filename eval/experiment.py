"""Systems over one corpus, measured on a split of its queries, and compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from eval.comparison import Comparison, compare_with_arms
from eval.datasets import Dataset
from eval.measures import measure_run
from eval.report import as_json, as_table, comparison_table
from eval.systems import Built, Outcome, built_together, cross_validated, measured, tuned_on
from retrieval.encoders.loading import split_names
from retrieval.fusion import Fusion


class Report(NamedTuple):
    """What came of it on one split."""

    dataset: Dataset
    outcomes: list[Outcome]
    measures: list[dict[str, float]]  # of each outcome
    comparisons: list[Comparison]

    def as_text(self) -> str:
        """A table, what tuning found, and the comparison of fusions with their arms."""
        blocks = [as_table(self.dataset, list(zip(self.outcomes, self.measures, strict=True)))]
        blocks += [f"{outcome.system}\n{outcome.tuning}" for outcome in self.outcomes if outcome.tuning is not None]
        if self.comparisons:
            blocks.append(comparison_table(self.comparisons, next(iter(self.measures[0]))))
        return "\n\n".join(blocks)

    def as_json(self) -> dict[str, Any]:
        return as_json(self.dataset, list(zip(self.outcomes, self.measures, strict=True)), self.comparisons)


class Experiment(NamedTuple):
    """What is asked for; the first measure is the one that is tuned and compared by."""

    systems: tuple[str, ...]
    built: Mapping[str, Built]  # every arm of the systems
    depth: int
    fusions: Mapping[str, Fusion]  # of systems of several arms, by the name that a report calls them
    tune: str | None  # the split of `judged`; without that, the queries of the split itself are cross-validated
    judged: Dataset | None
    measure_names: tuple[str, ...]
    progress: bool

    def on(self, dataset: Dataset) -> Report:
        """All systems on one split."""
        outcomes = [outcome for system in self.systems for outcome in self.outcomes(system, dataset)]
        measures = [measure_run(dataset.qrels, outcome.run, self.measure_names) for outcome in outcomes]
        return Report(dataset, outcomes, measures, compare_with_arms(dataset.qrels, outcomes, self.measure_names[0]))

    def outcomes(self, system: str, dataset: Dataset) -> Iterator[Outcome]:
        """A system of one arm; or of several once for each fusion, and as it is tuned."""
        own, arms = built_together(system, self.built), split_names(system)
        if len(arms) == 1:
            yield measured(system, own, dataset, self.depth)
            return
        for written, fusion in self.fusions.items():
            name = system if len(self.fusions) == 1 else f"{system}, {written}"
            yield measured(name, own, dataset, self.depth, fusion=fusion, arms=arms)
        if self.tune is not None:
            yield self.tuned(system, own, arms, dataset)

    def tuned(self, system: str, own: Built, arms: list[str], dataset: Dataset) -> Outcome:
        """With weights that other queries chose."""
        asked = self.depth, self.measure_names[0], self.progress
        tuning = tuned_on(own, self.judged or dataset, *asked)
        name = f"{system}, {f'tuned on {self.tune}' if self.judged else 'cross-validated'}"
        outcome = measured(name, own, dataset, self.depth, fusion=tuning.fusion, arms=arms, tuning=tuning)
        return outcome if self.judged else outcome._replace(run=cross_validated(own, dataset, *asked))
