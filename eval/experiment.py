"""Systems over one corpus, measured on a split of its queries, and compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from eval.comparison import Comparison, compare_with_parts
from eval.datasets import Dataset
from eval.measures import measure_run
from eval.report import as_json, as_table, comparison_table
from eval.reranking import Reranking
from eval.systems import Built, Outcome, built_together, cross_validated, measured, reranked, tuned_on
from retrieval.encoders.loading import split_names
from retrieval.fusion import Fusion


class Report(NamedTuple):
    """What came of it on one split."""

    dataset: Dataset
    outcomes: list[Outcome]
    measures: list[dict[str, float]]  # of each outcome
    comparisons: list[Comparison]

    def as_text(self) -> str:
        """A table, what tuning found, and the comparison of fusions with their arms, of rerankers with their first stages."""
        blocks = [as_table(self.dataset, list(zip(self.outcomes, self.measures, strict=True)))]
        blocks += [f"{outcome.system}\n{outcome.tuning}" for outcome in self.outcomes if outcome.tuning is not None]
        if self.comparisons:
            blocks.append(comparison_table(self.comparisons, next(iter(self.measures[0]))))
        return "\n\n".join(blocks)

    def as_json(self) -> dict[str, Any]:
        return as_json(self.dataset, list(zip(self.outcomes, self.measures, strict=True)), self.comparisons)


class Experiment(NamedTuple):
    """What is asked for; the first measure is the one that is tuned and compared by."""

    systems: tuple[str, ...]  # without rerankers
    built: Mapping[str, Built]  # every arm of the systems
    depth: int
    fusions: Mapping[str, Fusion]  # of systems of several arms, by the name that a report calls them
    tune: str | None  # the split of `judged`; without that, the queries of the split itself are cross-validated
    judged: Dataset | None
    measure_names: tuple[str, ...]
    progress: bool
    rerankings: Mapping[str, Sequence[Reranking]] = {}  # by the system that is their first stage

    def on(self, dataset: Dataset) -> Report:
        """All systems on one split."""
        outcomes = [outcome for system in self.systems for outcome in self.outcomes(system, dataset)]
        measures = [measure_run(dataset.qrels, outcome.run, self.measure_names) for outcome in outcomes]
        return Report(dataset, outcomes, measures, compare_with_parts(dataset.qrels, outcomes, self.measure_names[0]))

    def outcomes(self, system: str, dataset: Dataset) -> Iterator[Outcome]:
        """A system of one arm; or of several once for each fusion, and as it is tuned. Each is followed by what rerankers make of it."""
        own, arms = built_together(system, self.built), split_names(system)
        if len(arms) == 1:
            first = measured(system, own, dataset, self.depth)
            yield from self.with_rerankings(first, system, own, dataset, None)
            return
        for written, fusion in self.fusions.items():
            name = system if len(self.fusions) == 1 else f"{system}, {written}"
            first = measured(name, own, dataset, self.depth, fusion=fusion, parts=arms)
            yield from self.with_rerankings(first, system, own, dataset, fusion)
        if self.tune is not None:
            first = self.tuned(system, own, arms, dataset)
            assert first.tuning is not None
            yield from self.with_rerankings(first, system, own, dataset, first.tuning.fusion)

    def with_rerankings(
        self, first: Outcome, system: str, own: Built, dataset: Dataset, fusion: Fusion | None
    ) -> Iterator[Outcome]:
        yield first
        for reranking in self.rerankings.get(system, ()):
            yield reranked(reranking, first, own, dataset, self.depth, fusion, self.progress)

    def tuned(self, system: str, own: Built, arms: list[str], dataset: Dataset) -> Outcome:
        """With weights that other queries chose."""
        asked = self.depth, self.measure_names[0], self.progress
        tuning = tuned_on(own, self.judged or dataset, *asked)
        name = f"{system}, {f'tuned on {self.tune}' if self.judged else 'cross-validated'}"
        outcome = measured(name, own, dataset, self.depth, fusion=tuning.fusion, parts=arms, tuning=tuning)
        return outcome if self.judged else outcome._replace(run=cross_validated(own, dataset, *asked))
