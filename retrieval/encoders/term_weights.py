"""Queries without a model: each token of the text, once, with a weight from a table or from the collection.

Geng et al., Towards Competitive Search Relevance for Inference-Free Learned Sparse Retrievers, arXiv:2411.04403. Neither torch nor
transformers is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from index.arms import ArmStatistics
from index.errors import ModelError, WinnowError
from index.files import save_array
from index.storage import open_array
from retrieval.encoders.options import LONGEST_TEXT, check_whole
from retrieval.encoders.tokens import special_terms
from retrieval.encoders.weighted_terms import inverse_document_frequency

LARGEST_WEIGHT = 1e30
TABLE_OPTIONS = ("prefix", "max_length", "top_k")


class TermWeights:
    """A weight for each term, the same for every collection: idf.json, a trained table, or ones (SPLADE-doc).

    >>> TermWeights(np.array([0, 2.5, 1], np.float32)).of(np.array([1, 2, 1, 0]), None)
    (array([1, 2], dtype=int32), array([2.5, 1. ], dtype=float32))
    """

    def __init__(
        self, weights: np.ndarray, *, prefix: str = "", max_length: int | None = None, top_k: int | None = None
    ):
        """
        weights     float32 [terms], finite, none below 0
        prefix      put before each query, a prompt: its tokens count as the query's
        max_length  of a query in tokens, the prefix included; what comes after is not read
        top_k       only so many terms, the heaviest; of equal weights the lower

        Raises ModelError.
        """
        bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
        if len(bad):
            raise ModelError(
                f"the query weight of term {bad[0]} is {weights[bad[0]]}; it must be a finite number, 0 or greater."
            )
        if not isinstance(prefix, str):
            raise WinnowError(f"prefix is {prefix!r:.60}; it must be a text.")
        for name, value in {"max_length": max_length, "top_k": top_k}.items():
            if value is not None:
                check_whole(name, value, LONGEST_TEXT)
        self.weights = weights.astype(np.float32)
        self.prefix, self.max_length, self.top_k = prefix, max_length, top_k

    def but(self, options: Mapping[str, Any]) -> TermWeights:
        """The same table with other options of `TABLE_OPTIONS`. Raises WinnowError for a bad value."""
        own = {name: getattr(self, name) for name in TABLE_OPTIONS}
        return TermWeights(
            self.weights, **{**own, **{name: options[name] for name in TABLE_OPTIONS if name in options}}
        )

    def of(self, tokens: np.ndarray, arm: ArmStatistics | None) -> tuple[np.ndarray, np.ndarray]:
        """(terms int32, weights float32) of a text's tokens; those that weigh nothing are left out."""
        terms = np.unique(tokens[: self.max_length])
        terms = terms[self.weights[terms] > 0]
        if self.top_k is not None:
            terms = np.sort(terms[np.lexsort((terms, -self.weights[terms]))[: self.top_k]])
        return terms.astype(np.int32), self.weights[terms]

    @classmethod
    def from_tokens(cls, weights: Mapping[str, Any], tokenizer: Tokenizer, num_terms: int, name: str) -> TermWeights:
        """From {token: weight}; tokens not named weigh 0. Raises ModelError for a token that the tokenizer does not know."""
        table = np.zeros(num_terms, np.float32)
        for token, weight in weights.items():
            number = tokenizer.token_to_id(token)
            if number is None or number >= num_terms:
                raise ModelError(
                    f"{name} has a weight for {token!r:.60}, which the tokenizer does not know; it is of another model."
                )
            if not isinstance(weight, int | float) or isinstance(weight, bool) or not abs(weight) < LARGEST_WEIGHT:
                raise ModelError(f"{name} has the weight {weight!r:.60} for {token!r:.60}; it must be a number.")
            table[number] = weight
        return cls(table)

    @classmethod
    def binary(cls, tokenizer: Tokenizer, num_terms: int) -> TermWeights:
        """1 for each term but special ones, SPLADE-doc's; an unknown word's counts as any other."""
        weights = np.ones(num_terms, np.float32)
        weights[special_terms(tokenizer)] = 0
        unknown = tokenizer.token_to_id(getattr(tokenizer.model, "unk_token", None) or "")
        if unknown is not None:
            weights[unknown] = 1
        return cls(weights)

    def write(self, path: Path) -> dict[str, Any]:
        save_array(path / "query_weights.npy", self.weights)
        options = {name: getattr(self, name) for name in TABLE_OPTIONS}
        return {"kind": "table", "terms": len(self.weights), "options": options}

    @classmethod
    def read(cls, path: Path, description: dict[str, Any]) -> TermWeights:
        weights = open_array(path / "query_weights.npy", "float32", description["terms"])
        return cls(weights, **description["options"])


class CollectionIdf:
    """ln(1 + (N - df + 0.5) / (df + 0.5)), N and df of the documents searched: those whose own text holds the term."""

    def __init__(self, forbidden: np.ndarray):
        """forbidden  int64: terms that weigh nothing"""
        self.forbidden = forbidden

    def of(self, tokens: np.ndarray, arm: ArmStatistics) -> tuple[np.ndarray, np.ndarray]:
        """(terms int32, weights float32) of a text's tokens."""
        terms = np.setdiff1d(tokens, self.forbidden).astype(np.int32)
        df = arm.document_frequency([terms] * arm.num_segments)
        return terms, inverse_document_frequency(df, arm.documents).astype(np.float32)

    def write(self, path: Path) -> dict[str, Any]:
        return {"kind": "collection idf"}
