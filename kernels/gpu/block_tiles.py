"""Which program of the Triton kernels of block attention does what: tables made once for a layout, on the host.

Every row of a table is the work of one program (for each head of the keys). Work that would keep one program busy for long, the last
block of a prompt over all documents and the instruction's gradients from all documents, is cut into pieces whose results wait in
slots and are put together in the order of the pieces. Where a cut falls depends on its own segment alone, so that what a segment
gets does not depend on what else is in the batch. Nothing here is of the size of tokens by tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from kernels.block_layout import BlockLayout, HostLayout, checked


class Cut(NamedTuple):
    """A range is cut into about `wanted` pieces of a multiple of `shortest`, none longer than `longest`."""

    shortest: int
    longest: int
    wanted: int = 8

    def pieces(self, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(length of a piece, how many of them) of each range; an empty range is one piece."""
        steps = np.clip(-(-lengths // (self.wanted * self.shortest)) * self.shortest, self.shortest, self.longest)
        return steps, np.maximum(1, -(-lengths // steps))


# a piece of 4,096 keys is 64 tiles of 64: of 80,000 keys there are then 20 pieces, with 3 tiles of queries and 8 heads of the keys 480
# programs for the 132 processors of an H100, each about as long as all documents take beside it
PREFIX_CUT = Cut(1024, 4096)
# of query rows, where the gradients of keys are added up: 2,048 tokens of 4 heads are 128 tiles of 64 rows
ROWS_CUT = Cut(512, 2048, wanted=16)

KEPT = 16  # tables of layouts; a prompt of 200,000 tokens has so many parts

TILE_COLUMNS = "row", "rows", "prefix", "prefix_end", "own", "own_end", "slot"
KEY_COLUMNS = "key", "keys", "row", "row_end", "causal_row", "causal_end", "shift", "slot"


class Tiles(NamedTuple):
    programs: torch.Tensor  # int32 [programs, columns]
    merges: torch.Tensor  # int32 [tiles of which there are several pieces, 4]: first row, rows, first slot, slots
    slots: int


def numbered(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For counts [2, 0, 3]: whose each of the sum is [0, 0, 2, 2, 2], and the how manieth of it [0, 1, 0, 1, 2]."""
    whose = np.repeat(np.arange(len(counts)), counts)
    return whose, np.arange(len(whose)) - np.repeat(np.cumsum(counts) - counts, counts)


def query_tiles(host: HostLayout, rows_a_tile: int, device: torch.device) -> Tiles:
    """TILE_COLUMNS: query rows `row` to `row + rows` see the keys `prefix` to `prefix_end` completely, and the j-th of them the own keys
    up to `own_end - rows + j`, if own < own_end. The result goes to `slot`, or where it belongs if that is -1."""
    lengths, (first, end) = np.diff(host.starts), host.prefix.T
    steps, pieces = PREFIX_CUT.pieces(end - first)
    tiles = -(-lengths // rows_a_tile)
    segment, number = numbered(tiles * pieces)
    tile, piece = number // pieces[segment], number % pieces[segment]
    within = tile * rows_a_tile
    row = host.starts[segment] + within
    rows = np.minimum(rows_a_tile, lengths[segment] - within)
    prefix = first[segment] + piece * steps[segment]
    prefix_end = np.minimum(prefix + steps[segment], end[segment])
    is_last = piece == pieces[segment] - 1
    own = host.own[segment]
    own_end = np.where(is_last, own + within + rows, own)
    slot, merges = slots_of(row, rows, piece, pieces[segment])
    programs = np.stack([row, rows, prefix, prefix_end, own, own_end, slot], 1)
    return to_device(programs, (prefix_end - prefix) + (own_end - own), merges, slot, device)


def slots_of(
    first: np.ndarray, count: np.ndarray, piece: np.ndarray, pieces: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(the slot of each program, -1 where there is one piece; the rows of `Tiles.merges`), given each program's place in its tile."""
    is_split = pieces > 1
    slot = np.where(is_split, np.cumsum(is_split) - 1, -1)
    begins = is_split & (piece == 0)
    return slot, np.stack([first, count, slot, pieces], 1)[begins]


def to_device(
    programs: np.ndarray, work: np.ndarray, merges: np.ndarray, slot: np.ndarray, device: torch.device
) -> Tiles:
    """The longest programs first, so that no long one begins when all others have ended."""
    ordered = programs[np.argsort(-work, kind="stable")].astype(np.int32)
    return Tiles(
        torch.from_numpy(ordered).to(device),
        torch.from_numpy(merges.astype(np.int32)).to(device),
        int(slot.max(initial=-1)) + 1,
    )


def key_tiles(host: HostLayout, num_keys: int, keys_a_tile: int, device: torch.device) -> Tiles:
    """KEY_COLUMNS: the keys `key` to `key + keys` are seen by the query rows `row` to `row_end` completely, and by row r of `causal_row`
    to `causal_end` up to key r + `shift`. A tile's programs together have all rows that see it; keys that nobody sees have a program too,
    which writes zeros.

    The keys are cut where the set of segments that see them changes, and documents behind each other that see the instruction are
    one range of rows: the table has two ranges for a document.
    """
    own_end = host.own + np.diff(host.starts)
    cuts = np.unique(
        np.concatenate([[0, num_keys], host.own, own_end, host.prefix[host.prefix[:, 0] < host.prefix[:, 1]].ravel()])
    )
    causal_area, causal_segment = areas_of(cuts, host.own, own_end)
    full_area, full_row, full_end = runs_of(cuts, host)

    areas = len(cuts) - 1
    num_full, num_causal = (np.bincount(area, minlength=areas) for area in (full_area, causal_area))
    is_pair = (num_full == 1) & (num_causal == 1)  # as of a document: one program does both
    segment_of = np.zeros(areas, np.int64)
    segment_of[causal_area] = causal_segment
    paired = is_pair[full_area]
    partner = np.where(paired, segment_of[full_area], 0)
    alone = ~is_pair[causal_area]
    segment = causal_segment[alone]
    unseen = np.flatnonzero(num_full + num_causal == 0)

    entries = np.concatenate([
        np.stack([
            full_area, full_row, full_end,
            np.where(paired, host.starts[partner], 0), np.where(paired, host.starts[partner + 1], 0),
            host.own[partner] - host.starts[partner],
        ], 1),
        np.stack([
            causal_area[alone], 0 * segment, 0 * segment,
            host.starts[segment], host.starts[segment + 1], host.own[segment] - host.starts[segment],
        ], 1),
        np.stack([unseen, *[0 * unseen] * 5], 1),
    ])  # fmt: skip
    return tiles_of_entries(cuts, entries, keys_a_tile, device)


def areas_of(cuts: np.ndarray, first: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(area, segment) for each area between cuts that lies in the range of a segment."""
    begin = np.searchsorted(cuts, first)
    segment, number = numbered(np.searchsorted(cuts, end) - begin)
    return begin[segment] + number, segment


def runs_of(cuts: np.ndarray, host: HostLayout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(area, first row, end) of the rows that see an area completely: segments behind each other in one run, long runs cut."""
    area, segment = areas_of(cuts, *host.prefix.T)
    order = np.lexsort((segment, area))
    area, segment = area[order], segment[order]
    begins = np.ones(len(area), bool)
    begins[1:] = (area[1:] != area[:-1]) | (segment[1:] != segment[:-1] + 1)
    ends = np.append(begins[1:], True)[: len(begins)]
    first, end = host.starts[segment[begins]], host.starts[segment[ends] + 1]
    steps, pieces = ROWS_CUT.pieces(end - first)
    run, piece = numbered(pieces)
    row = first[run] + piece * steps[run]
    return area[begins][run], row, np.minimum(row + steps[run], end[run])


def tiles_of_entries(cuts: np.ndarray, entries: np.ndarray, keys_a_tile: int, device: torch.device) -> Tiles:
    """Each tile of an area meets each entry of the area."""
    entries = entries[np.argsort(entries[:, 0], kind="stable")]
    count = np.bincount(entries[:, 0], minlength=len(cuts) - 1)
    tiles = -(-np.diff(cuts) // keys_a_tile)
    area, number = numbered(tiles * count)
    tile, piece = number // count[area], number % count[area]
    key = cuts[area] + tile * keys_a_tile
    keys = np.minimum(keys_a_tile, cuts[area + 1] - key)
    _, row, row_end, causal_row, causal_end, shift = entries[(np.cumsum(count) - count)[area] + piece].T
    causal_row = np.where(causal_row < causal_end, np.maximum(causal_row, key - shift), causal_row)
    slot, merges = slots_of(key, keys, piece, count[area])
    programs = np.stack([key, keys, row, row_end, causal_row, causal_end, shift, slot], 1)
    return to_device(programs, (row_end - row) + (causal_end - causal_row), merges, slot, device)


class Latest:
    """The tables of the layouts that were used last, which the next layer of the same model uses again: one of each part of a prompt.

    A tuple of entries, replaced as a whole: threads may lose each other's and make them anew, and are right.
    """

    def __init__(self, make: Callable[..., Tiles]) -> None:
        self.make = make
        self.entries: tuple[tuple[tuple[torch.Tensor, ...], tuple[int, ...], Tiles], ...] = ()

    def __call__(self, layout: BlockLayout, *sizes: int) -> Tiles:
        tensors = layout[:3]
        device = layout.starts.device
        # another stream must not read the table before this one has written it
        sizes = (*sizes, torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0)
        for entry in self.entries:
            if entry[1] == sizes and all(a is b for a, b in zip(entry[0], tensors, strict=True)):
                return entry[2]
        tiles = self.make(layout, *sizes[:-1])
        # holds the tensors, so that no other can take their place
        self.entries = ((tensors, sizes, tiles), *self.entries[: KEPT - 1])
        return tiles


query_tiles_of = Latest(
    lambda layout, num_rows, num_keys, rows_a_tile: query_tiles(
        checked(layout, num_rows, num_keys), rows_a_tile, layout.starts.device
    )
)
key_tiles_of = Latest(
    lambda layout, num_rows, num_keys, keys_a_tile: key_tiles(
        checked(layout, num_rows, num_keys), num_keys, keys_a_tile, layout.starts.device
    )
)
