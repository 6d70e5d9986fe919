"""CSR matrices in .npz files: whole files, and members whose bytes are put into a sound archive."""

import io
import warnings
import zipfile
from functools import cache

import numpy as np
from fuzz.vectors_jsonl import as_dict
from fuzz.watch import Draw, demand, file_of, outcome, watched

MEMBERS = "indptr", "indices", "data", "ids", "terms", "format"


@cache
def sound():
    """Name -> bytes of the member."""
    arrays = (
        np.array([0, 2, 3, 3], np.int32), np.array([0, 1, 1], np.int64), np.array([0.5, 2, 0]),
        np.array(["a", "é", "\U0001f375"]), np.array(["tea", "milk"]), np.array(b"csr"),
    )  # fmt: skip
    return {name: as_npy(array) for name, array in zip(MEMBERS, arrays, strict=True)}


def as_npy(array):
    member = io.BytesIO()
    np.lib.format.write_array(member, array, version=(1, 0))
    return member.getvalue()


def archive(members, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", compression) as opened:
        warnings.simplefilter("ignore")  # a name twice
        for name, data in members:
            opened.writestr(f"{name}.npy", data)
    return file.getvalue()


def seeds():
    whole = archive(sound().items())
    return [
        b"\xff" + whole,
        b"\xff" + archive(sound().items(), zipfile.ZIP_DEFLATED),
        b"\xff" + archive(sound().items(), zipfile.ZIP_BZIP2),
        b"\xff" + archive([*sound().items(), ("ids", sound()["terms"])]),
        b"\xff" + archive([(name, sound()[name]) for name in MEMBERS[:3]]),
        b"\xff" + archive([*sound().items(), ("data", as_npy(np.zeros(6 << 20)))], zipfile.ZIP_DEFLATED),
        *(bytes([number]) + data for number, data in enumerate(sound().values())),
        bytes([0]) + as_npy(np.array([0, 2, 1, 3])),
        bytes([0]) + as_npy(np.array([], np.int64)),
        bytes([1]) + as_npy(np.array([0, 1, 2**40])),
        bytes([1]) + as_npy(np.array([1, 1, 1])),
        bytes([2]) + as_npy(np.array([np.nan, 1, 1])),
        bytes([2]) + as_npy(np.array([1, 2, 3], "g")),
        bytes([3]) + as_npy(np.array([0x7F000000] * 3, "<u4").view("<U1")),
        bytes([3]) + as_npy(np.array([0xD800, 65, 66], ">u4").view(">U1")),
        bytes([3]) + as_npy(np.array([None, "a", "b"], object)),
        bytes([4]) + as_npy(np.array([b"tea", b"milk"])),
        bytes([5]) + as_npy(np.array("coo")),
    ]


def plain_rows(path):
    """{id: {term: weight}} by NumPy's own reader; of files that ours has taken, so that they are known to be small."""
    with np.load(path, allow_pickle=False) as arrays:
        indptr, indices, data = (arrays[name].tolist() for name in ("indptr", "indices", "data"))
        ids, terms = arrays["ids"].tolist(), arrays["terms"].tolist()
    found = {}
    for row, doc_id in enumerate(ids):
        entries = range(indptr[row], indptr[row + 1])
        weights = {terms[indices[entry]]: float(np.float32(data[entry])) for entry in entries}
        found[doc_id] = {term: weight for term, weight in weights.items() if weight > 0}
    return found


def attack(data):
    draw = Draw(data)
    which = draw.number(256)
    is_member = which < len(MEMBERS)
    held = archive({**sound(), MEMBERS[which]: draw.rest()}.items()) if is_member else draw.rest()
    path = file_of("v.npz", held)
    with watched(len(held)):
        vectors, error = outcome(as_dict, path)
    if error is not None:
        demand(str(error).startswith(str(path)), f"no file is named: {error}")
        return
    expected = plain_rows(path)
    demand(vectors == expected, f"read {vectors!r}, NumPy reads {expected!r}")
