"""Folders of `winnow encode` whose files are replaced, with description and manifest vouching for what is there."""

import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
from forgery import edit_description, edit_file
from fuzz.vectors_jsonl import as_dict
from fuzz.watch import SCRATCH, Draw, demand, outcome, watched

from index.encoded_vectors import KIND, EncodedPart
from index.folder_writer import FolderWriter
from index.verification import find_damage
from index.vocabulary import Vocabulary
from kernels.cpu.sparse import SparseRows

FILES = (
    "ids.text.npy", "ids.starts.npy", "rows.starts.npy", "rows.terms.npy", "rows.weights.npy", "vocabulary.text.npy",
    "vocabulary.starts.npy",
)  # fmt: skip
HEADER = 128  # bytes of an array's header, which tests/fuzz/array_file.py attacks
PART = "part-000002"


@cache
def sound():
    """A folder of three documents, and the bytes of its files behind their headers."""
    folder = Path(SCRATCH.name) / "encoded"
    rows = SparseRows(np.array([0, 2, 3, 3]), np.array([0, 1, 1], np.int32), np.array([0.5, 2, 1], np.float32))
    with FolderWriter(folder, KIND) as files:
        model, part = files.new_part(), files.new_part()
        model.contents = {"model": "mini", "encoder": {"family": "inference-free", "options": {}}}
        EncodedPart(["a", "é", "c"], rows, Vocabulary.build(["tea", "milk"])).write(part)
        files.commit({"model": model.name, "parts": [part.name]}, [model, part])
    return folder, {name: (folder / PART / name).read_bytes()[HEADER:] for name in FILES}


def seeds():
    _, held = sound()
    lies = [
        {"documents": 2}, {"documents": -1}, {"documents": None}, {"postings": 10**12}, {"vocabulary": None},
        {"vocabulary": {"terms": 2}}, {"id_bytes": "4"},
    ]  # fmt: skip
    return [
        *(bytes([number]) + data for number, data in enumerate(held.values())),
        bytes([0]) + b"aa\xc3c",
        bytes([1]) + np.array([0, 1, 1, 4], np.int64).tobytes(),
        bytes([2]) + np.array([0, 2**40, 3, 3], np.int64).tobytes(),
        bytes([3]) + np.array([1, 1, 1], np.int32).tobytes(),
        bytes([4]) + np.array([np.inf, 1, 1], np.float32).tobytes(),
        bytes([5]) + b"teamilk",
        *(bytes([7]) + json.dumps(lie).encode() for lie in lies),
    ]


def attack(data):
    draw = Draw(data)
    folder, _ = sound()
    forged = folder.with_name("forged")
    shutil.rmtree(forged, ignore_errors=True)
    shutil.copytree(folder, forged)
    which = draw.number(256) % (len(FILES) + 1)
    held = draw.rest()
    if which < len(FILES):
        edit_file(forged, FILES[which], lambda array: array.__setitem__(slice(HEADER, None), held), PART)
    else:
        try:
            lie = json.loads(held)
        except (ValueError, RecursionError):
            return
        if not isinstance(lie, dict):
            return
        edit_description(forged, lambda fields: fields["contents"].update(lie), PART)
    with watched(len(data)):
        vectors, error = outcome(as_dict, forged)
        found, refused = outcome(find_damage, forged)
    demand(refused is None, f"damage is not told but raised: {refused}")
    if error is None:
        demand(found == [], f"read {vectors!r}, but {found}")
        demand(len(vectors) == 3, f"other documents than there are: {vectors!r}")
    else:
        demand(found != [], f"refused ({error}), and nothing is found to be damaged")
        demand(str(forged) in str(error), f"no file is named: {error}")
