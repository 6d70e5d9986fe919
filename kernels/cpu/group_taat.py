"""Which groups promise most: the heaviest contributions of a query, added term at a time, window by window.

Groups found above the threshold, which rises as more are known, are noted while adding. The partial score of a group is a sum of
means, so it promises and bounds nothing: 8 bits tell it well enough, and a window of accumulators takes 64 KiB.
"""

import numpy as np

from kernels.cpu.bits import prefetch
from kernels.cpu.cluster_groups import GROUP_WINDOW
from kernels.cpu.compiled import compiled
from kernels.cpu.group_plan import FULL

LINE = 32  # postings a cache line
MOST_HOPE = 8  # how many times more groups are hoped for in all windows than the first one has
COLUMNS = 4_096  # groups of a window, whose maxima tell a first threshold


@compiled
def add_window(groups, begins, ends, run, num_lists, num_runs, adds, accumulators, threshold, noted):
    """Add the lists of the window whose runs begin at `run`; returns how many groups were noted above the threshold, with
    repetitions. Where that is more than `noted` holds, the window must be scanned. The next window is fetched meanwhile.
    """
    count, room = np.int64(0), noted.shape[0] - 1
    for i in range(num_lists):
        add = np.uint32(adds[i])
        ahead = min(run + num_lists + i, num_runs - 1)
        for line in range(begins[ahead], ends[ahead], LINE):
            prefetch(groups, line)
        p, past_last = np.uint64(begins[run + i]), np.uint64(ends[run + i])
        if (past_last - p) & np.uint64(1):
            group = groups[p]
            partial = np.uint8(np.uint32(accumulators[group]) + add)
            accumulators[group] = partial
            if partial > threshold:
                noted[min(count, room)] = group
                count += 1
            p += np.uint64(1)
        while p < past_last:
            group, next_group = groups[p], groups[p + np.uint64(1)]
            partial = np.uint8(np.uint32(accumulators[group]) + add)
            accumulators[group] = partial
            next_partial = np.uint8(np.uint32(accumulators[next_group]) + add)
            accumulators[next_group] = next_partial
            if (partial > threshold) | (next_partial > threshold):  # almost never: one branch for two postings
                noted[min(count, room)] = group
                count += np.int64(partial > threshold)
                noted[min(count, room)] = next_group
                count += np.int64(next_partial > threshold)
            p += np.uint64(2)
    return count


@compiled
def column_maxima(accumulators):
    """uint8 [COLUMNS]: the largest accumulator of every COLUMNS-th group of a window."""
    largest = accumulators[:COLUMNS].copy()
    for row in range(1, accumulators.shape[0] // COLUMNS):
        members = accumulators[row * COLUMNS : (row + 1) * COLUMNS]
        for column in range(COLUMNS):
            largest[column] = max(largest[column], members[column])
    return largest


@compiled
def reached(largest, wanted):
    """The highest partial score that `wanted` of the maxima reach, so that many groups do; 1 if there is none."""
    bins = np.zeros(FULL + 1, np.int32)
    for column in range(largest.shape[0]):
        bins[largest[column]] += 1
    seen = 0
    for partial in range(FULL, 1, -1):
        seen += bins[partial]
        if seen >= wanted:
            return partial
    return 1


@compiled
def scan(accumulators, largest, lowest, noted):
    """Note every group that reaches `lowest`, column by column; returns their number."""
    count = 0
    for column in range(COLUMNS):
        if largest[column] >= lowest:
            for group in range(column, accumulators.shape[0], COLUMNS):
                if accumulators[group] >= lowest:
                    noted[count] = group
                    count += 1
    return count


@compiled
def compact(found, partials, count, lowest, spare):
    """Keep the groups above the lowest partial score that counts and the first `spare` with it; returns how many stay."""
    kept = 0
    for i in range(count):
        b = np.int64(partials[i])
        if b > lowest or (b == lowest and spare > 0):
            spare -= b == lowest
            found[kept], partials[kept] = found[i], partials[i]
            kept += 1
    return kept


@compiled
def find_groups(
    groups, num_groups, num_windows, begins, ends, num_lists, adds, wanted, accumulators, bins, noted, found, partials
):
    """Write the `wanted` groups with the largest partial scores into `found`, int32; returns their number.

    The first window sets a threshold that fewer of its groups reach, in the hope that other windows have as many. Where
    they do not have half of those wanted, all is gone through again: the answer may lack groups, never most of them.

    accumulators  uint8 [GROUP_WINDOW], zero before and after
    bins          int32, more than FULL
    noted         uint16 [GROUP_WINDOW + 1]
    found         longer than twice `wanted`
    """
    for hope in (max(min(num_windows // 4, MOST_HOPE), 1), 1):
        count = go_through(
            groups, num_groups, num_windows, begins, ends, num_lists, adds, wanted, hope, accumulators, bins, noted, found,
            partials,
        )  # fmt: skip
        if 2 * count >= wanted or hope == 1:
            break
    return count


@compiled
def go_through(
    groups,
    num_groups,
    num_windows,
    begins,
    ends,
    num_lists,
    adds,
    wanted,
    hope,
    accumulators,
    bins,
    noted,
    found,
    partials,
):
    """`find_groups` with a first threshold that wanted / hope groups of the first window reach."""
    bins[:] = 0
    lowest, above, count = 1, 0, 0  # partial score that still counts, groups with it and above, groups found
    for window in range(num_windows):
        num_noted = add_window(
            groups, begins, ends, window * num_lists, num_lists, num_windows * num_lists, adds, accumulators,
            np.uint8(lowest - 1 if lowest > 1 else FULL), noted,
        )  # fmt: skip
        if lowest == 1:  # the windows before had too few groups to tell what is worth noting
            largest = column_maxima(accumulators)
            lowest = reached(largest, max(wanted // hope, 1))
            above = bins[lowest:].sum()
            num_noted = scan(accumulators, largest, lowest, noted)
        elif num_noted >= noted.shape[0]:
            num_noted = scan(accumulators, column_maxima(accumulators), lowest, noted)
        for i in range(num_noted):
            local = noted[i]
            partial = accumulators[local]
            b = np.int64(partial)
            group = window * GROUP_WINDOW + np.int64(local)
            if b < lowest or group >= num_groups:
                continue
            accumulators[local] = 0  # noted twice, it counts once
            if count == found.shape[0]:
                count = compact(found, partials, count, lowest, wanted)
            found[count], partials[count] = group, partial
            count += 1
            bins[b] += 1
            above += 1
            while above - bins[lowest] >= wanted:
                above -= bins[lowest]
                lowest += 1
        accumulators[:] = 0
    return compact(found, partials, count, lowest, wanted - (above - bins[lowest]))
