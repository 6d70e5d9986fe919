"""Which documents a `filter=` or `where=` means: conditions on stored fields, as MongoDB, Pinecone and Chroma users write them.

A mapping of fields, all of which must hold; a field has a value, which it must equal, or a mapping of operators:

    {"year": {"$gte": 2000}, "lang": "en", "$or": [{"tags": "tea"}, {"tags": {"$exists": False}}]}

`$eq $ne $in $nin $gt $gte $lt $lte $exists $not` of a field, `$and $or` of lists of conditions, `$not` of a condition.
`_id`, `title` and `text` are fields too, and come before stored ones of these names; `a.b` is `b` within the object `a`.

- Equal is what JSON has as the same value: True is not 1, 1 is 1.0, objects do not depend on order.
- A range compares numbers with numbers, and strings with strings by code point; of anything else it does not hold.
- A field that holds a list matches where the list itself or one of its elements does, each operator by itself; so
  `$ne` and `$nin`, which are `$not` of `$eq` and `$in`, hold where no element is equal.
- Of a document without the field no operator holds; so `$ne`, `$nin`, `$not` and `{"$exists": False}` do. null is a
  value: unlike MongoDB's, `{"a": None}` does not match a document without `a`.

`Condition.fits` is the definition; a filtered search (`retrieval.filtered`) asks the same `Comparison.holds`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import and_, ge, gt, le, lt, or_
from typing import Any, TypeVar

import numpy as np

from index.columns import ABSENT, KIND_OF, NUMBER, STRING, canonical, field_of
from index.documents import MOST_NESTED, Document, is_nested
from index.errors import FilterError, WinnowError
from retrieval.queries import checked_text

RANGES: Mapping[str, Callable[[Any, Any], bool]] = {
    "$gt": gt,
    "$gte": ge,
    "$lt": lt,
    "$lte": le,
}
OPERATORS = ("$eq", "$ne", "$in", "$nin", *RANGES, "$exists", "$not")
MOST_SHOWN = 5  # values of a list that an error repeats
Verdict = TypeVar("Verdict", bool, np.ndarray)


class Condition:
    """Which documents are meant; immutable and hashable, equal where they ask the same of the same fields in one order.

    >>> recent = Condition.of({"year": {"$gte": 2000}})
    >>> [recent.fits(Document("a", fields={"year": year})) for year in (1999, 2000, "2001", [1, 2001])]
    [False, True, False, True]
    """

    __slots__ = ()

    @classmethod
    def of(cls, given: object, name: str = "filter") -> Condition:
        """What a user wrote; an empty mapping means every document. `name` is the argument that errors speak of.

        Raises FilterError for what is not written as this module says: no mapping, an unknown operator, a value that is not
        JSON's, NaN, a range by anything but a number or string, an empty `$and`, `$or` or condition within another.
        """
        if isinstance(given, Condition):
            return given
        if not isinstance(given, Mapping):
            raise FilterError(f'{name} is {given!r:.60}; it must be a mapping of fields, as in {{"year": 1999}}.')
        return Every(()) if not given else Parser(name).condition(given)

    def fits(self, document: Document) -> bool:
        """True where the document is meant."""
        return self.evaluate(lambda comparison: comparison.holds(field_of(document, comparison.path)))

    def evaluate(self, verdict: Callable[[Comparison], Verdict]) -> Verdict:
        """The verdicts of all comparisons put together; these are bool, or bool [documents]."""
        raise NotImplementedError

    def comparisons(self) -> Iterator[Comparison]:
        """All that is asked of fields."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Comparison(Condition):
    """What is asked of one field."""

    path: str  # the field, as `field_of` finds it
    operator: str  # "$in" (`$eq` has one value), "$exists", or a range
    asked: Any  # of "$in" a frozenset of `canonical` values, of "$exists" a bool, of a range the bound
    kinds: int = field(compare=False, repr=False)  # of what is asked
    shown: str = field(compare=False, repr=False)  # what is asked, as the user wrote it

    def holds(self, value: Any) -> bool:
        """True where a document with this value of the field, perhaps ABSENT, is meant."""
        if self.operator == "$exists":
            return bool((value is not ABSENT) == self.asked)
        if value is ABSENT:
            return False
        if isinstance(value, list | tuple):
            return self._holds(value) or any(map(self._holds, value))
        return self._holds(value)

    def _holds(self, value: Any) -> bool:
        if self.operator == "$in":
            return canonical(value) in self.asked
        kind = STRING if isinstance(value, str) else NUMBER if is_number(value) else 0
        return kind == self.kinds and bool(RANGES[self.operator](value, self.asked))

    def evaluate(self, verdict: Callable[[Comparison], Verdict]) -> Verdict:
        return verdict(self)

    def comparisons(self) -> Iterator[Comparison]:
        yield self


@dataclass(frozen=True, slots=True)
class Every(Condition):
    """All conditions hold; there may be none."""

    conditions: tuple[Condition, ...]

    def evaluate(self, verdict: Callable[[Comparison], Verdict]) -> Verdict:
        verdicts = [condition.evaluate(verdict) for condition in self.conditions]
        return reduce(and_, verdicts) if verdicts else True  # type: ignore[return-value]

    def comparisons(self) -> Iterator[Comparison]:
        for condition in self.conditions:
            yield from condition.comparisons()


@dataclass(frozen=True, slots=True)
class Some(Condition):
    """One of the conditions holds, or several."""

    conditions: tuple[Condition, ...]

    def evaluate(self, verdict: Callable[[Comparison], Verdict]) -> Verdict:
        return reduce(or_, [condition.evaluate(verdict) for condition in self.conditions])

    def comparisons(self) -> Iterator[Comparison]:
        for condition in self.conditions:
            yield from condition.comparisons()


@dataclass(frozen=True, slots=True)
class Not(Condition):
    """The condition does not hold."""

    condition: Condition

    def evaluate(self, verdict: Callable[[Comparison], Verdict]) -> Verdict:
        return self.condition.evaluate(verdict) ^ True  # of one verdict and of an array alike

    def comparisons(self) -> Iterator[Comparison]:
        yield from self.condition.comparisons()


Where = Mapping[str, Any] | Condition | Callable[[Document], bool]


def meant(where: Where) -> Callable[[Document], bool]:
    """The test of a document that `where` stands for. Raises FilterError as `Condition.of` does."""
    if isinstance(where, Mapping | Condition):
        return Condition.of(where, "where").fits
    return lambda document: bool(where(document))


def going(doc_ids: str | Iterable[str] | None, where: Where | None) -> list[str] | Callable[[Document], bool]:
    """The ids that a deletion names, or the test that `where` stands for. Raises WinnowError unless it is one of the two."""
    if (doc_ids is None) == (where is None):
        raise WinnowError("delete takes ids, or where=; give one of the two.")
    if where is not None:
        if not (callable(where) or isinstance(where, Condition) or (isinstance(where, Mapping) and where)):
            raise WinnowError(f"where is {where!r:.60}; it must be a mapping of fields, or a function of a document.")
        return meant(where)
    given = [doc_ids] if isinstance(doc_ids, str) else doc_ids
    if not isinstance(given, Iterable):
        raise WinnowError(f"doc_ids is {given!r:.60}; it must be an id or a list of ids.")
    return [checked_text("doc_id", doc_id) for doc_id in given]


def is_number(value: object) -> bool:
    """True of 1 and 1.0, not of True."""
    return isinstance(value, int | float) and not isinstance(value, bool)


class Parser:
    """Reads what a user wrote into conditions; `name` is the argument that errors speak of."""

    def __init__(self, name: str):
        self._name = name

    def condition(self, given: object, deep: int = 0) -> Condition:
        """All that a mapping asks."""
        if isinstance(given, Condition):
            return given
        if not isinstance(given, Mapping) or not given:
            raise FilterError(f"{self._name} has {given!r:.60} where a condition belongs; give a mapping of fields.")
        if deep > MOST_NESTED:
            raise FilterError(f"{self._name} is nested more than {MOST_NESTED} deep; write it flatter.")
        conditions = tuple(self._entry(key, asked, deep + 1) for key, asked in given.items())
        return conditions[0] if len(conditions) == 1 else Every(conditions)

    def _entry(self, key: object, asked: object, deep: int) -> Condition:
        if not isinstance(key, str):
            raise FilterError(f"{self._name} has the field {key!r:.60}; the name of a field is a string.")
        if key in ("$and", "$or"):
            if not isinstance(asked, list | tuple) or not asked:
                raise FilterError(
                    f"{self._name} has {key} of {asked!r:.60}; it needs a list of at least one condition."
                )
            return (Every if key == "$and" else Some)(tuple(self.condition(one, deep) for one in asked))
        if key == "$not":
            return Not(self.condition(asked, deep))
        if key in OPERATORS:
            raise FilterError(
                f'{self._name} has {key} where a field belongs; write {{"field": {{"{key}": {asked!r:.60}}}}}.'
            )
        if key.startswith("$"):
            raise self._unknown(key, "$and, $or, $not and names of fields")
        return self._of_field(key, asked, deep)

    def _of_field(self, name: str, asked: object, deep: int) -> Condition:
        """What is asked of one field: a value, or operators, all of which must hold."""
        if not isinstance(asked, Mapping):
            return self._in(name, [asked])
        are_operators = [isinstance(key, str) and key.startswith("$") for key in asked]
        if not asked:
            raise FilterError(f"{self._name} asks nothing of {name!r:.60}; give a value or an operator.")
        if not any(are_operators):
            return self._in(name, [asked])
        if not all(are_operators):
            raise FilterError(
                f"{self._name} mixes operators and fields in {asked!r:.60}; write a field within {name!r:.60} as 'a.b'."
            )
        if deep > MOST_NESTED:
            raise FilterError(f"{self._name} is nested more than {MOST_NESTED} deep; write it flatter.")
        conditions = tuple(self._operator(name, key, value, deep + 1) for key, value in asked.items())
        return conditions[0] if len(conditions) == 1 else Every(conditions)

    def _operator(self, name: str, key: str, asked: Any, deep: int) -> Condition:
        if key in ("$eq", "$ne"):
            equal = self._in(name, [asked])
            return equal if key == "$eq" else Not(equal)
        if key in ("$in", "$nin"):
            if isinstance(asked, str | bytes | Mapping) or not hasattr(asked, "__iter__"):
                raise FilterError(
                    f"{self._name} has {key} of {asked!r:.60} for {name!r:.60}; it needs a list of values."
                )
            among = self._in(name, list(asked))
            return among if key == "$in" else Not(among)
        if key in RANGES:
            bound = self._value(name, asked)
            if not isinstance(bound, str) and not is_number(bound):
                raise FilterError(
                    f"{self._name} has {key} of {asked!r:.60} for {name!r:.60}; a range needs a number or a string."
                )
            return Comparison(name, key, bound, KIND_OF[type(bound)], f"{asked!r:.60}")
        if key == "$exists":
            if not isinstance(asked, bool | np.bool_):
                raise FilterError(f"{self._name} has $exists of {asked!r:.60} for {name!r:.60}; it is True or False.")
            return Comparison(name, key, bool(asked), 0, f"{asked!r}")
        if key == "$not":
            return Not(self._of_field(name, asked, deep))
        raise self._unknown(key, ", ".join(OPERATORS))

    def _in(self, name: str, asked: list[Any]) -> Comparison:
        values = [self._value(name, value) for value in asked]
        kinds = reduce(or_, (KIND_OF[type(value)] for value in values), 0)
        shown = f"{values[0] if len(values) == 1 else values[:MOST_SHOWN]!r:.60}"
        return Comparison(name, "$in", frozenset(map(canonical, values)), kinds, shown)

    def _value(self, name: str, given: Any) -> Any:
        """The value as JSON has it; what NumPy calls a number is one."""
        value = given.item() if isinstance(given, np.generic) else given
        if isinstance(value, list | tuple | dict):
            if is_nested([value], MOST_NESTED):
                raise FilterError(f"{self._name} asks {name!r:.60} for a value nested more than {MOST_NESTED} deep.")
            if not isinstance(value, dict):
                return [self._value(name, inner) for inner in value]
            if all(isinstance(key, str) for key in value):
                return {str(key): self._value(name, inner) for key, inner in value.items()}
        elif value is None or isinstance(value, bool):
            return value
        elif isinstance(value, str):
            return str(value)
        elif isinstance(value, int):
            return int(value)
        elif isinstance(value, float):
            if value != value:
                raise FilterError(f"{self._name} compares {name!r:.60} with NaN, which equals nothing; give a number.")
            return float(value)
        raise FilterError(
            f"{self._name} compares {name!r:.60} with {type(given).__name__} {given!r:.60}; give a value that JSON can hold."
        )

    def _unknown(self, key: str, known: str) -> FilterError:
        return FilterError(f"{self._name} has the unknown operator {key!r:.60}; there are {known}.")
