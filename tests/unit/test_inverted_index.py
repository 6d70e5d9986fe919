import numpy as np
import pytest
from collections_for_tests import as_pairs, sparse_rows

from index.errors import IndexFormatError, InvalidVectorsError
from index.inverted import InvertedIndex, InvertedIndexOptions
from index.vectors import SparseQuery, concatenate
from kernels.cpu.sparse import SparseRows

COFFEE, TEA, MILK = 0, 1, 2
COLLECTION = [{COFFEE: 5, MILK: 1}, {TEA: 9}, {TEA: 9, MILK: 4}, {}]


@pytest.fixture
def index():
    return InvertedIndex.build(sparse_rows(COLLECTION), InvertedIndexOptions(num_terms=3, impacts="f32"))


def search(index, k=10, **weights):
    names = {"coffee": COFFEE, "tea": TEA, "milk": MILK}
    return as_pairs(index.search(np.array([names[n] for n in weights], np.int32), np.array(list(weights.values())), k))


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


def test_8_bit_impacts_are_steps_of_the_largest_weight_of_their_term():
    index = InvertedIndex.build(sparse_rows([{TEA: 51.0}, {TEA: 10.1}, {TEA: 0.01}]), InvertedIndexOptions(3))
    step = np.float32(51) / np.float32(255)
    assert search(index, tea=1) == [
        (float(step * np.float32(255)), 0),
        (float(step * np.float32(51)), 1),
        (float(step), 2),
    ]


def test_impacts_of_one_document_are_zero_where_it_lacks_the_term(index):
    assert index.impacts(2, np.array([COFFEE, TEA, MILK])).tolist() == [0, 9, 4]
    assert index.impacts(3, np.array([COFFEE, TEA, MILK])).tolist() == [0, 0, 0]


def test_size_counts_postings_and_bytes(index):
    starts, docs, impacts, steps = 8 * (3 * 1 + 1), 2 * 5, 4 * 5, 4 * 3
    assert (index.num_postings, index.nbytes) == (5, starts + docs + impacts + steps)


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
    ],
)
def test_bad_query_is_named(index, terms, weights, message):
    with pytest.raises(InvalidVectorsError) as raised:
        index.search(np.array(terms), np.array(weights), 3)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("indptr", "indices", "data", "message"),
    [
        ([0, 1], [7], [1.0], "term 7 is outside the vocabulary of 3 terms"),
        ([0, 1], [-2], [1.0], "term -2 is outside"),
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
    from kernels.cpu import windowed_taat

    search(index, tea=1)
    compiled = len(windowed_taat.search.signatures)
    index.save(tmp_path / "i")
    assert search(InvertedIndex.open(tmp_path / "i"), tea=1) == search(index, tea=1)
    assert len(windowed_taat.search.signatures) == compiled


@pytest.mark.parametrize("name", ["postings.starts", "postings.docs", "postings.impacts", "postings.steps"])
def test_damaged_postings_never_reach_outside_the_arrays(index, tmp_path, name):
    """A quick open does not read every byte: such an index may score wrongly, but nothing else may happen."""
    index.save(tmp_path / "i")
    file = tmp_path / "i" / "generation-000001" / f"{name}.npy"
    damaged = bytearray(file.read_bytes())
    damaged[128:] = b"\xff" * (len(damaged) - 128)
    file.write_bytes(damaged)
    search(InvertedIndex.open(tmp_path / "i"), tea=1, milk=2)
    with pytest.raises(IndexFormatError, match=f"{name}.npy does not match its checksum"):
        InvertedIndex.open(tmp_path / "i", verify="full")


def test_array_of_another_type_is_refused(index, tmp_path):
    description = index.write(tmp_path)
    np.save(tmp_path / "postings.docs.npy", np.zeros(5, np.int64))
    with pytest.raises(IndexFormatError, match=r"postings.docs.npy holds int64 \(5,\), its index needs uint16 \(5,\)"):
        InvertedIndex.read(tmp_path, description)


def test_concatenated_batches_keep_their_rows():
    first, second = sparse_rows(COLLECTION[:1]), sparse_rows(COLLECTION[1:])
    for joined, expected in zip(concatenate([first, second]), sparse_rows(COLLECTION), strict=True):
        np.testing.assert_array_equal(joined, expected)
