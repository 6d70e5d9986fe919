"""`.npy` files: open_array against a reading by hand of what it takes."""

import numpy as np
from fuzz.watch import Draw, demand, file_of, outcome, watched

from index.files import array_header
from index.storage import open_array

DTYPES = "uint8", "uint16", "int32", "int64", "uint64", "float32"
LENGTHS = 0, 1, 3, 16, 1000, 2**31, 2**62, 2**63 - 1


def header(description, version=b"\x01\x00"):
    text = description.encode("latin-1")
    return b"\x93NUMPY" + version + len(text).to_bytes(2 if version[0] == 1 else 4, "little") + text


def described(descr, shape, order=False):
    return header(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n")


SEEDS = [
    *(bytes([i, 2]) + array_header(np.dtype(dtype), (3,)) + bytes(24) for i, dtype in enumerate(DTYPES)),
    bytes([5, 0]) + array_header(np.dtype("float32"), (0,)),
    bytes([5, 0]) + described("'<f4'", f"({10**12},)"),
    bytes([5, 7]) + described("'<f4'", f"({2**63 - 1},)"),
    bytes([5, 0]) + described("'<f4'", "(0, 4611686018427387904)"),
    bytes([5, 2]) + described("'|O'", "(3,)") + bytes(24),
    bytes([5, 2]) + described("'>f4'", "(3,)") + bytes(12),
    bytes([5, 2]) + described("[('a', '<f4', (1000000, 1000000, 1000))]", "(3,)") + bytes(12),
    bytes([5, 2]) + described("'<f4'", "(-3,)", True) + bytes(12),
    bytes([5, 2]) + header("(" * 3000) + bytes(12),
    bytes([5, 2]) + header("-" * 9000 + "1") + bytes(12),
    bytes([5, 2]) + header(" " * 60_000) + bytes(12),
    bytes([5, 2]) + header("{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", b"\x02\x00") + bytes(12),
    bytes([5, 2]) + b"PK\x03\x04" + bytes(40),
    bytes([5, 2]) + b"PK\x05\x06" + bytes(18),
    bytes([5, 0]) + b"PK\x05\x06" + bytes(18),
    bytes([5, 2]) + b"\x80\x04K\x01.",
    bytes([5, 2]),
]


def attack(data):
    draw = Draw(data)
    dtype, length = draw.choice(DTYPES), draw.choice(LENGTHS)
    held = draw.rest()
    path = file_of("array.npy", held)
    with watched(len(held)):
        array, error = outcome(open_array, path, dtype, length)
    if error is not None:
        demand(str(error).startswith(str(path)), f"no file is named: {error}")
        return
    demand(type(array) is np.ndarray and array.dtype == dtype and array.shape == (length,), f"{array!r} is no {dtype}")
    demand(not array.flags.writeable, "it can be written to")
    demand(held[6] == 1, "it is of a version that none of ours is")
    size = int.from_bytes(held[8:10], "little") + 10
    demand(array.tobytes() == held[size : size + array.nbytes], "other numbers than the file holds")
