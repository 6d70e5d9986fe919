"""Learned sparse vectors as Anserini and Pyserini read them: a JsonVectorCollection of documents, TSV topics of queries.

    impact = round(weight * scale)          half to even; an impact of 0 is left out

Lucene keeps an impact as a term's frequency, so it is a whole number of at least 1; with a scale of 100, the field's custom, a
weight is off by at most 0.005. A collection is a folder of JSONL files, {"id", "contents", "vector": {term: impact}} a line. A
topic is a line `id<TAB>term term ...` in which a term of weight n stands n times (Lin and Ma, arXiv:2106.14807).
Anserini parts terms at white space (`-pretokenized`), so no term may hold any.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from index.errors import CorpusError, WinnowError
from index.files import created, make_folders, write_all
from index.placing import replace_file, whole
from index.vectors import checked_weights
from retrieval.corpus import lines_of
from retrieval.encoders.learned import LearnedSparseEncoder
from retrieval.progress import progress as counted
from retrieval.vector_files import Vectors, read_vectors

SCALE = 100
DOCUMENTS_A_FILE = 100_000  # Anserini indexes files side by side, one a thread
LINES_TOGETHER = 1_000
LONGEST_TERM = 255  # characters; Lucene's analyzer cuts a longer one in two
LARGEST_IMPACT = 2**31 - 1  # of Lucene's frequencies
MOST_WORDS = 1_000_000  # of one topic: each impact is so many words
UNWRITABLE = re.compile(r"[\s\ud800-\udfff]")  # white space, or half of a surrogate pair


class Written(NamedTuple):
    """What a file or folder holds."""

    rows: int  # documents or queries
    impacts: int  # of them all
    left_out: int  # weights so small that their impact is 0
    empty: int  # documents without an impact, which are written, or queries without one, which no topic can be


def write_vectors(vectors: Vectors, folder: str | Path, *, scale: float = SCALE, progress: bool = True) -> Written:
    """Write a JsonVectorCollection, a new folder that is whole or not there: `-collection JsonVectorCollection -input FOLDER`.

    vectors  anything that `retrieval.vector_files.read_vectors` takes, as a folder of `winnow encode`

    Raises WinnowError where the folder exists, for a scale that is not above 0, a term with white space or of more than 255
    characters, and an impact beyond 32 bits; and whatever `read_vectors` raises.
    """
    check_scale(scale)
    folder, sizes = Path(folder), Counter[str]()
    if folder.exists():
        raise WinnowError(f"{folder} exists; give a folder that does not.")
    source = read_vectors(vectors)
    documents = counted(source.documents(), total=len(source), doing="writing", unit="documents", shown=progress)

    def fill(partial: Path) -> None:
        number = 0
        for first in documents:
            rest = islice(documents, DOCUMENTS_A_FILE - 1)
            with created(partial / f"part-{number:05}.jsonl") as file:
                lines = (line_of(one.doc_id, one.vector or {}, scale, sizes) for one in chain([first], rest))
                while some := list(islice(lines, LINES_TOGETHER)):
                    write_all(file, "".join(some).encode(), partial)
            number += 1
        if number == 0:
            raise CorpusError("there are no vectors to write; give at least one.")

    make_folders(folder.absolute().parent)
    whole(folder.absolute(), fill)
    return Written(sizes["rows"], sizes["impacts"], sizes["left out"], sizes["empty"])


def write_topics(
    queries: Iterable[tuple[str, Mapping[str, float]]], path: str | Path, *, scale: float = SCALE
) -> Written:
    """Write topics (`-topicReader TsvString`, or `TsvInt` where all ids are numbers), one file, packed if it ends in `.gz`.

    queries  (id, weight by term) of each, as `encoded_queries` gives them; one without terms is left out and counted, as Anserini
             reads no file with an empty topic

    Raises WinnowError as `write_vectors` does, for ids with white space or given twice, and for topics of a million words.
    """
    check_scale(scale)
    path, sizes, seen, lines = Path(path), Counter[str](), set[str](), list[str]()
    for query, weights in queries:
        if not query or UNWRITABLE.search(query) or query in seen:
            raise WinnowError(
                f"the query id {query!r:.60} is empty, holds white space or invalid Unicode, or occurs twice; rename it."
            )
        seen.add(query)
        impacts = impacts_of(
            checked_weights(weights, f"the query {query!r:.60}"), scale, f"the query {query!r:.60}", sizes
        )
        if sum(impacts.values()) > MOST_WORDS:
            raise WinnowError(
                f"the query {query!r:.60} would be {sum(impacts.values()):,} words, each impact so many; give a smaller scale than {scale}."
            )
        if impacts:
            words = " ".join(" ".join([term] * impact) for term, impact in impacts.items())
            lines.append(f"{query}\t{words}\n")
    data = "".join(lines).encode()
    make_folders(path.absolute().parent)
    replace_file(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return Written(len(lines), sizes["impacts"], sizes["left out"], sizes["empty"])


def read_topics(path: str | Path) -> dict[str, dict[str, int]]:
    """Query id -> impact by term, which `Retriever.search` takes as a query. Raises CorpusError with file and line.

    Terms are a model's own, so case and spelling stay as they are.
    """
    topics: dict[str, dict[str, int]] = {}
    for where, line in lines_of(Path(path)):
        query, tab, words = line.rstrip("\r\n").partition("\t")
        if not tab or not query or query in topics:
            raise CorpusError(
                f"{where} is {line.strip()!r:.60}; a topic is an id that no other has, a tab, and terms with blanks between them."
            )
        topics[query] = dict(Counter(words.split()))
    return topics


def encoded_queries(
    encoder: LearnedSparseEncoder, queries: Mapping[str, str]
) -> Iterator[tuple[str, dict[str, float]]]:
    """(id, weight by term as the model's vocabulary spells it) of each query, heaviest first.

    Raises WinnowError where weights depend on the collection that is searched.
    """
    rows = encoder.encode_queries(queries.values())
    for number, query in enumerate(queries):
        entries = slice(int(rows.indptr[number]), int(rows.indptr[number + 1]))
        terms, weights = rows.indices[entries], rows.data[entries]
        order = np.argsort(-weights, kind="stable")
        yield (
            query,
            {encoder.terms[term]: float(w) for term, w in zip(terms[order], weights[order], strict=True) if w > 0},
        )


def impacts_of(weights: Mapping[str, float], scale: float, where: str, sizes: Counter[str]) -> dict[str, int]:
    """Impact by term, 0 left out and counted in `sizes`. Raises WinnowError, beginning with `where`."""
    impacts = {term: round(weight * scale) for term, weight in weights.items()}
    for term, impact in impacts.items():
        if not term or UNWRITABLE.search(term) or len(term.encode("utf-16-le")) // 2 > LONGEST_TERM:
            raise WinnowError(
                f"{where} has the term {term!r:.60}, which is empty, holds white space or has more than {LONGEST_TERM} characters, and "
                "Anserini would read another; leave it out."
            )
        if impact > LARGEST_IMPACT:
            raise WinnowError(
                f"{where} has the impact {impact:,} of {term!r:.60}, beyond 32 bits; give a smaller scale than {scale}."
            )
    kept = {term: impact for term, impact in impacts.items() if impact}
    sizes.update({"impacts": len(kept), "left out": len(impacts) - len(kept), "empty": not kept})
    return kept


def line_of(doc_id: str, weights: Mapping[str, float], scale: float, sizes: Counter[str]) -> str:
    """One document. `contents` must be there and is only stored."""
    sizes["rows"] += 1
    vector = impacts_of(weights, scale, f"document {doc_id!r:.60}", sizes)
    return json.dumps({"id": doc_id, "contents": "", "vector": vector}, ensure_ascii=False) + "\n"


def check_scale(scale: float) -> None:
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < float("inf"):
        raise WinnowError(f"scale is {scale!r:.60}; it must be a number above 0, such as {SCALE}.")
