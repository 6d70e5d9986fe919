"""A filtered snapshot holds the documents that a plain reading of the filter means, over segments with deletes.

`means` below reads the filter as the user wrote it and shares no code with the parser, the conditions or the columns.
Seen to fail on these planted bugs: True equal to 1; `$nin` false without the field; a list's elements not looked at, or the list
itself not; the code -1 taken for the last value; a range that holds for booleans; `$lt` and `$lte` confused; `$or` taken for
`$and`; kinds of deleted documents counted, and deleted documents found; long columns that forget the kinds from before they
were found to be long, or at that moment; a dotted path that stops at a list; values of a wrong type let through.
"""

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from index import columns
from index.documents import Document, DocumentStore
from index.errors import FilterError
from index.segment import Live, Segment
from index.snapshot import LiveSegment, Snapshot
from retrieval.conditions import Condition
from retrieval.filtered import filtered, masks_of

numbers = st.sampled_from([0, 1, 1.0, 2, 2.5, -1, 2**60])
strings = st.sampled_from(["", "0", "1", "x", "é", "\U0001f375"])
switches = st.sampled_from([True, False, 0, 1, None])  # of which a careless comparison takes some for equal
anything = numbers | strings | switches
deep = (
    anything
    | st.lists(switches, max_size=2)
    | st.lists(st.lists(switches, max_size=1), max_size=2)
    | st.dictionaries(st.sampled_from(["b", "c"]), switches | st.lists(switches, max_size=1), max_size=2)
)
objects = st.fixed_dictionaries(
    {}, optional={"b": numbers, "c": strings | st.lists(strings, max_size=2), "b.c": numbers}
)
fields = st.fixed_dictionaries(
    {"m": st.lists(anything, max_size=2) | switches | anything, "d": deep},
    optional={
        "n": numbers,
        "s": strings,
        "t": switches,
        "l": st.lists(numbers, max_size=3) | numbers,
        "o": objects | st.lists(objects | numbers, max_size=2),
        "o.b": numbers,
        "title": numbers,  # the document's own title comes first
    },
)
segments = st.lists(
    st.lists(st.tuples(fields, st.integers(0, 3).map(bool)), min_size=2, max_size=8), min_size=1, max_size=3
)


def asking(values, bounds):
    """What may be asked of a field with such values: a value, or operators."""
    few = st.lists(values, max_size=3)
    plain = {"$eq": values, "$ne": values, "$in": few, "$nin": few, "$exists": st.booleans()}
    ranges = {sign: bounds for sign in ("$gt", "$gte", "$lt", "$lte")} if bounds is not None else {}
    operators = st.sampled_from([*plain, *ranges] * 2 + ["both"]).flatmap(
        lambda sign: (
            st.fixed_dictionaries({"$gte": bounds, "$lt": bounds})
            if sign == "both" and ranges
            else st.fixed_dictionaries({"$nin": few})
            if sign == "both"
            else st.fixed_dictionaries({sign: {**plain, **ranges}[sign]})
        )
    )
    return (
        values.filter(lambda value: not isinstance(value, dict)) | operators | operators.map(lambda one: {"$not": one})
    )


ids = st.integers(0, 30).map(str)
ASKED = {
    "n": asking(numbers, numbers), "s": asking(strings, strings), "t": asking(switches, None), "l": asking(numbers | st.lists(numbers, max_size=2), numbers),
    "m": asking(switches | anything, numbers), "d": asking(deep, None), "o.b": asking(numbers, numbers), "o.c": asking(strings, strings),
    "o.b.c": asking(numbers, numbers), "o": asking(st.lists(objects, max_size=2) | objects, None), "_id": asking(ids, ids),
    "title": asking(st.sampled_from(["", "x"]), strings), "text": asking(st.sampled_from(["", "0", "00"]), strings),
    "z": asking(numbers, numbers),
}  # fmt: skip
LIKELY = "n n s s t t l l l m m m m d d d d o.b o.c o.c o.c o.b.c o o _id _id title text z".split()
one_field = st.sampled_from(LIKELY).flatmap(lambda name: st.fixed_dictionaries({name: ASKED[name]}))
filters = st.recursive(
    one_field,
    lambda inner: (
        st.tuples(inner, inner).map(lambda two: {"$and": list(two)})
        | st.tuples(inner, inner).map(lambda two: {"$or": list(two)})
        | st.tuples(inner, inner).map(lambda two: {**two[0], **two[1]})
        | inner.map(lambda one: {"$not": one})
    ),
    max_leaves=3,
)
MISSING = object()


def same(one, other):
    """Equal as JSON has it, by way of its text: 1 and 1.0 are made alike first."""

    def plain(value):
        if isinstance(value, list):
            return [plain(inner) for inner in value]
        if isinstance(value, dict):
            return {name: plain(inner) for name, inner in value.items()}
        return float(value) if type(value) is int else value

    return json.dumps(plain(one), sort_keys=True) == json.dumps(plain(other), sort_keys=True)


def looked_up(document, path):
    own = {"_id": document.doc_id, "title": document.title, "text": document.text}
    return own[path] if path in own else within(document.fields, path.split("."))


def within(object, names):
    whole = ".".join(names)
    if whole in object:
        return object[whole]
    for cut in range(1, len(names)):
        inner = object.get(".".join(names[:cut]), MISSING)
        if isinstance(inner, dict):
            value = within(inner, names[cut:])
            if value is not MISSING:
                return value
        if isinstance(inner, list):
            gathered = [within(one, names[cut:]) for one in inner if isinstance(one, dict)]
            gathered = [one for one in gathered if one is not MISSING]
            if gathered:
                return [one for value in gathered for one in (value if isinstance(value, list) else [value])]
    return MISSING


def in_order(one, sign, other):
    """A comparison of two numbers or two strings; False of anything else."""
    number = {int, float}
    if not (type(one) is type(other) is str or {type(one), type(other)} <= number):
        return False
    return {"$gt": one > other, "$gte": one >= other, "$lt": one < other, "$lte": one <= other}[sign]


def means(filter, document):
    for key, asked in filter.items():
        if key == "$and":
            holds = all(means(one, document) for one in asked)
        elif key == "$or":
            holds = any(means(one, document) for one in asked)
        elif key == "$not":
            holds = not means(asked, document)
        else:
            holds = field_means(looked_up(document, key), asked)
        if not holds:
            return False
    return True


def field_means(value, asked):
    if not isinstance(asked, dict) or not any(key.startswith("$") for key in asked):
        asked = {"$eq": asked}
    return all(operator_means(value, sign, wanted) for sign, wanted in asked.items())


def operator_means(value, sign, wanted):
    if sign == "$exists":
        return (value is not MISSING) is wanted
    if sign == "$not":
        return not field_means(value, wanted)
    if sign in ("$ne", "$nin"):
        return not operator_means(value, {"$ne": "$eq", "$nin": "$in"}[sign], wanted)
    if value is MISSING:
        return False
    among = [value, *value] if isinstance(value, list) else [value]
    if sign in ("$eq", "$in"):
        return any(same(one, other) for one in among for other in (wanted if sign == "$in" else [wanted]))
    return any(in_order(one, sign, wanted) for one in among)


def asked_of_fields(filter):
    """(path, [values]) of all that a filter asks but existence."""
    for key, asked in filter.items():
        if key in ("$and", "$or"):
            for one in asked:
                yield from asked_of_fields(one)
        elif key == "$not":
            yield from asked_of_fields(asked)
        elif isinstance(asked, dict) and any(sign.startswith("$") for sign in asked):
            for sign, wanted in asked.items():
                if sign == "$not":
                    yield from asked_of_fields({key: wanted})
                elif sign != "$exists":
                    yield key, wanted if sign in ("$in", "$nin") else [wanted]
        else:
            yield key, [asked]


def kind(value):
    return {int: "number", float: "number", str: "string", bool: "boolean", type(None): "null"}.get(
        type(value), type(value).__name__
    )


def is_slip(documents, path, wanted):
    """True where no document could be meant."""
    there = [value for value in (looked_up(document, path) for document in documents) if value is not MISSING]
    held = {kind(one) for value in there for one in ([value, *value] if isinstance(value, list) else [value])}
    asked = {kind(value) for value in wanted}
    if path in ("_id", "title", "text"):
        held = {"string"}
    if not held:
        return True
    if held <= {"null", "list"} or not asked or "null" in asked:
        return False
    return not held & asked


def snapshot_of(given):
    built, number = [], 0
    for one in given:
        documents = []
        for some, _ in one:
            documents.append(Document(f"{number}", "x" if number % 2 else "", "0" * (number % 3), some))
            number += 1
        live = np.array([is_live for _, is_live in one], np.bool_)
        mask = None if live.all() else live
        built.append(LiveSegment(Segment(DocumentStore.of(documents), {}), Live(mask, int(live.sum()), {})))
    return Snapshot(tuple(built))


@pytest.mark.parametrize("room", [columns.ROOM, 200, 0], ids=["columns", "some long", "all long"])
@settings(max_examples=60)
@given(given=segments, filters=st.lists(filters, min_size=3, max_size=8))
def test_a_filtered_snapshot_has_the_documents_that_the_filter_means(room, given, filters):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "ROOM", room)
        patch.setattr(columns, "ROOM_A_DOCUMENT", 0)
        snapshot = snapshot_of(given)
        for filter in filters:
            check(snapshot, filter)


def check(snapshot, filter):
    condition, live = Condition.of(filter), list(snapshot.documents())
    if live and any(is_slip(live, *asked) for asked in asked_of_fields(filter)):
        with pytest.raises(FilterError, match=r"which no document has|but the field has no"):
            filtered(snapshot, condition)
        return
    expected = [document for document in live if means(filter, document)]
    assert list(filtered(snapshot, condition).documents()) == expected
    for (segment, _, _), mask in zip(snapshot.segments, masks_of(snapshot, condition), strict=True):
        assert mask.tolist() == [means(filter, document) for document in segment.documents]


@example(some=[{"m": True}], filters=[{"m": {"$gte": 0}}])
@given(some=st.lists(fields, min_size=3, max_size=8), filters=st.lists(filters, min_size=3, max_size=8))
def test_a_condition_fits_what_the_filter_means(some, filters):
    for number, fields in enumerate(some):
        document = Document(str(number), "x", "0", fields)
        for filter in filters:
            assert Condition.of(filter).fits(document) == means(filter, document)
