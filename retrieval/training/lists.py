"""Training lists: a query, its candidate documents, and how relevant each is.

Candidates of a query are its judged documents and those that BM25 finds for it. A candidate that is judged relevant is never a
negative; one that nobody judged is taken for not relevant, as everywhere in the field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from index.documents import Document
from index.errors import CorpusError, WinnowError
from retrieval.corpus import read_corpus, records_of
from retrieval.training.negatives import found_beside

Queries = Mapping[str, str]
Qrels = Mapping[str, Mapping[str, int]]


class RankingList(NamedTuple):
    """One query's documents in the order that a model reads them."""

    query: str
    documents: tuple[str, ...]
    relevance: tuple[int, ...]  # of each document, 0 or more; not all equal


class Candidates(NamedTuple):
    """What a query's lists are drawn from."""

    query: str
    relevant: tuple[str, ...]
    relevance: tuple[int, ...]  # above 0
    negatives: tuple[str, ...]  # best first

    def drawn(self, most: int, seed: Sequence[int]) -> RankingList:
        """At most so many documents, 2 or more, in random order, the same for the same seed: relevant ones in half of the places at
        most, in more where negatives are few, and one negative at least."""
        chance = np.random.default_rng(list(seed))
        num_relevant = min(len(self.relevant), most - 1, max(most // 2, most - len(self.negatives)))
        relevant = np.sort(chance.permutation(len(self.relevant))[:num_relevant])
        negatives = chance.permutation(len(self.negatives))[: most - num_relevant]
        documents = [*(self.relevant[i] for i in relevant), *(self.negatives[i] for i in negatives)]
        relevance = [*(self.relevance[i] for i in relevant), *([0] * len(negatives))]
        order = chance.permutation(len(documents))
        return RankingList(self.query, tuple(documents[i] for i in order), tuple(relevance[i] for i in order))

    def whole(self, most: int, seed: Sequence[int]) -> RankingList:
        """For evaluation: all relevant documents and the best negatives, in random order."""
        relevant = self.relevant[: most - 1]
        negatives = self.negatives[: most - len(relevant)]
        documents, relevance = [*relevant, *negatives], [*self.relevance[: len(relevant)], *([0] * len(negatives))]
        order = np.random.default_rng(list(seed)).permutation(len(documents))
        return RankingList(self.query, tuple(documents[i] for i in order), tuple(relevance[i] for i in order))


def candidates_of(
    folder: str | Path,
    queries: Queries,
    qrels: Qrels,
    *,
    depth: int = 100,
    exclude_titles_of: Qrels | None = None,
    progress: bool = True,
) -> list[Candidates]:
    """Of each query that has a relevant document in the corpus and a negative among BM25's best `depth`, in the order of the queries.

    exclude_titles_of  judgments of queries that are kept for testing: documents that bear the title of one that is relevant there are
                       left out, and with them each query that one of them is relevant to. (All paragraphs of an article of SQuAD
                       share its title.)

    Raises WinnowError where no query is left.
    """
    if depth < 1:
        raise WinnowError(f"the depth of negatives is {depth}; it must be 1 or more.")
    documents = {one.doc_id: one for one in read_corpus(folder)}
    forbidden = titles_of(documents, exclude_titles_of or {})
    kept: dict[str, dict[str, int]] = {}
    for query in queries:
        relevant = {
            doc_id: grade for doc_id, grade in qrels.get(query, {}).items() if grade > 0 and doc_id in documents
        }
        if relevant and not titles_of(documents, {query: relevant}) & forbidden:
            kept[query] = relevant
    allowed = [one for one in documents.values() if one.title not in forbidden]
    found = bm25_negatives(allowed, queries, kept, depth, progress) if kept else {}
    lists = [
        Candidates(
            queries[query],
            tuple(documents[doc_id].searched_text for doc_id in relevant),
            tuple(relevant.values()),
            tuple(documents[doc_id].searched_text for doc_id in found[query]),
        )
        for query, relevant in kept.items()
        if queries[query].strip() and found[query]
    ]
    if not lists:
        raise WinnowError(
            f"none of the {len(queries):,} queries of {folder} has both a relevant document in the corpus and a negative that BM25 finds"
            f"{', and no title of those that are kept for testing' if exclude_titles_of else ''}; give another split."
        )
    return lists


def titles_of(documents: Mapping[str, Document], qrels: Qrels) -> set[str]:
    """The titles of all documents that are judged relevant, empty ones left out."""
    relevant = (doc_id for judged in qrels.values() for doc_id, grade in judged.items() if grade > 0)
    return {documents[doc_id].title for doc_id in relevant if doc_id in documents} - {""}


def bm25_negatives(
    documents: Sequence[Document], queries: Queries, relevant: Qrels, depth: int, progress: bool
) -> dict[str, list[str]]:
    """query id -> ids of BM25's best documents, best first, without relevant ones."""
    from retrieval.retriever import Retriever

    retriever = Retriever.from_pretrained("bm25").index(documents, progress=progress)
    unwanted = [list(judged) for judged in relevant.values()]
    found = found_beside(retriever, [queries[query] for query in relevant], unwanted, depth)
    return {query: [doc_id for doc_id, _ in one.documents] for query, one in zip(relevant, found, strict=True)}


def read_lists(path: str | Path) -> list[Candidates]:
    """From JSON lines of {"query", "documents", "answer_ids"}, the format of BlockRank's published data.

    A document is a text, named by its place from 0, or an object of "doc_id", "title" and "text". A list without answers, for
    inference, is refused. Raises CorpusError with the line, WinnowError for an empty file.
    """
    path = Path(path)
    if not path.is_file():
        raise CorpusError(f"{path} does not exist; give a .jsonl file of training lists or a BEIR folder.")
    lists = [as_candidates(record, where) for where, record in records_of(path)]
    if not lists:
        raise CorpusError(f"{path} holds no training lists; each line needs a query, documents and answer_ids.")
    return lists


def as_candidates(record: Any, where: str) -> Candidates:
    if not isinstance(record, dict):
        raise CorpusError(f"{where} holds {type(record).__name__} {record!r:.60}; a training list must be an object.")
    query, documents, answers = (record.get(name) for name in ("query", "documents", "answer_ids"))
    if not isinstance(query, str) or not query.strip():
        raise CorpusError(f"{where} has the query {query!r:.60}; it must be a text that is not empty.")
    if not isinstance(documents, list) or len(documents) < 2:
        raise CorpusError(
            f"{where} has {len(documents) if isinstance(documents, list) else 'no list of'} documents; a training list needs 2 or more."
        )
    if not isinstance(answers, list) or not answers:
        raise CorpusError(
            f"{where} has the answer_ids {answers!r:.60}; name at least one of its documents as relevant."
        )
    texts = dict(as_text(one, number, where) for number, one in enumerate(documents))
    if len(texts) < len(documents):
        raise CorpusError(f"{where} has a doc_id twice; give each document of a list its own.")
    wanted = {str(one) for one in answers}
    if unknown := sorted(wanted - set(texts)):
        raise CorpusError(
            f"{where} names {unknown[0]!r:.60} among its answer_ids, which none of its {len(texts)} documents has."
        )
    if len(wanted) == len(texts):
        raise CorpusError(f"{where} names all its {len(texts)} documents as relevant; a list needs one that is not.")
    relevant = tuple(text for name, text in texts.items() if name in wanted)
    negatives = tuple(text for name, text in texts.items() if name not in wanted)
    return Candidates(query, relevant, (1,) * len(relevant), negatives)


def as_text(document: Any, number: int, where: str) -> tuple[str, str]:
    """(name, text) of one document of a list."""
    if isinstance(document, str):
        return str(number), document
    if not isinstance(document, dict):
        raise CorpusError(
            f"{where} has {type(document).__name__} {document!r:.60} as document {number}; it must be a text or an object."
        )
    fields = [document.get("doc_id", str(number)), document.get("title") or "", document.get("text")]
    if isinstance(fields[0], int) and not isinstance(fields[0], bool):
        fields[0] = str(fields[0])
    for name, value in zip(("doc_id", "title", "text"), fields, strict=True):
        if not isinstance(value, str):
            raise CorpusError(f"{where} has {value!r:.60} as the {name} of document {number}; it must be a text.")
    return fields[0], f"{fields[1]} {fields[2]}".strip()


def held_out(lists: Sequence[Candidates], number: int, seed: int) -> tuple[list[Candidates], list[Candidates]]:
    """(for training, for evaluation): `number` lists drawn by the seed are kept back, with all others of the same query.

    Raises WinnowError unless some are left to train on.
    """
    if not 0 <= number < len(lists):
        raise WinnowError(f"{number:,} lists are to be held out of {len(lists):,}; leave some to train on.")
    chosen = np.random.default_rng([seed, len(lists)]).permutation(len(lists))[:number]
    texts = {lists[i].query for i in chosen}
    training = [one for one in lists if one.query not in texts]
    if not training:
        raise WinnowError(f"all {len(lists):,} lists have a query that is held out; hold out fewer.")
    return training, [lists[i] for i in sorted(chosen)]


def some_of(lists: Sequence[Candidates], limit: int | None, seed: int) -> list[Candidates]:
    """At most so many, drawn by the seed, in their order."""
    if limit is None or limit >= len(lists):
        return list(lists)
    return [lists[i] for i in sorted(np.random.default_rng([seed, len(lists)]).permutation(len(lists))[:limit])]
