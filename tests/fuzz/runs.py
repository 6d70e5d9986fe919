"""TREC run files as we write them: whatever is written must read back, by hand, as what was given."""

import struct

from fuzz.watch import SCRATCH, Draw, demand, outcome, watched

from eval.runs import write_run

SEEDS = [
    b"\x02q1\x02d1\0\0\0\0\0\0\xf8?\x02q1\x02d2\0\0\0\0\0\0\xf0?",
    b"\0\x02d1" + struct.pack("<d", 1e-310),
    b"\x03q\xc2\xa0\x02d1" + struct.pack("<d", float("nan")),
    b"\x01\xff\x02d1" + struct.pack("<d", float("inf")),
]


def attack(data):
    from pathlib import Path

    draw, run = Draw(data), {}
    while not draw.is_used_up:
        query, document = draw.text(), draw.text()
        (score,) = struct.unpack("<d", draw.bytes(8))
        run.setdefault(query, {})[document] = score
    path = Path(SCRATCH.name) / "run" / "a.run"
    with watched(len(data)):
        _, error = outcome(write_run, path, run, "tag")
    if error is not None:
        return
    read_back = {}
    for line in path.read_bytes().decode().split("\n")[:-1]:
        query, q0, document, rank, score, tag = line.split()
        demand((q0, tag) == ("Q0", "tag"), line)
        read_back.setdefault(query, {})[document] = float(score)
        demand(int(rank) == len(read_back[query]), f"rank in {line!r}")
    demand(
        repr(read_back) == repr({q: documents for q, documents in run.items() if documents}), f"{run!r} {read_back!r}"
    )
