"""Small collections in files, as training pairs are made of."""

import json
from random import Random

from retrieval.training.sparse.pair_recipe import Source
from retrieval.training.sparse.pair_sources import passages_of

SENTENCES = [f"Sentence {word} says that {word} is what it is." for word in "one two three four five six".split()]
TEXT = " ".join(SENTENCES)


def jsonl(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def corpus(folder, *documents):
    jsonl(folder / "corpus.jsonl", [{"_id": i, "title": title, "text": text} for i, title, text in documents])
    return folder


def judged(folder, documents, queries, **splits):
    corpus(folder, *documents)
    jsonl(folder / "queries.jsonl", [{"_id": one, "text": text} for one, text in queries.items()])
    (folder / "qrels").mkdir()
    for split, judgments in splits.items():
        lines = "".join(f"{query}\t{document}\t{grade}\n" for query, document, grade in judgments)
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + lines)
    return folder


def words(number, what="w"):
    return " ".join(f"{what}{i}" for i in range(number))


def passages(kind, data, path="x", seed=0, **more):
    return list(passages_of(Source(kind, path, "x", **more), data, Random(seed)))


def asked(passage):
    return [query.text for query in passage.queries]
