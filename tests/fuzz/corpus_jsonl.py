"""JSONL corpora: read_corpus against json.loads line by line; then what was read is stored and read back."""

import json
import math

from fuzz.watch import demand, file_of, outcome, watched

from index.documents import Document, DocumentStore
from retrieval.corpus import read_corpus

BOM = b"\xef\xbb\xbf"
SEEDS = [
    b'{"_id": "a", "title": "T", "text": "green tea", "metadata": {"year": 1999, "x": [1.5e3, -0, null, true]}}\n',
    BOM + b'{"id": "a", "contents": "\\u00e9\\ud83d\\ude00"}\r\n\n{"docid": "b", "doc_id": null, "title": null}',
    b'{"_id": "a", "text": "x", "n": 1e999}\n{"_id": "a"}',
    b'{"_id": "a", "x": ' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"_id": "a", "x": ' + b'{"":' * 99 + b"1" + b"}" * 99 + b"}",
    b'{"_id": ["' + b"long " * 300 + b'"]}',
    b'{"_id": "' + b"long " * 300 + b'", "x": "\\ud800"}',
    b'{"_id": "\\ud800", "text": "\\u0000\\u001b[31m"}\n[1]\n{"text": NaN}',
]


def plain_documents(data):
    """What the file says, read in the plainest way; ValueError where it is no corpus."""
    documents = []
    for line in data.removeprefix(BOM).split(b"\n"):
        if not line.strip(b" \r"):
            continue
        record = json.loads(line.decode(), parse_constant=refuse, parse_float=finite)
        if not isinstance(record, dict):
            raise ValueError("not an object")
        documents.append(plain_document(record))
    return documents


def plain_document(record):
    used = []
    for names in (["_id", "id", "doc_id", "docid"], ["title"], ["text", "contents"]):
        used.append(next((name for name in names if record.get(name) is not None), names[0]))
    doc_id, title, text = (record.get(name) for name in used)
    title, text = "" if title is None else title, "" if text is None else text
    if not (isinstance(doc_id, str) and doc_id and isinstance(title, str) and isinstance(text, str)):
        raise ValueError("not a document")
    if any("\ud800" <= character <= "\udfff" for character in doc_id + title + text):
        raise ValueError("not Unicode")
    return Document(doc_id, title, text, {name: value for name, value in record.items() if name not in used})


def refuse(constant):
    raise ValueError(constant)


def finite(number):
    if not math.isfinite(float(number)):
        raise ValueError(number)
    return float(number)


def attack(data):
    path = file_of("corpus.jsonl", data)
    with watched(len(data)):
        documents, error = outcome(lambda: list(read_corpus(path)))
    compare(documents, error, plain_documents, data, path)
    if documents:
        with watched(len(data)):
            store, _ = outcome(DocumentStore.of, documents)
            read_back = None if store is None else called_deeply(300, lambda: list(store))
        demand(read_back in (None, documents), f"stored {documents!r}, got back {read_back!r}")


def compare(documents, error, plain, data, path):
    """Equal to the plain reading, or refused with the file's name where that fails too."""
    try:
        expected = plain(data)
    except (ValueError, RecursionError) as refusal:
        demand(error is not None, f"read {documents!r}, but {refusal}")
        demand(str(error).startswith(str(path)), f"no file is named: {error}")
        return
    demand(error is None, f"refused ({error}), but reads as {expected!r}")
    demand(documents == expected, f"read {documents!r}, plainly {expected!r}")


def called_deeply(frames, call):
    """As a handler within a large application would call: nearer to the recursion limit than whoever wrote."""
    return called_deeply(frames - 1, call) if frames else call()
