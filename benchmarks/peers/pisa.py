"""PISA (packages pyterrier_pisa and tbb==2020.3.254). Run by benchmarks/compare_sparse.py in its own environment.

MaxScore, and exhaustive term at a time, which is faster for many terms. Impacts in 255 steps of one scale for all are stored as
frequencies. Its Python module weighs a query term by repeating it: weights in 255 steps of the query's largest, or 1.
"""

import contextlib
import ctypes
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path[0] = str(Path(__file__).parents[1])
from protocol import KINDS, compete, in_255_steps, inverted_lists, queries_of  # noqa: E402

data, out, k = Path(sys.argv[1]), Path(sys.argv[2]), 10
QUERIES = {
    "splade": 200,
    "if": 500,
    "short": 1_000,
}  # the first ones: it takes milliseconds a query at a million documents


def native_module():
    """The compiled module alone: the package around it asks for PyTerrier and Java."""
    ctypes.CDLL(str(Path(sys.prefix, "lib", "libtbb.so.2")), ctypes.RTLD_GLOBAL)
    (file,) = Path(sys.prefix).glob("lib/python3*/site-packages/pyterrier_pisa/_pisathon*.so")
    spec = importlib.util.spec_from_file_location("pyterrier_pisa._pisathon", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Its progress would go past Python to both outputs, a thousand lines of it."""
    kept = {output: os.dup(output) for output in (1, 2)}
    with open(os.devnull, "w") as nothing:
        for output in kept:
            os.dup2(nothing.fileno(), output)
    try:
        yield
    finally:
        for output, before in kept.items():
            os.dup2(before, output)


def words(*numbers: int) -> bytes:
    return np.array(numbers, np.uint32).tobytes()


def write_collection(folder: Path) -> None:
    """PISA's uncompressed inverted index: each list its length, then its documents or its frequencies."""
    starts, docs, impacts = inverted_lists(data)
    frequencies = in_255_steps(impacts, impacts.max())
    num_docs = len(np.load(data / "docs_indptr.npy", mmap_mode="r")) - 1
    terms = np.flatnonzero(np.diff(starts))
    (folder / "fwd.documents").write_text("".join(f"{doc:08d}\n" for doc in range(num_docs)))
    (folder / "fwd.terms").write_text("".join(f"t{term:05d}\n" for term in terms))
    with open(folder / "inv.docs", "wb") as doc_lists, open(folder / "inv.freqs", "wb") as frequency_lists:
        doc_lists.write(words(1, num_docs))
        for term in terms:
            row = slice(starts[term], starts[term + 1])
            doc_lists.write(words(row.stop - row.start) + docs[row].astype(np.uint32).tobytes())
            frequency_lists.write(words(row.stop - row.start) + frequencies[row].tobytes())
    lengths = np.bincount(docs, frequencies, num_docs).astype(np.uint32)
    (folder / "inv.sizes").write_bytes(words(num_docs) + lengths.tobytes())


pisa = native_module()
with tempfile.TemporaryDirectory(dir=out.parent) as name:
    folder = Path(name)
    started = time.perf_counter()
    write_collection(folder)
    context = pisa.RetrievalContext()
    with silence():
        pisa.build_binlex(f"{folder}/fwd.documents", f"{folder}/fwd.doclex")
        pisa.build_binlex(f"{folder}/fwd.terms", f"{folder}/fwd.termlex")
        pisa.prepare_index(
            context, str(folder), encoding="block_simdbp", scorer_name="quantized", stemmer="", block_size=64
        )
    build_s = time.perf_counter() - started
    size = sum(file.stat().st_size for file in folder.iterdir() if file.suffix not in (".docs", ".freqs", ".sizes"))
    numbers, names, ranks, scores = (np.zeros(k, dtype) for dtype in (np.int32, object, np.int32, np.float32))

    def search(query, algorithm):
        found = pisa.retrieve(
            context, algorithm, query, k=k, threads=1, pretokenised=1, query_weighted=1,
            result_qidxs=numbers, result_docnos=names, result_ranks=ranks, result_scores=scores,
        )  # fmt: skip
        return names[:found].tolist()

    for kind in KINDS:
        queries = []
        for terms, weights in queries_of(data, kind)[: QUERIES[kind]]:
            repeats = in_255_steps(weights, weights.max()) if kind != "short" else weights
            queries.append([(0, {f"t{term:05d}": float(times) for term, times in zip(terms, repeats, strict=True)})])
        for algorithm in ("maxscore", "ranked_or_taat"):
            compete(
                out, data, "pisa", kind, algorithm, lambda q, a=algorithm: search(q, a), queries,
                lambda found: [int(name) for name in found], k, build_s=build_s, index_bytes=size,
            )  # fmt: skip
