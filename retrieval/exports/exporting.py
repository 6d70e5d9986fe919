"""`export`: a collection checked against what a format can hold, then written whole or not at all; what the engine loses is counted."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from index.errors import WinnowError
from index.files import make_folders
from index.inverted import InvertedIndex
from index.options import InvertedIndexOptions
from index.placing import whole
from kernels.cpu.sparse import SparseRows
from retrieval.exports.anserini import Anserini
from retrieval.exports.ciff import Ciff
from retrieval.exports.collection import Batch, Collection
from retrieval.exports.elasticsearch import Elasticsearch
from retrieval.exports.milvus import Milvus
from retrieval.exports.opensearch import OpenSearchRankFeatures, OpenSearchSparseVector
from retrieval.exports.pgvector import Pgvector
from retrieval.exports.protocol import Format, Loss, Sizes
from retrieval.exports.qdrant import Qdrant
from retrieval.exports.vespa import Vespa
from retrieval.progress import progress as counted

WHOLE_NUMBERS: dict[str, Callable[[float], Format]] = {"anserini": Anserini, "ciff": Ciff}
FORMATS: dict[str, Callable[[], Format]] = {
    "anserini": Anserini,
    "ciff": Ciff,
    "elasticsearch": Elasticsearch,
    "milvus": Milvus,
    "opensearch": OpenSearchRankFeatures,
    "opensearch-sparse-vector": OpenSearchSparseVector,
    "pgvector": Pgvector,
    "qdrant": Qdrant,
    "vespa": Vespa,
}


class Exported(NamedTuple):
    """What was written."""

    documents: int
    loss: Loss


def format_of(name: str, scale: float | None = None) -> Format:
    """The format by its name. Raises WinnowError for an unknown one, and for a scale of one that keeps weights as floats."""
    if name not in FORMATS:
        raise WinnowError(f"{name!r:.60} is no format; choose from {', '.join(FORMATS)}.")
    if scale is None:
        return FORMATS[name]()
    if name not in WHOLE_NUMBERS:
        raise WinnowError(f"{name} keeps weights as floats and takes no scale ({scale}); leave it out.")
    return WHOLE_NUMBERS[name](scale)


def export(collection: Collection, format: Format, folder: str | Path, *, progress: bool = True) -> Exported:
    """Write a new folder that an engine reads, whole or not there.

    Everything is checked first, in a pass of its own. Raises WinnowError where the folder exists, and for what the engine cannot hold.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     collection = Collection.open({"a": {"tea": 0.5, "milk": 0.004}})
    ...     _ = export(collection, Anserini(), Path(folder) / "a", progress=False)
    ...     print((Path(folder) / "a" / "part-00000.jsonl").read_text(), end="")
    {"id": "a", "contents": "", "vector": {"tea": 50}}
    """
    folder, loss = Path(folder), Loss()
    if folder.exists():
        raise WinnowError(f"{folder} exists; give a folder that does not.")
    sizes = checked(collection, format, progress)
    fitted = format.fitted(sizes)

    def fill(partial: Path) -> None:
        shown = counted_batches(collection, "writing", progress)
        fitted.write(written(shown, fitted, loss), collection.terms, sizes, partial)

    make_folders(folder.absolute().parent)
    whole(folder.absolute(), fill)
    return Exported(sizes.documents, loss)


def checked(collection: Collection, format: Format, progress: bool) -> Sizes:
    """What there is. Raises WinnowError for what the format cannot hold, and for nothing at all."""
    documents = weights = most_terms = 0
    largest, smallest, largest_sum = 0.0, np.inf, 0.0
    is_used = np.zeros(len(collection.terms), np.bool_)
    for ids, (indptr, terms, values) in counted_batches(collection, "checking", progress):
        format.check_ids(ids)
        documents, weights = documents + len(ids), weights + len(terms)
        if len(terms) == 0:
            continue
        is_used[terms] = True
        largest, smallest = max(largest, float(values.max())), min(smallest, float(values.min()))
        lengths = np.diff(indptr)
        most_terms = max(most_terms, int(lengths.max()))
        sums = np.bincount(np.repeat(np.arange(len(ids)), lengths), values)
        largest_sum = max(largest_sum, float(sums.max()))
    if documents == 0:
        raise WinnowError(f"{collection.name} holds no vectors to write; give at least one.")
    format.check_terms(collection.terms[number] for number in np.flatnonzero(is_used).tolist())
    sizes = Sizes(documents, weights, largest, smallest if weights else 0.0, most_terms, largest_sum)
    format.check_sizes(sizes, len(collection.terms))
    return sizes


def counted_batches(collection: Collection, doing: str, progress: bool) -> Iterator[Batch]:
    """All batches, their documents counted on a progress bar."""
    batches = collection.batches()
    total = -(-collection.num_docs // 500)
    return counted(batches, total=total, doing=doing, unit="pages", shown=progress)


def written(batches: Iterable[Batch], format: Format, loss: Loss) -> Iterator[Batch]:
    """The batches with weights as they are written; those of 0 are for the format to leave out."""
    for batch in batches:
        weights = format.written(batch.rows.data)
        loss.add(batch, format.held(weights))
        yield Batch(batch.ids, batch.rows._replace(data=weights))


def overlap(collection: Collection, format: Format, queries: Iterable[str], k: int = 10) -> float:
    """Mean share of our k best documents that are among the k best by the weights that the engine keeps; 1 where nothing is found.

    Both rankings are exact, so what an engine's approximate search loses besides is not in it.
    """
    sizes = checked(collection, format, progress=False)
    fitted = format.fitted(sizes)
    options = InvertedIndexOptions(max(len(collection.terms), 1), "f32")

    def kept() -> Iterator[SparseRows]:
        for _, (indptr, terms, values) in collection.batches():
            held = fitted.held(fitted.written(values)).astype(np.float32)
            yield SparseRows(indptr, terms, held)

    with tempfile.TemporaryDirectory() as folder:
        given = (batch.rows for batch in collection.batches())
        ours = InvertedIndex.build(given, options, folder=Path(folder) / "ours")
        theirs = InvertedIndex.build(kept(), options, folder=Path(folder) / "theirs")
        shares = []
        for text in queries:
            numbers, weights = collection.query(text)
            _, best = ours.search(numbers, weights, k=k)
            _, kept_best = theirs.search(numbers, fitted.query_held(weights).astype(np.float32), k=k)
            shares.append(len(np.intersect1d(best, kept_best)) / len(best) if len(best) else 1.0)
    if not shares:
        raise WinnowError("there are no queries to compare by; give at least one.")
    return float(np.mean(shares))
