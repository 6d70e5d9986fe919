"""Systems by data sets, after Pyserini's reproduction matrices: expected, measured and published values joined.

A value has moved where it differs from the expected one by more than its tolerance. What was not run has not moved, but a
cell that was run and lacks a value which is expected of it has: a measure cannot vanish unseen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from eval.reproduction.cells import Place, Result, measures_of, place_of, read_expected
from eval.reproduction.published import Anchor, Mean, Published, Source, read_published

MEASURES = ("nDCG@10", "R@100", "R@1000", "MRR@10", "MAP", "P@10")  # the order in which they are shown
MEAN = "mean"  # stands where the split of a data set does
ROUNDING = 1e-9  # of a difference of two decimal numbers; far below any tolerance
Status = Literal["equal", "moved", "not run", "new", "published"]


class Tolerances(NamedTuple):
    """By how much a measure may differ from the expected one."""

    usual: float = 0.001
    inexact: float = (
        0.002  # with a reranker or on a GPU: the order of sums, so the last bits, differ from machine to machine
    )
    by_measure: Mapping[str, float] = {}  # before both of them

    def of(self, measure: str, system: str, machine: str = "") -> float:
        """
        >>> Tolerances().of("MAP", "bm25"), Tolerances().of("MAP", "bm25,rerank=icr:m,depth=9")
        (0.001, 0.002)
        >>> Tolerances(by_measure={"MAP": 0.01}).of("MAP", "bm25", "NVIDIA H100")
        0.01
        """
        is_inexact = ",rerank=" in system or any(name in machine for name in ("GPU", "NVIDIA"))
        return self.by_measure.get(measure, self.inexact if is_inexact else self.usual)


class Shift(NamedTuple):
    """What became of an expected value."""

    system: str
    place: Place
    measure: str  # or "queries": how many were judged
    expected: float
    measured: float | None  # None where the cell was run without this measure
    tolerance: float

    @property
    def difference(self) -> float | None:
        return None if self.measured is None else self.measured - self.expected

    @property
    def is_moved(self) -> bool:
        # not `>`: NaN is within no tolerance
        return self.difference is None or not abs(self.difference) <= self.tolerance + ROUNDING

    def __str__(self) -> str:
        # a count of queries is whole, a measure is not
        value, change = ("d", "+d") if self.measure == "queries" else (".4f", "+.4f")
        now = "was not measured"
        if self.measured is not None:
            now = f"is {self.measured:{value}} ({self.difference:{change}})"
        return f"{self.measure} of {self.system} on {self.place.label} {now}, expected {self.expected:{value}} within {self.tolerance:g}"


def shifts(expected: Result, measured: Result, tolerances: Tolerances) -> list[Shift]:
    """Each expected value of a cell beside the measured one; the number of judged queries must be the same."""
    system, place, values = expected["system"], place_of(expected), measures_of(measured)
    machine = str(measured.get("machine") or "")
    found = [
        Shift(system, place, measure, value, values.get(measure), tolerances.of(measure, system, machine))
        for measure, value in measures_of(expected).items()
    ]
    if expected.get("queries") is not None:
        found.append(Shift(system, place, "queries", expected["queries"], measured.get("queries"), 0))
    return found


def moved(expected: Sequence[Result], measured: Sequence[Result], tolerances: Tolerances | None = None) -> list[Shift]:
    """Every expected value of the measured cells that is not what was measured."""
    should_be = {(one["system"], place_of(one)): one for one in expected}
    pairs = [(should_be.get((one["system"], place_of(one))), one) for one in measured]
    return [
        shift
        for one, other in pairs
        if one is not None
        for shift in shifts(one, other, tolerances or Tolerances())
        if shift.is_moved
    ]


class Entry(NamedTuple):
    """What the matrix says of a system at a place."""

    system: str
    place: Place
    status: Status
    values: Mapping[str, float]  # by measure: measured, else expected; or published; or computed means of these
    expected: Result | None = None
    measured: Result | None = None
    shifts: tuple[Shift, ...] = ()
    sources: Mapping[str, Source] = {}  # of published values, by measure

    @property
    def result(self) -> Result:
        """Where command, efficiency, counts and problems stand; empty for published values and means."""
        return self.measured or self.expected or {}


class Row(NamedTuple):
    """A system; `is_published` where others measured it."""

    system: str
    is_published: bool
    entries: Mapping[Place, Entry]


class Matrix(NamedTuple):
    """All of it, ours before what is published; places where we have values come first, means last."""

    rows: tuple[Row, ...]
    places: tuple[Place, ...]
    own_places: tuple[Place, ...]
    measures: tuple[str, ...]
    labels: Mapping[Place, str]
    sources: tuple[Source, ...]

    @classmethod
    def of(
        cls,
        expected: Sequence[Result],
        measured: Sequence[Result],
        published: Published,
        tolerances: Tolerances | None = None,
    ) -> Matrix:
        own = own_rows(expected, measured, tolerances or Tolerances())
        rows = [with_means(row, published) for row in (*own, *published_rows(published))]
        own_places = dict.fromkeys(place for row in own for place in row.entries)
        in_order = {
            Place(name, published.splits.get(name, "test")): None for mean in published.means for name in mean.datasets
        }
        means = {Place(mean.name, MEAN): mean.label for mean in published.means}
        given = {place for row in rows for place in row.entries}
        rest = [*in_order, *sorted(given - set(in_order) - set(means)), *means]
        places = tuple(place for place in dict.fromkeys((*own_places, *rest)) if place in given)
        return cls(
            tuple(rows),
            places,
            tuple(own_places),
            in_usual_order({name for row in rows for entry in row.entries.values() for name in entry.values}),
            {place: means.get(place, place.label) for place in places},
            published.sources,
        )

    @classmethod
    def read(cls) -> Matrix:
        """The package's expected and published values."""
        return cls.of(read_expected(), [], read_published())

    def at(self, place: Place) -> list[Entry]:
        """Every system there, ours first."""
        return [row.entries[place] for row in self.rows if place in row.entries]

    def as_markdown(self) -> str:
        """The tables of docs/reproduction.md."""
        from eval.reproduction.markdown import as_markdown

        return as_markdown(self)


def in_usual_order(measures: set[str]) -> tuple[str, ...]:
    """At least one, so that there is something to show even where nothing was measured."""
    return (*(name for name in MEASURES if name in measures), *sorted(measures - set(MEASURES))) or MEASURES[:1]


def own_rows(expected: Sequence[Result], measured: Sequence[Result], tolerances: Tolerances) -> list[Row]:
    """A row a system, in the order in which they come."""
    should_be = {(one["system"], place_of(one)): one for one in expected}
    is_now = {(one["system"], place_of(one)): one for one in measured}
    rows: dict[str, dict[Place, Entry]] = {}
    for cell in dict.fromkeys((*should_be, *is_now)):
        entry = joined(*cell, should_be.get(cell), is_now.get(cell), tolerances)
        rows.setdefault(entry.system, {})[entry.place] = entry
    return [Row(system, False, entries) for system, entries in rows.items()]


def joined(
    system: str, place: Place, expected: Result | None, measured: Result | None, tolerances: Tolerances
) -> Entry:
    """One cell: what it should give, and what it gave."""
    if measured is None:
        return Entry(system, place, "not run", measures_of(expected), expected)
    if expected is None:
        return Entry(system, place, "new", measures_of(measured), None, measured)
    compared = tuple(shifts(expected, measured, tolerances))
    status: Status = "moved" if any(shift.is_moved for shift in compared) else "equal"
    return Entry(system, place, status, measures_of(measured), expected, measured, compared)


def published_rows(published: Published) -> list[Row]:
    rows: dict[str, dict[Place, dict[str, Anchor]]] = {}
    means = {mean.name for mean in published.means}
    for anchor in published.anchors:
        place = Place(anchor.dataset, MEAN if anchor.dataset in means else anchor.split)
        rows.setdefault(anchor.system, {}).setdefault(place, {})[anchor.measure] = anchor
    return [
        Row(system, True, {place: published_entry(system, place, anchors) for place, anchors in places.items()})
        for system, places in rows.items()
    ]


def published_entry(system: str, place: Place, anchors: Mapping[str, Anchor]) -> Entry:
    values = {measure: anchor.value for measure, anchor in anchors.items()}
    return Entry(system, place, "published", values, sources={measure: one.source for measure, one in anchors.items()})


def with_means(row: Row, published: Published) -> Row:
    """The row with the means that can be computed of it."""
    computed = {entry.place: entry for mean in published.means for entry in mean_entries(row, mean, published)}
    return row._replace(entries={**row.entries, **computed})


def mean_entries(row: Row, mean: Mean, published: Published) -> Iterator[Entry]:
    """The mean over a group of data sets, if the row has all of them in some measure; it is as sure as its worst part."""
    places = [Place(name, published.splits.get(name, "test")) for name in mean.datasets]
    parts = [row.entries[place] for place in places if place in row.entries]
    if len(parts) < len(places):
        return
    by_measure = {
        measure: mean.of({part.place.dataset: part.values[measure] for part in parts if measure in part.values})
        for measure in parts[0].values
    }
    values = {measure: value for measure, value in by_measure.items() if value is not None}
    if values:
        found = {part.status for part in parts}
        order: tuple[Status, ...] = ("moved", "not run", "new", "equal", "published")
        status = next(one for one in order if one in found)
        yield Entry(row.system, Place(mean.name, MEAN), status, values, sources=parts[0].sources)
