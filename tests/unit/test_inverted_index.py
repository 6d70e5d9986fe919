import errno
import json
from types import SimpleNamespace

import numpy as np
import pytest
from collections_for_tests import as_pairs, sparse_rows

from index.building import parse_size
from index.calibration import Calibration, Dial, sample_queries
from index.effort import EXACT, Budget, Exact, Recall
from index.errors import IndexFormatError, InvalidVectorsError, WinnowError, interruptible
from index.inverted import InvertedIndex
from index.inverted_files import FOLLOWS
from index.options import InvertedIndexOptions
from index.settings import NO_LIMIT, Setting
from index.vectors import SparseQuery, checked_query, concatenate
from kernels.cpu.forward_rows import ForwardRows
from kernels.cpu.impact_tiers import ImpactTiers
from kernels.cpu.sparse import SparseRows

COFFEE, TEA, MILK = 0, 1, 2
COLLECTION = [{COFFEE: 5, MILK: 1}, {TEA: 9}, {TEA: 9, MILK: 4}, {}]


@pytest.fixture
def index():
    return InvertedIndex.build(sparse_rows(COLLECTION), InvertedIndexOptions(num_terms=3, impacts="f32"))


def search(index, k=10, effort=EXACT, allowed=None, **weights):
    names = {"coffee": COFFEE, "tea": TEA, "milk": MILK}
    terms = np.array([names[name] for name in weights], np.int32)
    return as_pairs(index.search(terms, np.array(list(weights.values())), k, effort, allowed))


def test_score_is_the_dot_product(index):
    assert search(index, tea=2, milk=1) == [(2 * 9 + 1 * 4, 2), (2 * 9, 1), (1 * 1, 0)]


def test_equal_scores_rank_by_document_number(index):
    assert search(index, tea=1, k=2) == [(9, 1), (9, 2)]
    assert search(index, tea=1, k=1) == [(9, 1)]


def test_documents_sharing_no_term_are_not_returned(index):
    assert search(index, coffee=1, k=4) == [(5, 0)]


def test_k_beyond_the_collection_returns_all_that_match(index):
    assert len(search(index, milk=1, k=10**9)) == 2


def test_query_without_terms_has_no_answer(index):
    assert search(index) == []
    assert search(index, tea=0) == []


def test_index_without_documents_has_no_answer():
    empty = InvertedIndex.build(sparse_rows([]), InvertedIndexOptions(num_terms=3))
    assert search(empty, tea=1) == []


def test_8_bit_impacts_are_steps_of_the_largest_weight_of_their_document():
    documents = [{TEA: 51.0, MILK: 10.1, COFFEE: 0.01}, {COFFEE: 2.0}]
    index = InvertedIndex.build(sparse_rows(documents), InvertedIndexOptions(3))
    step, other = np.float32(51) / np.float32(255), np.float32(2) / np.float32(255)
    assert index.impacts(0, np.array([TEA, MILK, COFFEE])).tolist() == [
        step * np.float32(255),
        step * np.float32(51),
        step,
    ]
    assert search(index, coffee=1) == [(float(other * np.float32(255)), 1), (float(step), 0)]


def test_impacts_of_one_document_are_zero_where_it_lacks_the_term(index):
    assert index.impacts(2, np.array([COFFEE, TEA, MILK])).tolist() == [0, 9, 4]
    assert index.impacts(3, np.array([COFFEE, TEA, MILK])).tolist() == [0, 0, 0]


def test_given_documents_are_scored_for_each_of_some_queries(index):
    queries = [
        SparseQuery(np.array([MILK, TEA]), np.array([1.0, 2.0])),
        SparseQuery(np.array([]), np.array([])),
        SparseQuery(np.array([COFFEE]), np.array([3.0])),
    ]
    scores = index.scores(queries, np.array([2, 0, 3, 2]))
    assert scores.dtype == np.float32
    assert scores.tolist() == [[2 * 9 + 4, 1, 0, 2 * 9 + 4], [0, 0, 0, 0], [0, 3 * 5, 0, 0]]
    assert index.scores([], np.array([1])).shape == (0, 1)
    assert index.scores(queries, np.array([])).shape == (3, 0)
    for docs in ([4], [-1], [1.5]):
        with pytest.raises(InvalidVectorsError, match="are not all of the 4 documents, 0 to 3"):
            index.scores(queries, np.array(docs))


def test_size_counts_postings_and_bytes(index):
    terms, windows, tiers, docs, postings = 3, 1, 4, 4, 5
    lists = 8 * (terms * windows * tiers + 1) + 2 * postings + 3  # 4-bit codes: 5 postings take 3 bytes
    per_term = 4 * terms * (tiers + 1) + 8 * terms * tiers  # ends of tiers, sizes of tiers
    rows = 8 * (docs + 1) + 1 * postings + 8 + 8 * (windows + 1) + 4 * postings + 4 * docs  # one word of unary codes
    assert (index.num_postings, index.nbytes) == (5, lists + per_term + rows)


@pytest.mark.parametrize("k", [0, -1, 1.5, None, True, "3"])
def test_k_below_one_is_refused(index, k):
    with pytest.raises(InvalidVectorsError, match=r"k is .*; it must be a whole number of at least 1"):
        index.search(np.array([TEA]), np.array([1.0]), k)


@pytest.mark.parametrize(
    ("terms", "weights", "message"),
    [
        ([7], [1.0], "term 7 is outside the vocabulary of 3 terms"),
        ([-1], [1.0], "term -1 is outside the vocabulary of 3 terms"),
        ([TEA], [np.nan], "weight nan of term 1"),
        ([TEA], [np.inf], "weight inf of term 1"),
        ([TEA], [1e39], "weight 1e+39 of term 1"),
        ([TEA], [-1.0], "weight -1.0 of term 1"),
        ([TEA, TEA], [1.0, 1.0], "names term 1 twice"),
        ([TEA], [1.0, 2.0], r"terms of shape (1,) and weights of shape (2,)"),
        ([0.5], [1.0], "terms have dtype float64"),
        (np.array(["NaT"], "m8[s]"), [1.0], "terms have dtype timedelta64[s]"),
        (np.array([], "U1"), [], "terms have dtype <U1"),
    ],
)
def test_bad_query_is_named(index, terms, weights, message):
    with pytest.raises(InvalidVectorsError) as raised:
        index.search(np.array(terms), np.array(weights), 3)
    assert message in str(raised.value)


def test_lists_whose_rows_differ_in_length_are_named(index):
    with pytest.raises(InvalidVectorsError, match=r"terms are no array \(setting an array element"):
        index.search([[1], [1, 2]], [1.0], 3)


def test_a_weight_that_is_zero_as_float32_is_left_out():
    assert [array.tolist() for array in checked_query(SparseQuery([MILK, TEA], [1e-60, 1.0]), 3)] == [[TEA], [1.0]]


@pytest.mark.parametrize(
    ("indptr", "indices", "data", "message"),
    [
        ([0, 1], [7], [1.0], "term 7 is outside the vocabulary of 3 terms"),
        ([0, 1], [-2], [1.0], "term -2 is outside"),
        ([0, 1], [2**32 + 1], [1.0], "term 4294967297 is outside"),
        ([0, 1], [1], [np.nan], "weight nan of term 1"),
        ([0, 1], [1], [-np.inf], "weight -inf of term 1"),
        ([0, 1], [1], [-0.5], "weight -0.5 of term 1"),
        ([0, 0, 2], [2, 1], [1.0, 1.0], "row 1 has term 1 after term 2"),
        ([0, 2], [1, 1], [1.0, 1.0], "row 0 has term 1 after term 1"),
        ([0, 2], [1], [1.0], "indptr does not cut 1 entries"),
        ([0, 2, 1], [1], [1.0], "indptr does not cut 1 entries"),
        ([], [], [], "indptr does not cut 0 entries"),
        ([0, 1], [1], [1.0, 2.0], "1 terms but weights of shape (2,)"),
        ([0, 1], [0.5], [1.0], "terms have dtype float64"),
        ([0.0, 1.0], [1], [1.0], "indptr have dtype float64"),
    ],
)
def test_bad_vectors_are_named(indptr, indices, data, message):
    rows = SparseRows(np.array(indptr), np.array(indices), np.array(data))
    with pytest.raises(InvalidVectorsError) as raised:
        InvertedIndex.build(rows, InvertedIndexOptions(num_terms=3))
    assert message in str(raised.value)


def test_unknown_way_to_store_impacts_is_refused():
    with pytest.raises(InvalidVectorsError, match="impacts is 'u4'; it must be one of u8, u16, f32"):
        InvertedIndexOptions(3, "u4")


def test_no_threads_are_refused(index):
    with pytest.raises(InvalidVectorsError, match="threads is 0; it must be a whole number of at least 1"):
        index.search_batch([SparseQuery(np.array([TEA]), np.array([1.0]))], threads=0)


def test_built_and_opened_indexes_share_one_compiled_kernel(index, tmp_path):
    from kernels.cpu import anytime, rank_safe

    def compiled():
        return len(rank_safe.search.signatures) + len(anytime.search.signatures)

    search(index, tea=1)
    search(index, tea=1, effort=Budget(postings=10))
    before = compiled()
    index.save(tmp_path / "i")
    opened = InvertedIndex.open(tmp_path / "i")
    assert search(opened, tea=1) == search(index, tea=1)
    search(opened, tea=1, effort=Budget(postings=10))
    assert compiled() == before


ARRAYS = [f"tiers.{name}" for name in ImpactTiers._fields if name not in FOLLOWS] + [
    f"forward.{name}" for name in ForwardRows._fields if name not in FOLLOWS
]


@pytest.mark.parametrize("fill", [b"\xff", b"\x7f", b"\x01"])
@pytest.mark.parametrize("name", ARRAYS)
def test_damaged_arrays_never_lead_outside(index, tmp_path, name, fill):
    """A quick open does not read every byte: such an index may score wrongly, but nothing else may happen."""
    index.save(tmp_path / "i")
    file = tmp_path / "i" / "part-000001" / f"{name}.npy"
    damaged = bytearray(file.read_bytes())
    damaged[128:] = fill * (len(damaged) - 128)
    file.write_bytes(damaged)
    opened = InvertedIndex.open(tmp_path / "i")
    for effort in (Exact(), Budget(postings=4)):
        search(opened, effort=effort, tea=1, milk=2)
    search(opened, tea=1, allowed=np.array([True, True, False, True]))
    opened.impacts(2, np.array([TEA]))
    opened.documents_with([TEA])
    with pytest.raises(IndexFormatError, match=f"{name}.npy does not match its checksum"):
        InvertedIndex.open(tmp_path / "i", verify="full")


@pytest.mark.parametrize(
    "numbers", [(2**63 - 1, -(2**63) + 1), (-(2**62), 2**62), (0x7EDCBA9876543210, 0), (-(2**40), 5)]
)
@pytest.mark.parametrize("name", ["tiers.starts", "forward.starts", "forward.high_starts"])
def test_damaged_places_lead_nowhere_and_take_no_time(index, tmp_path, name, numbers):
    index.save(tmp_path / "i")
    file = tmp_path / "i" / "part-000001" / f"{name}.npy"
    places = np.load(file, allow_pickle=False)
    places[:2] = numbers
    np.save(file, places)
    opened = InvertedIndex.open(tmp_path / "i")
    for effort in (Exact(), Budget(postings=4)):
        search(opened, effort=effort, tea=1, milk=2, coffee=1)


def test_array_of_another_type_is_refused(index, tmp_path):
    description = index.write(tmp_path)
    np.save(tmp_path / "tiers.docs.npy", np.zeros(5, np.int64))
    with pytest.raises(IndexFormatError, match=r"tiers.docs.npy holds int64 \(5,\), its index needs uint16 \(5,\)"):
        InvertedIndex.read(tmp_path, description)


def test_filter_lets_only_allowed_documents_in(index):
    allowed = np.array([True, False, True, True])
    assert search(index, tea=2, milk=1, allowed=allowed) == [(2 * 9 + 1 * 4, 2), (1 * 1, 0)]
    assert search(index, tea=1, allowed=np.zeros(4, bool)) == []


@pytest.mark.parametrize("allowed", [[True], np.ones(4), np.ones((4, 1), bool)])
def test_filter_of_another_shape_is_refused(index, allowed):
    with pytest.raises(InvalidVectorsError, match="it needs one bool for each of the 4 documents"):
        search(index, tea=1, allowed=allowed)


def test_documents_with_all_of_some_terms(index):
    assert index.documents_with([TEA]).tolist() == [False, True, True, False]
    assert index.documents_with([TEA, MILK]).tolist() == [False, False, True, False]
    assert index.documents_with([]).tolist() == [True] * 4


def test_budget_reads_the_heaviest_postings_only():
    heavy, light = {TEA: 9.0}, {TEA: 1.0, COFFEE: 1.0}
    documents = [light] * 100 + [heavy] * 50  # a list long enough to be cut into tiers
    index = InvertedIndex.build(sparse_rows(documents), InvertedIndexOptions(3, "f32"))
    found = search(index, k=200, effort=Budget(postings=60, candidates=200), tea=1)
    assert [doc for _, doc in found] == list(range(100, 150))


def test_recall_is_exact_where_nothing_was_calibrated(index):
    assert search(index, tea=2, milk=1, effort=Recall(0.9)) == search(index, tea=2, milk=1)


@pytest.mark.parametrize(
    ("effort", "message"),
    [
        (lambda: Recall(0), "recall target is 0"),
        (lambda: Recall(1.5), "recall target is 1.5"),
        (lambda: Budget(), "give one of the first two"),
        (lambda: Budget(postings=3, microseconds=4), "give one of the first two"),
        (lambda: Budget(postings=0), "postings=0"),
        (lambda: Budget(postings=5, candidates=0), "candidates=0"),
        (lambda: Budget(postings=1.5), "postings=1.5"),
        (lambda: Budget(postings="a"), "postings='a'"),
        (lambda: Recall("a"), "recall target is 'a'"),
    ],
)
def test_effort_that_makes_no_sense_is_refused(effort, message):
    with pytest.raises(InvalidVectorsError, match=message):
        effort()


def test_a_query_may_be_every_other_number_of_an_array(index):
    terms, weights = np.array([TEA, 7, MILK, 7], np.int32)[::2], np.array([2, 9, 1, 9], np.float32)[::2]
    assert as_pairs(index.search(terms, weights, 10)) == search(index, tea=2, milk=1)


def test_recall_never_gives_fewer_hits_than_there_are_nor_less_than_all_for_1():
    rng = np.random.default_rng(3)
    documents = [{int(t): float(rng.random()) for t in rng.integers(0, 300, 3)} for _ in range(6_000)]
    index = InvertedIndex.build(sparse_rows(documents), InvertedIndexOptions(300, "f32"))
    rough = Dial(Setting(0.9, NO_LIMIT, 30), 1.0, 0.0, 1.0)
    index.calibration = Calibration((rough,), (rough,))
    query = np.arange(7) * 10, np.array([8, 4, 2, 1, 0.5, 0.2, 0.1])
    for k in (10, 90, 1_000):
        exact = index.search(*query, k)
        assert len(index.search(*query, k, Recall(0.5))[0]) == len(exact[0])
        assert len(index.search_batch([SparseQuery(*query)], k, 1, Recall(0.5))[0][0]) == len(exact[0])
        assert as_pairs(index.search(*query, k, Recall(1.0))) == as_pairs(exact)


def test_csr_arrays_and_what_has_them_can_be_built_from():
    rows = sparse_rows(COLLECTION)
    options = InvertedIndexOptions(np.int64(3), "f32")
    for vectors in (tuple(rows), SimpleNamespace(**rows._asdict())):
        index = InvertedIndex.build(vectors, options)
        assert search(index, tea=1) == search(InvertedIndex.build(rows, options), tea=1)
    batches = tuple([rows] * 3)
    assert InvertedIndex.build(batches, options).num_docs == 3 * len(COLLECTION)
    json.dumps(index.description())


@pytest.mark.parametrize("weights", [["1.0"], [1j], [None], np.array(["2020-01-01"], "datetime64[D]")])
def test_weights_that_are_no_numbers_are_refused(index, weights):
    with pytest.raises(InvalidVectorsError, match=r"weights have dtype .*; they must be numbers"):
        index.search([TEA], weights, 3)
    with pytest.raises(InvalidVectorsError, match=r"weights have dtype .*; they must be numbers"):
        InvertedIndex.build(SparseRows(np.array([0, 1]), np.array([TEA]), np.asarray(weights)), InvertedIndexOptions(3))


@pytest.mark.parametrize("num_terms", [-1, 1.5, "20", None, True, 2**31])
def test_a_number_of_terms_that_is_none_is_refused(num_terms):
    with pytest.raises(InvalidVectorsError, match="num_terms is "):
        InvertedIndexOptions(num_terms)


def test_no_impacts_of_a_document_that_is_not_there(index):
    for doc in (-1, len(COLLECTION)):
        with pytest.raises(InvalidVectorsError, match=f"document {doc} is not one of the {len(COLLECTION)} documents"):
            index.impacts(doc, np.array([TEA]))


def test_an_interrupt_while_compiled_code_returns_is_an_interrupt():
    @interruptible
    def search():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise SystemError("returned a result with an exception set") from error

    with pytest.raises(KeyboardInterrupt):
        search()


def test_effort_of_another_type_is_refused(index):
    with pytest.raises(WinnowError, match=r"effort is 0.99; give Exact\(\), Recall\(...\) or Budget\(...\)"):
        search(index, tea=1, effort=0.99)


def test_more_microseconds_read_more_postings():
    rng = np.random.default_rng(0)
    documents = [{int(t): float(rng.random()) for t in rng.integers(0, 40, 12)} for _ in range(5_000)]
    index = InvertedIndex.build(sparse_rows(documents), InvertedIndexOptions(40))
    query = (np.arange(20), np.ones(20))
    exact = as_pairs(index.search(*query, 10))
    rushed = as_pairs(index.search(*query, 10, Budget(microseconds=1e-3)))
    assert len(rushed) == 10
    assert rushed[-1] <= exact[-1]
    assert as_pairs(index.search(*query, 10, Budget(microseconds=1e9, candidates=200))) == exact


def test_a_budget_of_time_on_documents_without_terms_finds_nothing():
    index = InvertedIndex.build(sparse_rows([{}, {}]), InvertedIndexOptions(3))
    assert search(index, tea=1, effort=Budget(microseconds=50)) == []


def test_calibration_reports_what_each_setting_reaches_and_is_kept(tmp_path):
    rng = np.random.default_rng(1)
    documents = [{int(t): float(rng.random()) for t in rng.integers(0, 60, 15)} for _ in range(4_000)]
    queries = [SparseQuery(np.sort(rng.choice(60, n, replace=False)), rng.random(n)) for n in [4] * 30 + [20] * 30]
    index = InvertedIndex.build(sparse_rows(documents), InvertedIndexOptions(60, "f32"), calibrate_with=queries[::2])
    for dials, terms in ((index.calibration.short, 4), (index.calibration.long, 20)):
        assert [dial.recall for dial in dials] == sorted({dial.recall for dial in dials})
        assert [dial.cost for dial in dials] == sorted(dial.cost for dial in dials)
        reaching = [dial for dial in dials if dial.recall - dial.error >= 0.9]
        assert index.calibration.setting(terms, 0.9, second_tier=False) == reaching[0].setting
    found = [len(set(index.search(*q, 10, Recall(0.9))[1]) & set(index.search(*q, 10)[1])) / 10 for q in queries[1::2]]
    assert np.mean(found) > 0.8  # queries that were not calibrated with
    index.save(tmp_path / "i")
    assert InvertedIndex.open(tmp_path / "i").calibration == index.calibration


@pytest.mark.parametrize(("size", "number"), [("2GB", 2 * 10**9), ("1.5 MiB", 1_500_000), (77, 77), ("900B", 900)])
def test_memory_limit_is_read_as_a_person_writes_it(size, number):
    assert parse_size(size) == number


@pytest.mark.parametrize("size", ["two", "", "-1GB", 0, -3, True, None, 1.5])
def test_memory_limit_that_is_no_size_is_refused(size):
    with pytest.raises(WinnowError, match="memory_limit is "):
        parse_size(size)


def test_memory_limit_too_small_names_what_is_needed(tmp_path):
    with pytest.raises(WinnowError, match=r"memory_limit is 1,000 bytes; building this collection needs at least"):
        InvertedIndex.build(sparse_rows(COLLECTION), InvertedIndexOptions(3), folder=tmp_path / "i", memory_limit="1kB")
    assert not (tmp_path / "i").exists()


def test_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def no_room(descriptor, offset, length):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("index.files.os.posix_fallocate", no_room)
    with pytest.raises(WinnowError, match=r"could not be written \(No space left on device\); make room"):
        InvertedIndex.build(sparse_rows(COLLECTION), InvertedIndexOptions(3), folder=tmp_path / "i")
    assert not (tmp_path / "i").exists()


def test_bad_batch_leaves_nothing_behind(tmp_path):
    batches = [sparse_rows(COLLECTION), sparse_rows([{TEA: 1.0}])._replace(data=np.array([np.nan]))]
    with pytest.raises(InvalidVectorsError, match="weight nan of term 1"):
        InvertedIndex.build(batches, InvertedIndexOptions(3), folder=tmp_path / "i")
    assert not (tmp_path / "i").exists()


def test_indexes_of_other_options_are_not_merged(index):
    other = InvertedIndex.build(sparse_rows(COLLECTION), InvertedIndexOptions(num_terms=3, impacts="u8"))
    with pytest.raises(WinnowError, match="the indexes have different options"):
        InvertedIndex.merge([index, other])
    with pytest.raises(WinnowError, match="there is no index to merge"):
        InvertedIndex.merge([])


def test_bad_row_far_into_the_collection_is_named():
    documents = [{TEA: 1.0}] * 70_000 + [{COFFEE: 1.0, MILK: 1.0}]
    rows = sparse_rows(documents)
    rows.indices[-2:] = [2, 1]
    with pytest.raises(InvalidVectorsError, match="row 70000 has term 1 after term 2"):
        InvertedIndex.build(rows, InvertedIndexOptions(num_terms=3))


def test_a_full_disk_while_batches_are_spilled_is_one_sentence(monkeypatch):
    def full(**_):
        return open("/dev/full", "r+b", buffering=0)

    monkeypatch.setattr("index.building.tempfile.TemporaryFile", full)
    with pytest.raises(WinnowError, match=r"cannot be written to .* \(No space left on device\); make room"):
        InvertedIndex.build(iter([sparse_rows(COLLECTION)]), InvertedIndexOptions(3))


def test_concatenated_batches_keep_their_rows():
    first, second = sparse_rows(COLLECTION[:1]), sparse_rows(COLLECTION[1:])
    for joined, expected in zip(concatenate([first, second]), sparse_rows(COLLECTION), strict=True):
        np.testing.assert_array_equal(joined, expected)


def test_queries_sampled_from_a_damaged_index_hold_numbers_above_0_only():
    damaged = SparseQuery(np.arange(4, dtype=np.int32), np.array([np.nan, -1, np.inf, 2], np.float32))
    sampled = sample_queries(1, lambda doc: damaged)
    assert {(tuple(terms.tolist()), tuple(weights.tolist())) for terms, weights in sampled} == {((3,), (2.0,))}
