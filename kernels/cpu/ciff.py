"""Messages of the Common Index File Format, read from bytes and written: protobuf, each message behind its length.

Lin et al., Supporting Interoperability Between Open-Source Search Engines with the Common Index File Format, 2020
(arXiv:2003.08276). Whatever the bytes say, nothing outside of them is read, and nothing outside of the arrays written.
"""

import numpy as np

from kernels.cpu.compiled import compiled

MALFORMED, UNORDERED, UNWEIGHABLE = -1, -2, -3
VARINT, BYTES_8, BYTES, BYTES_4 = 0, 1, 2, 5  # protobuf's wire types
MOST = 2**31 - 1
BYTES_A_POSTING = 14  # at most: a tag and a length, then two fields of a tag and a number of 31 bits


@compiled
def varint(data, at, end):
    """(the number that begins at `at`, where it ends); it ends at -1 if it is cut off or longer than 64 bits."""
    value, shift = np.uint64(0), np.uint64(0)
    while at < end and shift < np.uint64(70):
        byte = np.uint64(data[at])
        at += 1
        value |= (byte & np.uint64(127)) << shift
        if byte < np.uint64(128):
            return np.int64(value), at
        shift += np.uint64(7)
    return np.int64(0), np.int64(-1)


@compiled
def message(data, at):
    """(first byte, end) of the message whose length stands at `at`; it ends at -1 if the data end before it."""
    length, first = varint(data, at, np.int64(data.shape[0]))
    if first < 0 or length < 0 or length > data.shape[0] - first:
        return np.int64(0), np.int64(-1)
    return first, first + length


@compiled
def count_messages(data):
    """How many there are one after another; -1 - position of one that is cut off."""
    count, at = np.int64(0), np.int64(0)
    while at < data.shape[0]:
        _, end = message(data, at)
        if end < 0:
            return -1 - at
        count, at = count + 1, end
    return count


@compiled
def field(data, at, end):
    """(number, wire type, value or first byte of the content, end) of a field; it ends at -1 if it is malformed."""
    key, at = varint(data, at, end)
    number, wire = key >> 3, key & 7
    value, past = np.int64(at), np.int64(-1)
    if at < 0:
        return number, wire, value, past
    if wire == VARINT:
        value, past = varint(data, at, end)
    elif wire == BYTES:
        length, value = varint(data, at, end)
        if value >= 0 and 0 <= length <= end - value:
            past = value + length
    elif (wire == BYTES_8 and end - at >= 8) or (wire == BYTES_4 and end - at >= 4):
        past = at + (8 if wire == BYTES_8 else 4)
    return number, wire, value, past


@compiled
def header(data, at, end, values):
    """Write the numbers of the fields 1 up to len(values) - 1 into `values` (int64); False if the message is malformed."""
    while at < end:
        number, wire, value, at = field(data, at, end)
        if at < 0:
            return False
        if wire == VARINT and 0 < number < values.shape[0]:
            values[number] = value
    return True


@compiled
def document(data, at, end):
    """(number, first byte and end of its name) of a DocRecord; number -1 if the message is malformed."""
    doc, first, past = np.int64(0), at, at
    while at < end:
        number, wire, value, at = field(data, at, end)
        if at < 0:
            return np.int64(MALFORMED), first, past
        if wire == VARINT and number == 1:
            doc = value
        elif wire == BYTES and number == 2:
            first, past = value, at
    return doc, first, past


@compiled
def postings(data, at, end, docs, weights):
    """Write the postings of a PostingsList whose weight is not 0; returns (how many, first byte and end of its term).

    docs     int32, as long as there are documents: each list names a document at most once, in ascending order
    weights  float32, as long

    How many is MALFORMED, UNORDERED for a document out of order or range, UNWEIGHABLE for a weight outside 0..2**31 - 1.
    """
    first, past, count = at, at, np.int64(0)
    doc, is_first = np.int64(0), True
    while at < end:
        number, wire, value, at = field(data, at, end)
        if at < 0:
            return np.int64(MALFORMED), first, past
        if wire == BYTES and number == 1:
            first, past = value, at
        elif wire == BYTES and number == 4:
            gap, weight, inner = np.int64(0), np.int64(0), value
            while inner < at:
                number, wire, value, inner = field(data, inner, at)
                if inner < 0:
                    return np.int64(MALFORMED), first, past
                if wire == VARINT and number == 1:
                    gap = value
                elif wire == VARINT and number == 2:
                    weight = value
            if gap < 0 or gap > MOST or (gap == 0 and not is_first) or doc + gap >= docs.shape[0]:
                return np.int64(UNORDERED), first, past
            if weight < 0 or weight > MOST:
                return np.int64(UNWEIGHABLE), first, past
            doc, is_first = doc + gap, False
            if weight > 0:
                docs[count], weights[count] = doc, weight
                count += 1
    return count, first, past


@compiled
def put_varint(number, out, at):
    """Write a number of at least 0 into `out` (uint8) at `at`; returns where it ends."""
    while number > 127:
        out[at] = (number & 127) | 128
        number >>= 7
        at += 1
    out[at] = number
    return at + 1


@compiled
def put_postings(docs, weights, out):
    """Write the postings of a list as fields of its PostingsList; returns how many bytes.

    docs, weights  int32, ascending; at least 1
    out            uint8, BYTES_A_POSTING for each
    """
    at, before = np.int64(0), np.int64(0)
    for i in range(docs.shape[0]):
        gap, weight = np.int64(docs[i]) - before, np.int64(weights[i])
        before = np.int64(docs[i])
        out[at] = 4 << 3 | BYTES
        inner = at + 2  # two numbers of 31 bits: a length of one byte
        end = inner
        if gap > 0:  # protobuf leaves zeros out
            out[end] = 1 << 3 | VARINT
            end = put_varint(gap, out, end + 1)
        out[end] = 2 << 3 | VARINT
        end = put_varint(weight, out, end + 1)
        out[at + 1] = end - inner
        at = end
    return at
