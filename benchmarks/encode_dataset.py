"""The dense vectors of a BEIR folder's documents and judged queries, for `benchmarks/dense_index.py`.

    python benchmarks/encode_dataset.py --data FOLDER --split test --out PREFIX

Writes PREFIX.docs.npy and PREFIX.queries.npy, float32.
"""

from __future__ import annotations

import argparse

import numpy as np

from eval.datasets import load_dataset
from retrieval import DenseEncoder
from retrieval.corpus import read_corpus


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, metavar="FOLDER")
    parser.add_argument(
        "--split", action="append", dest="splits", metavar="NAME", help="may be repeated (default: test)"
    )
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--out", required=True, metavar="PREFIX")
    given = parser.parse_args(arguments)
    encoder = DenseEncoder.from_pretrained(given.model)
    queries: dict[str, str] = {}
    for split in given.splits or ("test",):
        queries |= load_dataset(given.data, split).queries
    np.save(f"{given.out}.queries.npy", encoder.encode_queries(queries.values()))
    np.save(f"{given.out}.docs.npy", encoder.encode_texts(one.searched_text for one in read_corpus(given.data)))


if __name__ == "__main__":
    main()
