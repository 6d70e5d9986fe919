"""The data sets of BEIR by name (Thakur et al., arXiv 2104.08663): what is published of each, read from catalogue.toml.

Nothing is guessed from the data: whether a query's own document is taken out of a run is said here, set by set.
"""

from __future__ import annotations

import difflib
import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from index.errors import WinnowError

DEFAULT_SPLIT = "test"
GROUPS = ("all", "public", "small")
SMALL = ("nfcorpus", "scifact", "arguana", "scidocs", "fiqa")  # at most 60,000 documents: minutes on two cores


class DatasetSpec(NamedTuple):
    """What is published of a data set."""

    name: str
    title: str
    documents: int
    queries: Mapping[str, int]  # split -> queries with judgments
    split: str  # the one that is reported
    removes_self: bool  # a hit with the query's own id is taken out of a run
    why_self: str  # why that is so, or not
    md5: str | None = None  # of beir's zip; None: nobody may pass it on
    where: str | None = None  # how to get a data set that has no zip
    version: str | None = None
    about: str | None = None
    parts: Mapping[str, DatasetSpec] = {}  # CQADupStack's forums; a measure of the whole is the mean of theirs

    @property
    def is_public(self) -> bool:
        return self.md5 is not None


@functools.cache
def catalogue() -> Mapping[str, DatasetSpec]:
    """All of BEIR, by beir's names.

    >>> catalogue()["msmarco"].split, catalogue()["arguana"].removes_self, len(catalogue()["cqadupstack"].parts)
    ('dev', True, 12)
    """
    written = tomllib.loads(Path(__file__).with_name("catalogue.toml").read_text(encoding="utf-8"))
    return {name: spec_of(name, fields) for name, fields in written.items()}


def spec_of(name: str, fields: Mapping[str, Any]) -> DatasetSpec:
    """One table of the file; a part has what its whole has where it says nothing else."""
    own = {"split": DEFAULT_SPLIT, **fields, "why_self": fields["self"]}
    del own["self"]
    parts = {
        part: DatasetSpec(
            f"{name}-{part}", f"{own['title']} {part}", split=own["split"], removes_self=own["removes_self"],
            why_self=own["why_self"], **numbers,
        )
        for part, numbers in own.get("parts", {}).items()
    }  # fmt: skip
    return DatasetSpec(name, **{**own, "parts": parts})


def named(written: str) -> list[DatasetSpec]:
    """The data sets of `all`, `public` (those that can be downloaded), `small`, or names with commas between them, each once.

    Raises WinnowError for a name that is not BEIR's.

    >>> [spec.name for spec in named("scifact,small")][:2]
    ['scifact', 'nfcorpus']
    """
    known = catalogue()
    groups = {
        "all": list(known),
        "public": [name for name, spec in known.items() if spec.is_public],
        "small": [name for name in SMALL if name in known],
    }
    names = [one for name in written.split(",") for one in groups.get(name.strip(), [name.strip()])]
    return [spec_named(name) for name in dict.fromkeys(names)]


def spec_named(name: str) -> DatasetSpec:
    """Raises WinnowError for a name that is not BEIR's."""
    known = catalogue()
    if name not in known:
        alike = difflib.get_close_matches(name.lower(), [*known, *GROUPS], 2, 0.5)
        meant = f"did you mean {' or '.join(alike)}? All names" if alike else "the names"
        raise WinnowError(f"{name!r:.60} is not a data set of BEIR; {meant} are {', '.join([*GROUPS, *known])}.")
    return known[name]
