"""A snapshot of which only the documents that fit a condition are found: every arm then searches only these.

A document scores what it scores without a filter, and is found where it fits: a filtered search equals the whole ranking
without the other documents. (What a BM25 term weighs still depends on the whole collection, as in Lucene.)
"""

from __future__ import annotations

import difflib
from itertools import islice

import numpy as np

from index.columns import KINDS, LIST, NULL, NUMBER, OWN_FIELDS, STRING, Column, LongColumn, paths_in
from index.errors import FilterError
from index.segment import Segment
from index.snapshot import Snapshot
from retrieval.conditions import Comparison, Condition

SAMPLE = 1_000  # documents of each segment that are looked at for names to suggest
MOST_NAMES = 5  # that an error suggests
FieldColumns = dict[str, Column | LongColumn]


def filtered(snapshot: Snapshot, condition: Condition) -> Snapshot:
    """The snapshot with only the documents that fit; it may have none left. Kept with the snapshot, and gone with it.

    Raises FilterError for a field that no document has, and for values of a type that the field never has (`check`).
    """
    return snapshot.narrowed(condition, lambda: masks_of(snapshot, condition))


def fitting(snapshot: Snapshot, condition: Condition) -> Snapshot:
    """`filtered` of a part of a collection, where a field that no document has here may be one of others: nothing is checked."""

    def masks() -> list[np.ndarray]:
        return masks_under(snapshot, condition, columns_of(snapshot, condition))

    return snapshot.narrowed(("unchecked", condition), masks)


def objections(snapshot: Snapshot, condition: Condition) -> list[str | None]:
    """For each comparison, each once, what `filtered` would raise for it; None: nothing. Where all parts of a collection object to one,
    the collection does."""
    columns, found = columns_of(snapshot, condition), list[str | None]()
    for comparison in comparisons_of(condition):
        try:
            check(comparison, snapshot, columns)
            found.append(None)
        except FilterError as error:
            found.append(str(error))
    return found


def masks_of(snapshot: Snapshot, condition: Condition) -> list[np.ndarray]:
    """bool [documents] for each segment: those that fit, deleted ones too. Raises FilterError as `filtered` does."""
    columns = columns_of(snapshot, condition)
    for comparison in comparisons_of(condition):
        check(comparison, snapshot, columns)
    return masks_under(snapshot, condition, columns)


def comparisons_of(condition: Condition) -> list[Comparison]:
    """Each once."""
    return list(dict.fromkeys(condition.comparisons()))


def columns_of(snapshot: Snapshot, condition: Condition) -> list[FieldColumns]:
    """The columns of each segment that the comparisons read."""
    paths = {one.path for one in comparisons_of(condition) if not is_of_ids(one)}
    return [segment.documents.columns(paths) for segment, _, _ in snapshot.segments]


def masks_under(snapshot: Snapshot, condition: Condition, columns: list[FieldColumns]) -> list[np.ndarray]:
    return [mask_of(segment, own, condition) for (segment, _, _), own in zip(snapshot.segments, columns, strict=True)]


def mask_of(segment: Segment, columns: FieldColumns, condition: Condition) -> np.ndarray:
    """bool [documents] of one segment."""

    def verdict(comparison: Comparison) -> np.ndarray:
        if is_of_ids(comparison):
            return having_ids(segment, comparison)
        return columns[comparison.path].holding(comparison.holds)

    mask = condition.evaluate(verdict)
    return np.broadcast_to(mask, segment.num_docs)  # a condition without comparisons has one verdict for all


def is_of_ids(comparison: Comparison) -> bool:
    """True where SQLite's index on the ids tells which documents have them, without a column."""
    return comparison.path == "_id" and comparison.operator == "$in"


def having_ids(segment: Segment, comparison: Comparison) -> np.ndarray:
    """bool [documents]: those with one of the ids."""
    mask = np.zeros(segment.num_docs, np.bool_)
    asked = [value for value in comparison.asked if isinstance(value, str) and is_unicode(value)]
    mask[list(segment.documents.find(asked).values())] = True
    return mask


def is_unicode(text: str) -> bool:
    """False of text with half a surrogate pair, which no document has and SQLite would not take."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check(comparison: Comparison, snapshot: Snapshot, columns: list[FieldColumns]) -> None:
    """Raise FilterError where no document of the collection could be meant, which is a slip rather than a question.

    That is a field that no document has, and a value of a type that the field has nowhere. `$exists` asks just this, null may stand
    for any type, and an empty list asks for nothing.
    """
    if comparison.operator == "$exists" or snapshot.num_docs == 0:
        return
    name, asked, shown = comparison.path, comparison.kinds, comparison.shown
    held = STRING if name in OWN_FIELDS else 0
    if not held:
        for (_, live, _), own in zip(snapshot.segments, columns, strict=True):
            held |= own[name].kinds(live.mask)
    if not held:
        raise FilterError(
            f"filter asks for the field {name!r:.60}, which no document has; {suggestion(snapshot, name)}."
        )
    if not held & ~(NULL | LIST) or not asked or asked & NULL:
        return
    if not held & asked:
        raise FilterError(
            f"filter compares {name!r:.60} with {shown}, but the field has no {listed(asked)}, only {listed(held)}; "
            f"{remedy(comparison, held)}."
        )


def listed(kinds: int) -> str:
    """The names of kinds, as part of a sentence."""
    return " and ".join(name for kind, name in KINDS.items() if kinds & kind)


def remedy(comparison: Comparison, held: int) -> str:
    """What to do about a value of the wrong type."""
    if comparison.kinds == LIST:
        return 'give {"$in": [...]} for any of several values'
    if comparison.operator != "$in" and not held & (STRING | NUMBER):
        return "a range needs numbers or strings"
    return f"compare it with {listed(held & ~LIST)}"


def suggestion(snapshot: Snapshot, name: str) -> str:
    """What fields there are: the one most like `name`, or some."""
    names: dict[str, None] = {}
    for segment, live, _ in snapshot.segments:
        docs = range(segment.num_docs) if live.mask is None else np.flatnonzero(live.mask).tolist()
        for document in islice(segment.documents.each(docs[:SAMPLE]), SAMPLE):
            names.update(dict.fromkeys(paths_in(document.fields)))
    if not names:
        return "documents have no fields but _id, title and text"
    alike = difflib.get_close_matches(name, [*names, *OWN_FIELDS], 1)
    if alike:
        return f"there is {alike[0]!r:.60}"
    shown = ", ".join(f"{one!r:.60}" for one in islice(names, MOST_NAMES))
    return f"there are {shown}{' and others' if len(names) > MOST_NAMES else ''}"
