"""TREC run files from others: read_run against a reading by hand; then what was read is written and read back."""

import math

from fuzz.corpus_jsonl import BOM, compare
from fuzz.watch import demand, file_of, outcome, watched

from eval.runs import read_run, write_run

SEEDS = [
    b"1 Q0 a 1 2.5 tag\n1 Q0 b 2 1e-3 tag\n2 Q0 a 1 -1 tag\n",
    BOM + b"1\tQ0\ta\t0\t.5\ttag\r\n\n1 Q0  b  0 5. tag\r\n",
    b"1 Q0 a 1 16777217 t\n1 Q0 b 2 16777216 t\n1 Q0 c x 1e300 t\n",
    b"1 Q0 a\xc2\xa0b 1 1 t\n1 Q0 \x1c 2 1 t\n",
    b"1 Q0 a 1 nan t\n",
    b"1 Q0 a 1 1e999 t\n",
    b"1 Q0 a 1 1_0 t\n",
    b"1 Q0 a 1 " + b"9" * 400 + b" t\n",
    b"1 Q0 a " + b"9" * 5000 + b" 1 t\n1 Q0 b 2 1 t\n",
]
BLANKS = " \t\r\n\v\f"


def columns_of(line):
    columns = [""]
    for character in line:
        if character not in BLANKS:
            columns[-1] += character
        elif columns[-1]:
            columns.append("")
    return [column for column in columns if column]


def plain_run(data):
    run = {}
    for line in data.removeprefix(BOM).split(b"\n"):
        if not line.strip(b" \r"):
            continue
        query, _, document, _, written, _ = columns_of(line.decode())
        score = float(written)
        if set(written) - set("+-.0123456789eE") or not math.isfinite(score) or document in run.setdefault(query, {}):
            raise ValueError("no score, or twice")
        run[query][document] = score
    if not run:
        raise ValueError("empty")
    return run


def attack(data):
    path = file_of("given.run", data)
    with watched(len(data)):
        read, error = outcome(read_run, path)
    compare(read and read.run, error, plain_run, data, path)
    if read is None:
        return
    demand(all(sentence.isprintable() for sentence in read.problems("given.run")), f"{read.problems('given.run')}")
    again = path.with_name("again.run")
    _, error = outcome(write_run, again, read.run, "tag")
    if error is None:
        copy = read_run(again)
        demand(repr(copy.run) == repr(read.run), f"{copy.run} {read.run}")
        demand(copy[2:5] == (0, 0, 0), f"ranks written in trec_eval's order are told as another: {copy}")
