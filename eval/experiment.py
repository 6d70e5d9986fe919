"""Measures cells on one split of one data set: builds the arms that they need, answers, tunes, reranks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from eval.cells import CROSS_VALIDATED, Cell, Efficiency, Measured, Result
from eval.datasets import Dataset
from eval.latency import QueryTimes
from eval.lucene.system import is_lucene, measure_lucene
from eval.measures import DEFAULT_MEASURES
from eval.memory import peak_bytes, reset_peak
from eval.provenance import code_fingerprint, commit, machine, models_fingerprint, today
from eval.systems import (
    Answers,
    Built,
    answers,
    asked_for,
    build,
    cross_validated,
    opened,
    reranked_answers,
    together,
    tuned_on,
    without_queries,
)
from retrieval import Retriever
from retrieval.encoders.protocol import Encoder
from retrieval.fusion import Fusion
from retrieval.inspection import held_of
from retrieval.rerankers.loading import load_reranker
from retrieval.rerankers.protocol import Reranker
from retrieval.rerankers.stage import DEFAULT_DEPTH as DEFAULT_RERANKED
from retrieval.written_system import WrittenSystem

DEFAULT_DEPTH = 1000


class Settings(NamedTuple):
    """What is asked of every cell."""

    depth: int  # documents ranked for each query
    measure: str  # that is tuned by
    progress: bool


@dataclass
class Models:
    """Encoders and rerankers, each loaded once, for all data sets."""

    encoders: dict[str, Encoder] = field(default_factory=dict)  # by the arm as it is written
    rerankers: dict[str, Reranker] = field(default_factory=dict)  # by reranker and options as they are written

    def load(self, system: WrittenSystem) -> None:
        """All that a system needs. Raises WinnowError for names and options that mean nothing, ModelError for what is no model."""
        for arm in () if system.is_saved or is_lucene(str(system)) else system.each_arm():
            if str(arm) not in self.encoders:
                (self.encoders[str(arm)],) = arm.encoders()
        if system.reranks:
            self.reranker(system)

    def reranker(self, system: WrittenSystem) -> Reranker:
        written = f"{system.reranker},{sorted(system.reranker_options.items())}"
        if written not in self.rerankers:
            self.rerankers[written] = load_reranker(str(system.reranker), **system.reranker_options)
        return self.rerankers[written]


class Arms:
    """Arms over one corpus, each built when it is first needed."""

    def __init__(self, corpus: Path, models: Models, folder: Path | None, progress: bool):
        """
        corpus  the folder of a data set
        folder  where indexes of arms are kept, and opened again; None: in memory
        """
        self.corpus, self.models, self.folder, self.progress = corpus, models, folder, progress
        self.built: dict[str, Built] = {}

    def retriever(self, system: WrittenSystem) -> Built:
        """Over the corpus, with all arms of the system."""
        if system.is_saved:
            return self.once(system.arms[0], lambda: opened(system.arms[0]))
        return together([self.arm(arm) for arm in system.each_arm()])

    def arm(self, arm: WrittenSystem) -> Built:
        name = str(arm)
        self.models.load(arm)
        folder = None if self.folder is None else self.folder / f"{slug(name)}-{models_fingerprint(arm)}"
        return self.once(name, lambda: build(self.models.encoders[name], self.corpus, folder, self.progress))

    def once(self, name: str, made: Callable[[], Built]) -> Built:
        if name not in self.built:
            self.built[name] = made()
        return self.built[name]


class Experiment:
    """One split of one data set."""

    def __init__(
        self,
        dataset: Dataset,
        settings: Settings,
        arms: Arms,
        judged: Dataset | None = None,
    ):
        """
        arms    over the corpus of the data set
        judged  the split whose queries tune
        """
        self.dataset, self.settings, self.arms, self.judged = dataset, settings, arms, judged

    def measured(self, cell: Cell, results: Mapping[Cell, Result]) -> Measured:
        """What comes of a cell.

        results  of other cells: of the first stage that a tuned system is reranked after
        """
        if is_lucene(str(cell.system)):
            return self.of_lucene(cell)
        system, settings = cell.system, self.settings
        built, fusion, tuning = self.arms.retriever(system), self.fusion(system), None
        reset_peak()
        if (reranker := self.reranker(system, built.retriever)) is not None:
            fusion = fusion if cell.tune is None else results[cell.first].fusion
            found = reranked_answers(
                built.retriever, *reranker, self.dataset, settings.depth, fusion, settings.progress
            )
        elif cell.tune is None:
            found = answers(built.retriever, self.dataset, settings.depth, fusion)
        else:
            tuning = tuned_on(built.retriever, self.judged or self.dataset, *settings)
            found = answers(built.retriever, self.dataset, settings.depth, tuning.fusion)
            if cell.tune == CROSS_VALIDATED:
                run, num_self = cross_validated(built.retriever, self.dataset, *settings)
                found = found._replace(run=run, num_self=num_self)
        efficiency = Efficiency.of(built, found.times, peak_bytes())
        problems = self.of_other_documents(built) if system.is_saved else ()
        result = Result.of(cell, self.dataset, found, efficiency, self.provenance(cell), tuning, problems)
        return Measured(result, found.run)

    def of_other_documents(self, built: Built) -> tuple[str, ...]:
        """What is to be said of a saved index that does not hold the documents of the corpus, as far as their number and the judged
        ones tell."""
        held, documents = len(built.retriever), self.dataset.counts["documents"]
        problems = [] if held == documents else [f"the saved index holds {held:,} documents, the corpus {documents:,}."]
        judged = list(dict.fromkeys(document for own in self.dataset.qrels.values() for document in own))
        lacking = len(judged) - len(held_of(built.retriever, judged)) - self.dataset.counts["judged_documents_missing"]
        if lacking > 0:
            problems.append(f"the saved index lacks {lacking:,} judged documents that the corpus has.")
        return tuple(problems)

    def of_lucene(self, cell: Cell) -> Measured:
        """By Lucene, in a process of its own."""
        with TemporaryDirectory() as folder:
            outcome = measure_lucene(
                str(cell.system),
                self.dataset,
                asked_for(self.dataset, self.settings.depth),
                Path(folder),
                self.settings.progress,
            )
        has_own_words = outcome.encode_latency is None  # Lucene reads the query itself
        times = (
            QueryTimes(outcome.latency) if has_own_words else QueryTimes(None, outcome.encode_latency, outcome.latency)
        )
        rate = outcome.documents / outcome.encode_seconds if outcome.encode_seconds else None
        efficiency = Efficiency(
            documents=outcome.documents,
            postings=outcome.postings,
            index_bytes=outcome.index_bytes,
            build_seconds=outcome.build_seconds + outcome.encode_seconds,
            encode_documents_per_second=rate,
            peak_bytes=outcome.peak_bytes,
            **times._asdict(),
        )
        run, num_self = without_queries(self.dataset, outcome.run, self.settings.depth)
        found = Answers(run, times, num_self)
        return Measured(Result.of(cell, self.dataset, found, efficiency, self.provenance(cell)), run)

    def provenance(self, cell: Cell) -> dict[str, str | None]:
        """Where the numbers of a cell come from."""
        return {
            "command": self.command(cell),
            "code": code_fingerprint(),
            "commit": commit(),
            "machine": machine(),
            "date": today(),
        }

    def command(self, cell: Cell) -> str:
        """That measures the cell again, from where a folder of the data set's name lies."""
        dataset, (depth, measure, _) = self.dataset, self.settings
        parts = ["--datasets" if dataset.spec is not None else "--data", dataset.part_of or dataset.name]
        parts += ["--split", dataset.split, "--system", str(cell.system)]
        if cell.tune is not None:
            parts += ["--tune", cell.tune, *(["--measure", measure] if measure != DEFAULT_MEASURES[0] else [])]
        if depth != DEFAULT_DEPTH:
            parts += ["--depth", str(depth)]
        if dataset.removes_self != (dataset.spec is not None and dataset.spec.removes_self):
            parts += ["--self-retrieval", "remove" if dataset.removes_self else "keep"]
        return shlex.join(["python", "-m", "eval.beir", *parts])

    def reranker(self, system: WrittenSystem, retriever: Retriever) -> tuple[Reranker, int] | None:
        """That the system names, or that a saved retriever has, and how many documents it orders."""
        if system.reranks:
            return self.arms.models.reranker(system), system.depth or DEFAULT_RERANKED
        if system.is_saved and system.reranker is None and retriever.reranker is not None:
            return retriever.reranker, retriever.rerank_depth
        return None

    def fusion(self, system: WrittenSystem) -> Fusion | None:
        """To the depth of the run; None of one arm, and of a saved retriever, which has its own."""
        if system.is_saved or len(system.arms) == 1:
            return None
        return system.fused(self.settings.depth) or Fusion(depth=self.settings.depth)


def slug(name: str) -> str:
    """A file's name for any name, which no other name has.

    >>> slug("bm25+minilm,fusion=rrf")
    'bm25+minilm-fusion-rrf-a5354cd8'
    """
    readable = re.sub(r"[^A-Za-z0-9.+_-]+", "-", name).strip("-.")[-100:]
    return f"{readable}-{sha256(name.encode()).hexdigest()[:8]}"
