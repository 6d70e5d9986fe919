"""Dot products of dense vectors in float32, the same whatever else is scored beside them, and the best of them.

The one definition of a dense score (docs/format.md): with n the greatest multiple of 64 up to the dimension, the products of
entries 0 to n - 1 are added into 64 sums, entry i into sum i mod 64, in ascending i; the 64 sums are added up in halves (sum l
and sum l + 32, then l and l + 16, ...); the products of the entries from n on are then added one by one. Each operation is
rounded once, so machines with other vector units give the same bits.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kernels.cpu.compiled import compiled
from kernels.cpu.top_k import EMPTY, offer, sort_best_first

LANES = 64  # partial sums of a dot product
WIDTH = 16  # of them in one value of the compiler's; it cuts these as the machine's registers are


@intrinsic
def sum_of_lanes(typing_context, query, vectors, start):
    """float32: the 64 sums of query[i] * vectors[start + i], added up; of entries below the greatest multiple of 64.

    In the compiler's own words, as it may not reorder a loop of float sums and would add them one at a time.
    """

    def generate(context, builder, signature, arguments):
        lanes, whole = ir.VectorType(ir.FloatType(), WIDTH), ir.IntType(64)
        given = context.make_array(signature.args[0])(context, builder, arguments[0])
        stored = context.make_array(signature.args[1])(context, builder, arguments[1])
        end = builder.and_(builder.extract_value(given.shape, 0), whole(-LANES))
        zeros = ir.Constant(lanes, [0.0] * WIDTH)

        def load(data, first):
            loaded = builder.load(builder.bitcast(builder.gep(data, [first]), lanes.as_pointer()))
            loaded.align = 4
            return loaded

        before, loop, after = builder.block, builder.append_basic_block("add"), builder.append_basic_block("added")
        builder.cbranch(builder.icmp_signed(">", end, whole(0)), loop, after)
        builder.position_at_end(loop)
        entry = builder.phi(whole)
        sums = [builder.phi(lanes) for _ in range(LANES // WIDTH)]
        added = []
        for part, running in enumerate(sums):
            first = builder.add(entry, whole(part * WIDTH))
            product = builder.fmul(load(given.data, first), load(stored.data, builder.add(arguments[2], first)))
            added.append(builder.fadd(running, product))
        following = builder.add(entry, whole(LANES))
        builder.cbranch(builder.icmp_signed("<", following, end), loop, after)
        for phi, first, later in [(entry, whole(0), following), *((s, zeros, a) for s, a in zip(sums, added))]:  # noqa: B905
            phi.add_incoming(first, before)
            phi.add_incoming(later, loop)
        builder.position_at_end(after)
        totals = [builder.phi(lanes) for _ in sums]
        for total, later in zip(totals, added, strict=True):
            total.add_incoming(zeros, before)
            total.add_incoming(later, loop)
        while len(totals) > 1:
            half = len(totals) // 2
            totals = [builder.fadd(totals[i], totals[i + half]) for i in range(half)]
        width, total = WIDTH, totals[0]
        while width > 1:
            width //= 2
            halves = [ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(i, i + width))) for i in (0, width)]
            total = builder.fadd(*(builder.shuffle_vector(total, total, half) for half in halves))
        return builder.extract_element(total, ir.IntType(32)(0))

    return types.float32(query, vectors, types.int64), generate


@compiled
def dot(vectors, start, query):
    """float32: the score of the row that begins at `start` of vectors (float32, row after row)."""
    total = sum_of_lanes(query, vectors, start)
    for i in range(query.shape[0] // LANES * LANES, query.shape[0]):
        total += query[i] * vectors[start + i]
    return total


@compiled
def score_rows(vectors, query, docs, scores):
    """Write the score of each of `docs` (whole numbers)."""
    dimension = query.shape[0]
    for i in range(docs.shape[0]):
        scores[i] = dot(vectors, np.int64(docs[i]) * dimension, query)


@compiled
def best_of_all(vectors, query, mask, k):
    """The best k rows, of those that `mask` (bool [rows], or empty: all) has: (scores float32, docs int32), best first.

    k  at most as many as there are
    """
    scores, docs = np.full(k, -np.inf, np.float32), np.full(k, EMPTY, np.int32)
    dimension = query.shape[0]
    for doc in range(vectors.shape[0] // dimension):
        if mask.shape[0] == 0 or mask[doc]:
            offer(scores, docs, dot(vectors, doc * dimension, query), doc)
    sort_best_first(scores, docs)
    return scores, docs


@compiled
def best_of(vectors, query, candidates, k):
    """The same of some documents (whole numbers, each once; below 0: none), k being at most their number."""
    scores, docs = np.full(k, -np.inf, np.float32), np.full(k, EMPTY, np.int32)
    dimension = query.shape[0]
    for i in range(candidates.shape[0]):
        doc = np.int64(candidates[i])
        if doc >= 0:
            offer(scores, docs, dot(vectors, doc * dimension, query), doc)
    sort_best_first(scores, docs)
    return scores, docs


@compiled
def normalise(rows, dimension, scales):
    """Bring each row of `rows` (float32, row after row) to length 1 in place, and write what its length was (float64).

    A row whose length is within 1e-6 of 1 is left as it is, so what is normalised once never changes again: rounding moves a
    length by less than that. Rows of zeros, and those with an entry that is not finite, are left too.
    """
    for row in range(scales.shape[0]):
        square = 0.0
        for i in range(row * dimension, (row + 1) * dimension):
            square += np.float64(rows[i]) * np.float64(rows[i])
        length = np.sqrt(square)
        scales[row] = length
        if 0 < length < np.inf and abs(length - 1) > 1e-6:
            for i in range(row * dimension, (row + 1) * dimension):
                rows[i] = np.float32(np.float64(rows[i]) / length)


@compiled
def lengths_of(rows, dimension, lengths):
    """Write the length (float64) of each row; nan or inf where an entry is."""
    for row in range(lengths.shape[0]):
        square = 0.0
        for i in range(row * dimension, (row + 1) * dimension):
            square += np.float64(rows[i]) * np.float64(rows[i])
        lengths[row] = np.sqrt(square)
