"""Writes the Common Index File Format by hand, as protobuf would: for tests of what reads it."""


def varint(number):
    number &= (1 << 64) - 1  # negative numbers take ten bytes
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def field(number, value):
    """An int, or bytes behind their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value) if value else b""  # proto3 leaves zeros out
    return varint(number << 3 | 2) + varint(len(value)) + value


def message(*fields):
    content = b"".join(fields)
    return varint(len(content)) + content


def header(num_lists, num_docs, version=1):
    lengths = varint(7 << 3 | 1) + bytes(8)  # average_doclength, a double
    totals = field(4, num_lists) + field(5, num_docs) + field(6, 99)
    return message(field(1, version), field(2, num_lists), field(3, num_docs), totals, lengths, field(8, b"by hand"))


def postings_list(term, postings):
    """`postings` are (gap to the document before, weight)."""
    posts = [field(4, field(1, gap) + field(2, weight)) for gap, weight in postings]
    return message(field(1, term.encode()), field(2, len(postings)), field(3, 7), *posts)


def doc_record(number, name, length=3):
    return message(field(1, number), field(2, name.encode()), field(3, length))


def ciff(vectors, order=None):
    """A file of {id: {term: whole weight}}, its documents numbered in this order; records in another `order`, if given."""
    ids = list(vectors)
    terms = sorted({term for vector in vectors.values() for term in vector})
    lists = []
    for term in terms:
        docs = [doc for doc, doc_id in enumerate(ids) if term in vectors[doc_id]]
        gaps = [doc - before for doc, before in zip(docs, [0, *docs], strict=False)]
        weights = [vectors[ids[doc]][term] for doc in docs]
        lists.append(postings_list(term, list(zip(gaps, weights, strict=True))))
    records = [doc_record(number, ids[number]) for number in (order or range(len(ids)))]
    return header(len(terms), len(ids)) + b"".join([*lists, *records])
