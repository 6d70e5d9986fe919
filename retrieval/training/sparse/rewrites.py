"""What rewrites teach an encoder of conversations: how the encoder that training begins with scores them (DiSCo).

Conversational distillation, Lupart et al., arXiv:2410.14609: the documents' side is frozen, and the query side learns to give a conversation the
scores that a rewrite of its last turn has. Neither relevant passages nor the rewrites' words are needed: what a conversation is compared
with is what its rewrite finds.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from index.errors import CorpusError, WinnowError, WinnowWarning
from index.inverted import InvertedIndex
from index.options import InvertedIndexOptions
from index.vectors import SparseQuery
from kernels.cpu.sparse import SparseRows
from retrieval.beir_folder import one_of
from retrieval.training.sparse.conversations import Conversation, read_conversations
from retrieval.training.sparse.examples import Examples, texts_of
from retrieval.training.sparse.frozen import FrozenDocuments, kept_rows
from retrieval.training.sparse.recipe import DataOptions
from retrieval.training.sparse.task import HeldOut
from retrieval.training.sparse.teacher_cache import Texts
from retrieval.training.sparse.teachers import Rows

REWRITES = "rewrites"  # the teacher's name; with a number after it, of one rewrite of each conversation
Encode = Callable[[Sequence[str]], SparseRows]


@dataclass(frozen=True)
class Talk:
    """Conversations, and the passages that they may be about."""

    conversations: list[Conversation]
    passages: dict[str, str]  # text by id; none is empty or there twice

    @classmethod
    def read(cls, data: DataOptions) -> Talk:
        """Raises CorpusError for a conversation without a rewrite, WinnowError for what cannot be read."""
        conversations = read_conversations(data.conversations)
        for one in conversations:
            if not one.rewrites:
                raise CorpusError(
                    f"{data.conversations}: the conversation {one.conversation_id!r:.60} has 0 rewrites; training needs one of each."
                )
        ids, texts = texts_of(one_of(Path(data.folder), "corpus.jsonl"))
        id_of: dict[str, str] = {}
        for doc_id, text in zip(ids, texts, strict=True):
            id_of.setdefault(text, doc_id)
        return cls(conversations, {doc_id: text for text, doc_id in id_of.items() if text})

    def rewrites(self) -> dict[str, str]:
        """All of them, by the id of the conversation and their number."""
        return {
            numbered(one.conversation_id, number): rewrite
            for one in self.conversations
            for number, rewrite in enumerate(one.rewrites, 1)
        }


def numbered(conversation_id: str, number: int) -> str:
    return f"{conversation_id} {number}"


class Rewritten:
    """Rewrites and passages as the frozen encoder has them."""

    def __init__(self, talk: Talk, queries: SparseRows, documents: SparseRows, num_terms: int):
        """
        queries    of the rewrites, in the order of their ids
        documents  of the passages, in the order of theirs
        """
        self.talk = talk
        self.document_ids = sorted(talk.passages)
        self.index = InvertedIndex.build(documents, InvertedIndexOptions(num_terms, "f32", second_tier=False))
        row_of = {name: row for row, name in enumerate(sorted(talk.rewrites()))}

        def query(name: str) -> SparseQuery:
            own = slice(queries.indptr[row_of[name]], queries.indptr[row_of[name] + 1])
            return SparseQuery(queries.indices[own], queries.data[own])

        self.queries = {
            one.conversation_id: [query(numbered(one.conversation_id, n + 1)) for n in range(len(one.rewrites))]
            for one in talk.conversations
        }
        self.frozen = FrozenDocuments([talk.passages[doc_id] for doc_id in self.document_ids], documents, num_terms)

    @classmethod
    def of(
        cls,
        talk: Talk,
        name: str,
        identity: Mapping[str, Any],
        encode: tuple[Encode, Encode],
        num_terms: int,
        cache: Path,
        *,
        progress: bool,
    ) -> Rewritten:
        """encode  rewrites and passages; for the rest see `kept_rows`"""
        sides = Texts.of("queries", talk.rewrites()), Texts.of("documents", talk.passages)
        encoders = dict(zip(("queries", "documents"), encode, strict=True))
        rows = kept_rows(name, identity, sides, encoders, cache, progress)
        return cls(talk, rows["queries"], rows["documents"], num_terms)

    def ranked(self, depth: int) -> list[np.ndarray]:
        """int32 numbers of the passages that score highest for each conversation's rewrites, by their mean."""
        asked = [mean_of(self.queries[one.conversation_id]) for one in self.talk.conversations]
        return [docs for _, docs in self.index.search_batch(asked, depth)]

    def examples(self, depth: int) -> Examples:
        """Each conversation with what its rewrites find: the best counts as its answer, the others are negatives.

        Warns of conversations whose rewrites find nothing, which are left out. Raises CorpusError where none finds anything.
        """
        pairs = list(zip(self.talk.conversations, self.ranked(depth), strict=True))
        kept = [(one, docs) for one, docs in pairs if len(docs)]
        if not kept:
            raise CorpusError(
                f"the rewrites of {len(pairs):,} conversations find 0 of {len(self.document_ids):,} passages; give passages about the same things."
            )
        if len(kept) < len(pairs):
            lost = next(one for one, docs in pairs if not len(docs))
            warnings.warn(
                f"{len(pairs) - len(kept):,} of {len(pairs):,} conversations are left out, {lost.conversation_id!r:.60} first: their "
                "rewrites find no passage.",
                WinnowWarning,
                stacklevel=2,
            )
        return Examples(
            [one.text for one, _ in kept],
            [one.conversation_id for one, _ in kept],
            [self.talk.passages[doc_id] for doc_id in self.document_ids],
            self.document_ids,
            [docs[:1] for _, docs in kept],
            [docs[1:] for _, docs in kept],
        )

    def teacher(self, name: str) -> RewriteTeacher:
        """`rewrites`: the mean of all of a conversation's; `rewrites:2`: the second of each, which knows nothing where there is none.

        Raises WinnowError for a number that no conversation has.
        """
        if name == REWRITES:
            queries = {one: mean_of(each) for one, each in self.queries.items()}
        else:
            written = name.removeprefix(f"{REWRITES}:")
            most = max(map(len, self.queries.values()))
            if not written.isdecimal() or not 1 <= int(written) <= most:
                raise WinnowError(
                    f"the teacher {name!r:.60} is of no rewrite; there are {REWRITES}:1 to {REWRITES}:{most}."
                )
            number = int(written) - 1
            queries = {one: each[number] for one, each in self.queries.items() if len(each) > number}
        return RewriteTeacher(
            name,
            Rows(name, "queries", list(self.queries)),
            queries,
            Rows(name, "documents", self.document_ids),
            self.index,
        )


class RewriteTeacher:
    """A `Teacher`: of a conversation and a passage, the score of the rewrite with it."""

    def __init__(
        self, name: str, conversations: Rows, queries: Mapping[str, SparseQuery], documents: Rows, index: InvertedIndex
    ):
        """queries  of those conversations that have the rewrite, by their ids"""
        self.name, self.conversations, self.queries = name, conversations, queries
        self.documents, self.index = documents, index

    def scores(self, query_ids: Sequence[str], document_ids: Sequence[str]) -> torch.Tensor:
        """See `Teacher`; 0 where no term is shared."""
        self.conversations.of(query_ids)
        found = np.full((len(query_ids), len(document_ids)), np.nan, np.float32)
        known = [place for place, one in enumerate(query_ids) if one in self.queries]
        asked = [self.queries[query_ids[place]] for place in known]
        found[known] = self.index.scores(asked, self.documents.of(document_ids))
        return torch.from_numpy(found)


def mean_of(queries: Sequence[SparseQuery]) -> SparseQuery:
    """The query whose scores are the mean of the scores of these.

    >>> one, other = SparseQuery(np.array([3, 5]), np.array([1.0, 2.0])), SparseQuery(np.array([5]), np.array([4.0]))
    >>> terms, weights = mean_of([one, other])
    >>> terms.tolist(), weights.tolist()
    ([3, 5], [0.5, 3.0])
    """
    terms, places = np.unique(np.concatenate([one.terms for one in queries]), return_inverse=True)
    weights = np.bincount(places, np.concatenate([one.weights for one in queries]), len(terms)) / len(queries)
    return SparseQuery(terms.astype(np.int32), weights.astype(np.float32))


def split(examples: Examples, talk: Talk, share: float, others: int, seed: int) -> tuple[Examples, HeldOut | None]:
    """(what is trained on; conversations of other dialogues, with what their rewrites find first, and `others` passages beside).

    Raises WinnowError for a share that leaves nothing on one side.
    """
    dialogue_of = {one.conversation_id: one.dialogue for one in talk.conversations}
    dialogues = sorted({dialogue_of[one] for one in examples.query_ids})
    count = round(share * len(dialogues))
    if not share:
        return examples, None
    if not 0 < share < 1 or not 0 < count < len(dialogues):
        raise WinnowError(
            f"data.dialogues_held_out is {share!r}, which is {count:,} of {len(dialogues):,} dialogues; give a share that leaves some on both "
            "sides."
        )
    rng = np.random.default_rng([seed, len(dialogues)])
    held = {dialogues[number] for number in rng.permutation(len(dialogues))[:count].tolist()}
    is_held = [dialogue_of[one] in held for one in examples.query_ids]
    trained = [number for number, own in enumerate(is_held) if not own]
    judged = [number for number, own in enumerate(is_held) if own]
    return only(examples, trained), HeldOut.of(examples, judged, others, seed)


def only(examples: Examples, numbers: Sequence[int]) -> Examples:
    """The queries of these numbers, and all documents."""
    return Examples(
        [examples.queries[number] for number in numbers],
        [examples.query_ids[number] for number in numbers],
        examples.documents,
        examples.document_ids,
        [examples.positives[number] for number in numbers],
        [examples.negatives[number] for number in numbers],
    )
