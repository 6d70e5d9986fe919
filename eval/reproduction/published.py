"""Figures that others published, as data: each with the place it was read in and what it was measured under.

`published.toml` holds them. Means over groups of data sets are computed here from the single figures, so that a mean
always belongs to the figures beside it; a mean is stored only where its source gives nothing else.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from index.errors import WinnowError

FILE = Path(__file__).with_name("published.toml")


class ReproductionError(WinnowError):
    """Published figures, expected values or results of cells are not written as documented."""


class Source(NamedTuple):
    """Where figures were read."""

    key: str
    project: str
    where: str  # file, paper or page of it
    under: str  # what they were measured under
    measures: tuple[str, ...]
    digits: int  # behind the point, as published


class Anchor(NamedTuple):
    """One published figure."""

    system: str
    dataset: str  # or the name of a mean
    split: str
    measure: str
    value: float
    source: Source


class Mean(NamedTuple):
    """A group of data sets whose mean is commonly given."""

    name: str
    label: str
    datasets: tuple[str, ...]

    def of(self, values: Mapping[str, float]) -> float | None:
        """The mean of the values by data set; None unless each data set of the group has one.

        >>> Mean("both", "both", ("a", "b")).of({"a": 0.5, "b": 0.25, "c": 1.0})
        0.375
        """
        if not all(dataset in values for dataset in self.datasets):
            return None
        return sum(values[dataset] for dataset in self.datasets) / len(self.datasets)


class Published(NamedTuple):
    """All of it."""

    anchors: tuple[Anchor, ...]
    means: tuple[Mean, ...]
    splits: Mapping[str, str]  # of data sets that are not measured on "test"

    @property
    def sources(self) -> tuple[Source, ...]:
        return tuple(dict.fromkeys(anchor.source for anchor in self.anchors))


def read_published(path: Path = FILE) -> Published:
    """The figures of a file. Raises ReproductionError for one that is no number in [0, 1], or is there twice, or beside the
    figures that it is the mean of."""
    try:
        with open(path, "rb") as file:
            written = tomllib.load(file)
        means = means_of(written["means"])
        splits = {str(dataset): str(split) for dataset, split in written["splits"].items()}
        anchors = tuple(anchor for table in written["sources"] for anchor in anchors_of(table, splits))
    except tomllib.TOMLDecodeError as error:
        raise ReproductionError(f"{path} is not TOML: {error}; mend it there.") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ReproductionError(
            f"{path} lacks {error} or has it in another form; write splits, means and sources as {FILE.name} of the package does."
        ) from error
    refuse_duplicates(anchors, means)
    return Published(anchors, means, splits)


def means_of(written: Mapping[str, Mapping[str, Any]]) -> tuple[Mean, ...]:
    """A mean `with` another one extends its data sets."""
    means: dict[str, Mean] = {}
    for name, group in written.items():
        before = means[group["with"]].datasets if "with" in group else ()
        means[name] = Mean(name, str(group["label"]), (*before, *group["datasets"]))
    return tuple(means.values())


def anchors_of(table: Mapping[str, Any], splits: Mapping[str, str]) -> Iterator[Anchor]:
    """The figures of one source."""
    measures = tuple(table["measures"])
    source = Source(table["key"], table["project"], table["where"], table["under"], measures, int(table["digits"]))
    for system, figures in table["systems"].items():
        for dataset, values in figures.items():
            if len(values) != len(measures):
                raise ReproductionError(
                    f"{source.key}, {system}, {dataset} has {len(values)} values for the measures {', '.join(measures)}; "
                    "give one for each."
                )
            for measure, value in zip(measures, values, strict=True):
                # `not <=` also refuses NaN, which TOML can write; bool is an int to Python
                if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
                    raise ReproductionError(
                        f"{measure} of {source.key}, {system}, {dataset} is {value!r}; give it as a number from 0 to 1."
                    )
                yield Anchor(system, dataset, splits.get(dataset, "test"), measure, float(value), source)


def refuse_duplicates(anchors: tuple[Anchor, ...], means: tuple[Mean, ...]) -> None:
    """Raise ReproductionError for a figure that is there twice, or that could be computed."""
    seen: dict[tuple[str, str], dict[str, Anchor]] = {}
    for anchor in anchors:
        figures = seen.setdefault((anchor.system, anchor.measure), {})
        if anchor.dataset in figures:
            raise ReproductionError(
                f"{anchor.measure} of {anchor.system} on {anchor.dataset} is given by {figures[anchor.dataset].source.key} and by "
                f"{anchor.source.key}; leave one out or name the systems apart."
            )
        figures[anchor.dataset] = anchor
    for (system, measure), figures in seen.items():
        values = {dataset: anchor.value for dataset, anchor in figures.items()}
        for mean in means:
            if mean.name in figures and mean.of(values) is not None:
                raise ReproductionError(
                    f"{measure} of {system} on {mean.name} is stored beside all figures that it is the mean of; leave it out."
                )
