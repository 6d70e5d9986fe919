"""BEIR data sets: a folder with corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv, local or downloaded by `beir`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from index.errors import CorpusError, WinnowError
from retrieval.corpus import FieldNames, lines_of, read_jsonl

DOWNLOAD = "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets/{name}.zip"
RELEVANCE = re.compile(r" *-?[0-9]{1,9} *")  # int() would take other scripts' digits and underscores
CACHE = Path.home() / ".cache" / "winnow" / "beir"


class Dataset(NamedTuple):
    """One split: the queries that have judgments, and the judgments. The corpus stays on disk."""

    name: str
    split: str
    folder: Path
    queries: dict[str, str]  # query id -> text
    qrels: dict[str, dict[str, int]]  # query id -> document id -> relevance

    def of_queries(self, ids: Sequence[str]) -> Dataset:
        """With these queries alone."""
        return self._replace(
            queries={one: self.queries[one] for one in ids}, qrels={one: self.qrels[one] for one in ids}
        )


def load_dataset(folder: str | Path, split: str = "test") -> Dataset:
    """Raises WinnowError for a folder that is not a BEIR data set, an unknown split, or a judged query that is not there."""
    folder = Path(folder)
    present = sorted(path.stem for path in (folder / "qrels").glob("*.tsv"))
    if not present:
        raise WinnowError(f"{folder} is not a BEIR folder (it has no qrels/*.tsv); see the README for its layout.")
    if split not in present:
        raise WinnowError(f"{folder} has no split {split!r}; its splits are {', '.join(present)}.")
    qrels = read_qrels(folder / "qrels" / f"{split}.tsv")
    one_of(folder, "corpus.jsonl")
    texts = read_queries(one_of(folder, "queries.jsonl"))
    if without := sorted(set(qrels) - set(texts)):
        raise WinnowError(
            f"{folder / 'qrels' / split}.tsv judges {len(without)} queries that queries.jsonl lacks, {without[0]!r:.60} first."
        )
    return Dataset(folder.resolve().name, split, folder, {query: texts[query] for query in qrels}, qrels)


def one_of(folder: Path, name: str) -> Path:
    """The file of a BEIR folder, plain or gzipped."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise WinnowError(f"{folder} is not a BEIR folder (it has no {name}); see the README for its layout.")


def read_queries(path: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for query in read_jsonl(path, FieldNames()):
        if query.doc_id in texts:
            raise CorpusError(f"{path} has the query id {query.doc_id!r:.60} twice; give each query its own id.")
        texts[query.doc_id] = query.text
    return texts


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Judgments from BEIR's three columns under a header, or TREC's four without one."""
    qrels: dict[str, dict[str, int]] = {}
    for where, query, document, relevance in judgments_in(path):
        if document in qrels.setdefault(query, {}):
            raise CorpusError(
                f"{where} judges document {document!r:.60} for query {query!r:.60} again; keep one judgment."
            )
        qrels[query][document] = relevance
    if not qrels:
        raise CorpusError(f"{path} holds no judgments; each line needs a query id, a document id and a relevance.")
    return qrels


def judgments_in(path: Path) -> Iterator[tuple[str, str, str, int]]:
    """(file:line, query, document, relevance). Between tabs an id may hold spaces; without tabs, spaces part the columns."""
    for number, (where, line) in enumerate(lines_of(path)):
        columns = line.rstrip("\r\n").split("\t")
        if len(columns) not in (3, 4):
            columns = re.findall(r"[^ \t]+", line.rstrip("\r\n"))
        if number == 0 and columns[:2] == ["query-id", "corpus-id"]:
            continue
        if len(columns) not in (3, 4) or not (columns[0] and columns[-2] and RELEVANCE.fullmatch(columns[-1])):
            raise CorpusError(
                f"{where} is {line.strip()!r:.80}; a judgment is a query id, a document id and a whole number of at most 9 "
                "digits."
            )
        yield where, columns[0], columns[-2], int(columns[-1])


def download_dataset(name: str) -> Path:
    """The folder of a public BEIR data set, fetched once into the cache. Raises WinnowError without a network."""
    folder = CACHE / name
    if not (folder / "qrels").is_dir():
        try:
            from beir.util import download_and_unzip
        except ImportError as error:
            raise WinnowError("downloading needs the package beir; run `pip install 'winnow-ir[eval]'`.") from error
        try:
            download_and_unzip(DOWNLOAD.format(name=name), str(CACHE))
        except BaseException as error:  # beir passes on whatever its network and zip layers raise
            (CACHE / f"{name}.zip").unlink(missing_ok=True)  # beir would take half a file for a whole one
            if not isinstance(error, Exception):
                raise
            raise WinnowError(
                f"data set {name!r} could not be downloaded ({type(error).__name__}); check its name and the network, or "
                "give a local folder with --data."
            ) from error
    return folder
