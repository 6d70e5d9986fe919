"""The tables of the Triton kernels of block attention, counted pair by pair; nothing here needs Triton or a GPU."""

import numpy as np
import pytest
import torch
from blocks_for_tests import Segments, prompts
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.gpu import block_tiles
from kernels.gpu.block_tiles import KEPT, Cut, Latest, checked, key_tiles, query_tiles

CPU = torch.device("cpu")
SMALL_CUT = Cut(3, 7, wanted=2)


@pytest.fixture(autouse=True)
def small_cuts(monkeypatch):
    monkeypatch.setattr(block_tiles, "PREFIX_CUT", SMALL_CUT)
    monkeypatch.setattr(block_tiles, "ROWS_CUT", SMALL_CUT)


def any_segments():
    """Prompts, and segments whose keys lie anywhere, as those of cached documents do."""
    lengths = st.integers(1, 9)
    prompt = st.tuples(st.integers(0, 9), st.lists(lengths, max_size=5), lengths)
    anywhere = st.lists(
        st.tuples(lengths, st.integers(0, 20), st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=6
    )
    return st.lists(prompt, min_size=1, max_size=3).map(lambda blocks: prompts(*blocks)) | anywhere.map(apart)


def apart(drawn):
    """Segments whose prefix is moved behind their own keys where it would meet them."""
    segments = Segments()
    for rows, own, a, b in drawn:
        first, end = sorted((a, b))
        if first < own + rows and own < end:
            first, end = first + own + rows, end + own + rows
        segments.append((rows, own, (first, end)))
    return segments


@given(any_segments(), st.integers(1, 6), st.integers(0, 5))
def test_every_pair_of_a_row_and_a_key_is_computed_once_by_either_table(segments, tile, spare_keys):
    num_keys = segments.keys + spare_keys
    host = checked(segments.layout(), segments.rows, num_keys)
    mask = segments.mask(num_keys).int().numpy()
    np.testing.assert_array_equal(pairs_of_queries(query_tiles(host, tile, CPU), mask.shape), mask)
    np.testing.assert_array_equal(pairs_of_keys(key_tiles(host, num_keys, tile, CPU), mask.shape), mask)


def pairs_of_queries(tiles, shape):
    counts = np.zeros(shape, np.int32)
    for row, rows, prefix, prefix_end, own, own_end, _ in tiles.programs.tolist():
        counts[row : row + rows, prefix:prefix_end] += 1
        for j in range(rows if own < own_end else 0):
            counts[row + j, own : own_end - rows + j + 1] += 1
    return counts


def pairs_of_keys(tiles, shape):
    counts = np.zeros(shape, np.int32)
    for key, keys, row, row_end, causal_row, causal_end, shift, _ in tiles.programs.tolist():
        counts[row:row_end, key : key + keys] += 1
        for r in range(causal_row, causal_end):
            counts[r, key : max(key, min(key + keys, r + shift + 1))] += 1
    return counts


@given(any_segments(), st.integers(1, 6), st.integers(0, 5))
def test_every_row_and_every_key_is_written_once(segments, tile, spare_keys):
    """By a program of its own, or by the merge of all pieces of its tile, in their order."""
    num_keys = segments.keys + spare_keys
    host = checked(segments.layout(), segments.rows, num_keys)
    for tiles, total in (
        (query_tiles(host, tile, CPU), segments.rows),
        (key_tiles(host, num_keys, tile, CPU), num_keys),
    ):
        written, slots = np.zeros(total, np.int32), {}
        for first, count, *_, slot in tiles.programs.tolist():
            assert 1 <= count <= tile
            if slot < 0:
                written[first : first + count] += 1
            else:
                assert slot not in slots
                slots[slot] = first, count
        for first, count, slot, number in tiles.merges.tolist():
            assert number > 1
            written[first : first + count] += 1
            assert [slots.pop(slot + i) for i in range(number)] == [(first, count)] * number
        assert not slots
        assert (written == 1).all()
        assert tiles.slots == tiles.merges[:, 3].sum()


def test_the_tables_grow_with_the_documents_and_not_with_their_square():
    sizes = []
    for documents in (100, 200):
        segments = prompts((11, [8] * documents, 7))
        host = checked(segments.layout(), segments.rows, segments.keys)
        sizes.append([len(query_tiles(host, 4, CPU).programs), len(key_tiles(host, segments.keys, 4, CPU).programs)])
    assert (np.array(sizes[1]) < 2.1 * np.array(sizes[0])).all()


def test_a_documents_keys_are_one_program_a_tile_with_its_own_rows_and_the_last_block():
    host = checked(prompts((2, [4, 5], 3)).layout(), 14, 14)
    programs = key_tiles(host, 14, 8, CPU).programs.tolist()
    assert [2, 4, 11, 14, 2, 6, 0, -1] in programs
    assert [6, 5, 11, 14, 6, 11, 0, -1] in programs


def test_the_longest_programs_come_first():
    host = checked(prompts((2, [1, 5, 2, 9], 3)).layout(), 22, 22)
    for name, tiles in (("row", query_tiles(host, 4, CPU)), ("key", key_tiles(host, 22, 4, CPU))):
        columns = block_tiles.TILE_COLUMNS if name == "row" else block_tiles.KEY_COLUMNS
        of = dict(zip(columns, tiles.programs.numpy().T, strict=True))
        if name == "row":
            work = (of["prefix_end"] - of["prefix"]) + (of["own_end"] - of["own"])
        else:
            work = (of["row_end"] - of["row"]) + (of["causal_end"] - of["causal_row"])
        assert (np.diff(work) <= 0).all()


@given(st.integers(0, 100), st.integers(1, 9), st.integers(0, 9), st.integers(1, 9))
def test_a_cut_covers_its_range_with_pieces_that_are_not_too_long(length, shortest, more, wanted):
    longest = shortest * (1 + more)
    (step,), (pieces,) = Cut(shortest, longest, wanted).pieces(np.array([length]))
    assert step % shortest == 0
    assert step <= longest
    assert (pieces - 1) * step < max(length, 1) <= max(1, pieces * step)


@settings(max_examples=20)
@given(any_segments())
def test_what_a_segment_is_cut_into_does_not_depend_on_its_neighbours(segments):
    alone = checked(Segments(segments[-1:]).layout(), segments[-1][0], segments.keys)
    together = checked(segments.layout(), segments.rows, segments.keys)
    before = segments.rows - segments[-1][0]
    pieces = [
        sorted((row - moved, *rest[:5]) for row, *rest in query_tiles(host, 4, CPU).programs.tolist() if row >= moved)
        for host, moved in ((alone, 0), (together, before))
    ]
    assert pieces[0] == pieces[1]


def test_the_tables_of_a_layout_are_made_once():
    made = []
    latest = Latest(lambda *arguments: made.append(arguments) or len(made))
    first, second = prompts((2, [3], 1)).layout(), prompts((2, [3], 1)).layout()
    found = [latest(first, 6), latest(first, 6), latest(second, 6), latest(second, 7), latest(first, 6)]
    assert found == [1, 1, 2, 3, 1]


def test_as_many_tables_are_kept_as_a_long_prompt_has_parts():
    made = []
    latest = Latest(lambda *arguments: made.append(arguments) or len(made))
    layouts = [prompts((2, [3], 1)).layout() for _ in range(KEPT + 1)]
    for layout in layouts:
        latest(layout, 6)
    assert [latest(layout, 6) for layout in layouts[1:]] == list(range(2, KEPT + 2))
    assert latest(layouts[0], 6) == KEPT + 2


@pytest.mark.parametrize(
    ("segments", "rows", "keys", "message"),
    [
        ([(3, 0, (0, 0))], 4, 9, r"starts are \[0, 3\]; they must rise from 0 to the 4 rows of q"),
        ([(3, 0, (0, 0)), (0, 3, (0, 0))], 3, 9, r"starts are \[0, 3, 3\]; .* at least one row"),
        ([(1, i, (0, 0)) for i in range(20)], 21, 99, r"starts are 0, 1, 2, 3, 4, 5, 6, 7, \.\.\. 20; "),
        ([(3, 0, (0, 0)), (3, 7, (0, 0))], 6, 9, r"segment 1 .* own keys 7 to 10 and the prefix 0 to 0; both must lie within the 9"),
        ([(3, -1, (0, 0))], 3, 9, r"segment 0 .* own keys -1 to 2"),
        ([(3, 0, (5, 10))], 3, 9, r"the prefix 5 to 10"),
        ([(3, 0, (-1, 0))], 3, 9, r"the prefix -1 to 0"),
        ([(3, 0, (6, 5))], 3, 9, r"the prefix 6 to 5"),
        ([(3, 2, (0, 3))], 3, 9, r"the prefix 0 to 3; both must lie .* apart from each other"),
    ],
)  # fmt: skip
def test_a_layout_that_does_not_fit_is_told_in_one_sentence(segments, rows, keys, message):
    with pytest.raises(ValueError, match=message) as told:
        checked(Segments(segments).layout(), rows, keys)
    assert str(told.value).endswith(".")
