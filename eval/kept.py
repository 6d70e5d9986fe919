"""Results of cells, kept in a folder, so that a run that was killed goes on and a finished cell is not computed again.

FOLDER/scifact.test/bm25-1a2b3c4d.json   what came of the cell, and the key of all that it depends on
FOLDER/scifact.test/bm25-1a2b3c4d.run    its run, at full precision: other measures need no other run
FOLDER/indexes/                          arms while they are needed
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from eval.cells import CROSS_VALIDATED, Cell, Measured, Result
from eval.datasets import Dataset
from eval.experiment import Settings, slug
from eval.provenance import code_fingerprint, dataset_fingerprint, fingerprint_of, models_fingerprint
from eval.runs import read_run, write_run
from index.errors import WinnowError
from index.files import make_folders, remove_tree
from index.placing import replace_file
from retrieval.beir_folder import one_of, qrels_of


class KeptResults:
    """The cells of one split of one data set."""

    def __init__(self, dataset: Dataset, settings: Settings, folder: Path | None):
        """
        folder  of all data sets; None: nothing is kept
        """
        self.dataset = dataset
        self.folder = None if folder is None else folder / f"{dataset.name}.{dataset.split}"
        self.settings = settings
        self.fingerprint = None if folder is None else dataset_fingerprint(dataset)

    def key(self, cell: Cell) -> str:
        """Of all that the run of a cell depends on: code, options, models and data."""
        by = {
            "system": cell.name,
            "depth": self.settings.depth,
            "tuned by": self.settings.measure if cell.tune else None,
            "self": self.dataset.removes_self,
            "data": self.fingerprint,
            "tuning data": self.tuning_fingerprint(cell),
            "models": models_fingerprint(cell.system),
            "code": code_fingerprint(),
        }
        return sha256(json.dumps(by).encode()).hexdigest()[:32]

    def has(self, cell: Cell) -> bool:
        """Whether something is kept of the cell, by the same code, options and data."""
        return self.described(cell) is not None

    def find(self, cell: Cell) -> Measured | None:
        """What came of the cell; None where nothing is kept, or of other code, options or data, or half of it."""
        kept = self.described(cell)
        if kept is None:
            return None
        try:
            if digest_of(self.path(cell, "run")) != kept["run_sha256"]:
                return None
            return Measured(Result.of_json(cell, kept), read_run(self.path(cell, "run")).run)
        except (OSError, KeyError, TypeError, AttributeError, WinnowError):
            return None

    def described(self, cell: Cell) -> dict[str, Any] | None:
        """The JSON of the cell if it is of the same key."""
        if self.folder is None:
            return None
        try:
            kept: dict[str, Any] = json.loads(self.path(cell, "json").read_text(encoding="utf-8"))
            return kept if kept["key"] == self.key(cell) else None
        except (OSError, ValueError, KeyError, TypeError):  # none, or not ours, or half of one
            return None

    def keep(self, measured: Measured, measures: Mapping[str, float]) -> None:
        """The run first, and the JSON file with its digest: what that describes is there, whatever was interrupted."""
        if self.folder is None:
            return
        make_folders(self.folder)
        result, run = measured
        write_run(self.path(result.cell, "run"), run, slug(result.name))
        digest = digest_of(self.path(result.cell, "run"))
        kept = {"key": self.key(result.cell), "run_sha256": digest, **result.as_json(self.dataset, measures)}
        replace_file(self.path(result.cell, "json"), (json.dumps(kept, indent=1) + "\n").encode())

    def tuning_fingerprint(self, cell: Cell) -> str | None:
        """Of the judgments that tune, where they are another split's."""
        if cell.tune in (None, CROSS_VALIDATED):
            return None
        return fingerprint_of([qrels_of(self.dataset.folder, str(cell.tune))])

    def path(self, cell: Cell, kind: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{slug(cell.name)}.{kind}"


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def indexes_of(corpus: Path, folder: Path | None) -> Path | None:
    """Where arms over the corpus of a data set are while they are needed. What they depend on is in the name: other code builds its own."""
    if folder is None:
        return None
    return folder / "indexes" / f"{fingerprint_of([one_of(corpus, 'corpus.jsonl')])}-{code_fingerprint()}"


def forget(indexes: Path | None) -> None:
    """Nobody needs them once all cells over the corpus are there."""
    if indexes is not None and indexes.exists():
        remove_tree(indexes)
