"""What a retriever asks of a reranker, and what all rerankers do alike: texts of documents, checks, one total order.

The order is that of a search: score descending, then position in the list that was given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from index.documents import Document
from index.errors import WinnowError
from index.vectors import checked_count
from retrieval.queries import checked_text, each_query

Rankable = str | Mapping[str, Any] | Document


@dataclass(frozen=True, slots=True)
class Ranked:  # no NamedTuple, whose `index` is a method
    """One document of a list, ranked."""

    index: int  # in the list that was given, from 0
    score: float  # larger is better; what it means is the reranker's to say
    mass: float | None = None  # share of the query's attention, 0 to 1, of rerankers that measure it
    probability: float | None = None  # of being relevant, of rerankers that are calibrated


class Reranker(Protocol):
    """A model that orders documents by how well they answer a query."""

    name: str

    def rank(self, query: str, documents: Sequence[Rankable], top_k: int | None = None) -> list[Ranked]:
        """The documents best first, equal scores in the order they were given; of no documents an empty list.

        documents  texts, mappings with `text` and perhaps `title`, or Documents
        top_k      how many to give back (None: all)

        Raises WinnowError for a query or a document that is no text, and a top_k below 1.
        """
        ...

    def rank_batch(
        self, queries: Sequence[str], documents: Sequence[Sequence[Rankable]], top_k: int | None = None
    ) -> list[list[Ranked]]:
        """`rank` for each query with its own list; a list's scores do not depend on the other lists."""
        ...


class ListToRank(NamedTuple):
    """A query and the texts of its documents, checked."""

    query: str
    texts: list[str]


def list_to_rank(query: str, documents: Sequence[Rankable]) -> ListToRank:
    """Raises WinnowError for what is no query or no list of documents."""
    return ListToRank(checked_text("the query", query), texts_of(documents))


def lists_to_rank(queries: Sequence[str], documents: Sequence[Sequence[Rankable]]) -> list[ListToRank]:
    """One of each query. Raises WinnowError unless there are as many lists of documents as queries."""
    asked = each_query(queries)
    if isinstance(documents, str | Mapping | Document) or not isinstance(documents, Iterable):
        raise WinnowError(f"documents is {documents!r:.60}; it must be a list of lists, one for each query.")
    lists = list(documents)
    if len(lists) != len(asked):
        raise WinnowError(
            f"there are {len(asked)} queries and {len(lists)} lists of documents; give each query a list of its own."
        )
    return [list_to_rank(query, own) for query, own in zip(asked, lists, strict=True)]  # type: ignore[arg-type]


def texts_of(documents: Sequence[Rankable]) -> list[str]:
    """The text of each document. Raises WinnowError for what is no list of documents."""
    if isinstance(documents, str | Mapping | Document) or not isinstance(documents, Iterable):
        raise WinnowError(
            f"documents is {type(documents).__name__} {documents!r:.60}; it must be a list of texts or documents."
        )
    return [text_of(number, document) for number, document in enumerate(documents)]


def text_of(number: int, document: Rankable) -> str:
    """Title and text with a blank between them, stripped: what encoders see of a document (`Document.searched_text`)."""
    if isinstance(document, Document):
        return document.searched_text
    if isinstance(document, Mapping):
        if document.get("title") is None and document.get("text") is None:
            raise WinnowError(
                f"document {number} has the fields {', '.join(map(str, document))!r:.60}; it needs a text, or a title."
            )
        title, text = (
            "" if document.get(name) is None else checked_text(f"the {name} of document {number}", document[name])
            for name in ("title", "text")
        )
        return Document("", title, text).searched_text
    return checked_text(f"document {number}", document).strip()


def checked_top_k(top_k: int | None) -> int | None:
    """`top_k`; WinnowError unless it is None or a whole number of at least 1."""
    return None if top_k is None else checked_count("top_k", top_k)


def best_first(scores: Any, top_k: int | None = None) -> list[int]:
    """The positions of the best scores, equal ones in the order given.

    scores  [documents]; -inf is a score, NaN is none
    top_k   how many (None: all)

    Raises WinnowError for NaN, which has no place in an order.
    """
    found = np.asarray(scores, np.float64)
    if np.isnan(found).any():
        raise WinnowError(
            f"the reranker scores document {int(np.isnan(found).argmax())} with NaN; its weights are damaged, or its dtype "
            "is too narrow, so give dtype='float32'."
        )
    order: list[int] = np.argsort(-found, kind="stable").tolist()
    return order[: checked_top_k(top_k)]
