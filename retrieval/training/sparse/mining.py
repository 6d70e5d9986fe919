"""Hard negatives: documents that a retriever ranks high for a query and that do not answer it.

None is a positive or has a positive's text. With a margin, none scores more than that share of the positive's score: such a document is
often an answer that nobody judged (Moreira et al. 2024, NV-Retriever, arXiv:2407.15831, TopK-PercPos). What is drawn for a query depends on
the seed, its id and what is found for it alone, so an interrupted run goes on to the same file.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from index.errors import WinnowError
from index.files import remove_tree
from index.locks import WriterLock
from index.manifest import as_json, sha256_of_file
from index.placing import append, replace_file
from retrieval.beir_folder import one_of, qrels_of
from retrieval.progress import progress as counted
from retrieval.training.negatives import FoundBeside, found_beside
from retrieval.training.sparse.examples import Examples, plain

if TYPE_CHECKING:
    from retrieval.retriever import Retriever

QUERIES_TOGETHER = 256  # that are searched and written together
SETTINGS, LINES = "settings.json", "lines.jsonl"  # of a run that is not finished


@dataclass(frozen=True, slots=True)
class MiningOptions:
    """Which of the documents found become negatives."""

    depth: int = 100  # ranks that are looked at, positives not counted
    negatives: int = 8  # of a query, at most
    skip: int = 0  # the first ranks, which are left out
    margin: float | None = None  # above 0, at most 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises WinnowError."""
        for name, least in (("depth", 1), ("negatives", 1), ("skip", 0), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise WinnowError(f"{name} is {value!r}; it must be a whole number, {least} or more.")
        if self.skip >= self.depth:
            raise WinnowError(
                f"the first {self.skip} of {self.depth} ranks are to be left out; skip fewer, or look deeper."
            )
        if self.margin is not None and not (isinstance(self.margin, int | float) and 0 < self.margin <= 1):
            raise WinnowError(
                f"the margin is {self.margin!r}; it must be a share of the positive's score, above 0 and at most 1, as 0.95."
            )

    def negatives_of(self, query_id: str, found: FoundBeside) -> list[str]:
        """Document ids, best first; at most as many as there are to be, drawn by the seed and the query's id."""
        candidates = found.documents[self.skip : self.depth]
        if self.margin is not None:
            limit = self.limit(found.best_unwanted)
            candidates = [(doc_id, score) for doc_id, score in candidates if score <= limit]
        places = range(len(candidates))
        chance = Random(f"{self.seed} {query_id}")
        chosen = sorted(chance.sample(places, self.negatives)) if len(candidates) > self.negatives else places
        return [candidates[place][0] for place in chosen]

    def limit(self, positive: float | None) -> float:
        """What a negative may score at most, by the best positive's score."""
        if positive is None:  # it is not among the best, so that each of these scores more than it
            return -float("inf")
        assert self.margin is not None
        return min(self.margin * positive, positive)  # below 0 a share of a score would be more than it


class Mined(NamedTuple):
    """What a file of negatives holds."""

    queries: int
    negatives: int
    without: int  # queries that have no negative


def mine(
    folder: str | Path,
    retriever: Retriever,
    out: str | Path,
    options: MiningOptions | None = None,
    *,
    split: str = "train",
    of_retriever: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Mined:
    """Write a line {"query_id", "negatives": [document ids]} for each judged query of a BEIR folder's split, whole or not at all.

    retriever     holds the documents of the folder's corpus; of one arm or several, which are fused as it is told
    of_retriever  what it is, in JSON's types: an interrupted run goes on only with one that is told the same

    A run that was interrupted goes on where it was. Raises what `Examples.read` does, WinnowError where `out` is there, the retriever has
    other documents, or the run that is to go on had other settings or data, LockedError while another process mines to the same file.
    """
    options, out, folder = options or MiningOptions(), Path(os.path.realpath(out)), Path(folder)
    check_new(out)
    examples = Examples.read(folder, split)
    if len(retriever) != len(examples.documents):
        raise WinnowError(
            f"the retriever holds {len(retriever):,} documents, and {folder} has {len(examples.documents):,}; index its corpus."
        )
    files = (one_of(folder, "corpus.jsonl"), one_of(folder, "queries.jsonl"), qrels_of(folder, split))
    settings = {
        **asdict(options),
        "retriever": {"model": retriever.model, **(of_retriever or {})},
        "data": {file.name: sha256_of_file(file) for file in files},
    }
    work = out.with_name(f".{out.name}.mining")
    lock = WriterLock(work)
    try:
        done = begun(work, json.loads(as_json(settings)), examples.query_ids)
        left = range(len(done), len(examples))
        records = mined(examples, retriever, options, left)
        records = counted(records, total=len(left), doing="mining", unit="queries", shown=progress)
        while piece := list(islice(records, QUERIES_TOGETHER)):
            append(work / LINES, as_lines(piece))
            done += piece
        replace_file(out, as_lines(done))
    finally:
        lock.release()
    remove_tree(work)
    numbers = [len(record["negatives"]) for record in done]
    return Mined(len(numbers), sum(numbers), numbers.count(0))


def check_new(out: Path) -> None:
    """Raises WinnowError where a file of negatives cannot be begun."""
    if os.path.lexists(out):
        raise WinnowError(f"{out} is there already; give another name, or remove it to mine anew.")


def begun(work: Path, settings: Mapping[str, Any], query_ids: Sequence[str]) -> list[dict[str, Any]]:
    """What an interrupted run has left, in whole pieces. Raises WinnowError unless it had the same settings and data."""
    if not (work / SETTINGS).is_file():
        replace_file(work / SETTINGS, as_json(dict(settings)))
        return []
    try:
        found = json.loads((work / SETTINGS).read_bytes())
        different = sorted(key for key in {*found, *settings} if found.get(key) != settings.get(key))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise WinnowError(f"{work / SETTINGS} cannot be read ({error!s:.100}); remove {work} to mine anew.") from error
    if different:
        key = different[0]
        raise WinnowError(
            f"{work} holds a run with {key} {found.get(key)!r:.100}, this one has {settings.get(key)!r:.100}; go on with the same, give "
            "another --out, or remove it."
        )
    done = []
    written = (work / LINES).read_bytes().splitlines() if (work / LINES).is_file() else []
    for query_id, line in zip(query_ids, written, strict=False):
        try:
            record = json.loads(line)
        except ValueError:  # cut by the interruption
            break
        if record["query_id"] != query_id:
            break
        done.append(record)
    if len(done) < len(query_ids):  # the same queries are searched together as without the interruption
        del done[len(done) // QUERIES_TOGETHER * QUERIES_TOGETHER :]
    replace_file(work / LINES, as_lines(done))
    return done


def mined(
    examples: Examples, retriever: Retriever, options: MiningOptions, numbers: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """The record of each of these queries."""
    of_text = defaultdict(list)
    for number, text in enumerate(examples.documents):
        of_text[plain(text)].append(number)
    number_of = {doc_id: number for number, doc_id in enumerate(examples.document_ids)}
    answered = examples.answered_by_text()
    for first in range(0, len(numbers), QUERIES_TOGETHER):
        some = numbers[first : first + QUERIES_TOGETHER]
        unwanted = [
            {
                examples.document_ids[same]
                for answer in answered[plain(examples.queries[query])]
                for same in of_text[answer]
            }
            for query in some
        ]
        found = found_beside(retriever, [examples.queries[query] for query in some], unwanted, options.depth)
        for query, one in zip(some, found, strict=True):
            for doc_id, _ in one.documents:
                if doc_id not in number_of:
                    raise WinnowError(
                        f"the retriever found document {doc_id!r:.60}, which the corpus lacks; index its corpus."
                    )
            with_text = [(doc_id, score) for doc_id, score in one.documents if examples.documents[number_of[doc_id]]]
            query_id = examples.query_ids[query]
            yield {"query_id": query_id, "negatives": options.negatives_of(query_id, one._replace(documents=with_text))}


def as_lines(records: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()
