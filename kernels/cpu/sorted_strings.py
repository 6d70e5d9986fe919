"""Binary search in a sorted list of byte strings that lie end to end in one array."""

import numpy as np

from kernels.cpu.compiled import compiled


@compiled
def find(text, starts, wanted_text, wanted_starts, found):
    """Write into found[i], int32, the place of the i-th wanted string, or -1 where it is not in the list.

    text, wanted_text      uint8, all strings end to end
    starts, wanted_starts  int64 [strings + 1]
    """
    for i in range(wanted_starts.shape[0] - 1):
        wanted = wanted_text[wanted_starts[i] : wanted_starts[i + 1]]
        low, high = 0, starts.shape[0] - 1
        while low < high:
            middle = (low + high) // 2
            if compare(text, starts, middle, wanted) < 0:
                low = middle + 1
            else:
                high = middle
        is_there = low < starts.shape[0] - 1 and compare(text, starts, low, wanted) == 0
        found[i] = low if is_there else -1


@compiled
def compare(text, starts, number, wanted):
    """Below 0, 0 or above 0 as string `number` of the list comes before, is or comes after `wanted`."""
    # a damaged file may say anything: no byte outside the text
    first = min(max(starts[number], 0), text.shape[0])
    length = min(max(starts[number + 1], first), text.shape[0]) - first
    for i in range(min(length, wanted.shape[0])):
        difference = np.int64(text[first + i]) - np.int64(wanted[i])
        if difference != 0:
            return difference
    return length - wanted.shape[0]
