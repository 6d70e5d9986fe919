"""The language of `filter=` and `where=`: what it means, and what it refuses."""

import numpy as np
import pytest

from index.documents import Document
from index.errors import FilterError
from retrieval.conditions import Condition, Every, meant

TEA = Document(
    "t",
    "Tea",
    "green tea",
    {
        "year": 2000, "rating": 4.5, "lang": "en", "hot": True, "none": None, "tags": ["tea", "leaf", 7], "empty": [],
        "author": {"name": "Ann", "born": 1950}, "by": [{"name": "Ann"}, {"name": "Bob", "of": ["x", "y"]}, "nobody"],
        "a.b": 1, "c": {"d.e": 2}, "big": 2**53 + 1,
    },
)  # fmt: skip


def means(filter):
    return Condition.of(filter).fits(TEA)


@pytest.mark.parametrize(
    "filter",
    [
        {},
        {"year": 2000},
        {"year": 2000.0},
        {"year": {"$eq": 2000}, "lang": "en"},
        {"hot": True},
        {"none": None},
        {"_id": "t", "title": "Tea", "text": "green tea"},
        {"year": {"$in": ["x", 2000]}},
        {"year": {"$in": range(1999, 2001)}},
        {"year": np.int64(2000), "rating": np.float32(4.5), "hot": np.True_},
        {"year": {"$gt": 1999, "$lt": 2001, "$gte": 2000, "$lte": 2000.0}},
        {"year": {"$lt": float("inf")}},
        {"lang": {"$gte": "en", "$lt": "eo"}},
        {"title": {"$gt": "TEA"}},  # by code point
        {"big": {"$gt": float(2**53)}},  # exactly, though floats cannot tell them apart
        {"tags": "leaf"},
        {"tags": ["tea", "leaf", 7.0]},
        {"tags": {"$in": ["rain", "leaf"]}},
        {"tags": {"$gt": 6}},
        {"tags": {"$gt": 6, "$lt": "m"}},  # each operator by itself finds an element
        {"empty": []},
        {"empty": {"$exists": True}},
        {"author": {"born": 1950, "name": "Ann"}},
        {"author.name": "Ann"},
        {"author.born": {"$lt": 2000}},
        {"by.name": "Bob"},
        {"by.of": "y"},
        {"by.of": ["x", "y"]},
        {"a.b": 1},
        {"c.d.e": 2},
        {"none": {"$exists": True}, "nothing": {"$exists": False}},
        {"nothing": {"$ne": 1}},
        {"nothing": {"$nin": [1]}},
        {"nothing": {"$not": {"$gt": 1}}},
        {"$not": {"nothing": 1}},
        {"year": {"$not": 1999}},
        {"year": {"$nin": []}},
        {"$or": [{"year": 1}, {"lang": "en"}], "$and": [{"hot": True}, {"year": 2000}]},
        {"$or": [Condition.of({"year": 2000})]},
    ],
    ids=str,
)
def test_these_conditions_mean_the_document(filter):
    assert means(filter)
    assert not means({"$not": filter} if filter else {"$not": Condition.of(filter)})


@pytest.mark.parametrize(
    "filter",
    [
        {"year": "2000"},
        {"year": True},
        {"hot": 1},
        {"hot": {"$in": [1, 1.0]}},
        {"hot": {"$gte": 0}},
        {"none": 0},
        {"nothing": None},  # unlike MongoDB's
        {"nothing": {"$lt": 1}},
        {"nothing": {"$in": [None]}},
        {"year": {"$in": []}},
        {"year": {"$gt": 2000}},
        {"lang": {"$gt": 1}},
        {"year": {"$gt": "1999"}},
        {"none": {"$lte": 5}},
        {"author": {"$gt": 5}},
        {"tags": ["tea", "leaf"]},
        {"tags": [True]},
        {"tags": {"$ne": "leaf"}},
        {"tags": {"$nin": ["rain", "leaf"]}},
        {"empty": {"$lt": 5}},
        {"author": {"name": "Ann"}},
        {"by.name.x": "Bob"},
        {"by.of.z": "y"},
        {"author.": 1},
        {".": 1},
        {"year": 2000, "lang": "de"},
        {"$or": [{"year": 1}, {"lang": "de"}]},
        {"_id": {"$exists": False}},
    ],
    ids=str,
)
def test_these_conditions_do_not(filter):
    assert not means(filter)
    assert means({"$not": filter})


def test_the_documents_own_title_comes_before_a_stored_field_of_that_name():
    document = Document("a", "own", fields={"title": "stored", "_id": "b"})
    assert Condition.of({"title": "own", "_id": "a"}).fits(document)


@pytest.mark.parametrize(
    ("filter", "message"),
    [
        (7, r"filter is 7; it must be a mapping of fields"),
        ([{"year": 1}], r"filter is \[\{'year': 1\}\]; it must be a mapping"),
        ({1: 2}, "filter has the field 1; the name of a field is a string"),
        ({"$near": 1}, r"unknown operator '\$near'; there are \$and, \$or, \$not and names of fields"),
        ({"year": {"$near": 1}}, r"unknown operator '\$near'; there are \$eq, \$ne, \$in"),
        ({"$gt": 1}, r'filter has \$gt where a field belongs; write \{"field": \{"\$gt": 1\}\}'),
        ({"year": {"$gt": 1, "x": 1}}, "mixes operators and fields .* as 'a.b'"),
        ({"year": {}}, "filter asks nothing of 'year'"),
        ({"$or": []}, r"filter has \$or of \[\]; it needs a list of at least one condition"),
        ({"$and": {"year": 1}}, r"filter has \$and of \{'year': 1\}; it needs a list"),
        ({"$or": [{}]}, r"filter has \{\} where a condition belongs"),
        ({"$not": 5}, "filter has 5 where a condition belongs"),
        ({"$or": [5]}, "filter has 5 where a condition belongs"),
        ({"year": {"$in": 5}}, r"filter has \$in of 5 for 'year'; it needs a list of values"),
        ({"lang": {"$in": "en"}}, r"filter has \$in of 'en' for 'lang'; it needs a list"),
        ({"year": {"$gt": True}}, r"filter has \$gt of True for 'year'; a range needs a number or a string"),
        ({"year": {"$lte": None}}, "a range needs a number or a string"),
        ({"year": {"$lt": [1]}}, "a range needs a number or a string"),
        ({"year": {"$exists": 1}}, r"filter has \$exists of 1 for 'year'; it is True or False"),
        ({"year": float("nan")}, "filter compares 'year' with NaN, which equals nothing"),
        ({"year": {"$lt": np.float32("nan")}}, "filter compares 'year' with NaN"),
        ({"year": {"$in": [[1, float("nan")]]}}, "filter compares 'year' with NaN"),
        ({"year": {1, 2}}, r"filter compares 'year' with set \{1, 2\}; give a value that JSON can hold"),
        ({"year": b"x"}, "filter compares 'year' with bytes b'x'"),
        ({"year": {2: 1}}, "filter compares 'year' with dict {2: 1}"),
        ({"year": np.datetime64("2000-01-01")}, "filter compares 'year' with datetime64"),
    ],
    ids=str,
)
def test_what_is_no_condition_is_one_sentence(filter, message):
    with pytest.raises(FilterError, match=message) as caught:
        Condition.of(filter)
    assert str(caught.value).endswith(".")
    assert len(str(caught.value)) < 250


def nested(deep, around, innermost):
    for _ in range(deep):
        innermost = around(innermost)
    return innermost


@pytest.mark.parametrize(
    "filter",
    [
        nested(99_999, lambda inner: {"$not": inner}, {"year": 1}),
        nested(99_999, lambda inner: {"$or": [inner]}, {"year": 1}),
        {"year": nested(99_999, lambda inner: {"$not": inner}, 1)},
        {"year": nested(99_999, lambda inner: [inner], 1)},
        {"year": {"$in": [nested(99_999, lambda inner: {"x": inner}, 1)]}},
    ],
    ids=["not", "or", "field not", "list", "object"],
)
def test_what_is_nested_beyond_reason_is_refused(filter):
    with pytest.raises(FilterError, match="nested more than 100 deep"):
        Condition.of(filter)


def test_conditions_that_ask_the_same_are_equal_and_true_is_not_one():
    def condition(value):
        return Condition.of({"a": {"$in": [value, "x"]}})

    assert condition(1) == condition(1.0)
    assert hash(condition(1)) == hash(condition(1.0))
    assert condition(1) != condition(True)
    assert condition([1]) != condition([True])
    assert condition({"b": 1, "c": 2}) == condition({"c": 2, "b": 1})
    assert Condition.of({"a": {"$gt": 1}}) != Condition.of({"a": {"$gte": 1}})
    assert Condition.of({}) == Every(())


def test_a_condition_does_not_change_with_what_it_was_made_from():
    given = {"tags": {"$in": ["rain"]}}
    condition = Condition.of(given)
    given["tags"]["$in"].append("tea")
    assert not condition.fits(TEA)


def test_where_is_the_same_language_or_a_function():
    assert meant({"year": {"$gte": 2000}})(TEA)
    assert meant(Condition.of({"year": 2000}))(TEA)
    assert meant(lambda document: document.doc_id)(TEA) is True
    with pytest.raises(FilterError, match="where compares 'year' with NaN"):
        meant({"year": float("nan")})
