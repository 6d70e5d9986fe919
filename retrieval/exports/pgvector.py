"""pgvector: rows for COPY into a table with a `sparsevec` column, and the SQL that makes the table.

`{index:weight,...}/dimensions` with indexes from 1; weights are float32. `<#>` is the dot product times -1; without an index the order is
exact. An HNSW index is approximate and takes vectors of up to 1,000 non-zeros, so the SQL asks for one only where all are such.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from index.errors import WinnowError
from index.files import write_file
from retrieval.exports.collection import Batch, WeightedTerms
from retrieval.exports.lines import FIELD, in_numbers, query_terms, write_parts, write_vocabulary
from retrieval.exports.protocol import Format, Sizes

MOST_NON_ZEROS = 16_000
MOST_OF_HNSW = 1_000
MOST_DIMENSIONS = 1_000_000_000
TABLE = "documents"
ESCAPED = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})  # of COPY's text format


class Pgvector(Format):
    name = "pgvector"

    def check_ids(self, doc_ids: Sequence[str]) -> None:
        for doc_id in doc_ids:
            if "\0" in doc_id:
                raise WinnowError(
                    f"the document {doc_id!r:.60} has a NUL in its id, which PostgreSQL's text does not take; rename it."
                )

    def check_sizes(self, sizes: Sizes, num_terms: int) -> None:
        if sizes.most_terms > MOST_NON_ZEROS:
            raise WinnowError(
                f"a document has {sizes.most_terms:,} terms, and a sparsevec has at most {MOST_NON_ZEROS:,} non-zeros; keep fewer (top_k of the model)."
            )
        if num_terms > MOST_DIMENSIONS:
            raise WinnowError(
                f"the collection has {num_terms:,} terms, and a sparsevec has at most {MOST_DIMENSIONS:,}; leave some out."
            )

    def write(self, batches: Iterator[Batch], terms: Sequence[str], sizes: Sizes, folder: Path) -> None:
        write_file(folder / "schema.sql", schema(len(terms), sizes.most_terms).encode())
        write_vocabulary(folder, terms)
        write_parts(folder, "rows-{}.tsv", rows_of(batches, len(terms)))

    def query_request(self, query: WeightedTerms, terms: Sequence[str], k: int) -> str:
        entries = ",".join(f"{number + 1}:{weight!r}" for number, weight in query_terms(query))
        distance = f"{FIELD} <#> '{{{entries}}}/{max(len(terms), 1)}'"
        return f"SELECT id, -({distance}) AS score FROM {TABLE} ORDER BY {distance}, id LIMIT {k};"


def schema(num_terms: int, most_terms: int) -> str:
    index = f"CREATE INDEX ON {TABLE} USING hnsw ({FIELD} sparsevec_ip_ops);"
    if most_terms > MOST_OF_HNSW:
        why = f"no HNSW index: a document has {most_terms:,} non-zeros, more than {MOST_OF_HNSW:,}"
    else:
        why = f"approximate, and faster: {index}"
    return (
        "CREATE EXTENSION IF NOT EXISTS vector;\n"
        f"CREATE TABLE {TABLE} (id text PRIMARY KEY, {FIELD} sparsevec({max(num_terms, 1)}));\n"
        f"-- then for each file: \\copy {TABLE} FROM 'rows-00000.tsv'\n"
        f"-- {why}\n"
    )


def rows_of(batches: Iterator[Batch], num_terms: int) -> Iterator[str]:
    for ids, (indptr, terms, weights) in batches:
        numbers, told = (terms + 1).tolist(), in_numbers(weights)
        for doc_id, first, end in zip(ids, indptr.tolist(), indptr[1:].tolist(), strict=False):
            entries = ",".join(f"{numbers[entry]}:{told[entry]}" for entry in range(first, end))
            yield f"{doc_id.translate(ESCAPED)}\t{{{entries}}}/{max(num_terms, 1)}\n"
