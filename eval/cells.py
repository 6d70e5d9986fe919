"""A cell of the matrix: one system on one split of one data set; how it is named, what came of it, and what that depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from eval.datasets import Dataset
from eval.latency import Latency, QueryTimes
from eval.measures import Run
from eval.systems import Answers, Built
from retrieval.fusion import Fusion
from retrieval.tuning import Tuning
from retrieval.written_system import WrittenSystem

PROVENANCE = ("command", "code", "commit", "machine", "date")
CROSS_VALIDATED = "cv"  # instead of a split to tune on


class Cell(NamedTuple):
    """A system as it is measured."""

    system: WrittenSystem
    tune: str | None = None  # the split whose queries choose the weights of the fusion, or CROSS_VALIDATED

    @property
    def name(self) -> str:
        """As reports call it."""
        if self.tune is None:
            return str(self.system)
        return f"{self.system}, {'cross-validated' if self.tune == CROSS_VALIDATED else f'tuned on {self.tune}'}"

    @classmethod
    def of_name(cls, name: str) -> Cell:
        """The cell that reports call so. Raises WinnowError for what is no system.

        >>> Cell.of_name("bm25+minilm, tuned on train")[1]
        'train'
        """
        system, _, tune = name.partition(", tuned on ")
        if tune:
            return cls(WrittenSystem.of(system), tune)
        system, is_cross_validated, _ = name.partition(", cross-validated")
        return cls(WrittenSystem.of(system), CROSS_VALIDATED if is_cross_validated else None)

    @property
    def first(self) -> Cell:
        """The same without the reranker; a saved retriever is measured as it is."""
        return self._replace(system=self.system.without_reranker()) if self.system.reranks else self

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of cells that it is made of: its first stage, or its arms, where there are several."""
        if self.system.reranks:
            return (self.first.name,)
        arms = self.system.each_arm()
        return tuple(map(str, arms)) if len(arms) > 1 else ()


class Efficiency(NamedTuple):
    """What a system costs on a data set; None where that was not measured or means nothing."""

    documents: int | None = None
    postings: int | None = None  # of sparse arms
    vectors: int | None = None  # of dense arms
    index_bytes: int | None = None
    build_seconds: float | None = None  # of all arms: reading, encoding and inverting the corpus
    encode_documents_per_second: float | None = None  # documents by the seconds of these in which text became vectors
    peak_bytes: int | None = None  # resident memory of the process while the arms were built and the queries answered
    query_ms: Latency | None = None
    encode_ms: Latency | None = None
    search_ms: Latency | None = None

    @classmethod
    def of(cls, built: Built, times: QueryTimes, peak: int) -> Efficiency:
        """Of a system of our own."""
        indexed, costs = built.retriever.statistics(), built.costs
        found = cls(indexed.documents, indexed.postings, indexed.vectors, indexed.bytes, peak_bytes=peak)
        found = found._replace(**times._asdict())
        if costs is None:
            return found
        rate = indexed.documents / costs.encode_seconds if costs.encode_seconds else None
        return found._replace(
            build_seconds=costs.build_seconds,
            encode_documents_per_second=rate,
            peak_bytes=max(peak, costs.peak_bytes),
        )

    def as_json(self) -> dict[str, Any]:
        return {
            name: value._asdict() if isinstance(value, Latency) else value for name, value in self._asdict().items()
        }

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> Efficiency:
        values: dict[str, Any] = {
            name: Latency(**value) if isinstance(value, dict) else value for name, value in found.items()
        }
        return cls(**values)


class Result(NamedTuple):
    """What a cell gave, without its run, which may be large."""

    cell: Cell
    efficiency: Efficiency
    counts: Mapping[str, int]  # of what a reader of the numbers should know, 0 counts among them
    problems: tuple[str, ...]
    provenance: Mapping[str, str | None]  # command, code, commit, machine, date
    tuning: Mapping[str, Any] | None = None  # what tuning found, with its `text`

    @classmethod
    def of(
        cls,
        cell: Cell,
        dataset: Dataset,
        found: Answers,
        efficiency: Efficiency,
        provenance: Mapping[str, str | None],
        tuning: Tuning | None = None,
        problems: Sequence[str] = (),
    ) -> Result:
        counts = {
            **dataset.counts,
            "queries_without_results": sum(not found.run.get(query) for query in dataset.qrels),
            "self_retrieved_removed": found.num_self,
        }
        described = None if tuning is None else tuning_as_json(tuning)
        return cls(cell, efficiency, counts, (*dataset.problems, *problems), provenance, described)

    @property
    def name(self) -> str:
        return self.cell.name

    @property
    def fusion(self) -> Fusion | None:
        """That tuning chose."""
        return None if self.tuning is None else Fusion.of_json(self.tuning["fusion"])

    def as_json(self, dataset: Dataset, measures: Mapping[str, float]) -> dict[str, Any]:
        """As `--json` and a folder of results have it (docs/evaluation.md)."""
        return {
            "dataset": dataset.name,
            "split": dataset.split,
            "part_of": dataset.part_of,
            "system": self.name,
            "queries": len(dataset.qrels),
            "measures": dict(measures),
            "efficiency": self.efficiency.as_json(),
            "counts": dict(self.counts),
            "problems": list(self.problems),
            "tuning": self.tuning,
            **self.provenance,
        }

    @classmethod
    def of_json(cls, cell: Cell, found: Mapping[str, Any]) -> Result:
        """What `as_json` described."""
        return cls(
            cell,
            Efficiency.of_json(found["efficiency"]),
            found["counts"],
            tuple(found["problems"]),
            {name: found[name] for name in PROVENANCE},
            found["tuning"],
        )


class Measured(NamedTuple):
    """A result and the run that it is of."""

    result: Result
    run: Run


def tuning_as_json(tuning: Tuning) -> dict[str, Any]:
    """What was found, and how the arms are fused from then on."""
    return {
        "is_adopted": tuning.is_adopted,
        "fusion": tuning.fusion.as_json(),
        "measure": tuning.measure,
        "queries": tuning.num_queries,
        "held_out": tuning.fused,
        "best_arm": tuning.best_arm,
        "gain": tuning.gain,
        "interval": list(tuning.interval),
        "p_value": tuning.p_value,
        "text": str(tuning),
    }
