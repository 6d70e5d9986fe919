"""Counting trailing zero bits, which numba has no function for: one machine instruction."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@intrinsic
def trailing_zeros(typing_context, word):
    """Number of zero bits below the lowest one of a uint64; 64 for 0."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


@intrinsic
def prefetch(typing_context, array, index):
    """Ask for the cache line of array[index]; nothing waits for it, and an index beyond the array does no harm."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        pointer = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        signature_of_prefetch = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
        llvm_prefetch = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], signature_of_prefetch)
        builder.call(llvm_prefetch, [pointer, number(0), number(3), number(1)])  # to read; all caches; data
        return context.get_dummy_value()

    return types.void(array, types.int64), generate
