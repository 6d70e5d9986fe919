"""How are documents stored and found? Build, save, open and search one collection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from index.lazy_names import lazy_names
from index.name_clash import refuse_other_kernels_package

if TYPE_CHECKING:
    from index.dense.index import DenseIndex
    from index.dense.options import DenseIndexOptions
    from index.dense.search import DenseSearch
    from index.effort import Budget, Exact, Recall
    from index.errors import IndexFormatError, InvalidVectorsError, WinnowError
    from index.inverted import InvertedIndex
    from index.options import InvertedIndexOptions
    from index.vectors import SparseQuery
    from kernels.cpu.sparse import SparseRows

refuse_other_kernels_package()

HOMES = {
    "Budget": "index.effort",
    "DenseIndex": "index.dense.index",
    "DenseIndexOptions": "index.dense.options",
    "DenseSearch": "index.dense.search",
    "Exact": "index.effort",
    "IndexFormatError": "index.errors",
    "InvalidVectorsError": "index.errors",
    "InvertedIndex": "index.inverted",
    "InvertedIndexOptions": "index.options",
    "Recall": "index.effort",
    "SparseQuery": "index.vectors",
    "SparseRows": "kernels.cpu.sparse",
    "WinnowError": "index.errors",
}
__all__ = [
    "Budget", "DenseIndex", "DenseIndexOptions", "DenseSearch", "Exact", "IndexFormatError", "InvalidVectorsError", "InvertedIndex", "InvertedIndexOptions", "Recall",
    "SparseQuery", "SparseRows", "WinnowError",
]  # fmt: skip
__getattr__ = lazy_names("index", HOMES)
