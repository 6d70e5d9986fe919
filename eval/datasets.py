"""BEIR data sets: a folder with corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv, local or downloaded by `beir`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from index.errors import WinnowError
from retrieval.beir_folder import one_of, qrels_of, read_qrels, read_queries

DOWNLOAD = "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets/{name}.zip"
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
    qrels = read_qrels(qrels_of(folder, split))
    one_of(folder, "corpus.jsonl")
    texts = read_queries(one_of(folder, "queries.jsonl"))
    if without := sorted(set(qrels) - set(texts)):
        raise WinnowError(
            f"{folder / 'qrels' / split}.tsv judges {len(without)} queries that queries.jsonl lacks, {without[0]!r:.60} first."
        )
    return Dataset(folder.resolve().name, split, folder, {query: texts[query] for query in qrels}, qrels)


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
