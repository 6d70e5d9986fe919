"""Results of cells, a cell being one system on one split of a data set: read from files and checked.

A result is the JSON object that an evaluation writes for a cell: `dataset`, `split`, `system`, `queries` and `measures`,
and perhaps `efficiency`, `counts`, `problems`, `command`, `commit`, `machine`, `date`. Null stands for what means nothing there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eval.reproduction.published import ReproductionError

EXPECTED = Path(__file__).with_name("expected.json")
Result = Mapping[str, Any]


class Place(NamedTuple):
    """A split of a data set."""

    dataset: str
    split: str

    @property
    def label(self) -> str:
        """
        >>> Place("scifact", "test").label, Place("msmarco", "dev").label
        ('scifact', 'msmarco dev')
        """
        return self.dataset if self.split == "test" else f"{self.dataset} {self.split}"


def read_expected(path: Path = EXPECTED) -> list[Result]:
    """The results that a run should give again. Raises ReproductionError."""
    return checked(results_of(path))


def results_of(path: Path) -> list[tuple[Any, str]]:
    """What a file holds, a list or one object, each with where it stands."""
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReproductionError(
            f"{path} cannot be read: {error.strerror}; run an evaluation that writes it."
        ) from error
    except ValueError as error:
        raise ReproductionError(f"{path} is not JSON: {error}; run the evaluation again or mend it there.") from error
    if isinstance(written, list):
        return [(one, f"{path}, entry {number}") for number, one in enumerate(written, start=1)]
    return [(written, str(path))]


def checked(results: Iterable[tuple[Any, str]]) -> list[Result]:
    """The results if each is whole and of a cell of its own. Raises ReproductionError with where it stands."""
    found: dict[tuple[Place, str], str] = {}
    answer: list[Result] = []
    for result, where in results:
        check(result, where)
        cell = place_of(result), result["system"]
        if cell in found:
            raise ReproductionError(
                f"{where} is {result['system']} on {cell[0].label}, which {found[cell]} is too; remove one of them."
            )
        found[cell] = where
        answer.append(result)
    return answer


def check(result: Any, where: str) -> None:
    """Raise ReproductionError for what has no name, or measures that are no finite numbers."""
    if not isinstance(result, Mapping) or not isinstance(result.get("measures"), Mapping):
        raise ReproductionError(
            f"{where} is {result!r:.60}; a result is an object with measures, as an evaluation writes it."
        )
    for key in ("dataset", "split", "system"):
        if not isinstance(result.get(key), str) or not result[key]:
            raise ReproductionError(f"{where} has {result.get(key)!r:.60} as its {key}; give its name.")
    for measure, value in result["measures"].items():
        if value is not None and not is_finite(value):
            raise ReproductionError(f"{where} has {value!r:.60} for {measure}; give a finite number, or null.")
    for key, kind in (("efficiency", Mapping), ("counts", Mapping), ("problems", Sequence)):
        if result.get(key) is not None and (not isinstance(result[key], kind) or isinstance(result[key], str)):
            raise ReproductionError(f"{where} has {result[key]!r:.60} as its {key}; write it as an evaluation does.")


def is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def place_of(result: Result) -> Place:
    return Place(result["dataset"], result["split"])


def measures_of(result: Result | None) -> dict[str, float]:
    """Without those that mean nothing for it."""
    return {name: value for name, value in (result or {"measures": {}})["measures"].items() if value is not None}
