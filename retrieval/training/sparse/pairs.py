"""Collections made into one training set: a BEIR folder of queries and the documents that answer them, with a part held out.

The same recipe over the same files gives the same bytes: one stream of random numbers goes through all sources in their order, another
one holds documents out. `sources.json` in the folder says what came from where.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from random import Random
from typing import Any

from index.errors import CorpusError, WinnowError
from index.files import created, make_folder, make_folders, write_all, write_file
from index.manifest import as_json, sha256_of_file
from index.placing import whole
from retrieval.progress import progress as counted
from retrieval.training.sparse.pair_recipe import PairRecipe, Source
from retrieval.training.sparse.pair_sources import Passage, passages_of

FORMAT_VERSION = 1
SOURCES = "sources.json"
LINES_TOGETHER = 4_096
FEWEST_WORDS = 10  # of a document


@dataclass
class Counts:
    """What became of the records of a source; the last four were left out, or replaced by one with the same id."""

    records: int = 0
    documents: int = 0
    queries: int = 0
    held_out: int = 0  # documents
    nothing_to_ask: int = 0
    short: int = 0
    same_text: int = 0
    replaced: int = 0


@dataclass
class PairSet:
    """A training set in memory; ids begin with the name of their source."""

    recipe: PairRecipe
    documents: dict[str, tuple[str, str]] = field(default_factory=dict)  # id -> title, text
    queries: dict[str, str] = field(default_factory=dict)
    relevant: dict[str, list[str]] = field(default_factory=dict)  # query id -> document ids
    held_out: set[str] = field(default_factory=set)  # document ids
    counts: dict[str, Counts] = field(default_factory=dict)  # of each source

    @classmethod
    def build(cls, recipe: PairRecipe, data: str | Path, *, progress: bool = True) -> PairSet:
        """Raises CorpusError for a record that cannot be used, WinnowError for a source of which nothing is left."""
        pairs, chance = cls(recipe), Random(recipe.seed)
        collected = [Collected(pairs, source) for source in recipe.sources]
        seen: set[bytes] = set()
        for one in collected:
            passages = passages_of(one.source, Path(data), chance)
            for passage in counted(passages, total=None, doing=one.source.name, unit="records", shown=progress):
                one.add(passage, seen)
            one.finish()
        chance = Random(
            recipe.seed + 1
        )  # what is held out depends on what was collected, not on how much chance that took
        for one in collected:
            one.hold_out(chance)
        if not any(pairs.split("train")):
            raise WinnowError(
                "every query has a document that is held out; lower dev of a source, so that some are left to train on."
            )
        return pairs

    def write(self, folder: str | Path, data: str | Path) -> dict[str, Any]:
        """Write the set to a new or empty folder, whole or not at all; returns what `sources.json` says.

        data  the folder that it was built from

        Raises WinnowError for a folder that is not empty, StorageError where the disk cannot take it.
        """
        folder = Path(os.path.realpath(folder))
        check_empty(folder)
        described: dict[str, Any] = {}

        def fill(partial: Path) -> None:
            make_folder(partial / "qrels")
            documents = ({"_id": one, "title": title, "text": text} for one, (title, text) in self.documents.items())
            write_lines(partial / "corpus.jsonl", map(json.dumps, documents))
            write_lines(
                partial / "queries.jsonl", (json.dumps({"_id": one, "text": self.queries[one]}) for one in self.queries)
            )
            for name in ("train", "dev") if self.held_out else ("train",):
                judgments = (f"{query}\t{document}\t1" for query, document in self.split(name))
                write_lines(partial / "qrels" / f"{name}.tsv", chain(["query-id\tcorpus-id\tscore"], judgments))
            described.update(self.description(partial, Path(data)))
            write_file(partial / SOURCES, as_json(described))

        make_folders(folder.parent)
        whole(folder, fill)
        return described

    def description(self, written: Path, data: Path) -> dict[str, Any]:
        """What came from where, and what was written, by sha256."""
        sources = [
            {
                **{key: value for key, value in asdict(source).items() if value is not None},
                "counts": asdict(self.counts[source.name]),
                "files": {name_below(data, file): sha256_of_file(file) for file in source.files(data)},
            }
            for source in self.recipe.sources
        ]
        files = sorted(file for file in written.rglob("*") if file.is_file())
        return {
            "format_version": FORMAT_VERSION,
            "seed": self.recipe.seed,
            "documents": len(self.documents),
            "queries": {name: len(dict(self.split(name))) for name in ("train", "dev")},
            "files": {name_below(written, file): sha256_of_file(file) for file in files},
            "sources": sources,
        }

    def split(self, name: str) -> Iterable[tuple[str, str]]:
        """(query id, document id) of the split train or dev; a query with a document that is held out is wholly of dev."""
        for query, documents in self.relevant.items():
            if (name == "dev") == any(document in self.held_out for document in documents):
                yield from ((query, document) for document in documents)


def check_empty(folder: str | Path) -> None:
    """Raises WinnowError unless a training set can be written there."""
    if os.path.lexists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
        raise WinnowError(f"{folder} is not an empty folder; give a new one for the training set.")


def name_below(folder: Path, file: Path) -> str:
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.as_posix()


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """A new file, written in pieces."""
    rest = iter(lines)
    with created(path) as descriptor:
        while piece := list(islice(rest, LINES_TOGETHER)):
            write_all(descriptor, "".join(f"{line}\n" for line in piece).encode(), path)


class Collected:
    """What a set has of one source."""

    def __init__(self, pairs: PairSet, source: Source):
        self.pairs, self.source, self.counts = pairs, source, Counts()
        pairs.counts[source.name] = self.counts
        self.groups: dict[str, str] = {}  # document id -> what it is held out with
        self.num_queries: dict[str, int] = {}  # of each document
        self.shared: dict[str, str] = {}  # query id of the source -> query id
        self.lines: dict[str, str] = {}  # document id -> file:line

    def add(self, passage: Passage, seen: set[bytes]) -> None:
        """Unless it has no query, hardly a text, or the text of a document before. Raises CorpusError for a repeated id."""
        self.counts.records += 1
        doc_id = f"{self.source.name}-{passage.doc_id}"
        if doc_id in self.lines and self.source.repeated_ids == "refuse":
            raise CorpusError(
                f"{passage.where} has the id {passage.doc_id!r:.60} of {self.lines[doc_id]}; give each record its own id, or have the "
                'last one count with repeated-ids = "last".'
            )
        if doc_id in self.pairs.documents and doc_id not in self.groups:
            raise CorpusError(
                f"{passage.where} becomes document {doc_id!r:.60}, which another source has; give one of the sources another name."
            )
        self.lines[doc_id] = passage.where
        if not passage.queries:
            self.counts.nothing_to_ask += 1
            return
        digest = sha256(passage.text.lower().encode()).digest()
        if digest in seen:
            self.counts.same_text += 1
            return
        if len(passage.text.split()) < FEWEST_WORDS:
            self.counts.short += 1
            return
        seen.add(digest)
        self.put(doc_id, passage)

    def put(self, doc_id: str, passage: Passage) -> None:
        """In the place of a document with the same id."""
        pairs = self.pairs
        self.counts.replaced += doc_id in pairs.documents
        pairs.documents[doc_id] = (passage.title, passage.text)
        self.groups[doc_id] = doc_id if passage.group is None else passage.group
        self.num_queries[doc_id] = len(passage.queries)
        for number, (text, own_id) in enumerate(passage.queries):
            query_id = f"{doc_id}-q{number}"
            if own_id is not None:
                query_id = self.shared.setdefault(own_id, query_id)
            pairs.queries[query_id] = text
            of_query = pairs.relevant.setdefault(query_id, [])
            if doc_id not in of_query:
                of_query.append(doc_id)

    def finish(self) -> None:
        """Drops what replaced documents were asked, and counts. Raises WinnowError where nothing is left."""
        pairs = self.pairs
        for doc_id, number in self.num_queries.items():
            while (stale := f"{doc_id}-q{number}") in pairs.queries:
                del pairs.queries[stale], pairs.relevant[stale]
                number += 1
        self.counts.documents = len(self.groups)
        self.counts.queries = sum(documents[0] in self.groups for documents in pairs.relevant.values())
        if not self.groups:
            raise WinnowError(
                f"{self.source.path} gives no pair: of {self.counts.records:,} records {self.counts.nothing_to_ask:,} have nothing to "
                f"ask, {self.counts.short:,} are shorter than {FEWEST_WORDS} words and {self.counts.same_text:,} have the text of "
                "another; check its kind."
            )

    def hold_out(self, chance: Random) -> None:
        """Documents, or groups of them, drawn by chance. Raises WinnowError unless some are left."""
        if self.source.dev == 0:
            return
        groups = list(dict.fromkeys(self.groups.values()))
        if self.source.kind == "judged":
            groups.sort()
        if self.source.dev >= len(groups):
            raise WinnowError(
                f"{self.source.path} is to give {self.source.dev:,} held-out documents or titles, and has {len(groups):,}; leave some "
                "to train on."
            )
        chosen = set(chance.sample(groups, self.source.dev))
        held_out = {document for document, group in self.groups.items() if group in chosen}
        self.counts.held_out = len(held_out)
        self.pairs.held_out |= held_out
