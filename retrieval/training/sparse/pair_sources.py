"""Kinds of sources of training pairs: how a record becomes a document and the queries that it answers.

What is asked is not in the document word for word: a title, a question, a sentence or an example that becomes a query leaves it.
`inverse-cloze` is Lee, Chang and Toutanova (2019, arXiv:1906.00300), `crops` Izacard et al. (2022, arXiv:2112.09118).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import NamedTuple, TypeVar

from index.documents import Document
from index.errors import CorpusError
from retrieval.beir_folder import documents_in, judgments_in, one_of, qrels_of, read_qrels, read_queries
from retrieval.corpus import records_of
from retrieval.training.lists import titles_of
from retrieval.training.sparse.pair_recipe import Source

SENTENCE_END = re.compile(r'(?<=[.!?])\s+(?=[A-Z0-9("])')
FEWEST_SENTENCES = 4  # of a text that loses one
FIRST_SENTENCES = 8  # of which it is one: a model may not read on
QUERY_WORDS = range(5, 41)  # of a sentence that is asked
FEWEST_WORDS_OF_DESCRIPTION = 3
FEWEST_WORDS_OF_CROP = 10
SHARE_OF_CROP = (0.05, 0.5)  # of a text's words, as Contriever was trained
AROUND_A_TITLE = "[]. "  # PubMed sets translated titles in brackets
NOT_DESCRIPTION = ("> More information", "> See also")  # lines of a command's page
Item = TypeVar("Item")


class Asked(NamedTuple):
    """A query. One with an id is the same wherever a passage of its source names it."""

    text: str
    query_id: str | None = None


class Passage(NamedTuple):
    """A document with what it answers; nothing where nothing can be asked, for want of sentences or examples."""

    where: str  # file:line
    doc_id: str  # within its source
    title: str
    text: str
    queries: list[Asked]
    group: str | None = None  # documents that are held out together; None: it alone


def passages_of(source: Source, data: Path, chance: Random) -> Iterator[Passage]:
    """In the order of the source's file or, where it has a limit, at most so many in an order drawn by chance.

    Raises CorpusError, with the line, for a record that cannot be read, an empty document and an empty query.
    """
    for passage in KINDS[source.kind](source, data, chance):
        if not f"{passage.title}{passage.text}".strip():
            raise CorpusError(f"{passage.where} gives a query without a document; give it a text or leave it out.")
        if any(not asked.text.strip() for asked in passage.queries):
            raise CorpusError(f"{passage.where} gives a document with an empty query; give it words or leave it out.")
        yield passage


def drawn(records: Iterable[Item], limit: int | None, chance: Random) -> Iterable[Item]:
    """All in their order, or at most so many, shuffled."""
    if limit is None:
        return records
    every = list(records)
    chance.shuffle(every)
    return every[:limit]


def corpus_of(source: Source, data: Path, chance: Random) -> Iterable[tuple[str, Document]]:
    """(file:line, document), drawn."""
    (file,) = source.files(data)
    return drawn(documents_in(file), source.limit, chance)


def without_sentences(text: str, count: int, chance: Random, kept: float = 0.0) -> tuple[str, list[Asked]]:
    """A text without at most `count` of its sentences, and these, each of which stays as well with probability `kept`."""
    sentences = SENTENCE_END.split(text.strip())
    if count == 0 or len(sentences) < FEWEST_SENTENCES:
        return text, []
    asked = []
    for _ in range(min(count, len(sentences) - FEWEST_SENTENCES + 1)):
        place = chance.randrange(min(len(sentences), FIRST_SENTENCES))
        if len(sentences[place].split()) in QUERY_WORDS:
            asked.append(Asked(sentences[place]))
            if not kept or chance.random() >= kept:
                del sentences[place]
    return " ".join(sentences), asked


def judged(source: Source, data: Path, chance: Random) -> Iterator[Passage]:
    """A BEIR folder: each document with the queries that it is relevant to, in the order in which judgments name it."""
    folder = data / source.path
    path = qrels_of(folder, source.split)
    documents = {document.doc_id: document for _, document in documents_in(one_of(folder, "corpus.jsonl"))}
    queries = read_queries(one_of(folder, "queries.jsonl"))
    relevant: dict[str, dict[str, int]] = {}
    first_line: dict[str, str] = {}
    for where, query, doc_id, relevance in judgments_in(path):
        if query not in queries:
            raise CorpusError(f"{where} judges the query {query!r:.60}, which queries.jsonl lacks; leave the line out.")
        if doc_id not in documents:
            raise CorpusError(f"{where} judges document {doc_id!r:.60}, which corpus.jsonl lacks; leave the line out.")
        if relevance > 0:
            relevant.setdefault(query, {})[doc_id] = relevance
            first_line.setdefault(doc_id, where)
    kept_for_testing = source.exclude_titles_of
    forbidden = titles_of(documents, read_qrels(qrels_of(folder, kept_for_testing))) if kept_for_testing else set()
    queries_of: dict[str, list[Asked]] = {}
    for query, answers in relevant.items():
        if not titles_of(documents, {query: answers}) & forbidden:
            for doc_id in answers:
                queries_of.setdefault(doc_id, []).append(Asked(queries[query], query))
    for doc_id, asked in drawn(queries_of.items(), source.limit, chance):
        title = documents[doc_id].title
        yield Passage(first_line[doc_id], doc_id, title, documents[doc_id].text, asked, title or None)


def title_abstract(source: Source, data: Path, chance: Random) -> Iterator[Passage]:
    """A title asks for the text below it."""
    for where, document in corpus_of(source, data, chance):
        text, sentences = without_sentences(document.text, source.cloze, chance)
        yield Passage(where, document.doc_id, "", text, [Asked(document.title.strip(AROUND_A_TITLE)), *sentences])


def question_answer(source: Source, data: Path, chance: Random) -> Iterator[Passage]:
    """JSON lines of {"id", "question", "answer"}."""
    (file,) = source.files(data)
    for where, record in drawn(records_of(file), source.limit, chance):
        doc_id, question, answer = (
            record.get(name) if isinstance(record, dict) else None for name in ("id", "question", "answer")
        )
        if not (isinstance(doc_id, str) and doc_id and isinstance(question, str) and isinstance(answer, str)):
            raise CorpusError(
                f"{where} holds {record!r:.60}; it must have an id, a question and an answer, all of them texts."
            )
        text, sentences = without_sentences(answer, source.cloze, chance)
        yield Passage(where, doc_id, "", text, [Asked(question), *sentences])


def command_descriptions(source: Source, data: Path, chance: Random) -> Iterator[Passage]:
    """Pages of tldr: the description and what one of the examples is for ask; the other examples and all commands are the document."""
    for where, document in corpus_of(source, data, chance):
        parts = [part.strip() for part in document.text.split("\n\n") if part.strip()]
        examples = [
            (
                part[2:].rstrip(":").replace("[", "").replace("]", ""),
                below.strip("`"),
            )  # [n]ame marks a letter of an option
            for part, below in pairwise(parts)
            if part.startswith("- ") and below.startswith("`")
        ]
        if not examples:
            yield Passage(where, document.doc_id, "", document.text, [])
            continue
        lines = [line for part in parts if part.startswith(">") for line in part.split("\n")]
        description = " ".join(line.lstrip("> ") for line in lines if not line.startswith(NOT_DESCRIPTION))
        is_asked = len(description.split()) >= FEWEST_WORDS_OF_DESCRIPTION
        place = chance.randrange(len(examples))
        purpose, command = examples[place]
        others = " ".join(f"{purpose}: {command}." for purpose, command in examples[:place] + examples[place + 1 :])
        text = f"{parts[0].lstrip('# ')}. {command} {others}"
        yield Passage(where, document.doc_id, "", text, [*([Asked(description)] if is_asked else []), Asked(purpose)])


def inverse_cloze(source: Source, data: Path, chance: Random) -> Iterator[Passage]:
    """A sentence asks for the text around it; with probability `kept` it stays there too."""
    for where, document in corpus_of(source, data, chance):
        text, sentences = without_sentences(document.text, source.cloze or 1, chance, source.kept)
        yield Passage(where, document.doc_id, document.title, text, sentences)


def body_first(source: Source, data: Path, chance: Random) -> Iterator[Passage]:
    """The first sentence asks for the rest."""
    for where, document in corpus_of(source, data, chance):
        first, *rest = SENTENCE_END.split(document.text.strip())
        if rest and len(first.split()) in QUERY_WORDS:
            yield Passage(where, document.doc_id, document.title, " ".join(rest), [Asked(first)])
        else:
            yield Passage(where, document.doc_id, document.title, document.text, [])


def crops(source: Source, data: Path, chance: Random) -> Iterator[Passage]:
    """One span of a text asks for another, which may overlap it."""
    for where, document in corpus_of(source, data, chance):
        words = document.searched_text.split()
        if len(words) <= FEWEST_WORDS_OF_CROP:
            yield Passage(where, document.doc_id, "", document.searched_text, [])
            continue
        query, text = (crop(words, chance) for _ in range(2))
        yield Passage(where, document.doc_id, "", text, [Asked(query)])


def crop(words: list[str], chance: Random) -> str:
    """A span whose length is uniform within its share of the words, 10 at least."""
    length = max(FEWEST_WORDS_OF_CROP, round(chance.uniform(*SHARE_OF_CROP) * len(words)))
    start = chance.randrange(len(words) - length + 1)
    return " ".join(words[start : start + length])


KINDS: dict[str, Callable[[Source, Path, Random], Iterator[Passage]]] = {
    "judged": judged,
    "title-abstract": title_abstract,
    "question-answer": question_answer,
    "command-descriptions": command_descriptions,
    "inverse-cloze": inverse_cloze,
    "body-first": body_first,
    "crops": crops,
}
