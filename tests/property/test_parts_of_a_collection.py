"""An index that is a part of a living collection: counts under a mean length that changes, documents that are gone, floors, and
merges that equal an index built at once, bit for bit, all against plain Python.

Seen to fail on these planted bugs: bounds that do not grow with the mean length; deleted documents found where a filter is given
as well; a merge that takes the scales of the first documents instead of the live ones, or keeps each part's term numbers; a
mean length over documents without terms too; documents at the floor left out; an upper bound a tenth too low beside a floor.
"""

import itertools

import numpy as np
import pytest
from collections_for_tests import as_pairs, brute_force, mean_of_lengths, sparse_rows, stored_impacts
from hypothesis import example, given
from hypothesis import strategies as st

from index.calibration import Calibration, Dial
from index.effort import Budget, Recall
from index.errors import InvalidVectorsError, WinnowError
from index.inverted import InvertedIndex
from index.options import InvertedIndexOptions
from index.settings import NO_LIMIT, ClusterSetting, Setting
from index.vectors import SparseQuery
from kernels.cpu.forward_rows import WINDOW

NUM_TERMS = 5
KINDS = ["u8", "u16", "f32", "counts"]
terms = st.integers(0, NUM_TERMS - 1)
few_counts = st.sampled_from([1, 2, 3])  # so that equal scores are common
any_count = few_counts | st.sampled_from([0, 7, 255, 256, 65_535, 65_536, 2**24])
weights = st.sampled_from([0.1, 0.7, 1.0, 3.3e5])
queries = st.dictionaries(terms, weights, min_size=1)


def documents_of(counts, max_size=30):
    return st.lists(st.dictionaries(terms, counts), max_size=max_size)


def build(documents, impacts, num_terms=NUM_TERMS, **build_options):
    return InvertedIndex.build(sparse_rows(documents), InvertedIndexOptions(num_terms, impacts), **build_options)


def asked(query):
    order = sorted(query)
    return np.array(order, np.int32), np.array([query[term] for term in order], np.float32)


def without(stored, live):
    """Stored impacts with the rows of documents that are gone emptied."""
    return [row if alive else {} for row, alive in zip(stored, live, strict=True)]


def assert_same(expected, found):
    assert found.options == expected.options
    assert found.mean_length == expected.mean_length
    for wanted, got in zip(expected.tiers + expected.forward, found.tiers + found.forward, strict=True):
        np.testing.assert_array_equal(wanted, got)
        assert wanted.dtype == got.dtype


@example(documents=[{0: 1}, {0: 2, 1: 3}, {}], query={0: 1.0}, k=3, k1=0.0, b=0.0, mean=None)
@example(documents=[{0: 1, 1: 2**24}, {0: 1}], query={0: 1.0}, k=3, k1=1e6, b=1.0, mean=1.0)
@example(documents=[{0: 1, 1: 1, 2: 1, 3: 2**24, 4: 2}], query={0: 0.1}, k=1, k1=0.9, b=0.4, mean=None)
@given(
    documents=documents_of(few_counts) | documents_of(any_count),
    query=queries,
    k=st.integers(1, 40),
    k1=st.sampled_from([0.0, 0.9, 1.2, 1e6, 1e-42]),
    b=st.sampled_from([0.0, 0.4, 0.75, 1.0]),
    mean=st.sampled_from([None, 1.0, 2.7, 1e4, 1e8]),
)
def test_counts_saturate_as_step_by_step_whatever_the_mean_length(documents, query, k, k1, b, mean):
    options = InvertedIndexOptions(NUM_TERMS, "counts", k1=k1, b=b)
    index = InvertedIndex.build(sparse_rows(documents), options)
    assert index.mean_length == mean_of_lengths(documents)
    if mean is not None:
        index = index.seen(mean_length=mean)
    stored = stored_impacts(documents, "counts", mean, k1, b)
    assert as_pairs(index.search(*asked(query), k)) == brute_force(stored, query, k)


def counted(num_docs, seed, num_terms=12):
    """Many documents of few terms, counts and lengths, so that lists are cut into tiers and ties are common."""
    rng = np.random.default_rng(seed)
    return [
        {int(term): int(rng.choice([1, 1, 1, 2, 3, 9])) for term in rng.choice(num_terms, rng.integers(0, 9))}
        for _ in range(num_docs)
    ]


@pytest.mark.parametrize("b", [0.4, 1.0])
@pytest.mark.parametrize("mean_now", [1.0, 5.5, 7.0, 40.0, 5_000.0])
def test_bounds_hold_when_the_mean_length_has_moved(mean_now, b):
    """Long lists and few wanted hits, so that thresholds prune: a bound of the mean length built with would lose documents."""
    documents = counted(3_000, 1) + [{term: 9 for term in range(12)}] * 3 + [{0: 1}] * 400
    options = InvertedIndexOptions(12, "counts", b=b)
    index = InvertedIndex.build(sparse_rows(documents), options).seen(mean_length=mean_now)
    stored = stored_impacts(documents, "counts", mean_now, b=b)
    rng = np.random.default_rng(2)
    for k in (1, 3, 10, 100):
        query = {int(t): float(rng.choice([0.1, 0.3, 1.0, 7.0])) for t in rng.choice(12, rng.integers(1, 12))}
        assert as_pairs(index.search(*asked(query), k)) == brute_force(stored, query, k)


@given(
    documents=documents_of(few_counts),
    query=queries,
    k=st.integers(1, 12),
    impacts=st.sampled_from(KINDS),
    data=st.data(),
)
def test_only_live_and_allowed_documents_are_found(documents, query, k, impacts, data):
    masks = st.none() | st.lists(st.booleans(), min_size=len(documents), max_size=len(documents)).map(
        lambda mask: np.array(mask, np.bool_)
    )
    live, allowed = data.draw(masks), data.draw(masks)
    index = build(documents, impacts).seen(live)
    may = np.ones(len(documents), np.bool_)
    for mask in (live, allowed):
        may &= True if mask is None else mask
    expected = brute_force(without(stored_impacts(documents, impacts), may), query, k)
    assert index.num_live == (len(documents) if live is None else int(live.sum()))
    assert as_pairs(index.search(*asked(query), k, allowed=allowed)) == expected
    assert as_pairs(index.search_batch([SparseQuery(*asked(query))], k, allowed=allowed)[0]) == expected


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
@pytest.mark.parametrize("impacts", ["u8", "counts"])
def test_a_large_part_with_documents_gone(impacts, share):
    documents = counted(WINDOW + 700, 3, 8)
    live = np.random.default_rng(4).random(len(documents)) < share
    allowed = np.arange(len(documents)) % 3 > 0
    index = build(documents, impacts, 8)
    stored = without(stored_impacts(documents, impacts), live)
    for query in ({0: 1.0, 3: 0.5}, {1: 2.0}, dict.fromkeys(range(8), 0.7)):
        assert as_pairs(index.seen(live).search(*asked(query), 10)) == brute_force(stored, query, 10)
        both = without(stored, allowed)
        assert as_pairs(index.seen(live).search(*asked(query), 10, allowed=allowed)) == brute_force(both, query, 10)
        found = index.seen(live).search(*asked(query), 10, Budget(postings=5_000))
        assert set(as_pairs(found)) <= set(brute_force(stored, query, len(documents)))
    assert index.num_live == len(documents)  # the index itself has lost none


@example(documents=[{0: 1.0}] * 3, query={0: 1.0}, k=2, impacts="f32", floor=1.0)
@given(
    documents=documents_of(few_counts),
    query=queries,
    k=st.integers(1, 12),
    impacts=st.sampled_from(KINDS),
    floor=st.floats(0, 2e6) | st.integers(0, 40),
)
def test_a_search_with_a_floor_is_one_without_cut_at_it(documents, query, k, impacts, floor):
    index = build(documents, impacts)
    every = brute_force(stored_impacts(documents, impacts), query, len(documents) + 1)
    if isinstance(floor, int):  # the score of some document, so that ties with the floor are common
        floor = every[floor % len(every)][0] if every else 0.5
    expected = [hit for hit in every if hit[0] >= floor][:k]
    assert as_pairs(index.search(*asked(query), k, floor=floor)) == expected
    batch = [SparseQuery(*asked(query))] * 2
    assert list(map(as_pairs, index.search_batch(batch, k, floors=np.array([floor, 0.0])))) == [expected, every[:k]]
    rough = index.search(*asked(query), k, Budget(postings=3, candidates=4), floor=floor)
    assert set(as_pairs(rough)) <= {hit for hit in every if hit[0] >= floor}


@pytest.mark.parametrize("impacts", KINDS)
def test_a_floor_prunes_nothing_that_reaches_it(impacts):
    documents = counted(WINDOW + 2_000, 5)
    index, stored = build(documents, impacts, 12), stored_impacts(documents, impacts)
    rng = np.random.default_rng(6)
    for k in (1, 10, 100):
        query = {int(t): float(rng.choice([0.1, 0.3, 1.0, 7.0])) for t in rng.choice(12, rng.integers(1, 12))}
        every = brute_force(stored, query, len(documents))
        for rank in (0, 3, 9, 99, 5_000):
            floor = every[min(rank, len(every) - 1)][0]
            expected = [hit for hit in every if hit[0] >= floor][:k]
            assert as_pairs(index.search(*asked(query), k, floor=floor)) == expected
        assert as_pairs(index.search(*asked(query), k, floor=every[0][0] * 1.001)) == []


def test_a_collection_in_parts_answers_as_one():
    """Each part is seen with the mean length of all and starts from the k-th best score so far."""
    documents = counted(4_000, 7)
    whole = build(documents, "counts", 12)
    cuts = [0, 1_000, 1_001, 2_500, 4_000]
    parts = [build(documents[a:b], "counts", 12) for a, b in itertools.pairwise(cuts)]
    mean = whole.mean_length
    assert sum(part.document_frequency for part in parts).tolist() == whole.document_frequency.tolist()
    for query in ({0: 1.0, 3: 0.5}, {1: 2.0}, dict.fromkeys(range(12), 0.7)):
        best, floor = [], 0.0
        for part, first in zip(parts, cuts, strict=False):
            scores, docs = part.seen(mean_length=mean).search(*asked(query), 10, floor=floor)
            found = zip(scores.tolist(), (docs + first).tolist(), strict=True)
            best = sorted([*best, *found], key=lambda hit: (-hit[0], hit[1]))[:10]
            floor = best[-1][0] if len(best) == 10 else 0.0
        assert best == as_pairs(whole.search(*asked(query), 10))


@given(
    documents=documents_of(few_counts, 60) | documents_of(any_count, 60),
    cuts=st.lists(st.integers(0, 60), max_size=3),
    gone=st.sets(st.integers(0, 59)),
    impacts=st.sampled_from(KINDS),
    num_terms=st.integers(NUM_TERMS, NUM_TERMS + 3),
    data=st.data(),
)
def test_a_merge_equals_an_index_built_at_once(documents, cuts, gone, impacts, num_terms, data):
    """Of the live documents only, each part with its own vocabulary."""
    edges = [0, *sorted(min(cut, len(documents)) for cut in cuts), len(documents)]
    indexes, masks, maps = [], [], []
    for first, past in itertools.pairwise(edges):
        names = data.draw(st.sets(st.integers(0, num_terms - 1), min_size=NUM_TERMS, max_size=NUM_TERMS))
        maps.append(np.array(sorted(names), np.int32))
        masks.append(np.array([doc not in gone for doc in range(first, past)], np.bool_))
        indexes.append(build(documents[first:past], impacts))
    renamed = [
        {int(new[term]): count for term, count in document.items()}
        for (first, past), new in zip(itertools.pairwise(edges), maps, strict=True)
        for document in documents[first:past]
    ]
    expected = build([row for doc, row in enumerate(renamed) if doc not in gone], impacts, num_terms)
    assert_same(expected, InvertedIndex.merge(indexes, live=masks, terms=maps, num_terms=num_terms, threads=2))
    seen = [index.seen(mask) for index, mask in zip(indexes, masks, strict=True)]
    assert_same(expected, InvertedIndex.merge(seen, terms=maps, num_terms=num_terms))


@pytest.mark.parametrize("impacts", KINDS)
def test_a_merge_of_windows_and_clusters_equals_one_built_at_once(impacts, tmp_path):
    documents = counted(WINDOW + 3_000, 8)
    options = InvertedIndexOptions(12, impacts, second_tier=True)
    live = np.random.default_rng(9).random(len(documents)) < 0.97
    cuts = [0, 40_000, WINDOW + 1_000, WINDOW + 3_000]
    indexes = [InvertedIndex.build(sparse_rows(documents[a:b]), options) for a, b in itertools.pairwise(cuts)]
    kept = [document for document, alive in zip(documents, live, strict=True) if alive]
    expected = InvertedIndex.build(sparse_rows(kept), options)
    merged = InvertedIndex.merge(
        indexes, live=[live[a:b] for a, b in itertools.pairwise(cuts)], folder=tmp_path / "i", memory_limit="200MB"
    )
    assert_same(expected, merged)
    for name, array in expected.second_tier.groups._asdict().items():
        np.testing.assert_array_equal(array, getattr(merged.second_tier.groups, name))


def test_an_index_built_into_a_folder_is_read_from_it(tmp_path):
    documents = counted(500, 10)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    built = InvertedIndex.build_into(
        tmp_path / "a", sparse_rows(documents), InvertedIndexOptions(12, "counts"), mean_length=9.0
    )
    read = InvertedIndex.read(tmp_path / "a", built.description())
    assert_same(built, read)
    assert read.mean_length == 9.0
    merged = InvertedIndex.merge_into(tmp_path / "b", [read, read], mean_length=9.0)
    assert_same(build(documents * 2, "counts", 12, mean_length=9.0), merged)
    query = {0: 1.0, 3: 2.0}
    expected = brute_force(stored_impacts(documents, "counts", 9.0), query, 10)
    assert as_pairs(read.search(*asked(query), 10)) == expected


def test_what_is_stored_of_documents_comes_back():
    documents = [{0: 2, 3: 1}, {}, {3: 300}]
    index = build(documents, "counts")
    rows = index.stored_rows(np.array([2, 0]))
    assert (rows.indptr.tolist(), rows.indices.tolist(), rows.data.tolist()) == ([0, 1, 3], [3, 0, 3], [300, 2, 1])
    assert (index.num_live_with_terms, index.mean_length) == (2, 303 / 2)
    assert index.seen(np.array([True, True, False])).num_live_with_terms == 1
    assert index.document_frequency.tolist() == [1, 0, 0, 2, 0]
    assert index.forward.levels.dtype == np.uint16
    assert build([{0: 255}], "counts").forward.levels.dtype == np.uint8
    assert build([{0: 65_536}], "counts").forward.levels.dtype == np.float32
    weighed = build([{0: 2.5, 3: 1}, {1: 4}], "f32")
    assert weighed.stored_rows(np.array([1, 0])).data.tolist() == [4, 2.5, 1]
    assert weighed.mean_length == 0
    with pytest.raises(InvalidVectorsError, match="are not all of the 3 documents, 0 to 2"):
        index.stored_rows(np.array([3]))


@pytest.mark.parametrize("count", [1.5, 2**24 + 1, 1e-3])
def test_what_is_no_count_is_refused(count):
    rows = sparse_rows([{0: 1}, {2: 1}])._replace(data=np.array([1, count]))
    with pytest.raises(
        InvalidVectorsError, match=r"count .* of term 2 cannot be stored; .* whole numbers from 0 to 16777216"
    ):
        InvertedIndex.build(rows, InvertedIndexOptions(3, "counts"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k1": -0.1}, "k1 is -0.1; it must be a number from 0 to 1,000,000"),
        ({"k1": float("nan")}, "k1 is nan"),
        ({"k1": "1"}, "k1 is '1'"),
        ({"b": 1.5}, "b is 1.5; it must be a number from 0 to 1"),
        ({"b": True}, "b is True"),
    ],
)
def test_saturation_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(InvalidVectorsError, match=message):
        InvertedIndexOptions(3, "counts", **options)


@pytest.mark.parametrize("mean", [-1, 0.5, float("nan"), float("inf"), "3"])
def test_a_mean_length_that_is_none_is_refused(mean):
    with pytest.raises(InvalidVectorsError, match=r"mean_length is .*; it must be a number of at least 1, or 0"):
        build([{0: 1}], "counts", mean_length=mean)
    with pytest.raises(InvalidVectorsError, match="mean_length is "):
        build([{0: 1}], "counts").seen(mean_length=mean)


@pytest.mark.parametrize("floor", [-1, float("nan"), "3", None, True])
def test_a_floor_that_is_none_is_refused(floor):
    with pytest.raises(InvalidVectorsError, match=r"floor is .*; it must be a number of at least 0"):
        build([{0: 1}], "f32").search([0], [1.0], floor=floor)


@pytest.mark.parametrize("floors", [[1.0], [1.0, -1.0], [1.0, float("nan")], ["a", "b"]])
def test_floors_that_are_none_are_refused(floors):
    query = SparseQuery([0], [1.0])
    with pytest.raises(
        InvalidVectorsError, match=r"floors are .*; give one number of at least 0 for each of the 2 queries"
    ):
        build([{0: 1}], "f32").search_batch([query, query], floors=floors)


@pytest.mark.parametrize("live", [[True], np.ones(4), np.ones((2, 1), bool)])
def test_a_mask_of_another_shape_is_refused(live):
    with pytest.raises(
        InvalidVectorsError, match=r"the mask of live documents has .*; it needs one bool for each of the 2"
    ):
        build([{0: 1}, {}], "f32").seen(live)


def test_what_cannot_be_merged_is_refused():
    index = build([{0: 1}], "f32")
    for other in (build([{0: 1}], "u8"), build([{0: 1}], "f32", 7)):
        with pytest.raises(WinnowError, match="the indexes have different options"):
            InvertedIndex.merge([index, other])
    with pytest.raises(WinnowError, match="live has 2 entries for 1 indexes; give one for each"):
        InvertedIndex.merge([index], live=[None, None])
    for new in ([0, 1, 2, 2, 4], [0, 1, 2, 3, 5], [-2, 1, 2, 3, 4]):
        with pytest.raises(InvalidVectorsError, match=r"the new numbers of 5 terms go from .*; they must ascend"):
            InvertedIndex.merge([index], terms=[np.array(new)])
    with pytest.raises(InvalidVectorsError, match="an index of 5 terms needs one whole number for each"):
        InvertedIndex.merge([index], terms=[np.arange(4)])


def test_a_search_for_a_recall_is_not_repeated_exactly_where_a_floor_leaves_few_hits(monkeypatch):
    index = build(counted(2_000, 11), "f32", 12)
    rough = Dial(Setting(0.9, NO_LIMIT, 30), 1.0, 0.0, 1.0)
    index.calibration = Calibration((rough,), (rough,))
    best = float(index.search(*asked({0: 1.0, 1: 1.0}), 1)[0][0])
    monkeypatch.setattr("index.impact_search.rank_safe.search", None)
    found, _ = index.search(*asked({0: 1.0, 1: 1.0}), 100, Recall(0.9), floor=best)
    assert set(found.tolist()) == {best}
    assert len(found) < 100


def test_the_second_tier_keeps_to_a_floor_and_leaves_masks_to_the_first():
    documents = counted(3_000, 12)
    index = InvertedIndex.build(sparse_rows(documents), InvertedIndexOptions(12, "f32", second_tier=True))
    generous = Dial(ClusterSetting(10**6, 400, 200, 5, 100), 1.0, 0.0, 1.0)
    index.calibration = Calibration((generous,), (generous,))
    query = {0: 1.0, 3: 0.5}
    every = brute_force(stored_impacts(documents, "f32"), query, len(documents))
    floor = every[20][0]
    found = as_pairs(index.search(*asked(query), 10, Recall(0.9), floor=floor))
    assert found
    assert set(found) <= {hit for hit in every if hit[0] >= floor}
    live = np.ones(len(documents), np.bool_)
    live[[doc for _, doc in every[:5]]] = False
    found = as_pairs(index.seen(live).search(*asked(query), 10, Recall(0.9)))
    assert found == brute_force(without(stored_impacts(documents, "f32"), live), query, 10)
