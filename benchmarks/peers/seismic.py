"""Seismic (package pyseismic-lsr). Run by benchmarks/compare_sparse.py in its own environment."""

import itertools
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path[0] = str(Path(__file__).parents[1])  # instead of this folder, whose seismic.py would be imported
import seismic  # noqa: E402
from protocol import compete, load_documents, queries_of  # noqa: E402

data, out, k = Path(sys.argv[1]), Path(sys.argv[2]), 10
DIALS = {
    "splade": [(3, 0.9), (4, 0.9), (5, 0.9), (8, 0.9), (5, 0.8), (8, 0.8), (10, 0.8), (8, 0.7), (10, 0.7), (15, 0.7)],
    "if": [(2, 0.9), (3, 0.9), (4, 0.9), (4, 0.8), (6, 0.8), (8, 0.7)],
}  # (query terms visited, factor of the threshold)


def write_rows(file: Path) -> None:
    """Its own format, little-endian 32-bit words: number of rows, then of each row its length, its terms, its weights."""
    indptr, indices, weights = load_documents(data)
    with open(file, "wb") as rows:
        rows.write(np.uint32(len(indptr) - 1).tobytes())
        for a, b in itertools.pairwise(indptr):
            rows.write(np.uint32(b - a).tobytes() + indices[a:b].astype(np.uint32).tobytes() + weights[a:b].tobytes())


with tempfile.TemporaryDirectory(dir=out.parent) as folder:
    write_rows(Path(folder, "rows"))
    large = len(load_documents(data)[0]) > 500_000
    options = {"n_postings": 500, "centroid_fraction": 0.1, "summary_energy": 0.4} if large else {
        "n_postings": 400, "centroid_fraction": 0.2, "summary_energy": 0.5
    }  # fmt: skip
    started = time.perf_counter()
    index = seismic.SeismicIndexRaw.build(
        f"{folder}/rows", **options, min_cluster_size=2, max_fraction=3.0, doc_cut=15, nknn=0
    )
    build_s = time.perf_counter() - started
    index.save(f"{folder}/seismic")
    size = sum(file.stat().st_size for file in Path(folder).glob("seismic*"))
for kind, dials in DIALS.items():
    for query_cut, heap_factor in dials:
        compete(
            out, data, "seismic", kind, f"query cut {query_cut}, heap factor {heap_factor}",
            lambda q, c=query_cut, h=heap_factor: index.search(*q, k, c, h, 0, True), queries_of(data, kind),
            lambda hits: [doc for _, doc, *_ in hits], k, build_s=build_s, index_bytes=size,
        )  # fmt: skip
