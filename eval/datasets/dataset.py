"""One split of a data set: queries, judgments, and what is odd about them, told with file and line and counted.

The conventions are trec_eval's with `-c`: every judged query counts. One whose text is missing, or of which no document is
relevant, counts as 0; a query without judgments is not searched.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import NamedTuple

from eval.datasets.specs import DEFAULT_SPLIT, DatasetSpec, catalogue
from index.errors import CorpusError, WinnowError, WinnowWarning
from retrieval.beir_folder import judgments_in, one_of, qrels_of, queries_in, read_qrels
from retrieval.corpus import FieldNames, read_jsonl

Qrels = Mapping[str, Mapping[str, int]]  # query id -> document id -> relevance
FILES = ("corpus.jsonl", "queries.jsonl", "corpus.jsonl.gz", "queries.jsonl.gz", "qrels")  # any of them: a BEIR folder


class Dataset(NamedTuple):
    """One split. The corpus stays on disk."""

    name: str
    split: str
    folder: Path
    queries: dict[str, str]  # query id -> text, of the queries that have judgments
    qrels: dict[
        str, dict[str, int]
    ]  # query id -> document id -> relevance; also of judged queries whose text is missing
    removes_self: bool = False  # a hit with the query's own id is taken out of a run
    version: str | None = None
    problems: tuple[str, ...] = ()  # a sentence each
    counts: Mapping[str, int] = {}
    part_of: str | None = None  # the data set whose measures are the mean of its parts'
    spec: DatasetSpec | None = None  # what is published of it

    def of_queries(self, ids: Sequence[str]) -> Dataset:
        """With these queries alone."""
        return self._replace(
            queries={one: self.queries[one] for one in ids}, qrels={one: self.qrels[one] for one in ids}
        )


def load_dataset(folder: str | Path, split: str = DEFAULT_SPLIT, spec: DatasetSpec | None = None) -> Dataset:
    """A split of a BEIR folder.

    spec  what is published of it: its conventions hold, and differences are told. Without it the folder's name is looked up in the
          catalogue, and what is found counts only where the split has as many judged queries as published, so that another
          collection that happens to be called quora is left alone.

    Raises WinnowError for a folder that is not a BEIR data set, an unknown split, files without queries, documents or judgments, and
    lines that cannot be read.
    """
    folder = Path(folder)
    qrels_file = qrels_of(folder, split)
    qrels = read_qrels(qrels_file)
    corpus, queries = one_of(folder, "corpus.jsonl"), one_of(folder, "queries.jsonl")
    if next(read_jsonl(corpus, FieldNames()), None) is None:
        raise CorpusError(f"{corpus} holds no documents; each line must hold one.")
    texts, without_text, unjudged = judged_texts(queries, qrels)
    if not texts:
        raise WinnowError(
            f"{queries} has none of the {len(qrels):,} queries that the split {split!r} judges; their ids must be the same."
        )
    name = folder.resolve().name
    spec, unlike = looked_up(name, split, qrels) if spec is None else (spec, differing(spec, split, qrels))
    missing = [query for query in qrels if query not in texts]
    without_relevant = [query for query, judged in qrels.items() if max(judged.values()) < 1]
    problems = (
        judged_in_vain(qrels_file, missing, "that queries.jsonl lacks"),
        judged_in_vain(qrels_file, without_relevant, "without a relevant document"),
        searched_without_text(without_text),
        unlike,
    )
    return Dataset(
        spec.name if spec else name,
        split,
        folder,
        {query: texts[query] for query in qrels if query in texts},
        qrels,
        removes_self=spec is not None and spec.removes_self,
        version=spec.version if spec else None,
        problems=tuple(problem for problem in problems if problem),
        counts={
            "judged_queries": len(qrels),
            "judgments": sum(map(len, qrels.values())),
            "judged_queries_missing": len(missing),
            "queries_without_relevant": len(without_relevant),
            "queries_without_text": len(without_text),
            "queries_without_judgments": unjudged,
        },
        spec=spec,
    )


def judged_texts(path: Path, judged: Qrels) -> tuple[dict[str, str], list[str], int]:
    """Query id -> text of those that are judged; file:line of those without a text; how many are not judged. Read line by line."""
    texts: dict[str, str] = {}
    without_text, unjudged = [], 0
    for where, query, text in queries_in(path):
        if query not in judged:
            unjudged += 1
            continue
        texts[query] = text
        if not text.strip():
            without_text.append(where)
    return texts, without_text, unjudged


def judged_in_vain(qrels_file: Path, queries: Sequence[str], what: str) -> str | None:
    """A sentence about the first of these queries, with its line, and the number of them."""
    if not queries:
        return None
    among = set(queries)
    where, first = next((where, query) for where, query, *_ in judgments_in(qrels_file) if query in among)
    return f"{where} judges the query {first!r:.60} {what}; {counted(len(queries))} as 0."


def counted(number: int) -> str:
    return "1 such query counts" if number == 1 else f"{number:,} such queries count"


def searched_without_text(lines: Sequence[str]) -> str | None:
    """A sentence about the first of these lines of queries.jsonl, and the number of them."""
    return f"{lines[0]} has no text for a judged query; such queries: {len(lines):,}." if lines else None


def looked_up(name: str, split: str, qrels: Qrels) -> tuple[DatasetSpec | None, str | None]:
    """The data set of this name if it is that, and what is to be said about it."""
    spec = catalogue().get(name)
    unlike = None if spec is None else differing(spec, split, qrels)
    if unlike is None:
        return spec, None
    return None, f"{unlike[:-1]}; it is taken for another collection, and BEIR's conventions are not applied."


def differing(spec: DatasetSpec, split: str, qrels: Qrels) -> str | None:
    """A sentence if the split is not the published one, as far as its number of judged queries tells."""
    published = spec.queries.get(split)
    if published == len(qrels):
        return None
    there = "BEIR has no such split" if published is None else f"BEIR's has {published:,}"
    return f"{spec.name} has {len(qrels):,} judged queries in its split {split!r} where {there}."


def parts_of(folder: str | Path, split: str = DEFAULT_SPLIT, spec: DatasetSpec | None = None) -> list[Dataset]:
    """The data set in a folder, or each of its parts where it has several, as CQADupStack has: a measure of the whole is the mean of
    the parts' measures.

    Raises WinnowError as `load_dataset` does, and for a folder that is neither.
    """
    folder = Path(folder)
    if is_beir_folder(folder) or not folder.is_dir():
        return [load_dataset(folder, split, spec)]
    folders = sorted(path for path in folder.iterdir() if is_beir_folder(path))
    if not folders:
        raise WinnowError(
            f"{folder} is not a BEIR folder and holds none (corpus.jsonl, queries.jsonl, qrels/); see the README for its layout."
        )
    whole = spec or catalogue().get(folder.resolve().name)
    name = whole.name if whole else folder.resolve().name
    parts = whole.parts if whole else {}
    datasets = [load_dataset(path, split, parts.get(path.name)) for path in folders]
    problems = unlike_parts(folder, {path.name for path in folders}, parts)
    return [
        one._replace(
            name=f"{name}-{one.folder.name}",
            part_of=name,
            version=whole.version if whole else one.version,
            problems=one.problems + problems,
        )
        for one in datasets
    ]


def unlike_parts(folder: Path, found: Set[str], published: Mapping[str, DatasetSpec]) -> tuple[str, ...]:
    """A sentence if the mean would be over other parts than the published one."""
    lacking, more = sorted(set(published) - found), sorted(found - set(published))
    if not published or not (lacking or more):
        return ()
    said = [f"lacks {', '.join(lacking)}"] * bool(lacking) + [f"has {', '.join(more)} besides"] * bool(more)
    return (f"{folder} {' and '.join(said)}; the published mean is over {len(published)} parts.",)


def is_beir_folder(folder: Path) -> bool:
    """Whether it has any of the files, so that what is missing of it is told."""
    return folder.is_dir() and any((folder / name).exists() for name in FILES)


def warned(dataset: Dataset) -> Dataset:
    """The same, its problems told as warnings: for who makes no report of it."""
    for problem in dataset.problems:
        warnings.warn(problem, WinnowWarning, stacklevel=2)
    return dataset


def multi_gold(dataset: Dataset) -> int:
    """How many queries have two relevant documents or more, as those whose answer needs several sources."""
    return sum(sum(relevance > 0 for relevance in judged.values()) > 1 for judged in dataset.qrels.values())
