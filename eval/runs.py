"""TREC run files at full precision: a score read back is the score that was written."""

from __future__ import annotations

import re
from pathlib import Path

from eval.measures import Run
from index.errors import WinnowError

UNWRITABLE = re.compile(r"[\s\ud800-\udfff]")  # white space, or half of a surrogate pair


def write_run(path: Path, run: Run, tag: str) -> None:
    """Lines `query Q0 document rank score tag`, ranks from 1. Raises WinnowError for an id that no column can hold."""
    lines = []
    for query, documents in run.items():
        for rank, (document, score) in enumerate(documents.items(), start=1):
            if not query or not document or UNWRITABLE.search(query + document):
                raise WinnowError(
                    f"the ids {query!r:.60}, {document!r:.60} are empty or hold white space or invalid Unicode, which a run "
                    "file cannot; rename them."
                )
            lines.append(f"{query} Q0 {document} {rank} {score!r} {tag}\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")
