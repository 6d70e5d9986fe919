"""A collection of real vectors in the benchmark's form: the texts of a BEIR folder, encoded by our default encoder.

    python benchmarks/real_vectors.py --data BEIR_FOLDER --encoder mini --out DIR [--splade-queries FILE ...]

Writes docs_* in the order of the corpus, queries_if_* (every query of queries.jsonl, in its order, by the encoder's own query
side) and their exact answers. An interrupted run goes on where it stopped: DIR/parts, which may be removed in the end.

--splade-queries reads lines `id TAB words`, gzipped or not, in which a wordpiece is repeated as often as it weighs, and writes
queries_splade_*. Their terms are looked up in the encoder's vocabulary (`mini` has BERT's, as SPLADE has). The documents are
not SPLADE's: such queries show how search copes with the lengths and weights of real queries, not how well it ranks.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from protocol import Query, save_queries
from truth import write_truth

from index.arm_segments import Statistics
from index.arms import SparseArm
from index.documents import Document
from index.inverted import InvertedIndex
from index.options import InvertedIndexOptions
from index.vectors import concatenate
from kernels.cpu.sparse import SparseRows
from retrieval.beir_folder import one_of, read_queries
from retrieval.corpus import lines_of, read_corpus
from retrieval.encoders.mini import mini
from retrieval.progress import progress

DOCUMENTS_A_PART = 1_024  # encoded between two files; at most these are lost when a run is interrupted


def encode_parts(documents: Iterator[Document], total: int, folder: Path) -> list[Path]:
    """One file of vectors and document frequencies for each part; those that are there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [folder / f"{number:05d}.npz" for number in range(-(-total // DOCUMENTS_A_PART))]
    for part in progress(parts, total=len(parts), doing="Encoding", unit="parts", shown=True):
        batch = list(islice(documents, DOCUMENTS_A_PART))
        if not part.exists():
            encoded = mini().encode_documents(batch)
            unfinished = part.with_suffix(".unfinished.npz")
            np.savez(unfinished, **encoded.vectors._asdict(), document_frequency=encoded.statistics.document_frequency)
            unfinished.rename(part)
    return parts


def joined(parts: list[Path]) -> tuple[SparseRows, Statistics]:
    """All vectors and the statistics of all documents."""
    files = [np.load(part) for part in parts]
    rows = concatenate([SparseRows(file["indptr"], file["indices"], file["data"]) for file in files])
    frequency = np.sum([file["document_frequency"] for file in files], axis=0)
    return rows, Statistics(len(rows.indptr) - 1, 0, frequency)


def splade_queries(files: list[Path], vocabulary: dict[str, int]) -> tuple[list[Query], Counter[str]]:
    """The queries, and how often each word occurred that the vocabulary lacks."""
    queries, unknown = [], Counter[str]()
    for file in files:
        for _, line in lines_of(file):
            weights = Counter(line.rstrip("\r\n").split("\t")[1].split())
            unknown += Counter({word: count for word, count in weights.items() if word not in vocabulary})
            known = sorted((vocabulary[word], count) for word, count in weights.items() if word in vocabulary)
            queries.append((np.array([t for t, _ in known], np.int32), np.array([w for _, w in known], np.float32)))
    return queries, unknown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="BEIR_FOLDER")
    parser.add_argument("--encoder", choices=("mini",), default="mini")
    parser.add_argument("--splade-queries", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    arguments = parser.parse_args()

    num_docs = sum(1 for _ in read_corpus(arguments.data))
    encoder = mini()
    rows, statistics = joined(encode_parts(read_corpus(arguments.data), num_docs, arguments.out / "parts"))
    for array, dtype in (("indptr", np.int64), ("indices", np.uint16), ("data", np.float32)):
        np.save(arguments.out / f"docs_{array}.npy", getattr(rows, array).astype(dtype))
    by_id = read_queries(one_of(arguments.data, "queries.jsonl"))
    arm = SparseArm.alone(InvertedIndex.build(rows, InvertedIndexOptions(encoder.num_terms)), statistics)
    save_queries(arguments.out / "queries_if", [encoder.encode_query(text, arm)[0] for text in by_id.values()])
    write_truth(arguments.out, "if")
    counts = {"documents": num_docs, "terms_a_document": len(rows.indices) / num_docs, "queries_if": len(by_id)}
    if arguments.splade_queries:
        queries, unknown = splade_queries(arguments.splade_queries, encoder.tokenizer.get_vocab())
        save_queries(arguments.out / "queries_splade", queries)
        write_truth(arguments.out, "splade")
        num_words = sum(len(terms) for terms, _ in queries)
        counts |= {"queries_splade": len(queries), "splade_terms": num_words / len(queries), "unmapped": dict(unknown)}
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
