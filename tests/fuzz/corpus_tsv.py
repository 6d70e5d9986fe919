"""TSV corpora: read_corpus against a reading by hand."""

from fuzz.corpus_jsonl import BOM, compare, plain_document
from fuzz.watch import file_of, outcome, watched

from retrieval.corpus import read_corpus

SEEDS = [
    b"a\tgreen tea\nb\twhite\r\n",
    b"a\tTitle\tgreen tea\n\n",
    BOM + b"year\tid\tcontents\n1999\ta\t\xc3\xa9\n\tb\t\n",
    b"id\ttext\ttext\n",
    b"id\t\x1b[31m\ttext\t\x1b[31m\na\tb\tc\td\n",
    b"a\tb\n\t\n",
]
IDS, TEXTS = {"_id", "id", "doc_id", "docid"}, {"title", "text", "contents"}


def plain_documents(data):
    lines = [line for line in data.removeprefix(BOM).split(b"\n") if line.strip(b" \r")]
    rows = [line.decode().rstrip("\r").split("\t") for line in lines]
    if not rows:
        return []
    names = rows[0]
    if IDS.intersection(names) and TEXTS.intersection(names):
        if len(set(names)) < len(names):
            raise ValueError("a column twice")
        rows = rows[1:]
    elif len(names) in (2, 3):
        names = ["_id", "text"] if len(names) == 2 else ["_id", "title", "text"]
    else:
        raise ValueError("columns")
    if any(len(row) != len(names) for row in rows):
        raise ValueError("columns")
    return [plain_document(dict(zip(names, row, strict=True))) for row in rows]


def attack(data):
    path = file_of("corpus.tsv", data)
    with watched(len(data)):
        documents, error = outcome(lambda: list(read_corpus(path)))
    compare(documents, error, plain_documents, data, path)
