"""Judgments, BEIR's and TREC's: read_qrels against a reading by hand."""

from fuzz.corpus_jsonl import BOM, compare
from fuzz.watch import file_of, outcome, watched

from retrieval.beir_folder import read_qrels

SEEDS = [
    b"query-id\tcorpus-id\tscore\n1\ta\t2\n1\tb\t0\n",
    b"1 0 a 2\r\n1 0 b -1\n",
    b"1\t0\ta\t2\n",
    b"1  Q0   a\t2 \n",
    b"query one\tdoc one\t1\n",
    b"1\ta\xc2\xa0b\t1\n",
    b"1\ta\t1_0\n",
    "1\ta\t\u0661\n".encode(),
    b"1\ta\t99999999999999999999\n",
    b"1\t\t1\n",
]


def plain_qrels(data):
    qrels = {}
    lines = [line for line in data.removeprefix(BOM).decode().split("\n") if line.strip(" \r")]
    for number, line in enumerate(lines):
        columns = line.rstrip("\r").split("\t")
        if len(columns) not in (3, 4):
            columns = [column for column in line.rstrip("\r").replace("\t", " ").split(" ") if column]
        if number == 0 and columns[:2] == ["query-id", "corpus-id"]:
            continue
        if len(columns) not in (3, 4):
            raise ValueError("columns")
        query, document, relevance = columns[0], columns[-2], columns[-1].strip(" ")
        digits = relevance[1:] if relevance[:1] == "-" else relevance
        if not query or not document or not digits or len(digits) > 9 or set(digits) - set("0123456789"):
            raise ValueError("not a judgment")
        if document in qrels.setdefault(query, {}):
            raise ValueError("twice")
        qrels[query][document] = int(relevance)
    if not qrels:
        raise ValueError("none")
    return qrels


def attack(data):
    path = file_of("test.tsv", data)
    with watched(len(data)):
        qrels, error = outcome(read_qrels, path)
    compare(qrels, error, plain_qrels, data, path)
